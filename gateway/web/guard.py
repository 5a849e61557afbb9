"""The one door to all routes: Host, Origin, size and time limits, who asks, how often, and over which transport."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access.desk import Desk
from gateway.access.policy import Plain, is_loopback
from gateway.access.principal import Principal
from gateway.access.principal import Scope as AccessScope
from gateway.access.rates import is_at_home, place, retry_after
from gateway.web.bodies import MAX_BODY, STRANGER, BodyLimit, BodyRefused, pieces, whole
from gateway.web.exchange import Exchange
from gateway.web.headers import LOCAL, authority, cookie, cookie_name, hardened, host_name, origin_host

__all__ = ["MAX_BODY", "BodyLimit", "Doors", "Guard"]

OPEN = frozenset(
    {
        "/healthz",
        "/pair",
        "/login",
        "/oauth/device_authorization",
        "/oauth/token",
        "/oauth/revoke",
        "/.well-known/oauth-authorization-server",
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/mcp",
    }
)
"""What answers without a token: liveness, and the ways to one."""
UNLIMITED = "/healthz"
"""Whoever restarts us may ask as often as it likes: the answer costs nothing."""
MCP = "/mcp"
"""A browser's cookie is no credential here: no page may make a browser speak MCP."""
NODES = "/files/firmware/"
"""Where nodes download updates: what they show is no token but signed with their own key, and no token counts there."""
METADATA = "/.well-known/oauth-protected-resource/mcp"
BODIES, BODIES_OF_A_PLACE = 32, 8
"""How many forms of strangers are waited for at once, and of one address."""
EXCHANGES = 64
"""Requests of one principal that are served at once, streams included."""
JSONRPC_REFUSED = -32000


@dataclass(frozen=True, slots=True)
class Doors:
    """How the guard learns what it decides by. `session` says whom a browser's session stands for. `names` gives the
    host names this gateway goes by, asked anew for each request; the address that a connection came in on always counts
    too. `origins` are foreign pages that may ask. `node` tells which node a path's Authorization proves to be."""

    desk: Desk
    session: Callable[[str], Principal | None]
    names: Callable[[], Collection[str]]
    origins: Collection[str] = ()
    plain: Plain = Plain.READ
    node: Callable[[str, str], str | None] = lambda _path, _authorization: None


class Refused(Exception):
    """A request that gets this answer instead of being served. `reason` is what the guard counts."""

    def __init__(self, reason: str, response: Response) -> None:
        super().__init__(reason)
        self.reason, self.response = reason, response


