"""Resources: what can be read and subscribed to by an address."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from urllib.parse import unquote

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    EmptyResult,
    ListResourcesResult,
    PaginatedRequestParams,
    Resource,
    SubscribeRequestParams,
    UnsubscribeRequestParams,
)

from gateway.access.principal import Principal
from gateway.mcp.caller import Caller, session_id
from gateway.mcp.fitting import clean, compact
from gateway.mcp.inventory import Devices, DeviceStatus
from gateway.mcp.live import ALERTS, DEVICES, Live, history_uri, status_uri, zone_uri
from gateway.mcp.overview import Alerts, History, ZoneSnapshots, conditions
from gateway.mcp.selection import nearest, shown
from gateway.mcp.tools.base import House
from gateway.mcp.views import Schema
from gateway.store import queries

JSON = "application/json"
SCHEMA = "schema://"
HISTORY = timedelta(hours=24)
BUCKET = timedelta(minutes=30)
LISTED = 1000

Plots = Callable[[str, Principal], Awaitable[bytes]]
"""The PNG of a plot of this principal; LookupError says that there is none."""


class Resources:
    """The gateway's resources over a house. `plots` is None where there are no plots."""

    def __init__(self, house: House, live: Live, plots: Plots | None = None) -> None:
        self._house = house
        self._live = live
        self._plots = plots

    def install(self, server: MCPServer[Any], lowlevel: Server[Any]) -> None:
        """Serve them, and subscriptions of legacy clients to them."""
        self._server = server
        fixed = (
            (DEVICES, "devices", "All devices with their status", self.devices),
            (ALERTS, "active alerts", "Conditions that are open now", self.alerts),
            (SCHEMA, "schema", "Tables and columns that SQL may ask", self.schema),
        )
        for uri, name, description, read in fixed:
            server.resource(uri, name=name, description=description, mime_type=JSON)(read)
        templates = (
            ("device://{id}/status", "device status", "A device with its newest values", self.status),
            ("device://{id}/history", "device history", "A device's last 24 hours in half hours", self.history),
            ("zone://{id}/summary", "zone summary", "What a zone's devices say now", self.zone),
        )
        for uri, name, description, read_one in templates:
            server.resource(uri, name=name, description=description, mime_type=JSON)(read_one)
        if self._plots is not None:
            server.resource("plot://{id}", name="plot", description="A plot as PNG", mime_type="image/png")(self.plot)
        entry = lowlevel.get_request_handler("resources/list")
        assert entry is not None, "the SDK lists resources"
        self._list: Any = entry.handler
        lowlevel.add_request_handler("resources/list", PaginatedRequestParams, self.list_resources)
        lowlevel.add_request_handler("resources/subscribe", SubscribeRequestParams, self.subscribe)
        lowlevel.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, self.unsubscribe)

    async def devices(self) -> str:
        house = self._house
        return compact(Devices.of(house.registry.devices(), house.registry.status, house.frame()))

    async def alerts(self) -> str:
        house = self._house
        return compact(Alerts.of(conditions(house), house.frame()))

    async def schema(self) -> str:
        return compact(Schema.of(await queries.schema(self._house.store), self._house.frame()))

    async def status(self, id: str) -> str:  # noqa: A002 - the name in the address
        house = self._house
        if id not in house.ids():
            raise ResourceNotFoundError(unknown_device(id, house))
        readings = queries.latest(house.store, device=id)
        return compact(DeviceStatus.of(house.registry.device(id), house.registry.status(id), readings, house.frame()))

    async def history(self, id: str) -> str:  # noqa: A002 - the name in the address
        house, frame = self._house, self._house.frame()
        series = queries.find_series(house.store, device=id)
        if not series:
            raise ResourceNotFoundError(unknown_device(id, house))
        start = frame.now - HISTORY
        ids = [one.series_id for one in series]
        found = await queries.buckets_of_series(house.store, ids, start, frame.now, BUCKET, zone=house.zone)
        return compact(History.of(id, series, found, start, frame))

    async def zone(self, id: str) -> str:  # noqa: A002 - the name in the address
        house, frame = self._house, self._house.frame()
        found = await queries.zone_snapshot(house.store, frame.now, house.stale_after, id)
        if not found:
            known = {one.zone_id for one in house.registry.devices() if one.zone_id}
            raise ResourceNotFoundError(f"zone: no readings of {shown(id)}; {nearest(id, known)}")
        return compact(ZoneSnapshots.of(found, frame))

    async def plot(self, id: str, ctx: Context) -> bytes:  # noqa: A002 - the name in the address
        principal = Caller.of(ctx.request_context).principal
        assert principal is not None, "the endpoint lets nobody in without"
        assert self._plots is not None, "the template is served only with plots"
        try:
            return await self._plots(id, principal)
        except LookupError as error:
            raise ResourceNotFoundError(
                f"plot: there is no {shown(id)}; plots of your own live some minutes"
            ) from error

    async def list_resources(
        self, ctx: ServerRequestContext[Any, Any], params: PaginatedRequestParams | None
    ) -> ListResourcesResult:
        """What is always there, each device, each zone with devices."""
        devices = sorted(self._house.registry.devices(), key=lambda device: device.device_id)
        self._live.known({device.device_id for device in devices})
        fixed: ListResourcesResult = await self._list(ctx, params)
        each = [
            Resource(uri=status_uri(device.device_id), name=clean(device.device_id), mime_type=JSON)
            for device in devices[:LISTED]
        ]
        zones = sorted({device.zone_id for device in devices if device.zone_id})
        each += [Resource(uri=zone_uri(zone), name=clean(zone), mime_type=JSON) for zone in zones[:LISTED]]
        return ListResourcesResult(resources=[*fixed.resources, *each])

    async def subscribe(self, ctx: ServerRequestContext[Any, Any], params: SubscribeRequestParams) -> EmptyResult:
        """Legacy: tell this session when the resource changes."""
        uri = str(params.uri)
        if reason := await self._missing(uri):
            raise MCPError(INVALID_PARAMS, reason, {"uri": uri[:256]})
        if not self._live.subscribe(session_id(ctx), uri):
            raise MCPError(INVALID_REQUEST, "this session holds too many subscriptions; unsubscribe from some first")
        return EmptyResult()

    async def unsubscribe(self, ctx: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams) -> EmptyResult:
        """Legacy: no longer."""
        self._live.unsubscribe(session_id(ctx), str(params.uri))
        return EmptyResult()

    async def _missing(self, uri: str) -> str:
        """Why nobody can subscribe to this; "" where it changes."""
        fixed = {str(resource.uri) for resource in await self._server.list_resources()}
        kind, _, rest = uri.partition("://")
        name = unquote(rest.rpartition("/")[0])
        if kind == "zone":
            zones = {device.zone_id for device in self._house.registry.devices() if device.zone_id}
            there = uri == zone_uri(name) and name in zones
            return "" if there else f"zone: there is no {shown(name)}; {nearest(name, zones)}"
        if uri in fixed or (uri in {status_uri(name), history_uri(name)} and name in self._house.ids()):
            return ""
        return unknown_device(name, self._house)


def unknown_device(device: str, house: House) -> str:
    """What to say of a device that is not there."""
    return f"device: there is no {shown(device)}; {nearest(device, house.ids())}"
