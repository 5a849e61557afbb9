"""Fake I2C wires for driver tests, here and in third parties' packages."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from drivers.bus import I2cBus
from drivers.errors import DriverError, NoDevice


class Chip(Protocol):
    """A simulated chip; times are the loop's, in seconds. Both methods raise NoDevice for a missing acknowledge."""

    address: int

    def write(self, data: bytes, now_s: float) -> None: ...

    def read(self, size: int, now_s: float) -> bytes: ...


class SimulatedI2c:
    """A bus with simulated chips, in the time of the running loop; an empty address answers NoDevice."""

    def __init__(self, chips: Iterable[Chip]) -> None:
        self._chips = {chip.address: chip for chip in chips}

    async def write(self, address: int, data: bytes) -> None:
        """As I2cBus."""
        await asyncio.sleep(0)
        self._chip(address).write(data, self._now_s())

    async def read(self, address: int, size: int) -> bytes:
        """As I2cBus."""
        await asyncio.sleep(0)
        return self._chip(address).read(size, self._now_s())

    async def write_read(self, address: int, data: bytes, size: int) -> bytes:
        """As I2cBus; the read follows at the same instant, as after a repeated start."""
        await asyncio.sleep(0)
        chip, now_s = self._chip(address), self._now_s()
        chip.write(data, now_s)
        return chip.read(size, now_s)

    def _chip(self, address: int) -> Chip:
        if address not in self._chips:
            raise NoDevice(f"nothing at I2C address {address:#04x}")
        return self._chips[address]

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()


@dataclass(frozen=True, slots=True)
class Write:
    """One write transfer, or the error it ends in."""

    address: int
    data: bytes
    error: DriverError | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """One read transfer and its answer, or the error it ends in."""

    address: int
    answer: bytes
    error: DriverError | None = None


@dataclass(frozen=True, slots=True)
class WriteRead:
    """One combined transfer (repeated start) and its answer, or the error it ends in."""

    address: int
    data: bytes
    answer: bytes
    error: DriverError | None = None


Step = Write | Read | WriteRead


class ScriptedI2c:
    """Replays exact transfers; AssertionError for anything unexpected, and in `done` for what is left over."""

    def __init__(self, *steps: Step) -> None:
        self._steps = deque(steps)

    async def write(self, address: int, data: bytes) -> None:
        """As I2cBus."""
        self._take(Write, address, data, 0)

    async def read(self, address: int, size: int) -> bytes:
        """As I2cBus."""
        return self._take(Read, address, b"", size)

    async def write_read(self, address: int, data: bytes, size: int) -> bytes:
        """As I2cBus."""
        return self._take(WriteRead, address, data, size)

    def done(self) -> None:
        """AssertionError if part of the script never happened."""
        assert not self._steps, f"never happened: {list(self._steps)}"

    def _take(self, kind: type[Step], address: int, data: bytes, size: int) -> bytes:
        asked = f"{kind.__name__} {address:#04x} [{data.hex(' ')}] {size}"
        assert self._steps, f"the script ended before {asked}"
        step = self._steps.popleft()
        written = b"" if isinstance(step, Read) else step.data
        answer = b"" if isinstance(step, Write) else step.answer
        assert (type(step), step.address, written) == (kind, address, data), f"asked for {asked}, the script has {step}"
        if step.error is not None:
            raise step.error
        assert len(answer) == size, f"asked for {asked}, the script has {step}"
        return answer


class RecordingI2c:
    """Passes every transfer on and keeps it as a script for ScriptedI2c."""

    def __init__(self, bus: I2cBus) -> None:
        self._bus = bus
        self.steps: list[Step] = []

    async def write(self, address: int, data: bytes) -> None:
        """As I2cBus."""
        step = Write(address, data)
        try:
            await self._bus.write(address, data)
        except DriverError as error:
            step = replace(step, error=error)
            raise
        finally:
            self.steps.append(step)

    async def read(self, address: int, size: int) -> bytes:
        """As I2cBus."""
        step = Read(address, b"")
        try:
            step = replace(step, answer=await self._bus.read(address, size))
        except DriverError as error:
            step = replace(step, error=error)
            raise
        finally:
            self.steps.append(step)
        return step.answer

    async def write_read(self, address: int, data: bytes, size: int) -> bytes:
        """As I2cBus."""
        step = WriteRead(address, data, b"")
        try:
            step = replace(step, answer=await self._bus.write_read(address, data, size))
        except DriverError as error:
            step = replace(step, error=error)
            raise
        finally:
            self.steps.append(step)
        return step.answer


@dataclass(frozen=True, slots=True)
class Fail:
    """The transfer raises this."""

    error: DriverError


@dataclass(frozen=True, slots=True)
class Flip:
    """One bit of the answer is wrong."""

    bit: int = 0


@dataclass(frozen=True, slots=True)
class Short:
    """The answer lacks its last bytes."""

    by: int = 1


@dataclass(frozen=True, slots=True)
class Hang:
    """The transfer never ends; `reached` is set when somebody waits in it."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)


Fault = Fail | Flip | Short | Hang


class FaultyI2c:
    """Passes transfers on and spoils the n-th of them (from 0); `gone`, while set, is raised by every one."""

    def __init__(self, bus: I2cBus, faults: Mapping[int, Fault] | None = None) -> None:
        self._bus, self._faults = bus, dict(faults or {})
        self.gone: DriverError | None = None
        self.transfers = 0

    async def write(self, address: int, data: bytes) -> None:
        """As I2cBus."""
        await self._before()
        await self._bus.write(address, data)

    async def read(self, address: int, size: int) -> bytes:
        """As I2cBus."""
        spoil = await self._before()
        return spoil(await self._bus.read(address, size))

    async def write_read(self, address: int, data: bytes, size: int) -> bytes:
        """As I2cBus."""
        spoil = await self._before()
        return spoil(await self._bus.write_read(address, data, size))

    async def _before(self) -> Callable[[bytes], bytes]:
        n, self.transfers = self.transfers, self.transfers + 1
        if self.gone is not None:
            raise self.gone
        return await suffered(self._faults.get(n))


async def suffered(fault: Fault | None) -> Callable[[bytes], bytes]:
    """Raise or hang as the fault says; else what it makes of an answer."""
    match fault:
        case Fail(error):
            raise error
        case Hang(reached):
            reached.set()
            await asyncio.get_running_loop().create_future()
        case Flip(bit):
            return lambda answer: flipped(answer, bit)
        case Short(by):
            return lambda answer: answer[:-by]
    return lambda answer: answer


def flipped(answer: bytes, bit: int) -> bytes:
    """One bit is wrong (any number: it wraps around)."""
    at = bit // 8 % len(answer)
    return answer[:at] + bytes((answer[at] ^ 1 << bit % 8,)) + answer[at + 1 :]
