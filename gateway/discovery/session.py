"""A session of the protocol's first era (initialize, Mcp-Session-Id), kept alive across restarts of the gateway."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from gateway.discovery import rpc
from gateway.discovery.link import BROKEN, Link
from gateway.discovery.target import BridgeError, Target

log = logging.getLogger(__name__)

MAX_EVENT = 64 * 2**20
"""Bytes of one message of the gateway."""

Emit = Callable[[str | bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """What every further request of it carries."""

    session_id: str | None
    version: str

    @property
    def headers(self) -> dict[str, str]:
        named = {"mcp-session-id": self.session_id} if self.session_id else {}
        return named | {"mcp-protocol-version": self.version}


class SessionLostError(Exception):
    """The gateway does not know this session (404): what was sent with it was not processed."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session


@dataclass(slots=True)
class Sessions:
    """The session of now, and what it takes to make another one like it."""

    link: Link
    emit: Emit
    hearing: Callable[[], Awaitable[None]]
    """Returns when the stream of the gateway's own messages is open, so that none is missed."""
    now: Session | None = None
    _greeting: Mapping[str, Any] | None = None
    _subscribed: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _level: Mapping[str, Any] | None = None
    _renewing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _count: int = 0

    def noticed(self, message: rpc.Message) -> None:
        """Remember what the assistant's app asked for, to ask again in a new session."""
        uri = str((message.params or {}).get("uri"))
        if message.method == "resources/subscribe" and message.params:
            self._subscribed[uri] = message.params
        elif message.method == "resources/unsubscribe":
            self._subscribed.pop(uri, None)
        elif message.method == "logging/setLevel":
            self._level = message.params

    def opened(self, message: rpc.Message, response: httpx2.Response, answer: str | bytes) -> None:
        """The gateway answered the app's own `initialize`."""
        self._greeting = message.params
        self._subscribed.clear()
        self._level = None
        self.now = _session(response, answer)

    async def renew(self, lost: Session, target: Target) -> None:
        """A new session in place of a lost one, as the app left it; nothing if another task was faster.

        BridgeError if the gateway does not want it; NOT_SENT, BROKEN.
        """
        async with self._renewing:
            if self.now is not lost:
                return
            session = await self._ask(target, None, "initialize", self._greeting)
            if session is None:
                raise BridgeError(
                    "the gateway was restarted and does not open a new session; restart the assistant's app"
                )
            if session.version != lost.version:
                log.warning("the gateway now speaks %s instead of %s", session.version, lost.version)
            note = rpc.notification("notifications/initialized")
            async with self.link.send("POST", target, session.headers, note.raw):
                pass
            self.now = session
            try:
                await self.hearing()
                for params in list(self._subscribed.values()):
                    await self._ask(target, session, "resources/subscribe", params)
                if self._level:
                    await self._ask(target, session, "logging/setLevel", self._level)
            except (BridgeError, *BROKEN):
                self.now = lost  # half a session: make another
                raise
            log.info("the gateway was restarted; opened a new session")

    async def _ask(
        self, target: Target, session: Session | None, method: str, params: Mapping[str, Any] | None
    ) -> Session | None:
        """A request of our own; only what else comes along is passed on. The session that an initialize opened."""
        self._count += 1
        message = rpc.request(f"gateway-connect-{self._count}", method, params)
        async with self.link.send("POST", target, session.headers if session else {}, message.raw) as response:
            if response.status_code != httpx2.codes.OK:
                log.warning("%s in the new session: HTTP %d", method, response.status_code)
                return None
            async for text in messages(response):
                if not rpc.answers(text, message.id):
                    await self.emit(text)
                elif method == "initialize":
                    return _session(response, text)
                else:
                    return None
        return None

    async def close(self, target: Target) -> None:
        """Tell the gateway that the session is over. NOT_SENT, BROKEN, BridgeError."""
        if self.now and self.now.session_id:
            async with self.link.send("DELETE", target, self.now.headers):
                self.now = None


async def messages(response: httpx2.Response) -> AsyncGenerator[str | bytes, None]:
    """The JSON-RPC texts of a 200 answer, one JSON body or a stream of events. BridgeError for another content."""
    content = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content == "application/json":
        yield await response.aread()
    elif content == "text/event-stream":
        async for event in httpx2.EventSource(response, max_event_size=MAX_EVENT):
            if event.event == "message" and event.data:
                yield event.data
    else:
        raise BridgeError(f"the gateway answered with {content or 'no content type'}; is this its /mcp address?")


def _session(response: httpx2.Response, answer: str | bytes) -> Session | None:
    result = json.loads(answer).get("result")
    if not isinstance(result, dict):
        return None
    return Session(response.headers.get("mcp-session-id"), str(result.get("protocolVersion", "")))
