"""Serving one app over HTTP and HTTPS in the running loop. Signals belong to whoever runs us."""

import asyncio
import errno
import socket
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway.access.identity import Identity

HEAD_S = 10.0
"""A request's head has to be here within this time after the connection or its first byte."""
KEEP_ALIVE_S = 60
MAX_HEAD = 16 << 10
MAX_CONNECTIONS = 256
GRACE_S = 1
"""How long requests may go on after streams were ended; then they are cancelled."""


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
    ) -> None:
        self._app = app
        self._identity = identity
        self._wanted = {"http": http, "https": https}
        self._drain = drain
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
            server = _Server(self._config(scheme))
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
            limit_concurrency=MAX_CONNECTIONS,
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
    """uvicorn without its signal handlers and without its ten wake-ups a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self.stop = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        while not self.stop.is_set():
            await self.on_tick(0)  # the Date header, to the second
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self.stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()  # a client that does not read would keep it open


class _Protocol(H11Protocol):
    """HTTP/1.1 that does not wait for ever for a request's head (uvicorn's limits begin after it)."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head = self.loop.call_later(HEAD_S, self._too_slow)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._arrived()
        elif self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(HEAD_S, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    def _arrived(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _too_slow(self) -> None:
        self._head = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()
