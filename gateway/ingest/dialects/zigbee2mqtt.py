"""zigbee2mqtt: <base>/<friendly name> as JSON, <base>/<friendly name>/availability, <base>/bridge/{devices,state}.

`prefix` is its base topic. A friendly name may have slashes. Units come from what bridge/devices exposes for each
property (retained, so it is seen at once); without it a voltage, which is in mV for batteries and in V for plugs, is
refused. `last_seen` (ISO 8601 with its offset, or Unix milliseconds) dates a message where it is configured. A message
repeats every cached property of its device, so an unchanged value may be older than its date; null is no value.
"""

from collections.abc import Mapping
from typing import Any

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
    instant,
    introduce,
    is_known,
    matches,
    message,
    once,
    parse,
    parse_object,
    reading,
    remember,
    text,
    word,
)
from gateway.ingest.wire import METRIC_LIMIT, WireError, clean
from gateway.reading import Reading

NAME = "zigbee2mqtt"
SENSOR = "zigbee"
DEVICES_LIMIT = 4 * 1024 * 1024
DEVICES_MOST = 500
COMMANDS = frozenset({"set", "get"})

METRICS: dict[str, Known] = {
    "temperature": Known(Quantity.TEMPERATURE, "°C"),
    "humidity": Known(Quantity.HUMIDITY, "%"),
    "pressure": Known(Quantity.PRESSURE, "hPa"),
    "co2": Known(Quantity.CO2, "ppm"),
    "battery": Known(Quantity.BATTERY, "%"),
    "voltage": Known(Quantity.VOLTAGE, "?"),
    "illuminance_lux": Known(Quantity.ILLUMINANCE, "lx"),
    "illuminance": Known(Quantity.ILLUMINANCE, "?"),
    "pm25": Known(Quantity.PM25, "µg/m³"),
    "pm10": Known(Quantity.PM10, "µg/m³"),
    "voc": Known(Quantity.TVOC, "?"),
    "power": Known(Quantity.POWER, "W"),
    "energy": Known(Quantity.ENERGY, "kWh"),
    "current": Known(Quantity.CURRENT, "A"),
    "soil_moisture": Known(Quantity.MOISTURE, "%"),
}
"""Properties, and their unit where bridge/devices does not tell: "?" where it differs between devices.

(`illuminance` was a raw number before version 2 and lux since.)
"""


def subscriptions(prefix: str) -> tuple[str, ...]:
    return (f"{prefix.strip('/')}/bridge/devices", f"{prefix.strip('/')}/#")


def takes(prefix: str, topic: str) -> bool:
    return matches(f"{prefix.strip('/')}/#", topic)


def decode(prefix: str, topic: str, payload: bytes, context: Context, memory: Memory) -> Decoded:
    """See the module."""
    name = topic[len(prefix.strip("/")) + 1 :]
    if not payload or not name:
        return Decoded(memory)
    if name.startswith("bridge/"):
        return _bridge(name, topic, payload, memory)
    friendly, _, suffix = name.rpartition("/")
    if suffix == "availability":
        device = device_id(NAME, friendly)
        online = _online(topic, payload)
        return Decoded(memory, statuses=((device, online),) if is_known(memory, device) else ())
    if COMMANDS & set(name.split("/")[1:]) or payload[:1] != b"{":
        return Decoded(memory)  # a bare word: with `output: attribute` each property has a topic of its own
    return _state(name, parse_object(topic, payload), context, memory)


def _online(topic: str, payload: bytes) -> bool:
    """{"state": "online"|"offline"}, or before version 2 the bare word."""
    said: Any = text(topic, payload)
    if said not in {"online", "offline"}:
        said = parse_object(topic, payload).get("state")
    if said not in ("online", "offline"):
        raise WireError(topic, "a state is online or offline", said)
    return bool(said == "online")


def _bridge(name: str, topic: str, payload: bytes, memory: Memory) -> Decoded:
    """A bridge that ends takes its devices with it; one that begins tells their availability itself."""
    if name == "bridge/devices":
        return _devices(parse(topic, payload, DEVICES_LIMIT), memory)
    if name != "bridge/state" or _online(topic, payload):
        return Decoded(memory)
    known = [key[len("told:") :] for key in memory if key.startswith("told:")]
    return Decoded(memory, statuses=tuple((device, False) for device in known))


def _devices(body: Any, memory: Memory) -> Decoded:
    """Remember model and units of every device that measures something of ours."""
    news: dict[str, Any] = {}
    for each in body[:DEVICES_MOST] if isinstance(body, list) else []:
        if not isinstance(each, dict) or not isinstance(each.get("friendly_name"), str):
            continue
        given = each.get("definition")
        definition: Mapping[str, Any] = given if isinstance(given, dict) else {}
        units: dict[str, str] = {}
        _collect(definition.get("exposes"), units)
        if units:
            news[f"device:{clean(each['friendly_name'], 128)}"] = {
                "units": units,
                "model": word(definition, "model"),
                "manufacturer": word(definition, "vendor"),
                "firmware_version": word(each, "software_build_id"),
                "device_type": word(definition, "description"),
            }
    return Decoded(remember(memory, news))


def _collect(exposes: Any, units: dict[str, str], depth: int = 3) -> None:
    for each in exposes[:METRIC_LIMIT] if isinstance(exposes, list) else []:
        if not isinstance(each, dict):
            continue
        if depth and "features" in each:
            _collect(each["features"], units, depth - 1)
        name = each.get("property")
        if each.get("type") == "numeric" and isinstance(name, str) and name in METRICS:
            units[name] = word(each, "unit")


def _state(friendly: str, body: dict[str, Any], context: Context, memory: Memory) -> Decoded:
    device = device_id(NAME, friendly)
    facts = memory.get(f"device:{clean(friendly, 128)}", {})
    units: Mapping[str, str] = facts.get("units", {})
    refusals: dict[str, str] = {}
    stamp = arrived(context)
    if body.get("last_seen") is not None:
        dated = instant(body["last_seen"], context)
        if dated is None:
            refusals["last_seen"] = "no ISO 8601 with an offset, no Unix time, or not now: the time of receipt is used"
        stamp = dated or stamp
    readings: dict[str, Reading] = {}
    for name, known in METRICS.items():
        raw = body.get(name)
        if raw is None or known.name in readings:
            continue
        unit = units.get(name) or known.unit
        try:
            if unit == "?":
                raise LookupError("its unit differs between devices, and bridge/devices does not tell it")
            readings[known.name] = reading(device, SENSOR, known._replace(unit=unit), raw, stamp)
        except (LookupError, TypeError) as refusal:
            refusals[name] = str(refusal)
    memory, problems = once(memory, device, refusals)
    if not readings:
        return Decoded(memory, problems=problems)
    named = ("model", "manufacturer", "firmware_version", "device_type")
    told = about({SENSOR: facts.get("model") or SENSOR}, device_name=friendly, **{n: facts.get(n) for n in named})
    memory, capabilities = introduce(memory, device, told)
    return Decoded(memory, (message(device, SENSOR, readings.values(), stamp),), capabilities, problems=problems)


DIALECT = Dialect(NAME, "zigbee2mqtt", subscriptions, takes, decode)
