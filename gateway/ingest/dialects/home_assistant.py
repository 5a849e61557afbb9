"""What Home Assistant has to be told of our devices: discovery in the device form, states, removals. Pure.

Every topic that Home Assistant reads is the gateway's own, so it sees what is committed, in one unit and one spelling,
whether the device is wired to the gateway, numbers its messages or sends its ring of yesterday:

    homeassistant/device/<object_id>/config   retained  this file's `discovery`; empty: removed
    devices/<id>/sensors/<sensor>/state                 {"timestamp", "value": {metric: {"reading"}}}, newest values
    gateway/<gateway id>/status               retained  {"status": "online"|"offline"}, also the last will

(The gateway does not subscribe to `…/state`: published as `…/data`, its own words would come back as readings.)
Sources: home-assistant.io, integrations/mqtt ("MQTT discovery", "Device discovery payload"), integrations/sensor.mqtt
("Configuration variables"), integrations/sensor ("Device class").
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from drivers.model import Quantity
from gateway.ingest.dialects.base import safe_id
from gateway.ingest.wire import clean
from gateway.reading import Reading
from gateway.store.types import Device

PREFIX = "homeassistant"
EXPIRES_AFTER = 3  # expected intervals without a value
EXPIRES_LEAST_S = 60
HYSTERESIS = 0.25
AVAILABILITY = "{{ value_json.status if value_json is defined else value }}"
"""What a status says, as {"status": "online", …} or as the bare word."""
MAC = re.compile(r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")


class Entity(NamedTuple):
    """A quantity in Home Assistant's words. "" where it has none."""

    label: str
    device_class: str
    unit: str
    state_class: str = "measurement"
    category: str = ""


ENTITIES: dict[Quantity, Entity] = {
    Quantity.CO2: Entity("CO2", "carbon_dioxide", "ppm"),
    Quantity.TEMPERATURE: Entity("Temperature", "temperature", "°C"),
    Quantity.HUMIDITY: Entity("Humidity", "humidity", "%"),
    Quantity.PRESSURE: Entity("Pressure", "atmospheric_pressure", "hPa"),
    Quantity.VOLTAGE: Entity("Voltage", "voltage", "V"),
    Quantity.BATTERY: Entity("Battery", "battery", "%", category="diagnostic"),
    Quantity.RSSI: Entity("Signal", "signal_strength", "dBm", category="diagnostic"),
    Quantity.ILLUMINANCE: Entity("Illuminance", "illuminance", "lx"),
    Quantity.PM25: Entity("PM2.5", "pm25", "µg/m³"),
    Quantity.PM10: Entity("PM10", "pm10", "µg/m³"),
    Quantity.TVOC: Entity("TVOC", "volatile_organic_compounds", "µg/m³"),
    Quantity.POWER: Entity("Power", "power", "W"),
    Quantity.ENERGY: Entity("Energy", "energy", "Wh", "total_increasing"),
    Quantity.CURRENT: Entity("Current", "current", "A"),
    Quantity.MOISTURE: Entity("Moisture", "moisture", "%"),
    Quantity.COUNT: Entity("Count", "", ""),
}


class Channel(NamedTuple):
    """One series of a device."""

    sensor: str
    metric: str
    quantity: Quantity


@dataclass(frozen=True, slots=True)
class Exported:
    """A device as it is told to Home Assistant. `says_status`: it publishes devices/<id>/status itself."""

    device: Device
    channels: tuple[Channel, ...]
    interval_s: float
    says_status: bool = False


class Publication(NamedTuple):
    """One message to publish with QoS 1."""

    topic: str
    payload: bytes
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """Who publishes: the gateway's id (unique in the house) and version."""

    gateway_id: str
    version: str
    prefix: str = PREFIX

    @property
    def status_topic(self) -> str:
        return f"gateway/{self.gateway_id}/status"

    @property
    def birth_topic(self) -> str:
        return f"{self.prefix}/status"

    @property
    def ours(self) -> str:
        """What the object ids of this gateway's devices begin with."""
        return f"ambient_{plain_id(self.gateway_id)}_"

    def object_id(self, device_id: str) -> str:
        return self.ours + plain_id(device_id)

    def config_topic(self, device_id: str) -> str:
        return f"{self.prefix}/device/{self.object_id(device_id)}/config"

    def is_ours(self, topic: str) -> bool:
        """Whether a config topic is of one of this gateway's devices, also of one that is gone."""
        return topic.startswith(f"{self.prefix}/device/{self.ours}") and topic.endswith("/config")


