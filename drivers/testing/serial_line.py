"""Fake serial wires for driver tests, here and in third parties' packages."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from drivers.bus import SerialPort
from drivers.errors import BusTimeout, DriverError
from drivers.serial_input import SerialInput
from drivers.testing.buses import Fail, Fault, Flip, Hang, Short


class SerialDevice(Protocol):
    """What is at the other end; `now_s` is the loop's time."""

    def receive(self, data: bytes, now_s: float) -> bytes:
        """Take what was written in one piece and answer it, with nothing where it stays silent."""


class SimulatedSerial(SerialInput):
    """A SerialPort with a simulated device at its other end, which answers after `latency_s`."""

    def __init__(self, device: SerialDevice, *, latency_s: float = 0.005) -> None:
        super().__init__("simulated port")
        self._device, self._latency_s = device, latency_s
        self._arrived = asyncio.Event()
        self._wire = bytearray()

    async def write(self, data: bytes) -> None:
        """As SerialPort."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        if answer := self._device.receive(bytes(data), loop.time()):
            loop.call_later(self._latency_s, self.say, answer)

    async def discard(self) -> None:
        """As SerialPort."""
        await asyncio.sleep(0)
        self._received.clear()
        self._wire.clear()

    def say(self, data: bytes) -> None:
        """The device sends this now."""
        self._wire += data
        self._arrived.set()

    async def _more(self) -> bytes:
        while not self._wire:
            self._arrived.clear()
            await self._arrived.wait()
        data = bytes(self._wire)
        self._wire.clear()
        return data


@dataclass(frozen=True, slots=True)
class Lost:
    """The byte at this place never arrives."""

    at: int = 0


@dataclass(frozen=True, slots=True)
class Doubled:
    """The byte at this place arrives twice."""

    at: int = 0


@dataclass(frozen=True, slots=True)
class Noise:
    """These bytes arrive before the others."""

    stray: bytes = b"\x00"


SerialFault = Fault | Lost | Doubled | Noise


class FaultyLine:
    """A SerialPort that passes everything on and spoils the n-th call (from 0); each write, read and discard counts.

    `gone`, while set, is raised by every call; while `silent`, what is written is lost and nothing arrives.
    """

    def __init__(self, port: SerialPort, faults: Mapping[int, SerialFault] | None = None) -> None:
        self._port, self._faults = port, dict(faults or {})
        self.gone: DriverError | None = None
        self.silent = False
        self.transfers = 0

    async def write(self, data: bytes) -> None:
        """As SerialPort."""
        fault = await self._before()
        if not self.silent:
            await self._port.write(spoiled(data, fault))

    async def read(self, limit: int, timeout_s: float) -> bytes:
        """As SerialPort; where the fault leaves nothing, what comes next."""
        fault = await self._before()
        await self._silence(timeout_s)
        return spoiled(await self._port.read(limit, timeout_s), fault) or await self._port.read(limit, timeout_s)

    async def readline(self, limit: int, timeout_s: float) -> bytes:
        """As SerialPort."""
        fault = await self._before()
        await self._silence(timeout_s)
        return spoiled(await self._port.readline(limit, timeout_s), fault)

    async def discard(self) -> None:
        """As SerialPort."""
        await self._before()
        await self._port.discard()

    async def _silence(self, timeout_s: float) -> None:
        if self.silent:
            await asyncio.sleep(timeout_s)
            raise BusTimeout(f"silent for {timeout_s:g} s")

    async def _before(self) -> SerialFault | None:
        n, self.transfers = self.transfers, self.transfers + 1
        if self.gone is not None:
            raise self.gone
        fault = self._faults.get(n)
        match fault:
            case Fail(error):
                raise error
            case Hang(reached):
                reached.set()
                await asyncio.get_running_loop().create_future()
        return fault


def spoiled(data: bytes, fault: SerialFault | None) -> bytes:
    """What is left of these bytes."""
    match fault:
        case Flip(bit) if data:
            at = bit // 8 % len(data)
            return data[:at] + bytes((data[at] ^ 1 << bit % 8,)) + data[at + 1 :]
        case Short(by):
            return data[:-by]
        case Lost(at):
            return data[:at] + data[at + 1 :]
        case Doubled(at):
            return data[: at + 1] + data[at:]
        case Noise(stray):
            return stray + data
    return data
