"""The one door to all routes: Host, Origin, size and time limits, who asks, and over which transport."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access.policy import Plain, is_loopback
from gateway.access.principal import Principal
from gateway.web.headers import LOCAL, cookie, hardened, host_name, origin_host

MAX_BODY = 1 << 20
BODY_S = 15.0
"""A request body has to be here within this time, however slowly it trickles."""
OPEN = frozenset({"/healthz", "/pair", "/login"})
"""What answers without a token: liveness, the page where one is handed over, and the form it posts to."""
BEARER_ONLY = "/mcp"
"""A browser's cookie is no credential here: no page may make a browser speak MCP."""


@dataclass(frozen=True, slots=True)
class Doors:
    """How the guard learns what it decides by. `names` gives the host names this gateway goes by, asked anew for each
    request; the address that a connection came in on always counts too. `origins` are foreign pages that may ask."""

    verify: Callable[[str], Awaitable[Principal | None]]
    session: Callable[[str], Principal | None]
    names: Callable[[], Collection[str]]
    origins: Collection[str] = ()
    plain: Plain = Plain.READ


@dataclass(slots=True)
class Exchange:
    """One request that is being served, so that it can be ended from outside."""

    waiting: asyncio.Future[Message] | None = None
    started: bool = False
    complete: bool = False
    _ended: bool = False

    def is_over(self) -> bool:
        """Whether it was ended from outside."""
        return self._ended

    def end(self) -> None:
        """From now on the app hears that its client is gone, and nothing more is sent but the end."""
        self._ended = True
        if self.waiting is not None:
            self.waiting.cancel()


