"""Sensirion SCD30 over its UART (SEL pin high): Modbus RTU, 19200 baud, 8N1 (interface description SCD30 1.0)."""

import struct
from typing import ClassVar

from drivers.bus import ModbusLine
from drivers.errors import Refused, WrongDevice
from drivers.sensors._scd30 import (
    ADDRESS,
    INTERVAL_HIGH_S,
    INTERVAL_LOW_S,
    VALUE_BYTES,
    Command,
    Scd30Base,
    Scd30Options,
)

ACT = 1  # what STOP and RESET are written with


class Scd30Modbus(Scd30Base):
    """One SCD30 on a Modbus line."""

    KIND: ClassVar[str] = "scd30"
    BUS: ClassVar[type] = ModbusLine

    def __init__(self, bus: ModbusLine, options: Scd30Options) -> None:
        super().__init__(options)
        self._bus = bus

    async def _identify(self) -> None:
        """An SCD30 has a firmware version and an interval that it allows; no register holds its name."""
        where = f"Modbus unit {ADDRESS:#04x}"
        try:
            firmware, interval_s = await self._word(Command.FIRMWARE), await self._word(Command.INTERVAL)
        except Refused as refusal:
            raise WrongDevice(f"{where} has not the registers of an SCD30 ({refusal}): check the driver") from refusal
        if firmware in (0, 0xFFFF) or not INTERVAL_LOW_S <= interval_s <= INTERVAL_HIGH_S:
            raise WrongDevice(
                f"{where} says firmware {firmware:#06x} and interval {interval_s} s, which no SCD30 does: check the "
                "device's driver in the configuration"
            )

    async def _send(self, command: Command, argument: int | None) -> None:
        await self._bus.write_register(self._options.address, command.register, ACT if argument is None else argument)

    async def _ask(self, command: Command) -> int:
        return (await self._bus.read_registers(self._options.address, command.register, 1))[0]

    async def _measurement(self) -> bytes:
        register = Command.MEASUREMENT.register
        words = await self._bus.read_registers(self._options.address, register, VALUE_BYTES // 2)
        return struct.pack(f">{len(words)}H", *words)


DRIVER = Scd30Modbus
