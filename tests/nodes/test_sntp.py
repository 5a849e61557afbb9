"""The time for nodes, over real UDP: what is answered, what is not, and that nobody is flooded with it."""

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.nodes.sntp import BURST, EVERY_S, PACKET_BYTES, SINCE_1900_S, NtpCounts, TimeServer, answer
from tests.brokers import WITHIN_S, FixedClock

COOKIE = b"\x01\x02\x03\x04\x05\x06\x07\x08"
NOW = datetime(2026, 11, 20, 12, 0, 0, 250_000, tzinfo=UTC)


def question(version: int = 4, mode: int = 3, more: bytes = b"") -> bytes:
    return bytes([version << 3 | mode]) + bytes(39) + COOKIE + more


def seconds(stamp: bytes) -> float:
    whole, part = struct.unpack(">II", stamp)
    since_1900 = int(whole) + (0 if whole >= 1 << 31 else 1 << 32)
    return since_1900 - SINCE_1900_S + int(part) / (1 << 32)


class Asker(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed = asyncio.Event()

    def connection_lost(self, _error: Exception | None) -> None:
        self.closed.set()

    def datagram_received(self, data: bytes, _address: object) -> None:
        self.heard.put_nowait(data)


@asynccontextmanager
async def asking(server: TimeServer) -> AsyncIterator[tuple[asyncio.DatagramTransport, asyncio.Queue[bytes]]]:
    loop = asyncio.get_running_loop()
    line, asker = await loop.create_datagram_endpoint(Asker, remote_addr=("127.0.0.1", server.port))
    try:
        async with asyncio.timeout(WITHIN_S):
            yield line, asker.heard
    finally:
        line.close()
        await asker.closed.wait()


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize(("kept", "stratum"), [(True, 4), (False, 10)])
async def test_a_client_is_told_the_time(version: int, kept: bool, stratum: int) -> None:
    clock = FixedClock(NOW)
    async with TimeServer("127.0.0.1", 0, clock, kept=lambda: kept) as server, asking(server) as (line, heard):
        line.sendto(question(version, more=b"an extension"))
        told = await heard.get()
    assert len(told) == PACKET_BYTES
    assert (told[0] >> 6, told[0] >> 3 & 7, told[0] & 7, told[1]) == (0, version, 4, stratum)
    assert told[24:32] == COOKIE
    assert seconds(told[32:40]) == seconds(told[40:48]) == NOW.timestamp()
    assert server.counts == NtpCounts(answered=1)


async def test_it_moves_with_the_broker() -> None:
    async with TimeServer("127.0.0.2", 0, FixedClock(NOW)) as server:
        await server.move("127.0.0.1")
        async with asking(server) as (line, heard):
            line.sendto(question())
            assert len(await heard.get()) == PACKET_BYTES


async def test_a_clock_that_is_not_trusted_tells_no_time() -> None:
    clock = FixedClock(NOW, trusted=False)
    async with TimeServer("127.0.0.1", 0, clock) as server, asking(server) as (line, heard):
        line.sendto(question())
        told = await heard.get()
    assert (told[0] >> 6, told[1], told[12:16]) == (3, 0, b"INIT")
    assert told[32:] == bytes(16)
    assert server.counts == NtpCounts(unknown=1)
    assert server.refused() == 1


async def test_what_is_no_question_is_not_answered() -> None:
    """Nothing of a server, of a peer, of ntpq's, of other versions, and nothing short, which would be amplified."""
    others = [question(mode=mode) for mode in range(8) if mode != 3]
    others += [question(version) for version in (0, 1, 2, 5, 6, 7)] + [question()[:-1], b"\x23"]
    async with TimeServer("127.0.0.1", 0, FixedClock(NOW), now_s=iter(range(0, 10**6, 100)).__next__) as server:
        async with asking(server) as (line, heard):
            for each in others:
                line.sendto(each)
            line.sendto(question())
            assert len(await heard.get()) == PACKET_BYTES
            assert heard.empty()
        assert server.counts == NtpCounts(answered=1, refused=len(others))


async def test_who_asks_too_often_is_not_answered_for_a_while() -> None:
    now, asked = [0.0], asyncio.Semaphore(0)

    def now_s() -> float:
        asked.release()
        return now[0]

    async with TimeServer("127.0.0.1", 0, FixedClock(NOW), now_s=now_s) as server:
        async with asking(server) as (line, heard):
            for _ in range(3 * BURST):
                line.sendto(question())
            for _ in range(3 * BURST):
                await asked.acquire()
            for _ in range(BURST):
                await heard.get()
            now[0] += EVERY_S
            line.sendto(question())
            await heard.get()
            assert heard.empty()
        assert server.counts == NtpCounts(answered=BURST + 1, limited=2 * BURST)


async def test_a_port_that_cannot_be_had_is_said_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with TimeServer("127.0.0.1", port, FixedClock(NOW)) as server:
            assert server.port == 0
    assert f"time for nodes: UDP 127.0.0.1:{port} cannot be opened (Address already in use)" in caplog.text


@given(st.binary(max_size=100), st.floats(0, 5e9), st.booleans())
def test_an_answer_is_never_longer_than_its_question(given_bytes: bytes, now_s: float, trusted: bool) -> None:
    told = answer(given_bytes, now_s, now_s, trusted=trusted, kept=True)
    assert told is None or len(told) == PACKET_BYTES <= len(given_bytes)
