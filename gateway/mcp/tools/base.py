"""What all groups of tools share: the house they ask about, their arguments, and how an answer is sent."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Protocol
from zoneinfo import ZoneInfo

from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, ContentBlock, TextContent
from pydantic import BaseModel, Field
from pydantic_core import to_json

from gateway.clock import Clock
from gateway.mcp import selection
from gateway.mcp.views import Frame
from gateway.registry.registry import Registry
from gateway.store import queries
from gateway.store.db import Store
from gateway.store.types import Series

STALE_UNKNOWN = timedelta(minutes=3)
"""After so long a newest reading is too old for a figure of now, where nobody knows how often its device measures."""

Device = Annotated[str | None, Field(description="device id")]
Zone = Annotated[str | None, Field(description="zone id")]
Sensor = Annotated[str | None, Field(description="sensor name")]
Metric = Annotated[str | None, Field(description="e.g. co2, temperature")]
Start = Annotated[str, Field(description="ISO-8601 with offset, or -24h, -7d, today")]
End = Annotated[str, Field(description="like start; not included")]
DryRun = Annotated[bool, Field(description="only say what would be done")]
Confirm = Annotated[bool, Field(description="true: it cannot be undone, and it is meant")]


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is wrong now. `kind` is device, store, disk or clock; what rules find will be another; `severity`
    is info, warning or critical."""

    kind: str
    severity: str
    reason: str
    since: datetime | None = None
    device: str = ""
    zone: str = ""
    status: str = ""


class Group(Protocol):
    """Tools that belong together: each function is one, named and described as the function is, with typed arguments.
    The policy has to know it (ACTIONS[name].tool); one that takes `ctx: Context` may ask `Caller.of`."""

    def functions(self) -> Sequence[Callable[..., Any]]: ...


@dataclass(frozen=True, slots=True)
class House:
    """What the tools ask: never more than one question a call."""

    store: Store
    registry: Registry
    clock: Clock
    zone: ZoneInfo
    troubles: Callable[[], Sequence[Condition]] = tuple

    def frame(self) -> Frame:
        """What an answer given now is told against."""
        return Frame(self.clock.now(), self.zone, self.clock.trusted())

    def one(self, device: str | None, sensor: str | None, metric: str | None) -> Series:
        """The series meant; ToolError names the argument that is wrong or missing."""
        return selection.only(self.some(device, sensor, metric))

    def some(self, device: str | None, sensor: str | None, metric: str | None) -> list[Series]:
        """At least one series; ToolError where nothing matches."""
        matches = queries.find_series(self.store, device=device, sensor=sensor, metric=metric)
        if not matches:
            raise selection.unmatched(self.every(), self.ids(), device, sensor, metric)
        return matches

    def every(self) -> list[Series]:
        return list(self.store.series().values())

    def ids(self) -> list[str]:
        return self.registry.ids()

    def stale_after(self, device: str) -> timedelta:
        """How old the newest reading of a device may be; of one that is not known, too."""
        try:
            return self.registry.late_after(device)
        except LookupError:
            return STALE_UNKNOWN

    def in_zone(self, zone: str | None) -> frozenset[str] | None:
        """The devices of a zone, None for no zone; ToolError where none has it."""
        if zone is None:
            return None
        devices = self.registry.devices()
        inside = frozenset(one.device_id for one in devices if one.zone_id == zone)
        if not inside:
            known = {one.zone_id for one in devices if one.zone_id}
            raise ToolError(f"zone: no device is in {zone!r}; {selection.nearest(zone, known)}")
        return inside


def answer(view: BaseModel, *more: ContentBlock) -> CallToolResult:
    """The same answer twice: structured, and as text for clients that read nothing else; then what else there is."""
    data = view.model_dump(mode="json", exclude_unset=True)
    return CallToolResult(
        content=[TextContent(type="text", text=to_json(data).decode()), *more],
        structured_content=data,
    )
