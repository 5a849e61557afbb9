"""A simulated BMP280 at the byte level (data sheet BST-BMP280-DS001)."""

import math
import struct
from collections.abc import Sequence

from drivers.errors import NoDevice
from drivers.testing.recording import Source

CALIBRATION, ID, RESET, STATUS, CTRL_MEAS, CONFIG, DATA = 0x88, 0xD0, 0xE0, 0xF3, 0xF4, 0xF5, 0xF7
DEAF_S, UPDATE_S = 0.0005, 0.002  # start-up: not a word at first, then the registers fill from the memory
SKIPPED = 0x80000
FACTORS = (0, 1, 2, 4, 8, 16, 16, 16)
FILTERS = (1, 2, 4, 8, 16, 16, 16, 16)
STANDBY_S = (0.0005, 0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
COEFFICIENTS = (27631, 26030, -1000, 37784, -10731, 3024, 5610, 146, -7, 15500, -14600, 6000)
"""T1, T2, T3, P1 to P9 of a real part (from the tracker of Bosch BMP280_driver)."""


class Bmp280Chip:
    """Registers with auto-increment, one shadowed burst, forced and normal conversions that take their time.

    The IIR filter sees the conversions that somebody looked at, not each one in between.
    """

    def __init__(
        self,
        source: Source,
        *,
        address: int = 0x76,
        chip_id: int = 0x58,
        coefficients: Sequence[int] = COEFFICIENTS,
    ) -> None:
        self.address = address
        self._source, self._chip_id, self._coefficients = source, chip_id, tuple(coefficients)
        self.slow_s = 0.0  # a conversion takes this much longer than the data sheet's maximum
        self._pointer = 0
        self.power_cycle(-1.0)

    def power_cycle(self, now_s: float) -> None:
        """Lose power for a moment, or a soft reset: every control register falls to 0."""
        self._ready_s = now_s + UPDATE_S
        self._ctrl_meas = self._config = 0
        self._adc: tuple[int, int] = (SKIPPED, SKIPPED)  # temperature, pressure
        self._filtered: tuple[int, int] | None = None
        self._done_s = math.inf

    def write(self, data: bytes, now_s: float) -> None:
        """Set the register pointer, then take (register, value) pairs; NoDevice right after a reset."""
        if not data or now_s < self._ready_s - UPDATE_S + DEAF_S:
            raise NoDevice(f"{self.address:#04x} does not acknowledge {data.hex(' ')}")
        self._pointer = data[0]
        for register, value in zip(data[0::2], data[1::2], strict=False):
            self._convert(now_s)
            self._set(register, value, now_s)

    def read(self, size: int, now_s: float) -> bytes:
        """The registers from the pointer on, all of the same conversion."""
        self._convert(now_s)
        registers = self._registers(now_s)
        answer = bytes(registers.get((self._pointer + i) & 0xFF, 0) for i in range(size))
        self._pointer = (self._pointer + size) & 0xFF
        return answer

    def _set(self, register: int, value: int, now_s: float) -> None:
        if register == RESET and value == 0xB6:
            self.power_cycle(now_s)
        elif register == CONFIG and self._ctrl_meas & 0b11 != 0b11:  # writes in normal mode are ignored
            if (value ^ self._config) & 0b11100:
                self._filtered = None
            self._config = value
        elif register == CTRL_MEAS:
            self._ctrl_meas = value
            self._done_s = now_s + self._conversion_s() if value & 0b11 else math.inf

    def _conversion_s(self) -> float:
        t, p = FACTORS[self._ctrl_meas >> 5], FACTORS[self._ctrl_meas >> 2 & 0b111]
        return (1.25 + 2.3 * t + (2.3 * p + 0.575 if p else 0)) / 1000 + self.slow_s

    def _convert(self, now_s: float) -> None:
        if now_s < self._done_s:
            return
        measured_s = self._done_s
        if self._ctrl_meas & 0b11 == 0b11:
            period_s = self._conversion_s() + STANDBY_S[self._config >> 5]
            measured_s += math.floor((now_s - self._done_s) / period_s) * period_s
            self._done_s = measured_s + period_s
        else:
            self._ctrl_meas &= 0b11111100
            self._done_s = math.inf
        row = self._source(measured_s)
        temperature = 20.0 if row.temperature is None else row.temperature
        pressure_pa = 101_325.0 if row.pressure is None else row.pressure * 100
        self._adc = self._output(*adc(temperature, pressure_pa, self._coefficients))

    def _output(self, t: int, p: int) -> tuple[int, int]:
        c = FILTERS[self._config >> 2 & 0b111]
        old_t, old_p = self._filtered or (t, p)
        self._filtered = t, p = (old_t * (c - 1) + t) // c, (old_p * (c - 1) + p) // c
        osrs_t, osrs_p = self._ctrl_meas >> 5, self._ctrl_meas >> 2 & 0b111
        return _resolved(t, osrs_t, c > 1), _resolved(p, osrs_p, c > 1)

    def _registers(self, now_s: float) -> dict[int, int]:
        updating = now_s < self._ready_s
        t, p = self._adc
        converting = self._done_s < math.inf and self._done_s - now_s <= self._conversion_s()
        content = {
            CALIBRATION: bytes(24) if updating else struct.pack("<HhhHhhhhhhhh", *self._coefficients),
            ID: bytes((self._chip_id,)),
            STATUS: bytes((0x08 * converting | 0x01 * updating,)),
            CTRL_MEAS: bytes((self._ctrl_meas,)),
            CONFIG: bytes((self._config,)),
            DATA: (p << 4).to_bytes(3, "big") + (t << 4).to_bytes(3, "big"),
        }
        return {first + i: byte for first, block in content.items() for i, byte in enumerate(block)}


def adc(temperature: float, pressure_pa: float, coefficients: Sequence[int] = COEFFICIENTS) -> tuple[int, int]:
    """The raw 20-bit temperature and pressure words that compensate to these values: the formula solved."""
    t1, t2, t3, p1, p2, p3, p4, p5, p6, p7, p8, p9 = coefficients
    d = _root(t3 / 64, t2, -temperature * 5120)  # T2*d + T3*(d/8)^2 = t_fine
    adc_t = _word((d + t1 / 1024) * 16384)
    d = adc_t / 16384 - t1 / 1024
    a = (t2 * d + t3 * d * d / 64) / 2 - 64000
    b = (a * a * p6 / 32768 + 2 * a * p5) / 4 + 65536 * p4
    c = (1 + (p3 * a * a / 524288 + p2 * a) / 524288 / 32768) * p1
    p = _root(p9 / 2**35, 1 + p8 / 524288, p7 / 16 - pressure_pa)
    return adc_t, _word(1048576 - b / 4096 - p * c / 6250)


def _root(a: float, b: float, c: float) -> float:
    """The root of a*x*x + b*x + c that is near -c/b."""
    return -2 * c / (b + math.sqrt(b * b - 4 * a * c))


def _word(value: float) -> int:
    return min(max(round(value), 0), 0xFFFFF)


def _resolved(word: int, osrs: int, filtered: bool) -> int:
    """What the register shows: 16 bits at x1, one more with each doubling, 20 with the filter on."""
    if not osrs:
        return SKIPPED
    lost = 0 if filtered else max(0, 5 - osrs)
    word = word >> lost << lost
    return word + (1 << lost) if word == SKIPPED else word
