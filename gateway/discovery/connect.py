"""`gateway connect`: what an assistant's desktop app starts, a bridge from its standard streams to the gateway.

Standard output carries JSON-RPC and nothing else; words go to standard error (`logging`).
"""

import asyncio
import logging
import os
import signal
import stat
import sys
from collections.abc import Awaitable, Callable
from typing import Protocol

from gateway.discovery import rpc
from gateway.discovery.link import BROKEN, NOT_SENT, Link
from gateway.discovery.relay import Relay
from gateway.discovery.target import BridgeError, ConnectOptions, Locator, Target

__all__ = ["ConnectOptions", "bridge", "check", "run_connect"]

log = logging.getLogger(__name__)

MAX_LINE = 64 * 2**20
"""Bytes of one message of the app."""
_GRACE_S = 1.0
"""For answers and for the farewell after the app closed its end; the SDK's clients kill after two seconds."""


class Writer(Protocol):
    """What `bridge` needs of an asyncio.StreamWriter."""

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...


async def run_connect(options: ConnectOptions) -> int:
    """Bridge standard input and output until input ends or a signal comes; with a terminal as input, `check`."""
    if sys.stdin.isatty():
        return await check(options)
    reader = await _standard_input()
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return await bridge(reader, await _standard_output(), options, stop)


async def bridge(
    reader: asyncio.StreamReader, writer: Writer, options: ConnectOptions, stop: asyncio.Event | None = None
) -> int:
    """Relay lines of JSON-RPC until the reader ends, `stop` is set, or nobody reads the writer; the exit code, 0."""
    writing, stopped = asyncio.Lock(), stop or asyncio.Event()

    async def emit(line: bytes | str) -> None:
        async with writing:
            try:
                writer.write((line if isinstance(line, bytes) else line.encode()) + b"\n")
                await writer.drain()
            except ConnectionError:
                stopped.set()

    async with Link(Locator(options)) as link, Relay(link, emit, options.retry_s) as relay:
        eager = asyncio.create_task(_meet(link, options.retry_s), name="meet the gateway")
        reading = asyncio.create_task(_read(reader, relay.submit, emit), name="read the app")
        leaving = asyncio.create_task(stopped.wait(), name="watch for the end")
        try:
            await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
            await relay.finish(0.0 if stopped.is_set() else _GRACE_S)
        finally:
            for task in (eager, reading, leaving):
                task.cancel()
            await asyncio.wait([eager, reading, leaving])
    return 0


async def check(options: ConnectOptions) -> int:
    """Find the gateway, prove who it is, see that it takes the token, keep the pin; 0 if all that went well."""
    discover = {"_meta": {rpc.VERSION_KEY: "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}}
    message = rpc.request("gateway-connect-check", "server/discover", discover)
    async with Link(Locator(options)) as link:
        try:
            target = await link.reach(None, options.retry_s)
            headers = rpc.modern_headers(message, message.version or "")
            async with link.send("POST", target, headers, message.raw) as response:
                status = response.status_code
        except BridgeError:
            return 1  # the link said why
        except BROKEN as error:
            log.error("the gateway was found, but does not answer: %r", error)
            return 1
    return _checked(target, status)


def _checked(target: Target, status: int) -> int:
    if status != 200:
        log.error("%s answered HTTP %d; is this the /mcp address of a gateway?", target.authority, status)
        return 1
    log.warning("%s at %s answers and takes the token", target.name or "the gateway", target.authority)
    return 0


async def _meet(link: Link, within_s: float) -> None:
    """Look for the gateway while the app is still starting; failures are for the requests to report."""
    try:
        await link.reach(None, within_s)
    except (BridgeError, *NOT_SENT) as problem:
        log.debug("not met yet: %s", problem)


async def _read(
    reader: asyncio.StreamReader,
    submit: Callable[[bytes], Awaitable[None]],
    emit: Callable[[bytes], Awaitable[None]],
) -> None:
    """Every line of the app until its end; one that is too long is refused and skipped."""
    skipping = False
    while True:
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as end:
            if end.partial.strip() and not skipping:
                await submit(end.partial)
            return
        except asyncio.LimitOverrunError as over:
            await reader.readexactly(over.consumed)
            if not skipping:
                await emit(rpc.error(None, rpc.PARSE_ERROR, f"a message is longer than {MAX_LINE} bytes"))
            skipping = True
            continue
        if line.strip() and not skipping:
            await submit(line)
        skipping = False


async def _standard_input() -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MAX_LINE)
    kind = os.fstat(sys.stdin.fileno()).st_mode
    if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind):
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    else:  # a file or /dev/null, which cannot be waited for: everything is there already
        reader.feed_data(await asyncio.to_thread(sys.stdin.buffer.read))
        reader.feed_eof()
    return reader


async def _standard_output() -> Writer:
    """Standard output for the bridge alone: whatever else prints goes to standard error."""
    loop = asyncio.get_running_loop()
    wire = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    try:
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, wire)
    except ValueError:  # a file
        return _File(wire.fileno(), wire)
    transport.set_write_buffer_limits(0)  # drained means written: nothing may be lost at the end
    return asyncio.StreamWriter(transport, protocol, None, loop)


class _File:
    """A plain file as a writer: it is never full."""

    def __init__(self, descriptor: int, owner: object) -> None:
        self._descriptor, self._owner = descriptor, owner

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._descriptor, data) :]

    async def drain(self) -> None:
        return
