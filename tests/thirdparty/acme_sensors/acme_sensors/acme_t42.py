"""Acme T42: temperature over I2C (made up, so the data sheet is these two lines).

Register 0x0F says 0x42. Register 0x00 holds the temperature in 1/256 degC, signed, big-endian, then a CRC-8 of both.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from drivers.bus import I2cBus
from drivers.checksum import crc8_sensirion
from drivers.errors import BadData, DriverError, WrongDevice
from drivers.model import Channel, Quantity, Sample

TEMPERATURE, MODE, IDENTITY = 0x00, 0x01, 0x0F
T42 = 0x42
SLEEP = 0


@dataclass(frozen=True, slots=True)
class T42Options:
    """Where the chip is: 0x18, or 0x19 with its pin AD0 high."""

    address: int = 0x18

    def __post_init__(self) -> None:
        if self.address not in (0x18, 0x19):
            raise ValueError(f"address {self.address:#04x}: a T42 answers at 0x18 or 0x19")


class AcmeT42:
    """One T42; it measures by itself and always has a value."""

    BUS: ClassVar[type] = I2cBus
    Options: ClassVar[type[T42Options]] = T42Options
    CHANNELS: ClassVar[tuple[Channel, ...]] = (Channel(Quantity.TEMPERATURE, -55, 125, usual_low=-30, usual_high=60),)

    def __init__(self, bus: I2cBus, options: T42Options) -> None:
        self._bus, self._address = bus, options.address

    async def start(self) -> None:
        """Check that it is a T42."""
        found = await self._bus.write_read(self._address, bytes((IDENTITY,)), 1)
        if found != bytes((T42,)):
            raise WrongDevice(f"I2C address {self._address:#04x} says {found.hex() or 'nothing'}, a T42 would say 42")

    async def read(self) -> Sequence[Sample]:
        """The temperature of now."""
        return (Sample("temperature", decode(await self._bus.write_read(self._address, bytes((TEMPERATURE,)), 3))),)

    async def stop(self) -> None:
        """Let it sleep."""
        with suppress(DriverError):
            await self._bus.write(self._address, bytes((MODE, SLEEP)))


def decode(answer: bytes) -> float:
    """Three bytes as degC; BadData if the checksum is wrong."""
    if len(answer) != 3 or crc8_sensirion(answer[:2]) != answer[2]:
        raise BadData(f"T42 temperature {answer.hex(' ')}: wrong checksum or length")
    return int.from_bytes(answer[:2], "big", signed=True) / 256


DRIVER = AcmeT42
