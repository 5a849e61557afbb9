"""Which devices, sensors and zones there are."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult
from pydantic import Field

from gateway.mcp import finding, selection
from gateway.mcp.inventory import Devices, DeviceStatus, Finds, Page, Sensors, Zones
from gateway.mcp.tools.base import Device, House, Zone, answer
from gateway.store import queries
from gateway.store.types import Device as Known

STATUSES = ("online", "late", "silent", "degraded", "faulty", "updating", "decommissioned")
FILTERS = {"zone": "zone_id", "building": "building", "floor": "floor", "type": "device_type", "status": "status"}
MOST_DEVICES, MOST_FINDS = 200, 50

Filter = str | None
Status = Annotated[str | None, Field(description="online, late, silent, degraded, faulty")]
Limit = Annotated[int, Field(ge=1, le=MOST_DEVICES)]
Cursor = Annotated[str | None, Field(description="next_cursor of the page before")]
Words = Annotated[str, Field(min_length=1, max_length=200, description="e.g. the bedroom co2 thing")]
Few = Annotated[int, Field(ge=1, le=MOST_FINDS)]


class DeviceTools:
    """Tools about what is known of the house."""

    def __init__(self, house: House) -> None:
        self._house = house

    def functions(self) -> Sequence[Callable[..., Any]]:
        return (self.list_devices, self.get_device, self.find, self.list_zones, self.list_sensors)

    async def list_devices(
        self,
        *,
        device: Device = None,
        zone: Filter = None,
        building: Filter = None,
        floor: Filter = None,
        type: Filter = None,  # noqa: A002 - the name of the column
        status: Status = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Annotated[CallToolResult, Devices]:
        """Devices that match all filters, by id: where they are, status and why, when last heard."""
        house = self._house
        wanted = {"zone": zone, "building": building, "floor": floor, "type": type, "status": status}
        if device is not None and device not in house.ids():
            raise selection.unmatched([], house.ids(), device, None, None)
        matching = _matching(house.registry.devices(), {name: value for name, value in wanted.items() if value})
        matching = [one for one in matching if device in {None, one.device_id}]
        rest = [one for one in matching if cursor is None or one.device_id > cursor]
        page = Page(len(matching), more=len(rest) > limit)
        return answer(Devices.of(rest[:limit], house.registry.status, house.frame(), page))

    async def get_device(self, device: Device = None) -> Annotated[CallToolResult, DeviceStatus]:
        """All that is known of one device, with its newest values."""
        house = self._house
        if device is None:
            raise selection.several("device", house.ids(), "one is meant")
        if device not in house.ids():
            raise selection.unmatched([], house.ids(), device, None, None)
        known, status = house.registry.device(device), house.registry.status(device)
        return answer(DeviceStatus.of(known, status, queries.latest(house.store, device=device), house.frame()))

    async def find(self, query: Words, limit: Few = 10) -> Annotated[CallToolResult, Finds]:
        """Devices, sensors and series by words for place, name, kind or metric; with score and why."""
        house = self._house
        found = finding.find(query, house.registry.devices(), queries.sensors(house.store), house.every())
        newest = {(one.device, one.sensor, one.metric): one for one in house.store.newest().values()}
        return answer(Finds.of(found, limit, newest, house.frame()))

    async def list_zones(self) -> Annotated[CallToolResult, Zones]:
        """Zones (rooms, areas) and how many devices are in each."""
        house = self._house
        devices = Counter(one.zone_id for one in house.registry.devices())
        return answer(Zones.of(await queries.zones(house.store), devices, house.frame()))

    async def list_sensors(self, device: Device = None, zone: Zone = None) -> Annotated[CallToolResult, Sensors]:
        """Sensors and the metrics they measure, with units."""
        house = self._house
        inside = house.in_zone(zone)
        sensors = [one for one in queries.sensors(house.store) if device in {None, one.device_id}]
        if device is not None and not sensors:
            raise selection.unmatched(house.every(), house.ids(), device, None, None)
        sensors = [one for one in sensors if inside is None or one.device_id in inside]
        return answer(Sensors.of(sensors, house.every(), house.frame()))


def _matching(devices: Sequence[Known], wanted: dict[str, str]) -> list[Known]:
    """By id, those that all filters fit, whatever the case; ToolError names the nearest to a value that nobody has."""
    for name, value in wanted.items():
        known = {getattr(one, FILTERS[name]) for one in devices} - {""}
        if name == "status":
            known |= set(STATUSES)
        if value.casefold() not in {each.casefold() for each in known}:
            raise ToolError(f"{name}: no device has {selection.shown(value)}; {selection.nearest(value, known)}")
    fits = [(FILTERS[name], value.casefold()) for name, value in wanted.items()]
    found = [one for one in devices if all(getattr(one, column).casefold() == value for column, value in fits)]
    return sorted(found, key=lambda one: one.device_id)
