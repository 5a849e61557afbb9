"""How long a change of logins takes at the local broker while all of them are connected, and how long its move."""

import asyncio
import contextlib
import resource
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.figures import Figure, Goal
from bench.processes import free_ports
from gateway.access.logins import hashed
from gateway.broker.local import AUTO, Address, LocalBroker, People
from gateway.store.login_rows import BrokerLogin

HOST, PASSWORD = "127.0.0.1", "x" * 43
GONE_WITHIN_MS = 1000.0
FILES = 16384


@dataclass(frozen=True, slots=True)
class Size:
    """So many `logins`, all connected; `rounds` of them are revoked one by one."""

    logins: int
    rounds: int


FULL, QUICK = Size(1000, 9), Size(50, 3)


async def measure(size: Size) -> list[Figure]:
    """Medians over the rounds."""
    with TemporaryDirectory() as text:
        return await _measure(size, Path(text))


async def _measure(size: Size, folder: Path) -> list[Figure]:
    now = datetime.now(UTC)
    rows = {
        f"n{number:04}": BrokerLogin(f"n{number:04}", hashed(PASSWORD), "node", now) for number in range(size.logins)
    }
    known: dict[str, BrokerLogin] = {}
    (port,) = free_ports(1)
    people = People(lambda: list(known.values()), lambda: bool(known))
    async with LocalBroker(Address(AUTO, port), folder, people, now=lambda: now) as broker:
        known |= rows
        began_s = time.perf_counter()
        await broker.apply()
        moved_s = time.perf_counter() - began_s
        async with connected(port, rows) as streams:
            answered_ms, gone_ms = [], []
            for user in list(rows)[: size.rounds]:
                del known[user]
                began_s = time.perf_counter()
                applied = asyncio.create_task(broker.apply())
                assert not await streams.pop(user).read()  # until the broker hangs up
                gone_ms.append((time.perf_counter() - began_s) * 1000)
                await applied
                answered_ms.append((time.perf_counter() - began_s) * 1000)
            assert not any(stream.at_eof() for stream in streams.values()), "others were disconnected"
    what = f"{size.logins} logins, all connected"
    return [
        Figure(f"{what}: a revoked one is disconnected", median(gone_ms), "ms", goal=Goal(GONE_WITHIN_MS)),
        Figure(f"{what}: a change is answered", median(answered_ms), "ms", goal=Goal(GONE_WITHIN_MS)),
        Figure(f"{size.logins} logins: from loopback to everywhere, the broker begun anew", moved_s * 1000, "ms"),
    ]


@contextlib.asynccontextmanager
async def connected(port: int, users: dict[str, BrokerLogin]) -> AsyncIterator[dict[str, asyncio.StreamReader]]:
    """Sessions that say nothing more, by user."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))
    readers, writers = {}, []
    try:
        for user in users:
            reader, writer = await asyncio.open_connection(HOST, port)
            writers.append(writer)
            body = b"\x00\x04MQTT\x04\xc2\x00\x00" + text(user) + text(user) + text(PASSWORD)
            writer.write(b"\x10" + bytes([len(body)]) + body)
            assert await reader.readexactly(4) == b"\x20\x02\x00\x00"
            readers[user] = reader
        yield readers
    finally:
        for writer in writers:
            writer.transport.abort()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def text(value: str) -> bytes:
    return struct.pack(">H", len(value)) + value.encode()
