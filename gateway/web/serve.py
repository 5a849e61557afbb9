"""Serving one app over HTTP and HTTPS in the running loop. Signals belong to whoever runs us."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway.access.identity import Identity
from gateway.access.rates import place
from gateway.web.crowd import Crowd, Visitor

log = logging.getLogger(__name__)

HEAD_S = 10.0
"""A request's head has to be here within this time after the connection or its first byte; so has a TLS handshake."""
UNREAD_S = 60.0
"""A client that takes nothing of an answer for this time is hung up on."""
KEEP_ALIVE_S = 60
MAX_HEAD = 16 << 10
NO_ROOM_S = 0.5
"""Before the next try to accept, where this process may open nothing more."""
GRACE_S = 1
"""How long requests may go on after streams were ended; then they are cancelled."""
BAD_REQUEST = h11.Response(
    status_code=400, headers=[("content-length", "0"), ("connection", "close")], reason="Bad Request"
)


class PortTaken(Exception):
    """An address cannot be listened on; the message names it and the way out."""


class Serving:
    """`async with` listens on `http` and `https` (host and port, port 0 for any; None for neither) and serves `app`;
    leaving calls `drain` and stops within two seconds, open streams included. PortTaken where it cannot listen."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        identity: Identity,
        http: tuple[str, int] | None,
        https: tuple[str, int] | None,
        drain: Callable[[], None] = lambda: None,
        crowd: Crowd | None = None,
    ) -> None:
        self._app = app
        self._identity = identity
        self._wanted = {"http": http, "https": https}
        self._drain = drain
        self.crowd = crowd or Crowd()
        self._servers: list[_Server] = []
        self._stack = AsyncExitStack()
        self.ports: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        sockets: dict[str, socket.socket] = {}
        try:
            for scheme, address in self._wanted.items():
                if address is not None:
                    sockets[scheme] = listen(scheme, *address)
        except PortTaken:
            for bound in sockets.values():
                bound.close()
            raise
        self.ports = {scheme: bound.getsockname()[1] for scheme, bound in sockets.items()}
        group = await self._stack.enter_async_context(asyncio.TaskGroup())
        for scheme, bound in sockets.items():
            server = _Server(self._config(scheme), self.crowd)
            self._servers.append(server)
            group.create_task(server.serve([bound]), name=f"web {scheme}")
        for server in self._servers:
            await server.ready.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drain()
        for server in self._servers:
            server.stop.set()
        # Without the error: the group would cancel the servers, which may still end their requests.
        await self._stack.__aexit__(None, None, None)

    def _config(self, scheme: str) -> uvicorn.Config:
        tls: dict[str, Any] = {}
        if scheme == "https":
            tls = {"ssl_certfile": str(self._identity.certificate), "ssl_keyfile": str(self._identity.key)}
        return uvicorn.Config(
            self._app,
            interface="asgi3",
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            # Forwarded headers would let any local program claim TLS and an address.
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
            h11_max_incomplete_event_size=MAX_HEAD,
            **tls,
        )


def listen(scheme: str, host: str, port: int) -> socket.socket:
    """A bound socket; PortTaken says which flag and setting choose another address."""
    way_out = f"choose another with --{scheme} HOST:PORT or {'https_port' if scheme == 'https' else 'port'} in [http]"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise PortTaken(f"{scheme} host {host!r} is no address of this machine; {way_out}") from error
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
        bound.listen(128)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"{scheme} port {port} on {host} is taken by another program; stop that, or {way_out}"
            ) from error
        raise PortTaken(f"cannot listen on {scheme} {host}:{port}: {error.strerror}; {way_out}") from error
    bound.setblocking(False)
    return bound


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers and without its ten wake-ups a second, accepting by itself: whoever connects
    counts from that moment on, before TLS was spoken."""

    def __init__(self, config: uvicorn.Config, crowd: Crowd) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self.stop = asyncio.Event()
        self._crowd = crowd
        self._tasks: set[asyncio.Task[None]] = set()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.servers = []
        for bound in sockets or []:
            bound.listen(self.config.backlog)
            self._keep(asyncio.create_task(self._accept(bound), name="web accept"))
        self.started = True
        self.ready.set()

    async def main_loop(self) -> None:
        while not self.stop.is_set():
            await self.on_tick(0)  # the Date header, to the second
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self.stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()  # a client that does not read would keep it open

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(listener)
            except ConnectionAbortedError:
                continue
            except OSError as error:  # no descriptor is left; time limits free some
                log.warning("cannot accept a connection: %s", error.strerror)
                await asyncio.sleep(NO_ROOM_S)
                continue
            visitor = self._crowd.enter(place(peer[0]), accepted.close)
            if visitor is None:
                accepted.close()
                continue
            task = asyncio.create_task(self._welcome(accepted, visitor), name="web connection")
            visitor.close = task.cancel
            task.add_done_callback(partial(self._settled, accepted, visitor))
            self._keep(task)
            await asyncio.sleep(0)  # what is accepted at once would keep everybody else waiting

    def _settled(self, accepted: socket.socket, visitor: Visitor, _task: asyncio.Task[None]) -> None:
        """Close what no protocol took over; also where its task was cancelled before it began."""
        if not visitor.taken:
            self._crowd.leave(visitor)
            accepted.close()

    async def _welcome(self, accepted: socket.socket, visitor: Visitor) -> None:
        """Hand a connection to the protocol, after the TLS handshake where there is one."""
        loop, config = asyncio.get_running_loop(), self.config

        def make() -> _Protocol:
            protocol = _Protocol(config, self.server_state, self.lifespan.state, loop)
            protocol.visit(self._crowd, visitor)
            return protocol

        within_s = HEAD_S if config.ssl else None
        try:
            await loop.connect_accepted_socket(make, accepted, ssl=config.ssl, ssl_handshake_timeout=within_s)
        except (OSError, TimeoutError) as error:  # a broken or slow handshake is the client's own loss
            log.debug("no connection: %r", error)


class _Protocol(H11Protocol):
    """HTTP/1.1 that does not wait for ever: not for a request's head (uvicorn's limits begin after it), and not for a
    client that does not read."""

    _head: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _crowd: Crowd
    _visitor: Visitor

    def visit(self, crowd: Crowd, visitor: Visitor) -> None:
        """Whose connection this is."""
        self._crowd, self._visitor = crowd, visitor

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._visitor.taken, self._visitor.close = True, transport.abort
        self._head = self.loop.call_later(HEAD_S, self._too_slow)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()
        if self.conn.their_state is h11.IDLE and self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(HEAD_S, self._too_slow)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, without words: to HEAD there may be none. A request that is being served meanwhile,
        its body being wrong, gets this answer or none: another would be an error on this connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            for event in (BAD_REQUEST, h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and self.conn.our_state is h11.DONE:
            self.transport.close()  # answered before its body was here; nobody waits for the rest
        elif self.conn.their_state is h11.IDLE:
            principal = self.scope["state"].get("principal")
            self._crowd.idle(self._visitor, proven=principal is not None and not principal.guest)
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._unread)
        self._unread = None

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._head)
        _cancel(self._unread)
        self._crowd.leave(self._visitor)
        super().connection_lost(exc)

    def _look(self) -> None:
        """The timer ends when a head has arrived; from then on the connection does not just wait."""
        if self.conn.their_state is not h11.IDLE:
            _cancel(self._head)
            self._head = None
            self._crowd.busy(self._visitor)

    def _too_slow(self) -> None:
        self._head = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
