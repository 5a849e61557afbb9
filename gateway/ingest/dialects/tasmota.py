"""Tasmota: tele/<topic>/SENSOR, tele/<topic>/LWT, tasmota/discovery/<MAC>/{config,sensors}.

`prefix` is Tasmota's FullTopic pattern. `Time` is local and has no offset unless SetOption52 adds it: it is used where
the site's zone is known and the device was seen to follow it, within AHEAD_S of the time of receipt; the time of
receipt otherwise. An hour that exists twice is told apart by a live message's arrival and is uncertain without it.
A topic with a slash in it is not covered. Dew point, sea-level pressure and estimated eCO2 are not measured: ignored.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any, NamedTuple

from drivers.model import Quality, Quantity, Reason
from gateway.clock import AHEAD_S
from gateway.ingest.dialects.base import (
    Context,
    Decoded,
    Dialect,
    Known,
    Memory,
    Stamp,
    about,
    arrived,
    device_id,
    instant,
    introduce,
    is_known,
    matches,
    message,
    once,
    parse_object,
    plausible,
    reading,
    remember,
    safe_id,
    text,
    word,
)
from gateway.ingest.wire import METRIC_LIMIT, WireError, clean
from gateway.reading import Message, Reading

NAME = "tasmota"
DISCOVERY = ("tasmota/discovery/+/config", "tasmota/discovery/+/sensors")

METRICS: dict[str, Known] = {
    "Temperature": Known(Quantity.TEMPERATURE, "TempUnit"),
    "Humidity": Known(Quantity.HUMIDITY),
    "Pressure": Known(Quantity.PRESSURE, "PressureUnit"),
    "CarbonDioxide": Known(Quantity.CO2),
    "Illuminance": Known(Quantity.ILLUMINANCE),
    "Moisture": Known(Quantity.MOISTURE),
    "PM2.5": Known(Quantity.PM25),
    "PM10": Known(Quantity.PM10),
    "Voltage": Known(Quantity.VOLTAGE),
    "Current": Known(Quantity.CURRENT),
    "Power": Known(Quantity.POWER),
    "Total": Known(Quantity.ENERGY, "kWh"),
    "Battery": Known(Quantity.BATTERY),
    "RSSI": Known(Quantity.RSSI),
}
"""Names within a sensor's object; TempUnit and PressureUnit stand for what the message says of them."""

IGNORED = frozenset(
    {"Id", "Address", "Model", "DewPoint", "SeaPressure", "eCO2", "Time", "TotalStartTime", "Yesterday", "Today"}
    | {"Period", "ApparentPower", "ReactivePower", "Factor", "Frequency", "AbsHumidity", "aHumidity", "HeatIndex"}
)
"""Not measured, or no quantity of ours."""


class Units(NamedTuple):
    """What a message or its device's discovery says of units; "" where neither did."""

    temperature: str
    pressure: str


def subscriptions(prefix: str) -> tuple[str, ...]:
    """Discovery first: a broker sends what it retained in the order of subscription."""
    return (*DISCOVERY, *(f"{_root(prefix)}/{kind}" for kind in ("LWT", "SENSOR")))


def takes(prefix: str, topic: str) -> bool:
    return any(matches(pattern, topic) for pattern in subscriptions(prefix))


def decode(prefix: str, topic: str, payload: bytes, context: Context, memory: Memory) -> Decoded:
    """See the module."""
    parts = topic.split("/")
    if any(matches(pattern, topic) for pattern in DISCOVERY):
        if not payload:
            return Decoded(memory)
        body = parse_object(topic, payload)
        return _config(parts[2], body, memory) if parts[3] == "config" else _sensors(parts[2], body, memory)
    name = parts[_root(prefix).split("/").index("+")]
    if parts[-1] == "LWT":
        return _last_will(name, topic, payload, memory)
    return _sensor(name, topic, parse_object(topic, payload), context, memory)


def zoned(told: str, zone: tzinfo, context: Context) -> Stamp | None:
    """The stamp of a local time; None where no such hour exists or, live, where it is not that of its arrival."""
    try:
        local = datetime.fromisoformat(told[:40]).replace(tzinfo=None)
        both = [local.replace(tzinfo=zone, fold=fold) for fold in (0, 1)]
        if both[0].astimezone(UTC).astimezone(zone).replace(tzinfo=None) != local:
            return None  # skipped by the change to summer time
        times = [plausible(each.timestamp(), context) for each in both]
    except (ValueError, OverflowError):
        return None
    arrival_s = context.received.timestamp()
    found = [time for time in dict.fromkeys(times) if time is not None]
    if context.live and context.trusted:
        found = [time for time in found if abs(time.timestamp() - arrival_s) <= AHEAD_S]
    if not found:
        return None
    if len(found) > 1:
        return Stamp(found[-1], context.received, Quality.UNCERTAIN, Reason.TIME_UNKNOWN, timed=True)
    return Stamp(found[0], context.received, timed=True)


def _root(prefix: str) -> str:
    return prefix.strip("/").replace("%prefix%", "tele").replace("%topic%", "+")


