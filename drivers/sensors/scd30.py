"""Sensirion SCD30: CO2, temperature and humidity over I2C (interface description SCD30 1.0)."""

import asyncio
from contextlib import suppress
from typing import ClassVar

from drivers.bus import I2cBus
from drivers.checksum import crc8_sensirion
from drivers.errors import BadData, BusError, WrongDevice
from drivers.model import Sample
from drivers.sensors._scd30 import ADDRESS, Command, Scd30Base, Scd30Options, judged

READ_PAUSE_S = 0.005  # "I2C sequence": a stop and more than 3 ms before every read, no repeated start
MEASUREMENT_BYTES = 18


class Scd30(Scd30Base):
    """One SCD30 on I2C."""

    BUS: ClassVar[type] = I2cBus
    ADDRESSES: ClassVar[tuple[int, ...]] = (ADDRESS,)

    def __init__(self, bus: I2cBus, options: Scd30Options) -> None:
        super().__init__(options)
        self._bus = bus

    @staticmethod
    async def probe(bus: I2cBus, address: int) -> str | None:
        """As Probeable: reads the firmware version."""
        await bus.write(address, frame(Command.FIRMWARE))
        await asyncio.sleep(READ_PAUSE_S)
        answer = await bus.read(address, 3)
        try:
            major, minor = words(answer)
        except BadData:
            return None
        return f"SCD30, firmware {major}.{minor}" if (major, minor) != (0xFF, 0xFF) else None

    async def _identify(self) -> None:
        answers = set()
        for _ in range(3):
            async with self._line:
                answer = await self._exchange(Command.FIRMWARE, 3)
            with suppress(BadData):
                words(answer)
                return
            answers.add(answer)
        seen = f"I2C address {ADDRESS:#04x} answers {', '.join(sorted(a.hex(' ') for a in answers))}"
        if len(answers) > 1:
            raise BadData(f"{seen}, never with a right checksum: look at the SCD30's wiring")
        if answers <= {bytes(3), b"\xff\xff\xff"}:
            raise BusError(f"{seen}: a stuck line or a sensor without power")
        raise WrongDevice(f"{seen}, which no SCD30 says: check the device's driver in the configuration")

    async def _send(self, command: Command, argument: int | None) -> None:
        await self._bus.write(self._options.address, frame(command, argument))

    async def _ask(self, command: Command) -> int:
        return int.from_bytes(words(await self._exchange(command, 3)), "big")

    async def _measurement(self) -> bytes:
        return plain(await self._exchange(Command.MEASUREMENT, MEASUREMENT_BYTES))

    async def _exchange(self, command: Command, size: int) -> bytes:
        await self._bus.write(self._options.address, frame(command))
        await asyncio.sleep(READ_PAUSE_S)
        return await self._bus.read(self._options.address, size)


def frame(command: int, argument: int | None = None) -> bytes:
    """The bytes of one write: command, then the argument word (0 to 65535) with its checksum."""
    head = command.to_bytes(2, "big")
    if argument is None:
        return head
    word = argument.to_bytes(2, "big")
    return head + word + bytes([crc8_sensirion(word)])


def words(answer: bytes) -> bytes:
    """Strip the checksum that follows every second byte; BadData if one is wrong or the answer is cut short."""
    if not answer or len(answer) % 3:
        raise BadData(f"SCD30 answer of {len(answer)} bytes, not words of 3: {answer.hex(' ')}")
    stripped = bytearray()
    for at in range(0, len(answer), 3):
        if crc8_sensirion(answer[at : at + 2]) != answer[at + 2]:
            raise BadData(f"SCD30 checksum of word {at // 3} in {answer.hex(' ')}")
        stripped += answer[at : at + 2]
    return bytes(stripped)


def plain(answer: bytes) -> bytes:
    """The 18 bytes of a measurement without their checksums; BadData if one is wrong."""
    if len(answer) != MEASUREMENT_BYTES:
        raise BadData(f"SCD30 measurement of {len(answer)} bytes, expected {MEASUREMENT_BYTES}: {answer.hex(' ')}")
    return words(answer)


def decode(answer: bytes) -> tuple[Sample, ...]:
    """The 18 bytes of a measurement as CO2 ppm, temperature degC, humidity %RH; BadData if a checksum is wrong."""
    return judged(plain(answer))


DRIVER = Scd30
