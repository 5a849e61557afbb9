"""What a caller may do, and what the gateway remembers for them."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from mcp.server.mcpserver import Context
from mcp_types import CallToolResult
from pydantic import BaseModel, Field

from gateway.access.policy import Action, Plain, allow
from gateway.mcp import selection
from gateway.mcp.caller import Caller
from gateway.mcp.fitting import first_that_fit
from gateway.mcp.memory import Memory, Remembered
from gateway.mcp.tools.base import House, answer
from gateway.mcp.views import Answer, Frame

Clear = Callable[[str], int]
"""Drops the results that are kept for a caller (by `Caller.key`); how many there were."""


class RiskView(BaseModel):
    """`allowed` for this caller over this connection."""

    tool: str
    toolset: str
    risk: str
    scope: str
    write: bool
    destructive: bool
    allowed: bool


class Risks(Answer):
    tools: list[RiskView]
    total: int


class Who(Answer):
    """`tools` counts those that may be called; `device` and `zone` are assumed where a question names none."""

    name: str
    scope: str
    secure: bool
    tools: int
    toolsets: list[str]
    device: str = ""
    zone: str = ""


class Cleared(Answer):
    cleared: int


DefaultDevice = Annotated[str | None, Field(description="device id; empty for none")]
DefaultZone = Annotated[str | None, Field(description="zone id; empty for none")]


class OwnTools:
    """Tools about the caller. `actions` tells which tools there are at this moment."""

    def __init__(
        self, house: House, memory: Memory, actions: Callable[[], Sequence[Action]], plain: Plain, clear: Clear
    ) -> None:
        self._house = house
        self._memory = memory
        self._actions = actions
        self._plain = plain
        self._clear = clear

    def functions(self) -> Sequence[Callable[..., Any]]:
        return (self.clear_query_cache, self.get_tool_risk_metadata, self.whoami, self.set_context)

    async def clear_query_cache(self, ctx: Context) -> Annotated[CallToolResult, Cleared]:
        """Forget the results of your queries; their query_ids end."""
        count = self._clear(Caller.of(ctx.request_context).key)
        return answer(Cleared(**self._house.frame().fields(), cleared=count))

    async def get_tool_risk_metadata(self, ctx: Context) -> Annotated[CallToolResult, Risks]:
        """Every tool of every toolset: risk, scope, whether it writes or destroys, whether you may call it."""
        caller, frame, actions = Caller.of(ctx.request_context), self._house.frame(), self._actions()

        def make(some: Sequence[Action]) -> Risks:
            return Risks(**frame.fields(), total=len(actions), tools=[self._risk(one, caller) for one in some])

        return answer(first_that_fit(actions, make))

    async def whoami(self, ctx: Context) -> Annotated[CallToolResult, Who]:
        """Who you are to this gateway: name, scope, tools, and the device and zone set by set_context."""
        return answer(await self._who(Caller.of(ctx.request_context), self._house.frame()))

    async def set_context(
        self, ctx: Context, device: DefaultDevice = None, zone: DefaultZone = None
    ) -> Annotated[CallToolResult, Who]:
        """Device or zone meant by your later questions that name none; kept for your token. Left out: unchanged."""
        house, caller = self._house, Caller.of(ctx.request_context)
        if device and device not in house.ids():
            raise selection.unmatched([], house.ids(), device, None, None)
        house.in_zone(zone or None)
        before = await self._memory.recall(caller.key)
        context = Remembered(
            before.device if device is None else device,
            before.zone if zone is None else zone,
        )
        await self._memory.remember(caller.key, context)
        return answer(await self._who(caller, house.frame()))

    def _risk(self, action: Action, caller: Caller) -> RiskView:
        return RiskView(
            tool=action.name,
            toolset=action.toolset,
            risk=str(action.risk),
            scope=str(action.scope),
            write=action.write,
            destructive=action.destructive,
            allowed=self._may(action, caller),
        )

    async def _who(self, caller: Caller, frame: Frame) -> Who:
        mine = [action for action in self._actions() if self._may(action, caller)]
        context = await self._memory.recall(caller.key)
        told = {"device": context.device, "zone": context.zone}
        principal = caller.principal
        return Who(
            **frame.fields(),
            name=principal.name if principal else "",
            scope=str(principal.scope) if principal else "",
            secure=caller.secure,
            tools=len(mine),
            toolsets=list(dict.fromkeys(action.toolset for action in mine)),
            **{key: text for key, text in told.items() if text},
        )

    def _may(self, action: Action, caller: Caller) -> bool:
        return allow(caller.principal, action, secure=caller.secure, plain=self._plain).allowed
