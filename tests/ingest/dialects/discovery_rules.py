"""Home Assistant's published rules for what we send it, as a checker.

- integrations/mqtt, "MQTT Discovery": topic <prefix>/device/<object_id>/config, ids of [a-zA-Z0-9_-]; "Device discovery
  payload": `dev`, `o` and `cmps` are required, each component has `p` and, as an entity, `unique_id`; availability,
  state_topic, command_topic, qos and encoding may be shared. "Using abbreviations": the lists below.
- homeassistant/components/mqtt/schemas.py: a device has `identifiers` or `connections` (pairs); an origin has a name;
  `availability` excludes `availability_topic`; availability_mode is all, any or latest.
- integrations/sensor.mqtt, "Configuration variables": state_topic required; expire_after a whole number; device_class
  enum alone excludes a unit; a state class needs a numeric state.
- integrations/sensor, "Device class": the units that each class may have. developers/core/entity/sensor: the state
  classes that each may have (homeassistant/components/sensor/const.py, DEVICE_CLASS_UNITS, DEVICE_CLASS_STATE_CLASSES).
"""

import json
import re
from typing import Any

OBJECT_TOPIC = re.compile(r"homeassistant/device/[a-zA-Z0-9_-]+/config")
TEMPLATE = re.compile(r"\{\{ value_json((?:\.[A-Za-z_][A-Za-z0-9_]*)+) \}\}")

LONG = {
    "dev": "device",
    "o": "origin",
    "cmps": "components",
    "p": "platform",
    "avty": "availability",
    "avty_mode": "availability_mode",
    "t": "topic",
    "val_tpl": "value_template",
    "stat_t": "state_topic",
    "uniq_id": "unique_id",
    "dev_cla": "device_class",
    "unit_of_meas": "unit_of_measurement",
    "stat_cla": "state_class",
    "exp_aft": "expire_after",
    "ent_cat": "entity_category",
}
LONG_DEVICE = {
    "ids": "identifiers",
    "cns": "connections",
    "mf": "manufacturer",
    "mdl": "model",
    "sw": "sw_version",
    "hw": "hw_version",
    "sa": "suggested_area",
}
LONG_ORIGIN = {"sw": "sw_version", "url": "support_url"}
DEVICE = {*LONG_DEVICE.values(), "name", "serial_number", "via_device", "configuration_url"}
SENSOR = {
    *("platform", "name", "unique_id", "state_topic", "value_template", "device_class", "unit_of_measurement"),
    *("state_class", "expire_after", "entity_category", "force_update", "icon", "qos", "suggested_display_precision"),
}
UNITS: dict[str | None, set[str | None]] = {
    "carbon_dioxide": {"ppm"},
    "temperature": {"°C", "°F", "K"},
    "humidity": {"%"},
    "moisture": {"%"},
    "battery": {"%"},
    "atmospheric_pressure": {"cbar", "bar", "hPa", "mmHg", "inHg", "inH₂O", "kPa", "mbar", "Pa", "psi"},
    "voltage": {"V", "mV", "µV", "kV", "MV"},
    "current": {"A", "mA"},
    "signal_strength": {"dB", "dBm"},
    "illuminance": {"lx"},
    "pm25": {"µg/m³"},
    "pm10": {"µg/m³"},
    "volatile_organic_compounds": {"µg/m³", "mg/m³"},
    "power": {"mW", "W", "kW", "MW", "GW", "TW"},
    "energy": {"J", "kJ", "MJ", "GJ", "mWh", "Wh", "kWh", "MWh", "GWh", "TWh", "cal", "kcal", "Mcal", "Gcal"},
    None: {None},
}


def _long(body: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    long = {names.get(key, key): value for key, value in body.items()}
    assert len(long) == len(body), "a key and its abbreviation"
    return long


def check_discovery(topic: str, payload: bytes) -> dict[str, Any]:
    """The components of a discovery payload by unique id; AssertionError where it breaks a rule."""
    assert OBJECT_TOPIC.fullmatch(topic), topic
    body = _long(json.loads(payload), LONG)
    assert {"device", "origin", "components"} <= body.keys()
    assert body.keys() <= {"device", "origin", "components", "availability", "availability_mode", "qos", "encoding"}
    device = _long(body["device"], LONG_DEVICE)
    assert device.keys() <= DEVICE
    assert device.get("identifiers") or device.get("connections")
    assert all(len(pair) == 2 for pair in device.get("connections", []))
    assert all(isinstance(value, str) for key, value in device.items() if key not in {"identifiers", "connections"})
    origin = _long(body["origin"], LONG_ORIGIN)
    assert origin["name"]
    assert origin.keys() <= {"name", "sw_version", "support_url"}
    assert body["qos"] in {0, 1, 2}
    assert body["availability_mode"] in {"all", "any", "latest"}
    for each in body["availability"]:
        given = _long(each, LONG)
        assert given.keys() <= {"topic", "value_template", "payload_available", "payload_not_available"}
        _check_topic(given["topic"])
    entities = [_long(each, LONG) for each in body["components"].values()]
    for entity in entities:
        _check_sensor(entity)
    found = {entity["unique_id"]: entity for entity in entities}
    assert len(found) == len(entities), "a unique_id is unique"
    assert len({entity["name"] for entity in entities}) == len(entities), "people tell entities by name"
    return found


def _check_sensor(entity: dict[str, Any]) -> None:
    assert entity["platform"] == "sensor"
    assert entity.keys() <= SENSOR, entity.keys() - SENSOR
    assert isinstance(entity["unique_id"], str)
    _check_topic(entity["state_topic"])
    assert TEMPLATE.fullmatch(entity["value_template"])
    assert type(entity["expire_after"]) is int
    assert entity["expire_after"] >= 0
    device_class = entity.get("device_class")
    assert entity.get("unit_of_measurement") in UNITS[device_class]
    assert entity.get("entity_category") in {None, "config", "diagnostic"}
    allowed = {"total", "total_increasing"} if device_class == "energy" else {"measurement"}
    assert entity["state_class"] in allowed


def _check_topic(topic: str) -> None:
    assert topic
    assert not set(topic) & {"+", "#", "\0"}
    assert len(topic.encode()) <= 65535


def render(entity: dict[str, Any], payload: bytes) -> Any:
    """What an entity shows after a state: its template is a path, as the checker demands."""
    found = TEMPLATE.fullmatch(entity["value_template"])
    assert found is not None
    value: Any = json.loads(payload)
    for step in found.group(1).split(".")[1:]:
        value = value[step]
    return value
