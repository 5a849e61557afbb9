"""ESPHome: <node>/sensor/<object_id>/state as plain text, <node>/status, and its Home Assistant discovery configs.

`prefix` is what stands before the node's name ("" by default, "esphome" for topic_prefix: esphome/<node>). A state has
no unit and no time. What it measures is told by the discovery config that names its topic; where none was seen, by the
last words of the object id ("garage_temperature"), in ESPHome's own unit; anything else is refused by name. States
are retained: what a broker sends again at a subscription is old and has no date, so it is no reading.
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
    introduce,
    is_known,
    matches,
    message,
    once,
    parse_object,
    reading,
    remember,
    safe_id,
    text,
    word,
)
from gateway.ingest.wire import WireError

NAME = "esphome"
DISCOVERY = "homeassistant/sensor/+/+/config"
NOT_NODES = frozenset({"homeassistant", "devices", "zigbee2mqtt", "tasmota"})
"""First levels of others whose topics have the same form."""

CLASSES: dict[str, Quantity] = {
    "temperature": Quantity.TEMPERATURE,
    "humidity": Quantity.HUMIDITY,
    "carbon_dioxide": Quantity.CO2,
    "atmospheric_pressure": Quantity.PRESSURE,
    "pressure": Quantity.PRESSURE,
    "voltage": Quantity.VOLTAGE,
    "battery": Quantity.BATTERY,
    "signal_strength": Quantity.RSSI,
    "illuminance": Quantity.ILLUMINANCE,
    "pm25": Quantity.PM25,
    "pm10": Quantity.PM10,
    "volatile_organic_compounds": Quantity.TVOC,
    "power": Quantity.POWER,
    "energy": Quantity.ENERGY,
    "current": Quantity.CURRENT,
    "moisture": Quantity.MOISTURE,
}
"""Home Assistant's device classes that are quantities of ours."""

AIR_PRESSURE = frozenset({"hpa", "mbar", "pa"})
"""Units that a barometer of the class "pressure" uses; a water pipe's is in bar or psi."""

WORDS: dict[str, Known] = {
    "temperature": Known(Quantity.TEMPERATURE, "°C"),
    "temp": Known(Quantity.TEMPERATURE, "°C"),
    "humidity": Known(Quantity.HUMIDITY, "%"),
    "co2": Known(Quantity.CO2, "ppm"),
    "carbon_dioxide": Known(Quantity.CO2, "ppm"),
    "pressure": Known(Quantity.PRESSURE, "hPa"),
    "illuminance": Known(Quantity.ILLUMINANCE, "lx"),
    "battery_voltage": Known(Quantity.VOLTAGE, "V"),
    "voltage": Known(Quantity.VOLTAGE, "V"),
    "battery_level": Known(Quantity.BATTERY, "%"),
    "battery": Known(Quantity.BATTERY, "%"),
    "wifi_signal": Known(Quantity.RSSI, "dBm"),
    "rssi": Known(Quantity.RSSI, "dBm"),
    "power": Known(Quantity.POWER, "W"),
    "current": Known(Quantity.CURRENT, "A"),
}
"""Last words of an object id, and the unit that ESPHome's sensors of that kind publish in."""


def subscriptions(prefix: str) -> tuple[str, ...]:
    """Discovery first: a broker sends what it retained in the order of subscription."""
    root = _root(prefix)
    return (DISCOVERY, f"{root}+/sensor/+/state", f"{root}+/status")


def takes(prefix: str, topic: str) -> bool:
    if matches(DISCOVERY, topic):
        return True
    return topic.partition("/")[0] not in NOT_NODES and any(matches(each, topic) for each in subscriptions(prefix)[1:])


