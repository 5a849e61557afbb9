"""A simulated SCD30 at the byte level (interface description 1.0, with the field's quirks)."""

import math
import struct
from typing import Literal

from drivers.checksum import crc8_sensirion
from drivers.errors import NoDevice
from drivers.testing.recording import Source

START, STOP, DATA_READY, MEASUREMENT, FIRMWARE, RESET = 0x0010, 0x0104, 0x0202, 0x0300, 0xD100, 0xD304
INTERVAL, ALTITUDE, REFERENCE, SELF_CALIBRATION, TEMPERATURE_OFFSET = 0x4600, 0x5102, 0x5204, 0x5306, 0x5403
READ_AFTER_S, BOOT_S = 0.003, 2.0


class Scd30Chip:
    """Answers as the chip does: settings survive a power cycle, reads within 3 ms of the command are refused.

    `settings` is its non-volatile memory by command; `zeros` how many samples after a boot show exact zero CO2.
    `hung` makes data-ready stay 0 until the named cure; `refuses` settings do not take. START without an argument tells
    the pressure, as in practice and in no document, unless `tells_pressure` is False. A reference shifts what follows.
    """

    address = 0x61

    def __init__(self, source: Source, *, firmware: int = 0x0342, running: bool = False, zeros: int = 1) -> None:
        self._source, self._firmware, self._zeros = source, firmware, zeros
        self.settings = {INTERVAL: 2, ALTITUDE: 0, SELF_CALIBRATION: 0, TEMPERATURE_OFFSET: 0, REFERENCE: 400}
        self.running, self.pressure_mbar = running, 0
        self.hung: Literal["start", "reset", "never"] | None = None
        self.refuses: set[int] = set()
        self.tells_pressure = True
        self._shift_ppm = 0.0
        self._booted_s = -BOOT_S
        self._due_s = 0.0
        self._since_boot = 0
        self._sample: tuple[float, float, float] | None = None
        self._asked: int | None = None
        self._asked_s = 0.0

    def power_cycle(self, now_s: float) -> None:
        """Lose power for a moment: two seconds of silence, then on as stored."""
        self._booted_s, self._since_boot, self._sample, self._asked = now_s, 0, None, None
        self.settings[REFERENCE] = 400  # the curve is kept, the value is not
        self._due_s = now_s + BOOT_S + self.settings[INTERVAL]

    def write(self, data: bytes, now_s: float) -> None:
        """Take a command; NoDevice (not acknowledged) while booting or when it is none."""
        if now_s < self._booted_s + BOOT_S:
            raise NoDevice(f"0x61 is starting: {data.hex(' ')} not acknowledged")
        self._measure(now_s)
        command, argument = int.from_bytes(data[:2], "big"), data[2:]
        self._asked, self._asked_s = None, now_s
        if argument:
            if len(argument) != 3 or crc8_sensirion(argument[:2]) != argument[2]:
                raise NoDevice(f"0x61 does not acknowledge {data.hex(' ')}")
            self._set(command, int.from_bytes(argument[:2], "big"), now_s)
        elif command == STOP:
            self.running = False
        elif command == RESET:
            self.hung = None if self.hung != "never" else self.hung
            self.power_cycle(now_s)
        elif (
            command in self.settings
            or command in (DATA_READY, MEASUREMENT, FIRMWARE)
            or (command == START and self.tells_pressure)
        ):
            self._asked = command
        else:
            raise NoDevice(f"0x61 does not acknowledge {data.hex(' ')}")

    def read(self, size: int, now_s: float) -> bytes:
        """Answer the last command once; NoDevice without one, garbage within 3 ms of it."""
        command, self._asked = self._asked, None
        if command is None or now_s <= self._asked_s:
            raise NoDevice("0x61 does not acknowledge a read without a command and a stop before it")
        if now_s - self._asked_s < READ_AFTER_S:
            return bytes((0x55,)) * size
        self._measure(now_s)
        return self._answer(command).ljust(size, b"\xff")[:size]

    def _set(self, command: int, value: int, now_s: float) -> None:
        if command == START:
            self.running = True
            if START not in self.refuses:
                self.pressure_mbar = value
            self._due_s = now_s + self.settings[INTERVAL]
            if self.hung == "start":
                self.hung = None
        elif command not in self.settings:
            raise NoDevice(f"0x61 does not acknowledge the command {command:#06x} with an argument")
        elif command not in self.refuses:
            self.settings[command] = value
            if command == REFERENCE:
                self._shift_ppm = value - (self._source(now_s).co2 or 0.0)

    def _measure(self, now_s: float) -> None:
        if not self.running or self.hung or now_s < self._due_s:
            return
        interval_s = self.settings[INTERVAL]
        missed = math.floor((now_s - self._due_s) / interval_s)
        measured_s = self._due_s + missed * interval_s
        self._since_boot += missed + 1
        self._due_s = measured_s + interval_s
        row = self._source(measured_s)
        co2 = math.nan if row.co2 is None else row.co2 + self._shift_ppm
        if self._since_boot <= self._zeros or self._wrong_pressure():
            co2 = 0.0
        temperature = math.nan if row.temperature is None else row.temperature
        humidity = math.nan if row.humidity is None else row.humidity
        self._sample = (co2, temperature - self.settings[TEMPERATURE_OFFSET] / 100, humidity)

    def _wrong_pressure(self) -> bool:
        return self.pressure_mbar != 0 and not 700 <= self.pressure_mbar <= 1400

    def _answer(self, command: int) -> bytes:
        if command == MEASUREMENT:
            sample, self._sample = self._sample, None
            return checked(struct.pack(">3f", *sample) if sample else b"\xff" * 12)
        if command == DATA_READY:
            return checked(int(self._sample is not None).to_bytes(2, "big"))
        if command == START:
            return checked(self.pressure_mbar.to_bytes(2, "big"))
        value = self._firmware if command == FIRMWARE else self.settings[command]
        return checked(value.to_bytes(2, "big"))


def checked(plain: bytes) -> bytes:
    """Follow every word with its CRC-8, as the chip does."""
    pairs = (plain[i : i + 2] for i in range(0, len(plain), 2))
    return b"".join(p + bytes((crc8_sensirion(p),)) for p in pairs)