@dataclass(slots=True)
class Guard:
    """ASGI: `guard(scope, receive, send)`. Puts `principal` (or None on open paths) and `secure` in the scope's state.
    `refused` counts by reason; `close` ends all streams, and requests that come later get 503."""

    app: ASGIApp
    doors: Doors
    max_body: int = MAX_BODY
    body_s: float = BODY_S
    refused: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    closing: bool = False
    _exchanges: dict[int, Exchange] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await _refuse_websocket(scope, receive, send)
        self.requests += 1
        headers = Headers(scope=scope)
        safe_send = hardened(send)
        secure = scope.get("scheme") == "https" or is_loopback((scope.get("client") or ("",))[0])
        refusal = self._at_the_door(scope, headers, secure=secure)
        principal = None
        if refusal is None:
            principal, refusal = await self._who(scope, headers)
        body: Message | None = None
        if refusal is None and scope["method"] in {"POST", "PUT", "PATCH"}:
            body, refusal = await self._body(headers, receive)
        if refusal is not None:
            return await refusal(scope, receive, safe_send)
        scope.setdefault("state", {}).update(principal=principal, secure=secure)
        return await self._serve(scope, body, receive, safe_send)

    @property
    def streams(self) -> int:
        """Requests that are being served at this moment."""
        return len(self._exchanges)

    def close(self) -> None:
        """End every open stream properly."""
        self.closing = True
        for exchange in list(self._exchanges.values()):
            exchange.end()

    def _at_the_door(self, scope: Scope, headers: Headers, *, secure: bool) -> Response | None:
        """What can be refused before anybody says who he is."""
        if self.closing:
            return self._refuse("closing", 503, "the gateway is stopping; try again shortly")
        hosts = headers.getlist("host")
        host = host_name(hosts[0]) if len(hosts) == 1 else ""
        if not host or not self._is_ours(host, scope):
            return self._refuse(
                "host",
                421,
                "this gateway does not go by that Host; use its name or address, or add it to allowed_hosts",
            )
        for origin in headers.getlist("origin"):
            if origin not in self.doors.origins and origin_host(origin) != host:
                return self._refuse("origin", 403, "pages of another origin may not ask this gateway")
        if not secure and self.doors.plain is Plain.OFF and scope["path"] != "/healthz":
            return self._refuse("plain", 403, "plain HTTP is off on this gateway; use its HTTPS address")
        return None

    def _is_ours(self, host: str, scope: Scope) -> bool:
        local = (scope.get("server") or ("",))[0]
        return host in LOCAL or host == host_name(local) or host in map(host_name, self.doors.names())

    async def _who(self, scope: Scope, headers: Headers) -> tuple[Principal | None, Response | None]:
        """The principal of the bearer token, else of the browser's session; a refusal where the path needs one."""
        path = scope["path"]
        given = headers.get("authorization")
        if given is not None:
            scheme, _, token = given.partition(" ")
            principal = await self.doors.verify(token.strip()) if scheme.lower() == "bearer" else None
            if principal is None:
                return None, self._unauthorized("the token is unknown, expired or revoked", error="invalid_token")
            return principal, None
        if path != BEARER_ONLY and (session := cookie(headers, scope)):
            principal = self.doors.session(session)
            if principal is not None:
                return principal, None
        if path in OPEN:
            return None, None
        if path == "/" and "text/html" in headers.get("accept", ""):
            return None, RedirectResponse("/pair", status_code=303)
        return None, self._unauthorized("send a token as `Authorization: Bearer agw_...`")

    async def _body(self, headers: Headers, receive: Receive) -> tuple[Message | None, Response | None]:
        """The whole body as one message, or the refusal of one that is too long or too slow."""
        too_long = f"a request body has at most {self.max_body} bytes"
        declared = headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self.max_body:
            return None, self._refuse("size", 413, too_long)
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.body_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return message, None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self.max_body:
                        return None, self._refuse("size", 413, too_long)
                    if not message.get("more_body", False):
                        return {"type": "http.request", "body": b"".join(parts), "more_body": False}, None
        except TimeoutError:
            return None, self._refuse("slow", 408, f"the request body did not arrive within {self.body_s:g} s")

    async def _serve(self, scope: Scope, body: Message | None, receive: Receive, send: Send) -> None:
        exchange = Exchange()
        key = id(exchange)
        self._exchanges[key] = exchange
        token = Headers(scope=scope).get("authorization", "").partition(" ")[2].strip()
        session = cookie(Headers(scope=scope), scope)
        pending = [body] if body is not None else []

        async def still(principal: Principal | None) -> bool:
            if principal is None:
                return True
            return (await self.doors.verify(token) if token else self.doors.session(session)) is not None

        async def guarded_receive() -> Message:
            if pending:
                return pending.pop()
            return await _receive(exchange, receive)

        async def guarded_send(message: Message) -> None:
            streaming = message["type"] == "http.response.body" and message.get("more_body", False)
            if exchange.is_over():
                return
            # A stream outlives the moment its token was checked: nothing is sent on after the token ended.
            if streaming and not await still(scope["state"]["principal"]):
                self.refused["ended"] += 1
                exchange.end()
                return
            exchange.started = True
            exchange.complete = message["type"] == "http.response.body" and not streaming
            await send(message)

        try:
            await self.app(scope, guarded_receive, guarded_send)
        finally:
            del self._exchanges[key]
        if exchange.is_over() and not exchange.complete:
            await _finish(exchange, send)

    def _refuse(self, reason: str, status: int, text: str) -> Response:
        self.refused[reason] += 1
        # The body was not read: the connection cannot be used again.
        return JSONResponse({"error": reason, "error_description": text}, status, headers={"connection": "close"})

    def _unauthorized(self, text: str, error: str = "") -> Response:
        self.refused["token"] += 1
        challenge = 'Bearer realm="ambient-gateway"' + (f', error="{error}"' if error else "")
        body = {"error": error or "unauthorized", "error_description": text}
        return JSONResponse(body, 401, headers={"www-authenticate": challenge})


async def _receive(exchange: Exchange, receive: Receive) -> Message:
    """What the client says next, or that it is gone once the exchange was ended."""
    if not exchange.is_over():
        waiting = asyncio.ensure_future(receive())
        exchange.waiting = waiting
        try:
            return await waiting
        except asyncio.CancelledError:
            waiting.cancel()
            if not exchange.is_over() or _is_cancelled():
                raise
        finally:
            exchange.waiting = None
    return {"type": "http.disconnect"}


def _is_cancelled() -> bool:
    """Whether somebody cancelled the running task itself, and not only what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _finish(exchange: Exchange, send: Send) -> None:
    """Complete what was begun, so that the client sees an end and not a broken connection."""
    if not exchange.started:
        await send({"type": "http.response.start", "status": 503, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
