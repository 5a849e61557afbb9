"""The reading half of a serial port: bytes kept until somebody asks for them, lines of bounded length."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from drivers.errors import BadData, BusTimeout


class Received:
    """Bytes that came in and were not taken yet. Pure; holds less than a line's limit and one chunk."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._skipping = 0

    def feed(self, data: bytes) -> None:
        """Add what came in."""
        self._bytes += data

    def take(self, limit: int) -> bytes:
        """The oldest bytes, at most `limit`; empty where there are none."""
        taken = bytes(self._bytes[:limit])
        del self._bytes[:limit]
        return taken

    def line(self, limit: int) -> bytes | None:
        """The next whole line without its end (LF or CR LF), None while there is none; BadData for one too long."""
        end = self._bytes.find(b"\n")
        if end < 0:
            if self._skipping or len(self._bytes) > limit + 1:
                self._skipping += len(self._bytes)
                self._bytes.clear()
            return None
        line = bytes(self._bytes[:end]).removesuffix(b"\r")
        del self._bytes[: end + 1]
        size, self._skipping = self._skipping + len(line), 0
        if size > limit:
            raise BadData(f"a line of {size} bytes, at most {limit} are taken")
        return line

    def clear(self) -> None:
        """Forget everything, the beginning of a line too."""
        self._bytes.clear()
        self._skipping = 0


class SerialInput(ABC):
    """`read` and `readline` of a SerialPort over one coroutine that waits for bytes. A cancelled call loses nothing."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._received = Received()

    @abstractmethod
    async def _more(self) -> bytes:
        """Wait for the next bytes, one or more; raises what SerialPort raises. May be cancelled."""

    async def read(self, limit: int, timeout_s: float) -> bytes:
        """As SerialPort."""
        if taken := self._received.take(limit):
            return taken
        async with _within(self._name, timeout_s):
            self._received.feed(await self._more())
        return self._received.take(limit)

    async def readline(self, limit: int, timeout_s: float) -> bytes:
        """As SerialPort."""
        async with _within(self._name, timeout_s):
            while (line := self._received.line(limit)) is None:
                self._received.feed(await self._more())
        return line


@asynccontextmanager
async def _within(name: str, timeout_s: float) -> AsyncIterator[None]:
    """asyncio.timeout with the error of a bus."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise BusTimeout(f"{name}: silent for {timeout_s:g} s") from None
