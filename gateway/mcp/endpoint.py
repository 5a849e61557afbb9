"""The ASGI app of /mcp: hands requests of principals to the SDK, and owns its sessions while entered."""

import asyncio
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import pydantic_core
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import MCPServer
from mcp_types import INVALID_REQUEST, ErrorData, JSONRPCError
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from gateway.access.principal import Principal
from gateway.mcp.caller import SESSION
from gateway.mcp.catalogue import Catalogue
from gateway.mcp.live import IDLE_S, Live
from gateway.store.types import Commit

MAX_SESSIONS = 256
MAX_BODY = 1 << 20


class Endpoint:
    """`async with` runs the SDK's session manager and the notes to subscribers; calling it serves one request."""

    def __init__(self, server: MCPServer[Any], live: Live, catalogue: Catalogue) -> None:
        # No transport security here: the outer layer has checked Host, Origin and the token for all routes.
        server.streamable_http_app(
            host="", max_sessions=MAX_SESSIONS, session_idle_timeout=IDLE_S, max_request_body_size=MAX_BODY
        )
        self.server = server
        self.catalogue = catalogue
        """Tools that come and go at run time are added to it, and taken from it."""
        self._live = live
        self._manager = server.session_manager
        self._stack = AsyncExitStack()
        self._busy: dict[str, set[str]] = {}

    @property
    def lowlevel(self) -> Server[Any]:
        """The SDK's server below the tools."""
        return self._manager.app

    @property
    def dropped(self) -> int:
        """Sessions that lost their subscriptions because they took no notes."""
        return self._live.dropped

    @property
    def sessions(self) -> int:
        """Legacy sessions that may be told of changes."""
        return self._live.sessions

    @property
    def streams(self) -> int:
        """Legacy sessions that hold their standing stream open."""
        return self._live.streams

    def notify(self, commit: Commit) -> None:
        """Tell subscribers soon whose newest values this commit changed; cheap, from the event loop."""
        self._live.notify(commit)

    def tools_changed(self) -> None:
        """Tell clients soon that tools/list may be another for them, such as when a token's scope changed."""
        self._live.tools_changed()

    def resource_changed(self, uri: str) -> None:
        """Tell subscribers soon that a resource that is not made of readings changed."""
        self._live.resource_changed(uri)

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._manager.run())
        group = await self._stack.enter_async_context(asyncio.TaskGroup())
        notes = group.create_task(self._live.run(), name="mcp notes")
        self._stack.callback(notes.cancel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Without the error: task groups would wrap it, and whoever entered this wants it as it is.
        await self._stack.__aexit__(None, None, None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal: Principal | None = scope.get("state", {}).get("principal")
        if principal is None:
            await Response("a token is needed", status_code=401)(scope, receive, send)
            return
        # The SDK ties a session to the credential that opened it through this user.
        scope["user"] = AuthenticatedUser(AccessToken(token="", client_id=principal.key, scopes=[str(principal.scope)]))
        session_id = Headers(scope=scope).get(SESSION)
        if session_id is None:
            await self._manager.handle_request(scope, receive, send)
        elif scope["method"] == "POST":
            await self._post(session_id, scope, receive, send)
        elif scope["method"] == "GET":
            await self._stream(session_id, scope, receive, send)
        else:
            await self._end(session_id, scope, receive, send)

    async def _post(self, session_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a second request with an id that is still being answered: the SDK would let both hang."""
        message = await receive()
        request_id = _request_id(message)
        # Per credential: only the session's owner gets an answer, so nobody else may occupy its ids.
        owner = f"{scope['user'].access_token.client_id} {session_id}"
        busy = self._busy.setdefault(owner, set())
        if request_id is not None and str(request_id) in busy:
            await _in_use(request_id)(scope, receive, send)
            return
        if request_id is not None:
            busy.add(str(request_id))  # as text: the SDK takes 1 and "1" for one id
        try:
            await self._manager.handle_request(scope, _replay(message, receive), send)
        finally:
            busy.discard(str(request_id))
            if not busy:
                self._busy.pop(owner, None)

    async def _end(self, session_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        async def watched(message: Message) -> None:
            if message.get("status") == 200:
                self._live.close(session_id)
            await send(message)

        await self._manager.handle_request(scope, receive, watched)

    async def _stream(self, session_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        self._live.stream(session_id, +1)
        try:
            await self._manager.handle_request(scope, receive, send)
        finally:
            self._live.stream(session_id, -1)


def _request_id(message: Message) -> int | str | None:
    """The JSON-RPC id of a request in a body that came in one piece; the SDK reports whatever else is wrong."""
    try:
        body = pydantic_core.from_json(message.get("body", b""))
    except ValueError:
        return None
    found = body.get("id") if isinstance(body, dict) and "method" in body else None
    return found if isinstance(found, int | str) else None


def _in_use(request_id: int | str) -> Response:
    error = ErrorData(
        code=INVALID_REQUEST,
        message=f"id {request_id!r} is still being answered in this session; give each request an id of its own",
    )
    body = JSONRPCError(jsonrpc="2.0", id=request_id, error=error)
    return JSONResponse(body.model_dump(by_alias=True, exclude_unset=True), status_code=400)


def _replay(first: Message, receive: Receive) -> Receive:
    messages = [first]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed
