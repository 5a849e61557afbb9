"""Carry JSON-RPC between an assistant's app and the gateway's Streamable HTTP endpoint, both eras of the protocol.

A request since 2026-07-28 names its revision in `_meta` and stands alone; one without belongs to the session that
`initialize` opened. Every request gets exactly one answer, the gateway's or an error that says why there is none.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx2

from gateway.discovery import rpc
from gateway.discovery.link import BROKEN, NOT_SENT, Link
from gateway.discovery.session import Emit, Session, SessionLostError, Sessions, messages
from gateway.discovery.target import BridgeError, Target

log = logging.getLogger(__name__)

MOST_IN_FLIGHT = 256
_PAUSE_S = 1.0
_LONG_PAUSE_S = 30.0
"""Between two tries to open the stream of the gateway's own messages; the long one where the gateway is not met."""
_FAREWELL_S = 0.5
_TAIL_S = 0.5
_HEARING_S = 2.0
_REFUSALS = 3
"""So often may one request lose its session before that is an error."""


class UnansweredError(Exception):
    """The gateway answered, but not the request; the words go to the app."""


@dataclass(slots=True, eq=False)
class _Call:
    """A request on its way."""

    modern: bool
    task: "asyncio.Task[None] | None" = None
    sent: bool = False


class Relay:
    """`async with Relay(link, emit, retry_s)`: `submit` what the app says, `emit` gets what it should hear."""

    def __init__(self, link: Link, emit: Emit, retry_s: float) -> None:
        self._link = link
        self._emit_raw = emit
        self._retry_s = retry_s
        self._sessions = Sessions(link, self._emit, self._hearing)
        self._calls: dict[rpc.Id, _Call] = {}
        self._tasks = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self._note: asyncio.Task[None] | None = None
        self._notes = 0
        self._stream: asyncio.Task[None] | None = None
        self._stream_open, self._stream_wanted = asyncio.Event(), asyncio.Event()
        self._argument_headers: dict[str, Mapping[tuple[str, ...], str]] = {}

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running:
            task.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    async def submit(self, line: bytes) -> None:
        """Take one line of the app's; returns at once, the answer comes through `emit`."""
        try:
            message = rpc.parse(line)
        except ValueError as error:
            await self._emit(rpc.error(None, rpc.PARSE_ERROR, f"not a JSON-RPC message: {error}"))
            return
        if message.is_request and message.id is not None:
            await self._submit_request(message, message.id)
        elif (
            message.cancels is not None
            and (call := self._calls.get(message.cancels))
            and (call.modern or not call.sent)
        ):
            # Closing the stream is the cancellation since 2026-07-28; before, the gateway has to be told.
            if call.task is not None:
                call.task.cancel()
        elif self._sessions.now is None and message.method != "notifications/initialized":
            log.debug("%s: nothing to tell the gateway without a session", message.method or "answer")
        elif self._notes >= MOST_IN_FLIGHT:
            log.warning("dropped %s: %d are waiting for the gateway", message.method or "an answer", self._notes)
        else:
            self._notes += 1
            self._note = self._spawn(self._tell(message, self._note), message.method or "answer")

    async def finish(self, grace_s: float) -> None:
        """Nothing more will come from the app: so long for answers at most, then end the session."""
        waiting = {call.task for call in self._calls.values() if call.task is not None}
        if waiting:
            await asyncio.wait(waiting, timeout=grace_s)
        try:
            async with asyncio.timeout(_FAREWELL_S):
                if self._sessions.now is not None:
                    await self._sessions.close(await self._link.reach(None, 0.0))
        except (BridgeError, TimeoutError, *BROKEN) as error:
            log.debug("the session was not closed: %r", error)

    # --- requests ---------------------------------------------------------------------------------------------------

    async def _submit_request(self, message: rpc.Message, found: rpc.Id) -> None:
        if len(self._calls) >= MOST_IN_FLIGHT:
            await self._emit(rpc.error(found, rpc.FAILED, f"{MOST_IN_FLIGHT} requests are waiting for the gateway"))
            return
        # One id twice at a time would mix up the answers: the second waits for the first.
        before, call = self._calls.get(found), _Call(modern=message.version is not None)
        self._calls[found] = call
        earlier = {task for task in (self._note, before.task if before else None) if task is not None}
        call.task = self._spawn(self._answer(message, found, call, earlier), message.method)

    async def _answer(
        self, message: rpc.Message, found: rpc.Id, call: _Call, earlier: set["asyncio.Task[None]"]
    ) -> None:
        """See to it that the request is answered, whatever happens."""
        try:
            if earlier:
                await asyncio.wait(earlier)  # what the app said before must arrive before
            await self._ask(message, call)
        except (BridgeError, UnansweredError) as error:
            await self._emit(rpc.error(found, rpc.FAILED, str(error)))
        finally:
            if self._calls.get(found) is call:
                del self._calls[found]

    async def _ask(self, message: rpc.Message, call: _Call) -> None:
        """Send until answered, as far as sending again is harmless. BridgeError, UnansweredError."""
        loop = asyncio.get_running_loop()
        deadline, broken, refusals = loop.time() + self._retry_s, None, 0
        while True:
            target = await self._link.reach(broken, max(0.0, deadline - loop.time()))
            try:
                await self._exchange(message, target, call)
            except SessionLostError as lost:
                refusals += 1
                if refusals > _REFUSALS:
                    raise UnansweredError("the gateway forgets its sessions at once") from lost
                broken = await self._renew(lost, target)
            except NOT_SENT as error:
                log.debug("%s: %r", message.method, error)
                call.sent, broken = False, target
            except httpx2.SSEError as error:
                raise UnansweredError(f"the answer of the gateway cannot be read: {error}") from error
            except BROKEN as error:
                if not message.repeatable or loop.time() > deadline:
                    raise UnansweredError(_broken_words(message)) from error
                log.debug("%s: %r", message.method, error)
                broken = target
            else:
                return

    async def _renew(self, lost: SessionLostError, target: Target) -> Target | None:
        """A new session; the target if that failed for its sake."""
        try:
            await self._sessions.renew(lost.session, target)
        except BROKEN as error:
            log.debug("new session: %r", error)
            return target
        return None

    async def _exchange(self, message: rpc.Message, target: Target, call: _Call) -> None:
        """One POST and its answer. SessionLostError, UnansweredError, BridgeError, NOT_SENT, BROKEN."""
        session = None if call.modern or message.method == "initialize" else self._sessions.now
        headers = self._headers(message) if call.modern else session.headers if session else {}
        self._sessions.noticed(message)
        call.sent = True
        async with self._link.send("POST", target, headers, message.raw) as response:
            if response.status_code == httpx2.codes.NOT_FOUND and session and session.session_id:
                raise SessionLostError(session)
            if response.status_code != httpx2.codes.OK:
                await self._emit(_refusal(message, response, await response.aread()))
                return
            answered = False
            try:
                async with aclosing(messages(response)) as texts, asyncio.timeout(None) as limit:
                    async for text in texts:
                        answered = await self._pass_on(message, response, text) or answered
                        if answered:  # read on to the end, so that the connection can be used again
                            limit.reschedule(asyncio.get_running_loop().time() + _TAIL_S)
            except (UnansweredError, *BROKEN):
                if not answered:
                    raise
        if not answered:
            raise httpx2.RemoteProtocolError("the stream ended without an answer")

    async def _pass_on(self, message: rpc.Message, response: httpx2.Response, text: str | bytes) -> bool:
        """Hand one message to the app; whether it was the answer."""
        try:
            answered = rpc.answers(text, message.id)
        except ValueError as error:
            raise UnansweredError(f"the gateway sent what is not JSON-RPC: {error}") from error
        if answered and message.method == "initialize":
            self._sessions.opened(message, response, text)
            if self._stream is not None:  # of a session that the app has left behind
                self._stream.cancel()
        if answered and message.method == "tools/list":
            self._learn_argument_headers(text)
        await self._emit(text)
        return answered

    # --- headers of 2026-07-28 --------------------------------------------------------------------------------------

    def _headers(self, message: rpc.Message) -> dict[str, str]:
        headers = rpc.modern_headers(message, message.version or "")
        params = message.params or {}
        mapping = self._argument_headers.get(str(params.get("name"))) if message.method == "tools/call" else None
        if mapping:
            from mcp.shared.inbound import mcp_param_headers  # noqa: PLC0415  half a second, for few servers

            arguments = params.get("arguments")
            headers |= mcp_param_headers(mapping, arguments if isinstance(arguments, dict) else {})
        return headers

    def _learn_argument_headers(self, text: str | bytes) -> None:
        """Tools may want arguments repeated in `Mcp-Param-*` headers (`x-mcp-header` in their schema)."""
        if ("x-mcp-header" if isinstance(text, str) else b"x-mcp-header") not in text:  # type: ignore[operator]
            return
        from mcp.shared.inbound import find_invalid_x_mcp_header, x_mcp_header_map  # noqa: PLC0415

        result = json.loads(text).get("result")
        tools: list[Any] = result.get("tools", []) if isinstance(result, dict) else []
        for tool in tools:
            schema = tool.get("inputSchema")
            if find_invalid_x_mcp_header(schema) is None:
                self._argument_headers[str(tool.get("name"))] = x_mcp_header_map(schema)

    # --- notifications and answers of the app -----------------------------------------------------------------------

    async def _tell(self, message: rpc.Message, earlier: "asyncio.Task[None] | None") -> None:
        """Deliver in order what wants no answer; the app expects none, so a failure goes to the log."""
        try:
            if earlier is not None:
                await asyncio.wait([earlier])
            await self._deliver(message)
            if message.method == "notifications/initialized":
                await self._hearing()
        except BridgeError as problem:
            log.debug("%s was not delivered: %s", message.method or "an answer", problem)
        finally:
            self._notes -= 1

    async def _deliver(self, message: rpc.Message) -> None:
        broken: Target | None = None
        session = self._sessions.now
        if session is None:
            return
        target = await self._link.reach(None, self._retry_s)
        for _ in range(2):
            try:
                target = await self._link.reach(broken, self._retry_s)
                async with self._link.send("POST", target, session.headers, message.raw) as response:
                    if response.status_code == httpx2.codes.NOT_FOUND:
                        # The new session knows neither the request that this answers nor the one it is about.
                        await self._renew(SessionLostError(session), target)
                    await response.aread()
                    if response.status_code >= httpx2.codes.BAD_REQUEST:
                        log.debug("%s: HTTP %d", message.method or "answer", response.status_code)
            except BROKEN as error:
                log.debug("%s: %r", message.method or "answer", error)
                broken = target
            else:
                return

    # --- what the gateway says by itself (first era) ----------------------------------------------------------------

    async def _hearing(self) -> None:
        """Open the session's GET stream; back when it is open, or is not to be had."""
        self._stream_open.clear()
        self._stream_wanted.set()
        if self._stream is None or self._stream.done():
            self._stream = self._spawn(self._listen(), "stream of the gateway's messages")
        try:
            async with asyncio.timeout(_HEARING_S):
                await self._stream_open.wait()
        except TimeoutError:
            log.debug("the stream of the gateway's messages is slow to open")

    async def _listen(self) -> None:
        """Hold the session's GET stream open, through restarts; ends where the gateway has none."""
        broken: Target | None = None
        target: Target | None = None
        try:
            while (session := self._sessions.now) is not None:
                self._stream_wanted.clear()
                pause_s = _PAUSE_S
                try:
                    target = broken = await self._link.reach(broken, None)
                    async with self._link.send("GET", target, session.headers) as response:
                        broken = None
                        if response.status_code == httpx2.codes.NOT_FOUND:
                            self._spawn(self._restore(session, target), "new session")
                        elif response.status_code == httpx2.codes.OK:
                            self._stream_open.set()
                            async for text in messages(response):
                                await self._emit(text)
                        elif response.status_code != httpx2.codes.CONFLICT:  # the last stream is not yet given up
                            return
                except BROKEN as error:
                    broken = broken or target
                    log.debug("the stream broke: %r", error)
                except BridgeError as problem:  # the next request says it to the app
                    pause_s = _LONG_PAUSE_S
                    self._stream_open.set()
                    log.debug("no stream: %s", problem)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._stream_wanted.wait()
        finally:
            self._stream_open.set()

    async def _restore(self, lost: Session, target: Target) -> None:
        """Nobody asks for anything at the moment, but there may be subscriptions."""
        try:
            await self._renew(SessionLostError(lost), target)
        except BridgeError as problem:
            log.warning("%s", problem)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self._tasks.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _emit(self, text: str | bytes) -> None:
        await self._emit_raw(rpc.one_line(text))


def _refusal(message: rpc.Message, response: httpx2.Response, body: bytes) -> bytes:
    """The JSON-RPC error for another status than 200: the gateway's own where it sent one, under the request's id."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if isinstance(said, dict) and isinstance(said.get("error"), dict):
        return json.dumps(said | {"id": message.id}).encode()
    words = body[:300].decode("utf-8", "replace").strip()
    return rpc.error(message.id, rpc.FAILED, f"the gateway answered HTTP {response.status_code} {words}".strip())


def _broken_words(message: rpc.Message) -> str:
    if message.method == "subscriptions/listen":
        return "the connection to the gateway broke, and with it this subscription: subscribe again and read anew"
    return (
        f"the connection to the gateway broke after {message.method} was sent: it may have been carried out or not."
        " It was not sent again; look before you repeat it"
    )
