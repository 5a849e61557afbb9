"""The time for nodes that have no way to the internet: SNTP in server mode (RFC 4330, RFC 5905), from this clock.

An answer is as long as the shortest question, so that nobody can be flooded by asking in their name; nothing but the
questions of clients is answered, so that two servers never talk to each other.
"""

import asyncio
import logging
import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast

from gateway.access.policy import is_loopback
from gateway.clock import Clock, synchronised

log = logging.getLogger(__name__)

PACKET_BYTES = 48
SINCE_1900_S = 2_208_988_800
CLIENT, SERVER = 3, 4
UNSYNCHRONISED = 3
"""The leap indicator of a server that does not know the time."""
PRECISION = -10
"""About a millisecond: what the loop's own delay leaves."""
KEPT_STRATUM, ALONE_STRATUM = 4, 10
"""Where a time service keeps this clock (whose own stratum is not known here), and where nobody does."""
KEPT_DISPERSION_S, ALONE_DISPERSION_S = 0.1, 1.0
BURST = 8
EVERY_S = 4.0
"""One address may ask so often at once, and then once in so many seconds."""
ADDRESSES_LIMIT = 1024


@dataclass(slots=True)
class NtpCounts:
    """Since the start: questions `answered` (with the time, or that it is not known: `unknown`), `limited` ones of who
    asks too often, `refused` ones that are none."""

    answered: int = 0
    unknown: int = 0
    limited: int = 0
    refused: int = 0


def answer(question: bytes, heard_s: float, now_s: float, *, trusted: bool, kept: bool) -> bytes | None:
    """What is said to a question that was heard at that Unix time; None where it is none. A clock that is not
    `trusted` gives no time, `kept` says whether a time service keeps it."""
    if len(question) < PACKET_BYTES:
        return None
    version, mode = question[0] >> 3 & 7, question[0] & 7
    if mode != CLIENT or version not in {3, 4}:
        return None
    asked, poll = question[40:48], question[2]
    if not trusted:
        head = struct.pack(">BBBbII4s", UNSYNCHRONISED << 6 | version << 3 | SERVER, 0, poll, PRECISION, 0, 0, b"INIT")
        return head + bytes(8) + asked + bytes(16)
    stratum, spread_s = (KEPT_STRATUM, KEPT_DISPERSION_S) if kept else (ALONE_STRATUM, ALONE_DISPERSION_S)
    first = version << 3 | SERVER
    head = struct.pack(">BBBbII4s", first, stratum, poll, PRECISION, 0, int(spread_s * 65536), b"\x7f\x7f\x01\x01")
    return head + _stamp(heard_s) + asked + _stamp(heard_s) + _stamp(now_s)


def _stamp(unix_s: float) -> bytes:
    """Seconds since 1900, which began anew in 2036, and their fraction."""
    seconds = int(unix_s)
    return struct.pack(">II", seconds + SINCE_1900_S & 0xFFFFFFFF, int((unix_s - seconds) * 2**32))


class TimeServer:
    """`async with`: answers on this address as long as it lives. Where the port cannot be had it says so and answers
    nobody; `port` is what it got, 0 for none."""

    def __init__(
        self,
        host: str,
        port: int,
        clock: Clock,
        *,
        kept: Callable[[], bool] = synchronised,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host, self._wanted, self._clock, self._kept, self._now_s = host, port, clock, kept, now_s
        self.counts = NtpCounts()
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None
        self._askers: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def move(self, host: str) -> None:
        """Be asked at another address from now on."""
        await self._close()
        self._host = host
        await self._open()

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._transport, self._protocol = await loop.create_datagram_endpoint(
                lambda: _Protocol(self._ask), local_addr=(self._host, self._wanted)
            )
        except OSError as error:
            log.log(logging.INFO if is_loopback(self._host) else logging.WARNING, "%s", self._unheard(error))
        else:
            self.port = self._transport.get_extra_info("sockname")[1]

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        transport, self._transport, self.port = self._transport, None, 0
        if transport is not None:
            transport.close()
            await self._protocol.closed.wait()

    def refused(self) -> int:
        """How many questions were not answered with a time."""
        return self.counts.unknown + self.counts.limited + self.counts.refused

    def _unheard(self, error: OSError) -> str:
        where = f"time for nodes: UDP {self._host}:{self._wanted}"
        if isinstance(error, PermissionError):
            way = "give the gateway CAP_NET_BIND_SERVICE, or nodes `ntp` and the gateway [ntp] port = 0"
            return f"{where} may not be opened; nodes that ask here get no time and are dated by arrival: {way}"
        return f"{where} cannot be opened ({error.strerror}): another time server there answers the nodes, or nobody"

    def _ask(self, question: bytes, address: tuple[str, int]) -> bytes | None:
        heard = self._clock.now().timestamp()
        if not self._may(address[0]):
            self.counts.limited += 1
            return None
        trusted = self._clock.trusted()
        told = answer(question, heard, self._clock.now().timestamp(), trusted=trusted, kept=self._kept())
        if told is None:
            self.counts.refused += 1
        elif trusted:
            self.counts.answered += 1
        else:
            self.counts.unknown += 1
        return told

    def _may(self, asker: str) -> bool:
        """A bucket an address; the longest silent is forgotten first."""
        now_s = self._now_s()
        left, since_s = self._askers.pop(asker, (float(BURST), now_s))
        left = min(float(BURST), left + (now_s - since_s) / EVERY_S)
        self._askers[asker] = (max(0.0, left - 1.0), now_s)
        if len(self._askers) > ADDRESSES_LIMIT:
            self._askers.popitem(last=False)
        return left >= 1.0


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self, ask: Callable[[bytes, tuple[str, int]], bytes | None]) -> None:
        self._ask = ask
        self._transport: asyncio.DatagramTransport | None = None
        self.closed = asyncio.Event()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # the loop's own is no subclass of it

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        told = self._ask(data, address[:2])
        if told is not None and self._transport is not None:
            with suppress(OSError):
                self._transport.sendto(told, address)
