"""What a driver may ask of a wire."""

from typing import Protocol


class I2cBus(Protocol):
    """One I2C bus shared by many devices. Addresses are 7 bit, right-aligned; calls are serialised by the bus.

    Raises NoDevice when the address is not acknowledged, BusTimeout when the line hangs, BusError otherwise.
    """

    async def write(self, address: int, data: bytes) -> None:
        """One write transfer, ended by a stop."""

    async def read(self, address: int, size: int) -> bytes:
        """One read transfer of exactly `size` bytes, ended by a stop."""

    async def write_read(self, address: int, data: bytes, size: int) -> bytes:
        """Write, repeated start, read of exactly `size` bytes, stop."""
