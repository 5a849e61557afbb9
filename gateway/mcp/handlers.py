"""What stands between the wire and the tools: scopes, toolsets, limits, defaults, errors, sizes, and what legacy
clients expect that the SDK does not serve by itself."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.subscriptions import SubscriptionBus
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    EmptyResult,
    InputRequiredResult,
    ListToolsResult,
    PaginatedRequestParams,
    SetLevelRequestParams,
    TextContent,
)

from gateway.access.audit import Audit
from gateway.access.policy import Action, Plain, allow
from gateway.access.principal import Principal
from gateway.command import Unconfirmed
from gateway.mcp import confirm, fitting
from gateway.mcp.caller import Caller, session_id, toolsets
from gateway.mcp.catalogue import Catalogue, Entry
from gateway.mcp.errors import one_line, told
from gateway.mcp.live import Live
from gateway.mcp.memory import Memory
from gateway.mcp.selection import nearest

log = logging.getLogger(__name__)

Limit = Callable[[Principal, str], str]
"""Whether a principal may call a tool just now: "" or the reason why not, in one line with the way out."""


def unlimited(principal: Principal, tool: str) -> str:
    """Everybody may call as often as they like."""
    return ""


@dataclass(slots=True)
class Rules:
    """What decides about a call. `refused` counts calls that came too often."""

    audit: Audit
    plain: Plain
    memory: Memory
    limit: Limit = unlimited
    refused: int = 0


class Handlers:
    """`install` puts these before, and where there is none instead of, the SDK's."""

    def __init__(self, catalogue: Catalogue, live: Live, rules: Rules, bus: SubscriptionBus) -> None:
        self._catalogue = catalogue
        self._live = live
        self._rules = rules
        self._bus = bus

    def install(self, server: MCPServer[Any], lowlevel: Server[Any]) -> None:
        """From now on tools are those of the catalogue."""
        self._server = server
        lowlevel.get_tool_input_schema = self._catalogue.schema
        lowlevel.add_request_handler("tools/list", PaginatedRequestParams, self.list_tools)
        lowlevel.add_request_handler("tools/call", CallToolRequestParams, self.call_tool)
        lowlevel.add_request_handler("logging/setLevel", SetLevelRequestParams, self.set_level)
        server.middleware.append(self.watch)

    async def watch(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Keep the registry of legacy sessions, and say in `initialize` which lists can change."""
        if (session := session_id(ctx)) and ctx.method in {"notifications/initialized", "resources/subscribe"}:
            self._live.open(session, ctx.session)
        result = await call_next(ctx)
        if ctx.method == "initialize" and isinstance(result, dict):
            for kind in ("resources", "tools"):
                result["capabilities"][kind]["listChanged"] = True
        return result

    async def list_tools(
        self, ctx: ServerRequestContext[Any, Any], params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        """The tools that the caller may use and asked for, always in the same order."""
        caller = Caller.of(ctx)

        def allowed(action: Action) -> bool:
            return allow(caller.principal, action, secure=caller.secure, plain=self._rules.plain).allowed

        return ListToolsResult(tools=self._catalogue.listed(toolsets(ctx), allowed))

    async def call_tool(self, ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams) -> HandlerResult:
        """One tool call: decided, then run; a refused write is audited here, one that is run by its command."""
        entry = self._catalogue.get(params.name)
        if entry is None:
            known = [each.action.name for each in self._catalogue.entries()]
            return refusal(f"there is no tool {params.name[:64]!r}; {nearest(params.name[:64], known)}")
        given = params.arguments or {}
        if reason := await self._refused(Caller.of(ctx), entry.action, given):
            return refusal(reason)
        known = entry.tool.parameters.get("properties", {})
        for argument in given:
            if argument not in known:
                return refusal(f"{argument[:64]}: {params.name} has no such argument; {nearest(argument[:64], known)}")
        context = Context(request_context=ctx, mcp_server=self._server, input_params=params, subscriptions=self._bus)
        return await self._run(entry, given, context)

    async def set_level(self, ctx: ServerRequestContext[Any, Any], params: SetLevelRequestParams) -> EmptyResult:
        """Legacy: accepted; this server sends no log messages at any level."""
        return EmptyResult()

    async def _refused(self, caller: Caller, action: Action, arguments: Mapping[str, Any]) -> str:
        decision = allow(caller.principal, action, secure=caller.secure, plain=self._rules.plain)
        if not decision.allowed:
            target = fitting.clean(str(arguments.get("device") or arguments.get("name") or ""))
            await self._rules.audit.record(caller.principal, action.name, target, decision)
            return decision.reason
        reason = self._rules.limit(caller.principal, action.name) if caller.principal is not None else ""
        self._rules.refused += bool(reason)
        return reason

    async def _run(self, entry: Entry, given: dict[str, Any], context: Context) -> HandlerResult:
        caller = Caller.of(context.request_context)
        known = entry.tool.parameters.get("properties", {})
        assumed = await self._rules.memory.assumed(caller.key, entry.tool.name, given, known)
        try:
            result = await self._call(entry, given | assumed, context)
        except ToolError as error:
            line = told(error)
            if line is None:
                log.error("tool %s failed", entry.tool.name, exc_info=error.__cause__ or error)
                line = f"{entry.tool.name} failed inside the gateway; its log says why"
            said = f"; {_assumption(assumed)}, set_context changes that" if assumed else ""
            return refusal(line + said)
        if isinstance(result, CallToolResult) and not result.is_error:
            return fitting.bounded(fitting.with_note(result, _assumption(assumed)) if assumed else result)
        return result

    async def _call(
        self, entry: Entry, arguments: dict[str, Any], context: Context
    ) -> CallToolResult | InputRequiredResult:
        """Run the tool; where it wants to be confirmed and the client can ask its user, ask and run it again."""
        try:
            return await self._once(entry, arguments, context)
        except ToolError as error:
            cause = error.__cause__
            if not isinstance(cause, Unconfirmed) or not confirm.can_ask(context):
                raise
            word = await confirm.confirmed(context, cause.would)
            if isinstance(word, InputRequiredResult):
                return word
            if not word:
                return refusal(one_line(f"not done: the user did not confirm that {cause.would}"))
        return await self._once(entry, arguments | {"confirm": True}, context)

    async def _once(
        self, entry: Entry, arguments: dict[str, Any], context: Context
    ) -> CallToolResult | InputRequiredResult:
        result: CallToolResult | InputRequiredResult = await entry.tool.run(arguments, context, convert_result=True)
        return result


def refusal(reason: str) -> CallToolResult:
    """A tool error that says why."""
    return CallToolResult(content=[TextContent(type="text", text=one_line(reason))], is_error=True)


def _assumption(assumed: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value!r} was assumed" for name, value in assumed.items())
