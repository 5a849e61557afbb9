"""What other projects' devices say over MQTT, one pure file each. Nothing here reads or writes anything."""

from gateway.ingest.dialects import esphome, tasmota, theengs, zigbee2mqtt
from gateway.ingest.dialects.base import Dialect

DIALECTS: dict[str, Dialect] = {
    each.name: each for each in (tasmota.DIALECT, esphome.DIALECT, zigbee2mqtt.DIALECT, theengs.DIALECT)
}
"""The dialects that are understood, by the name that the configuration gives them."""


def is_foreign(device_id: str) -> bool:
    """Whether an id is one that a dialect gives (other hubs know such a device already)."""
    return device_id.partition("-")[0] in DIALECTS and "-" in device_id