@dataclass(slots=True)
class Guard:
    """ASGI: `guard(scope, receive, send)`. Puts `principal` (or None on open paths) and `secure` in the scope's state.

    `limits` gives bodies of some routes (by the beginning of their path) other limits than `usual`; those of strangers
    are always small. `refused` counts by reason; `close` ends all streams, and requests that come later get 503.
    """

    app: ASGIApp
    doors: Doors
    usual: BodyLimit = field(default_factory=BodyLimit)
    stranger: BodyLimit = STRANGER
    limits: Mapping[str, BodyLimit] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    closing: bool = False
    _exchanges: dict[int, Exchange] = field(default_factory=dict)
    _of: Counter[str] = field(default_factory=Counter)
    _forms: Counter[str] = field(default_factory=Counter)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await _refuse_websocket(scope, receive, send)
        self.requests += 1
        headers, safe_send = Headers(scope=scope), hardened(send)
        secure = scope.get("scheme") == "https" or is_loopback(_address(scope))
        exchange, principal = Exchange(), None
        try:
            self._at_the_door(scope, headers, secure=secure)
            principal = await self._who(scope, headers)
            self._pace(scope, principal)
            with self._held(principal):
                receive = await self._body(scope, headers, receive, principal, exchange)
                scope.setdefault("state", {}).update(principal=principal, secure=secure)
                return await self._serve(exchange, scope, receive, safe_send)
        except Refused as refused:
            await self._count(refused.reason, principal, scope)
            return await refused.response(scope, receive, safe_send)
        except BodyRefused as error:
            await self._count(error.reason, principal, scope)
            return await _closing(error.reason, error.status, str(error))(scope, receive, safe_send)

    @property
    def streams(self) -> int:
        """Requests that are being served at this moment."""
        return len(self._exchanges)

    def close(self) -> None:
        """End every open stream properly."""
        self.closing = True
        for exchange in list(self._exchanges.values()):
            exchange.end()

    def _at_the_door(self, scope: Scope, headers: Headers, *, secure: bool) -> None:
        """What can be refused before anybody says who he is."""
        if self.closing:
            raise Refused("closing", _closing("closing", 503, "the gateway is stopping; try again shortly"))
        hosts = headers.getlist("host")
        host = host_name(hosts[0]) if len(hosts) == 1 else ""
        if not host or not self._is_ours(host, scope):
            text = "this gateway does not go by that Host; use its name or address, or add it to allowed_hosts"
            raise Refused("host", _closing("host", 421, text))
        for origin in headers.getlist("origin"):
            if origin not in self.doors.origins and origin_host(origin) != host:
                text = "pages of another origin may not ask this gateway"
                raise Refused("origin", _closing("origin", 403, text))
        if not secure and self.doors.plain is Plain.OFF and scope["path"] != "/healthz":
            text = "plain HTTP is off on this gateway; use its HTTPS address"
            raise Refused("plain", _closing("plain", 403, text))

    def _is_ours(self, host: str, scope: Scope) -> bool:
        local = (scope.get("server") or ("",))[0]
        return host in LOCAL or host == host_name(local) or host in map(host_name, self.doors.names())

    async def _who(self, scope: Scope, headers: Headers) -> Principal | None:
        """The principal of the bearer token, else of the browser's session, else a guest of the household. What a
        client brings counts alone: wrong credentials are refused, also where none would do."""
        path, desk = scope["path"], self.doors.desk
        if path.startswith(NODES):
            return self._node(scope, headers)
        if given := headers.getlist("authorization"):
            scheme, _, token = given[0].partition(" ")
            bearer = scheme.lower() == "bearer" and len(given) == 1
            principal = await desk.tokens.verify(token.strip()) if bearer else None
            return principal or await self._wrong(scope, headers, token.strip())
        session = cookie(headers, scope) if path != MCP else ""
        if session and (principal := self.doors.session(session)) is not None:
            return principal
        if path in OPEN:
            return None
        if desk.household and not session and is_at_home(_address(scope)):
            return Principal("household", AccessScope.READ, f"household@{place(_address(scope))}", guest=True)
        if path == "/" and "text/html" in headers.get("accept", ""):
            raise Refused("token", _to_pairing(scope, dead=bool(session)))
        text = "send a token as `Authorization: Bearer agw_...`, or ask for one at /oauth/device_authorization"
        raise Refused("token", _unauthorized(scope, headers, text))

    def _node(self, scope: Scope, headers: Headers) -> Principal:
        """The node that downloads. A guest: it may nothing but that, and its refusals are counted."""
        given, path = headers.getlist("authorization"), scope["path"]
        device = self.doors.node(path, given[0]) if len(given) == 1 else None
        if device is not None:
            return Principal(f"node {device}", AccessScope.READ, f"node@{device}", guest=True)
        if wait_s := self.doors.desk.failures.spend(place(_address(scope))):
            raise Refused("failures", _busy(scope, "too many wrong credentials from this address", wait_s))
        body = {"error": "unauthorized", "error_description": "send `Authorization: Node DEVICE:MAC` for this offer"}
        raise Refused("node", JSONResponse(body, 401, headers={"www-authenticate": 'Node realm="ambient-gateway"'}))

    async def _wrong(self, scope: Scope, headers: Headers, token: str) -> Principal:
        """Never returns: refuses these credentials, written down where they were good once."""
        desk = self.doors.desk
        if wait_s := desk.failures.spend(place(_address(scope))):
            text = "too many wrong credentials from this address; right ones are still taken"
            raise Refused("failures", _busy(scope, text, wait_s))
        if name := desk.tokens.ended(token):
            await desk.audit.refuse(name, "request", _path(scope), "the token is revoked or expired")
        text = "the token is unknown, expired or revoked"
        raise Refused("token", _unauthorized(scope, headers, text, error="invalid_token"))

    def _pace(self, scope: Scope, principal: Principal | None) -> None:
        """Refuse who asks too often, or too much at once."""
        if scope["path"] == UNLIMITED:
            return
        who = principal.key if principal else f"stranger@{place(_address(scope))}"
        if wait_s := self.doors.desk.rates.spend(who):
            name = repr(principal.name) if principal else "this address"
            raise Refused("rate", _busy(scope, f"{name} asks too often; wait {wait_s:.1f} s", wait_s))
        if principal is not None and self._of[who] >= EXCHANGES:
            text = f"{principal.name!r} has {EXCHANGES} requests open already; end some first"
            raise Refused("rate", _busy(scope, text, 1.0))

    @contextmanager
    def _held(self, principal: Principal | None) -> Iterator[None]:
        """Count a request of this principal as open."""
        who = principal.key if principal else ""
        self._of[who] += 1
        try:
            yield
        finally:
            self._of[who] -= 1
            if not self._of[who]:
                del self._of[who]

    async def _body(
        self,
        scope: Scope,
        headers: Headers,
        receive: Receive,
        principal: Principal | None,
        exchange: Exchange,
    ) -> Receive:
        """A receive that yields a body within its limit; Refused or BodyRefused."""
        if scope["method"] not in {"POST", "PUT", "PATCH"}:
            return receive
        if principal is not None:
            found = (limit for start, limit in self.limits.items() if scope["path"].startswith(start))
            limit = next(found, self.usual)
            if limit.streamed:
                return pieces(limit, headers, receive, exchange.refuse)
            return _replay(await whole(limit, headers, receive), receive)
        where = place(_address(scope))
        if self._forms.total() >= BODIES or self._forms[where] >= BODIES_OF_A_PLACE:
            raise Refused("forms", _busy(scope, "too many forms are on their way; try again", 1.0, status=503))
        self._forms[where] += 1
        try:
            return _replay(await whole(self.stranger, headers, receive), receive)
        finally:
            self._forms[where] -= 1
            if not self._forms[where]:
                del self._forms[where]

    async def _serve(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        principal: Principal | None = scope["state"]["principal"]
        key = id(exchange)
        self._exchanges[key] = exchange
        token = Headers(scope=scope).get("authorization", "").partition(" ")[2].strip()
        session = cookie(Headers(scope=scope), scope)

        async def still() -> bool:
            if principal is None or principal.guest:
                return True
            return (await self.doors.desk.tokens.verify(token) if token else self.doors.session(session)) is not None

        async def guarded_receive() -> Message:
            return await exchange.hear(receive)

        async def guarded_send(message: Message) -> None:
            streaming = message["type"] == "http.response.body" and message.get("more_body", False)
            if exchange.is_over() or (exchange.refused is not None and not exchange.started):
                return
            # A stream outlives the moment its token was checked: nothing is sent on after the token ended.
            if streaming and not await still():
                self.refused["ended"] += 1
                exchange.end()
                return
            exchange.started = True
            exchange.complete = message["type"] == "http.response.body" and not streaming
            await send(message)

        try:
            await self.app(scope, guarded_receive, guarded_send)
        except ClientDisconnect:
            self.refused["gone"] += 1  # in the middle of a body: nobody is left to be answered
        except Exception:
            if exchange.refused is None or exchange.started:
                raise
        finally:
            del self._exchanges[key]
        if exchange.refused is not None and not exchange.started:
            refused = exchange.refused
            await self._count(refused.reason, principal, scope)
            await _closing(refused.reason, refused.status, str(refused))(scope, receive, send)
        elif exchange.is_over() and not exchange.complete:
            await exchange.finish(send)

    async def _count(self, reason: str, principal: Principal | None, scope: Scope) -> None:
        """Refusals of somebody known are written down, those of strangers counted."""
        self.refused[reason] += 1
        if principal is not None and not principal.guest:
            await self.doors.desk.audit.refuse(principal.name, "request", _path(scope), reason)


def _address(scope: Scope) -> str:
    return str((scope.get("client") or ("",))[0])


def _closing(reason: str, status: int, text: str) -> Response:
    # The body was not read: the connection cannot be used again.
    return JSONResponse({"error": reason, "error_description": text}, status, headers={"connection": "close"})


def _busy(scope: Scope, text: str, wait_s: float, status: int = 429) -> Response:
    """Too much at once; on /mcp in words that reach whoever called the tool."""
    headers = {"retry-after": retry_after(wait_s), "connection": "close"}
    if scope["path"] == MCP:
        error = {"code": JSONRPC_REFUSED, "message": f"{text}, then try again"}
        return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, status, headers=headers)
    return JSONResponse({"error": "rate", "error_description": text}, status, headers=headers)


def _unauthorized(scope: Scope, headers: Headers, text: str, error: str = "") -> Response:
    base = f"{scope.get('scheme', 'http')}://{authority(headers['host'])}"
    challenge = f'Bearer realm="ambient-gateway", resource_metadata="{base}{METADATA}"'
    challenge += f', error="{error}"' if error else ""
    body = {"error": error or "unauthorized", "error_description": text}
    return JSONResponse(body, 401, headers={"www-authenticate": challenge})


def _to_pairing(scope: Scope, *, dead: bool) -> Response:
    answer = RedirectResponse("/pair", status_code=303)
    if dead:  # or it would be refused again where guests may look
        answer.delete_cookie(cookie_name(scope), secure=scope.get("scheme") == "https")
    return answer


def _path(scope: Scope) -> str:
    """A path as it may stand in a text."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in scope["path"][:100])


def _replay(first: Message, receive: Receive) -> Receive:
    messages = [first]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


async def _refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
