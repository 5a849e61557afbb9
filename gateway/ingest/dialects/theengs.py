"""Theengs Gateway and OpenMQTTGateway: <base>/<gateway>/BTtoMQTT/<address> as JSON.

`prefix` is the base topic. The address in the topic names the device, whichever gateway heard it; two gateways that
hear one beacon give two readings. `tempc` wins over `tempf`. What was not decoded, and what tells no more than signal
and battery (phones and trackers with changing addresses), is no device. A message has no time.
"""

import re

from drivers.model import Quantity
from gateway.ingest.dialects.base import (
    Context,
    Decoded,
    Dialect,
    Known,
    Memory,
    about,
    arrived,
    device_id,
    introduce,
    matches,
    message,
    once,
    parse_object,
    reading,
    word,
)
from gateway.reading import Reading

NAME = "theengs"
SENSOR = "ble"
ADDRESS = re.compile(r"[0-9A-Fa-f]{12}")

METRICS: dict[str, Known] = {
    "tempc": Known(Quantity.TEMPERATURE, "°C"),
    "tempf": Known(Quantity.TEMPERATURE, "°F"),
    "hum": Known(Quantity.HUMIDITY, "%"),
    "pres_abs": Known(Quantity.PRESSURE, "hPa"),
    "pres": Known(Quantity.PRESSURE, "hPa"),
    "co2": Known(Quantity.CO2, "ppm"),
    "lux": Known(Quantity.ILLUMINANCE, "lx"),
    "moi": Known(Quantity.MOISTURE, "%"),
    "pm25": Known(Quantity.PM25, "µg/m³"),
    "pm10": Known(Quantity.PM10, "µg/m³"),
    "volt": Known(Quantity.VOLTAGE, "V"),
    "batt": Known(Quantity.BATTERY, "%"),
    "rssi": Known(Quantity.RSSI, "dBm"),
}
"""Properties of the decoder, the preferred one of a quantity first (pres is sea-level where there is a pres_abs)."""

HOUSEKEEPING = frozenset({Quantity.VOLTAGE, Quantity.BATTERY, Quantity.RSSI})


def subscriptions(prefix: str) -> tuple[str, ...]:
    return (f"{prefix.strip('/')}/+/BTtoMQTT/+",)


def takes(prefix: str, topic: str) -> bool:
    return any(matches(pattern, topic) for pattern in subscriptions(prefix))


def decode(_prefix: str, topic: str, payload: bytes, context: Context, memory: Memory) -> Decoded:
    """See the module."""
    address = topic.rpartition("/")[2]
    if ADDRESS.fullmatch(address) is None or not payload:
        return Decoded(memory)
    body = parse_object(topic, payload)
    if body.get("type") == "TIRE":
        return Decoded(memory)  # its pressure is a tyre's, in bar
    device, stamp = device_id(NAME, address.upper()), arrived(context)
    readings: dict[Quantity, Reading] = {}
    refusals: dict[str, str] = {}
    for name, known in METRICS.items():
        if body.get(name) is None or known.quantity in readings:
            continue
        try:
            readings[known.quantity] = reading(device, SENSOR, known, body[name], stamp)
        except (LookupError, TypeError) as refusal:
            refusals[name] = str(refusal)
    if not readings.keys() - HOUSEKEEPING:
        return Decoded(memory)
    memory, problems = once(memory, device, refusals)
    told = about(
        {SENSOR: word(body, "model_id") or SENSOR},
        device_name=word(body, "name") or f"{word(body, 'brand')} {word(body, 'model')}",
        manufacturer=word(body, "brand"),
        model=word(body, "model"),
        mac_address=":".join(address.upper()[i : i + 2] for i in range(0, 12, 2)),
    )
    memory, capabilities = introduce(memory, device, told)
    return Decoded(memory, (message(device, SENSOR, readings.values(), stamp),), capabilities, problems=problems)


DIALECT = Dialect(NAME, "home", subscriptions, takes, decode)