def _config(mac: str, body: dict[str, Any], memory: Memory) -> Decoded:
    name = body.get("t")
    if not isinstance(name, str) or not name:
        return Decoded(memory)
    facts = {
        "mac": clean(mac, 32),
        "name": word(body, "dn"),
        "model": word(body, "md"),
        "firmware": word(body, "sw"),
        "online": word(body, "onln") or "Online",
        "offline": word(body, "ofln") or "Offline",
    }
    return Decoded(remember(memory, {f"config:{clean(name, 128)}": facts}))


def _sensors(mac: str, body: dict[str, Any], memory: Memory) -> Decoded:
    """A retained example of what SENSOR will say: its units are of use, its values are old."""
    example = body.get("sn")
    if not isinstance(example, dict):
        return Decoded(memory)
    units = {key: word(example, key) for key in ("TempUnit", "PressureUnit")}
    return Decoded(remember(memory, {f"units:{clean(mac, 32)}": units}))


def _last_will(name: str, topic: str, payload: bytes, memory: Memory) -> Decoded:
    device = device_id(NAME, name)
    facts = memory.get(f"config:{clean(name, 128)}", {})
    words = {facts.get("online", "Online"): True, facts.get("offline", "Offline"): False}
    said = text(topic, payload)
    if not said:
        return Decoded(memory)
    if said not in words:
        raise WireError(topic, f"a last will is one of {', '.join(words)}", said)
    return Decoded(memory, statuses=((device, words[said]),) if is_known(memory, device) else ())


def _sensor(name: str, topic: str, body: dict[str, Any], context: Context, memory: Memory) -> Decoded:
    device = device_id(NAME, name)
    facts = memory.get(f"config:{clean(name, 128)}", {})
    remembered = memory.get(f"units:{facts.get('mac', '')}", {})
    units = Units(
        word(body, "TempUnit") or remembered.get("TempUnit", ""),
        word(body, "PressureUnit") or remembered.get("PressureUnit", "") or "hPa",
    )
    refusals: dict[str, str] = {}
    stamp, memory = _stamp(device, body.get("Time"), context, memory, refusals)
    messages: list[Message] = []
    types: dict[str, str] = {}
    for key, inner in list(body.items())[:METRIC_LIMIT]:
        if type(inner) is not dict:
            continue
        sensor = safe_id(key.lower() or "sensor")
        readings = _readings((device, sensor, key), inner, units, stamp, refusals)
        if readings and sensor not in types:
            types[sensor] = clean(key, 64)
            messages.append(message(device, sensor, readings, stamp))
    memory, problems = once(memory, device, refusals)
    if not messages:
        return Decoded(memory, problems=problems)
    facts_told = about(
        types,
        device_name=facts.get("name"),
        model=facts.get("model"),
        firmware_version=facts.get("firmware"),
        mac_address=facts.get("mac"),
    )
    memory, capabilities = introduce(memory, device, facts_told)
    return Decoded(memory, tuple(messages), capabilities, problems=problems)


def _readings(
    place: tuple[str, str, str], inner: Mapping[str, Any], units: Units, stamp: Stamp, refusals: dict[str, str]
) -> list[Reading]:
    """The readings of one sensor's object; `place` is our device and sensor and Tasmota's name of it."""
    device, sensor, key = place
    readings = []
    for name, raw in list(inner.items())[:METRIC_LIMIT]:
        known = METRICS.get(name)
        if known is None:
            if name not in IGNORED and type(raw) in {int, float}:
                refusals[f"{key}.{name}"] = "no quantity of ours"
            continue
        try:
            readings.append(reading(device, sensor, _with_unit(known, units), raw, stamp))
        except (LookupError, TypeError) as refusal:
            refusals[f"{key}.{name}"] = str(refusal)
    return readings


def _with_unit(known: Known, units: Units) -> Known:
    if known.unit == "TempUnit":
        if not units.temperature:
            raise LookupError("neither the message nor its discovery says whether it is C or F")
        return known._replace(unit=units.temperature)
    return known._replace(unit=units.pressure) if known.unit == "PressureUnit" else known


def _stamp(device: str, told: Any, context: Context, memory: Memory, refusals: dict[str, str]) -> tuple[Stamp, Memory]:
    """When it was measured, and the memory of whether this device's clock was seen to follow the site's."""
    if not isinstance(told, str):
        return arrived(context), memory
    exact = instant(told, context)
    if exact is not None or context.zone is None:
        return exact or arrived(context), memory
    stamp, key = zoned(told, context.zone, context), f"clock:{device}"
    if stamp is None:
        refusals["Time"] = "neither the site's local time nor with an offset: the time of receipt is used"
        return arrived(context), remember(memory, {key: False})
    if context.live and context.trusted:
        return stamp, remember(memory, {key: True})
    if memory.get(key) is True or stamp.reason is not Reason.NONE:
        return stamp, memory
    return stamp._replace(quality=Quality.UNCERTAIN, reason=Reason.TIME_UNKNOWN), memory


DIALECT = Dialect(NAME, "%prefix%/%topic%", subscriptions, takes, decode)
