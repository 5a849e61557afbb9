"""A real MCP server of both eras over HTTPS with bearer tokens, as a process: what the bridge talks to in tests.

    python mcp_server.py HOST PORT CERTIFICATE KEY TOKEN [GATEWAY_ID]

Prints `ready PORT` when it listens, then a line for what a test wants to know of. With an id it is announced by mDNS.
"""

import asyncio
import hashlib
import ssl
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import mcp_types as types
import uvicorn
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import AnyHttpUrl, BaseModel, Field

from gateway.discovery.mdns import Announcer


class OneToken:
    def __init__(self, token: str) -> None:
        self.token = token

    async def verify_token(self, token: str) -> AccessToken | None:
        return AccessToken(token=token, client_id="test", scopes=["read"]) if token == self.token else None


class Answer(BaseModel):
    word: str


def say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def build(token: str) -> MCPServer:
    auth = AuthSettings(issuer_url=AnyHttpUrl("https://localhost"), resource_server_url=None)
    server = MCPServer("test gateway", token_verifier=OneToken(token), auth=auth)
    calls: dict[str, int] = {}
    sessions: list[Any] = []

    @server.tool()
    async def count(name: str) -> int:
        """How often this was called with the name."""
        calls[name] = calls.get(name, 0) + 1
        return calls[name]

    @server.tool()
    async def echo(text: str) -> str:
        return text

    @server.tool()
    async def in_room(room: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Room"})]) -> str:
        """Wants its argument in a header too."""
        return room

    @server.tool()
    async def steps(ctx: Context) -> str:
        """Reports progress twice."""
        await ctx.report_progress(1, 2)
        await ctx.report_progress(2, 2)
        return "done"

    @server.tool()
    async def ask(ctx: Context) -> str:
        """Asks the user."""
        result = await ctx.elicit("a word?", Answer)
        return result.data.word if result.action == "accept" else "no"

    @server.tool()
    async def forever() -> str:
        """Runs until it is cancelled."""
        say("forever started")
        try:
            await asyncio.Event().wait()
        finally:
            say("forever ended")
        return ""

    @server.tool()
    async def changed(ctx: Context) -> int:
        """Tells subscribers of both eras; how many of the first there are."""
        await ctx.notify_resource_updated("test://value")
        for session in sessions:
            await session.send_resource_updated("test://value")
        return len(sessions)

    @server.resource("test://value")
    async def value() -> str:
        return "42"

    async def subscribe(ctx: ServerRequestContext[Any], params: types.SubscribeRequestParams) -> types.EmptyResult:
        sessions.append(ctx.session)
        say(f"subscribed {params.uri}")
        return types.EmptyResult()

    async def set_level(ctx: ServerRequestContext[Any], params: types.SetLevelRequestParams) -> types.EmptyResult:
        say(f"level {params.level}")
        return types.EmptyResult()

    low = server._lowlevel_server
    low.add_request_handler("resources/subscribe", types.SubscribeRequestParams, subscribe)
    low.add_request_handler("logging/setLevel", types.SetLevelRequestParams, set_level)
    return server


class Told(uvicorn.Server):
    """Says when it listens; leaves signals alone."""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        say(f"ready {self.servers[0].sockets[0].getsockname()[1]}")


async def main(*arguments: str) -> None:
    host, port, certificate, key, token, gateway_id = (*arguments, "")[:6]
    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(Path(certificate).read_text("ascii"))).hexdigest()  # noqa: ASYNC240
    app = build(token).streamable_http_app(
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False)
    )
    config = uvicorn.Config(
        app, host, int(port), ssl_certfile=certificate, ssl_keyfile=key, log_level="error", timeout_graceful_shutdown=1
    )
    async with AsyncExitStack() as stack:
        if gateway_id:
            announcer = Announcer(
                name="Attic",
                gateway_id=gateway_id,
                fingerprint=fingerprint,
                http_port=None,
                https_port=int(port),
                version="1",
                mcp_revisions=["2025-11-25", "2026-07-28"],
            )
            await stack.enter_async_context(announcer)
        await Told(config).serve()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