def plain_id(name: str) -> str:
    """An id of Home Assistant's alphabet, A-Z a-z 0-9 _ -, equal only for equal names."""
    safe = safe_id(name if "." not in name else name + "/")  # the slash makes safe_id add its digest
    return safe.replace(".", "-")


def expire_after(interval_s: float, last: int | None = None) -> int:
    """Seconds after which a value is no longer shown; `last` is kept unless it is a quarter off."""
    wanted = max(EXPIRES_LEAST_S, math.ceil(EXPIRES_AFTER * interval_s))
    return last if last is not None and abs(last - wanted) <= HYSTERESIS * wanted else wanted


def state_topic(device_id: str, sensor: str) -> str:
    return f"devices/{device_id}/sensors/{sensor}/state"


def discovery(exported: Exported, origin: Origin, expires_s: int | None = None) -> Publication:
    """The retained device-form config of one device."""
    device = exported.device
    about = {
        "name": clean(device.device_name) or device.device_id,
        "mf": clean(device.manufacturer),
        "mdl": clean(device.model),
        "sw": clean(device.firmware_version),
        "hw": clean(device.hardware_revision),
        "sa": clean(device.location),
    }
    dev: dict[str, Any] = {"ids": [origin.object_id(device.device_id)]}
    dev |= {key: value for key, value in about.items() if value}
    if MAC.fullmatch(device.mac_address):
        dev["cns"] = [["mac", device.mac_address.lower()]]
    topics = [origin.status_topic]
    if exported.says_status:
        topics.append(f"devices/{device.device_id}/status")
    expires = expires_s if expires_s is not None else expire_after(exported.interval_s)
    body = {
        "dev": dev,
        "o": {"name": "Ambient Gateway", "sw": origin.version},
        "avty": [{"t": topic, "val_tpl": AVAILABILITY} for topic in topics],
        "avty_mode": "all",
        "qos": 1,
        "cmps": dict(_components(exported, origin, expires)),
    }
    return Publication(origin.config_topic(device.device_id), _json(body), True)


def removal(topic: str) -> Publication:
    """What makes a broker forget a config, and Home Assistant its device."""
    return Publication(topic, b"", True)


def status(origin: Origin, online: bool) -> Publication:
    """The gateway's own availability."""
    return Publication(origin.status_topic, _json({"status": "online" if online else "offline"}), True)


def state(device_id: str, sensor: str, readings: Iterable[Reading]) -> Publication | None:
    """The newest values of one sensor, null where a value is bad; None where there is nothing to tell.

    Not retained: Home Assistant would take an old value for a new one.
    """
    told = {reading.metric: reading for reading in readings}
    if not told:
        return None
    newest = max(reading.time for reading in told.values())
    values = {metric: {"reading": reading.value} for metric, reading in told.items()}
    return Publication(state_topic(device_id, sensor), _json({"timestamp": newest.timestamp(), "value": values}))


def spread(names: Sequence[str], within_s: float, draw: Callable[[], float]) -> list[tuple[float, str]]:
    """When to publish what again after Home Assistant's birth: (delay in s, name), soonest first.

    `draw` gives numbers from 0 to 1; the delays are random so that many gateways do not answer one birth at once.
    """
    return sorted((draw() * within_s, name) for name in names)


def is_birth(origin: Origin, topic: str, payload: bytes) -> bool:
    return topic == origin.birth_topic and payload == b"online"


def _components(exported: Exported, origin: Origin, expires_s: int) -> list[tuple[str, Mapping[str, Any]]]:
    device_id = exported.device.device_id
    metrics = [channel.metric for channel in exported.channels]
    components: list[tuple[str, Mapping[str, Any]]] = []
    for channel in exported.channels:
        words = ENTITIES[channel.quantity]
        suffix = channel.metric[len(channel.quantity.value) :].replace("_", " ").strip()
        name = " ".join(part for part in (words.label, suffix) if part)
        if metrics.count(channel.metric) > 1:
            name = f"{name} {channel.sensor}"
        entity = {
            "p": "sensor",
            "name": name,
            "uniq_id": f"{origin.object_id(device_id)}_{channel.sensor}_{channel.metric}",
            "stat_t": state_topic(device_id, channel.sensor),
            "val_tpl": f"{{{{ value_json.value.{channel.metric}.reading }}}}",
            "stat_cla": words.state_class,
            "exp_aft": expires_s,
        }
        optional = {"dev_cla": words.device_class, "unit_of_meas": words.unit, "ent_cat": words.category}
        key = plain_id(f"{channel.sensor}_{channel.metric}")
        components.append((key, entity | {name: value for name, value in optional.items() if value}))
    return components


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
