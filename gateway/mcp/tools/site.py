"""The site as a whole: its history's schema, what is wrong now, what happened."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from mcp_types import CallToolResult
from pydantic import Field

from gateway.mcp import selection
from gateway.mcp.findings import AuditAnswer, Events
from gateway.mcp.overview import Alerts, conditions
from gateway.mcp.tools.base import Device, House, answer
from gateway.mcp.views import Schema
from gateway.store import queries

Rows = Annotated[int, Field(ge=1, le=200)]


class SiteTools:
    """Tools about the gateway and its site."""

    def __init__(self, house: House) -> None:
        self._house = house

    def functions(self) -> Sequence[Callable[..., Any]]:
        return (self.get_database_schema, self.list_active_alerts, self.list_events, self.list_audit)

    async def get_database_schema(self) -> Annotated[CallToolResult, Schema]:
        """Tables and columns of the history, with units."""
        return answer(Schema.of(await queries.schema(self._house.store), self._house.frame()))

    async def list_active_alerts(self, device: Device = None) -> Annotated[CallToolResult, Alerts]:
        """What is wrong now, the worst first: devices late, silent, degraded or faulty, disk low, store problems. No
        rules on values yet."""
        house = self._house
        if device is not None and device not in house.ids():
            raise selection.unmatched([], house.ids(), device, None, None)
        found = [one for one in conditions(house) if device in {None, one.device}]
        return answer(Alerts.of(found, house.frame()))

    async def list_events(self, device: Device = None, limit: Rows = 50) -> Annotated[CallToolResult, Events]:
        """What happened to devices and to the gateway, newest first."""
        house = self._house
        if device is not None and device not in house.ids():
            raise selection.unmatched([], house.ids(), device, None, None)
        return answer(Events.of(await queries.events(house.store, limit, device), house.frame()))

    async def list_audit(self, limit: Rows = 50) -> Annotated[CallToolResult, AuditAnswer]:
        """Who asked for which write or was refused one, newest first."""
        return answer(AuditAnswer.of(await queries.audit_rows(self._house.store, limit), self._house.frame()))
