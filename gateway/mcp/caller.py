"""Who makes a request, over what, and which tools they asked to see."""

from dataclasses import dataclass
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS

from gateway.access.policy import TOOLSETS
from gateway.access.principal import Principal
from gateway.mcp.selection import nearest

DEFAULT_TOOLSET, EVERY_TOOLSET = "core", "all"
SESSION = "mcp-session-id"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who made a request and whether it came over TLS or loopback."""

    principal: Principal | None
    secure: bool

    @classmethod
    def of(cls, ctx: ServerRequestContext[Any, Any]) -> "Caller":
        """The caller of the request that is being answered; in a tool: `Caller.of(ctx.request_context)`."""
        state = ctx.request.scope.get("state", {}) if ctx.request is not None else {}
        return cls(state.get("principal"), bool(state.get("secure")))

    @property
    def key(self) -> str:
        """Of the principal; "" for nobody."""
        return "" if self.principal is None else self.principal.key


def toolsets(ctx: ServerRequestContext[Any, Any]) -> frozenset[str]:
    """The toolsets of `/mcp?toolsets=a,b`, or the default one; MCPError names the nearest to one that is not there."""
    asked = ctx.request.query_params.get("toolsets", "") if ctx.request is not None else ""
    names = [name.strip() for name in asked.split(",") if name.strip()]
    for name in names:
        if name not in TOOLSETS and name != EVERY_TOOLSET:
            known = (*TOOLSETS, EVERY_TOOLSET)
            raise MCPError(INVALID_PARAMS, f"toolsets: there is no {name[:64]!r}; {nearest(name[:64], known)}")
    if EVERY_TOOLSET in names:
        return frozenset(TOOLSETS)
    return frozenset(names or [DEFAULT_TOOLSET])


def session_id(ctx: ServerRequestContext[Any, Any]) -> str:
    """The session of a legacy request; empty for modern ones."""
    return str(ctx.request.headers.get(SESSION, "")) if ctx.request is not None else ""