def decode(prefix: str, topic: str, payload: bytes, context: Context, memory: Memory) -> Decoded:
    """See the module."""
    if matches(DISCOVERY, topic):
        return _config(prefix, parse_object(topic, payload), memory) if payload else Decoded(memory)
    device = _device(prefix, topic)
    said = text(topic, payload).strip()
    if topic.endswith("/status"):
        if said not in {"online", "offline", ""}:
            raise WireError(topic, "a status is online or offline", said)
        told = said != "" and is_known(memory, device)
        return Decoded(memory, statuses=((device, said == "online"),) if told else ())
    return _state(prefix, topic, said, context, memory)


def by_name(object_id: str) -> Known | None:
    """What an object id says that it measures, by its last words; None where it does not say it."""
    words = object_id.lower().replace("-", "_").split("_")
    for count in (2, 1):
        known = WORDS.get("_".join(words[-count:]))
        if known is not None:
            return known
    return None


def _root(prefix: str) -> str:
    plain = prefix.strip("/")
    return f"{plain}/" if plain else ""


def _config(prefix: str, body: dict[str, Any], memory: Memory) -> Decoded:
    """Keep what a config says of a state topic; configs of other projects name other topics and are passed over."""
    base = word(body, "~")
    topic = (word(body, "stat_t") or word(body, "state_topic")).replace("~", base)
    if not takes(prefix, topic) or not topic.endswith("/state"):
        return Decoded(memory)
    given = body.get("dev", body.get("device"))
    device: Mapping[str, Any] = given if isinstance(given, dict) else {}
    facts = {
        "class": word(body, "dev_cla") or word(body, "device_class"),
        "unit": word(body, "unit_of_meas") or word(body, "unit_of_measurement"),
        "device_name": word(device, "name"),
        "model": word(device, "mdl") or word(device, "model"),
        "manufacturer": word(device, "mf") or word(device, "manufacturer"),
        "firmware_version": word(device, "sw") or word(device, "sw_version"),
    }
    return Decoded(remember(memory, {f"config:{topic}": facts}))


def _measured(object_id: str, facts: Mapping[str, str]) -> Known | None:
    """What a state is; None where it is nothing of ours, LookupError where nobody says what it is."""
    quantity = CLASSES.get(facts.get("class", ""))
    unit = facts.get("unit", "")
    if facts.get("class") == "pressure" and unit.lower() not in AIR_PRESSURE:
        return None
    if quantity is not None and unit:
        return Known(quantity, unit)
    if facts.get("class"):
        return None
    named = by_name(object_id)
    if named is not None:
        return named._replace(unit=unit) if unit else named
    if unit:
        return None
    raise LookupError("neither a discovery config nor its name says what it measures")


def _device(prefix: str, topic: str) -> str:
    return device_id(NAME, topic.split("/")[_root(prefix).count("/")])


def _state(prefix: str, topic: str, said: str, context: Context, memory: Memory) -> Decoded:
    device, object_id = _device(prefix, topic), topic.split("/")[-2]
    facts = memory.get(f"config:{topic}", {})
    stamp, sensor = arrived(context), safe_id(object_id)
    try:
        known = _measured(object_id, facts)
        if known is None or not said:
            return Decoded(memory)
        told = reading(device, sensor, known, _number(said), stamp)
    except (LookupError, TypeError) as refusal:
        memory, problems = once(memory, device, {object_id: str(refusal)})
        return Decoded(memory, problems=problems)
    except ValueError:
        raise WireError(topic, "a state is a number", said) from None
    names = ("device_name", "model", "manufacturer", "firmware_version")
    given = {name: facts.get(name, "") for name in names}
    seen = dict(memory.get(f"sensors:{device}", {}))
    if sensor not in seen and len(seen) < 64:
        seen[sensor] = known.quantity.value
        memory = remember(memory, {f"sensors:{device}": seen})
    memory, capabilities = introduce(memory, device, about(seen, **given))
    return Decoded(memory, (message(device, sensor, [told], stamp),), capabilities)


def _number(said: str) -> float:
    """A plain number; "nan" is what ESPHome says for no value. ValueError for anything else."""
    if len(said) > 40 or "_" in said:
        raise ValueError(said)
    return float(said)


DIALECT = Dialect(NAME, "", subscriptions, takes, decode)
