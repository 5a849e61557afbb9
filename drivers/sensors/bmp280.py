"""Bosch BMP280: pressure and temperature over I2C (data sheet BST-BMP280-DS001)."""

import asyncio
import math
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Literal

from drivers.bus import I2cBus
from drivers.errors import BadData, BusError, BusTimeout, DriverError, WrongDevice
from drivers.model import Channel, Quality, Quantity, Reason, Sample

# §4.2, memory map
CALIBRATION, ID, RESET, STATUS, CTRL_MEAS, CONFIG, DATA = 0x88, 0xD0, 0xE0, 0xF3, 0xF4, 0xF5, 0xF7
CALIBRATION_BYTES, DATA_BYTES = 24, 6
RESET_WORD = 0xB6
MEASURING, IM_UPDATE = 0x08, 0x01
SLEEP, FORCED, NORMAL = 0b00, 0b01, 0b11
CONFIG_USED = 0b11111100  # bit 1 is reserved, bit 0 is for SPI

ADDRESSES = (0x76, 0x77)  # SDO low or high, §5.2
CHIP_IDS = (0x58, 0x57, 0x56)  # mass production, then samples
OTHER_CHIPS = {0x55: "a BMP180 or BMP085", 0x60: "a BME280", 0x61: "a BME680 or BME688"}

OVERSAMPLING = {1: 1, 2: 2, 4: 3, 8: 4, 16: 5}  # factor -> osrs code, §3.3
FILTER = {0: 0, 2: 1, 4: 2, 8: 3, 16: 4}  # IIR coefficient -> code, §3.3.3
STANDBY_MS = {0.5: 0, 62.5: 1, 125: 2, 250: 3, 500: 4, 1000: 5, 2000: 6, 4000: 7}  # §3.6.3
NEVER_MEASURED = 0x80000  # reset content of a data register, also of a skipped channel

RESET_S, UPDATE_POLL_S, UPDATE_POLLS = 0.003, 0.002, 10  # §4.3.2: 2 ms start-up, then im_update falls
STATUS_POLL_S = 0.002


@dataclass(frozen=True, slots=True)
class Bmp280Options:
    """How to run the chip: one conversion a read (forced) or by itself every `standby_ms` (normal).

    `filter` is the IIR coefficient (0 = off); in forced mode it averages over that many reads.
    """

    address: int = 0x76
    mode: Literal["forced", "normal"] = "forced"
    oversampling_temperature: int = 2
    oversampling_pressure: int = 16
    filter: int = 0
    standby_ms: float = 1000

    def __post_init__(self) -> None:
        rules: tuple[tuple[str, object, tuple[object, ...]], ...] = (
            ("address", self.address, ADDRESSES),
            ("mode", self.mode, ("forced", "normal")),
            ("oversampling_temperature", self.oversampling_temperature, tuple(OVERSAMPLING)),
            ("oversampling_pressure", self.oversampling_pressure, tuple(OVERSAMPLING)),
            ("filter", self.filter, tuple(FILTER)),
            ("standby_ms", self.standby_ms, tuple(STANDBY_MS)),
        )
        for name, value, allowed in rules:
            if value not in allowed:
                shown = "0x76, 0x77" if name == "address" else ", ".join(map(str, allowed))
                raise ValueError(f"{name} {value!r}: one of {shown}")

    @property
    def ctrl_meas(self) -> int:
        """The register content that starts measuring."""
        mode = NORMAL if self.mode == "normal" else FORCED
        return OVERSAMPLING[self.oversampling_temperature] << 5 | OVERSAMPLING[self.oversampling_pressure] << 2 | mode

    @property
    def config(self) -> int:
        """The register content with filter and standby time."""
        return STANDBY_MS[self.standby_ms] << 5 | FILTER[self.filter] << 2

    @property
    def conversion_s(self) -> float:
        """The longest a conversion may take (§3.8.1)."""
        return (1.25 + 2.3 * self.oversampling_temperature + 2.3 * self.oversampling_pressure + 0.575) / 1000


@dataclass(frozen=True, slots=True)
class Calibration:
    """The factory's coefficients in the order of the registers (§3.11.2)."""

    t1: int
    t2: int
    t3: int
    p1: int
    p2: int
    p3: int
    p4: int
    p5: int
    p6: int
    p7: int
    p8: int
    p9: int


class Bmp280:
    """One BMP280. A brown-out is noticed by its control registers and answered by setting it up again."""

    BUS: ClassVar[type] = I2cBus
    Options: ClassVar[type[Bmp280Options]] = Bmp280Options
    ADDRESSES: ClassVar[tuple[int, ...]] = ADDRESSES
    CHANNELS: ClassVar[tuple[Channel, ...]] = (
        Channel(Quantity.PRESSURE, 300, 1100, frozen_after=20, warm_up_s=60),
        Channel(
            Quantity.TEMPERATURE, -40, 85, usual_low=0, usual_high=65, warm_up_s=60
        ),  # may rest; pressure never does
    )

    def __init__(self, bus: I2cBus, options: Bmp280Options) -> None:
        self._bus, self._options = bus, options
        self._calibration: Calibration | None = None

    async def start(self) -> None:
        """Identify, reset, read the calibration and set up; normal mode returns after its first conversion."""
        await self._identify()
        await self._set(RESET, RESET_WORD)
        await asyncio.sleep(RESET_S)
        await self._wait(IM_UPDATE, UPDATE_POLL_S, UPDATE_POLLS)
        self._calibration = calibration(await self._get(CALIBRATION, CALIBRATION_BYTES))
        await self._set(CONFIG, self._options.config)  # before ctrl_meas: writes may be ignored once it runs (§4.3.5)
        if self._options.mode == "normal":
            await self._set(CTRL_MEAS, self._options.ctrl_meas)
            await asyncio.sleep(self._options.conversion_s)

    async def read(self) -> tuple[Sample, ...]:
        """One conversion (forced) or the newest one (normal); BusTimeout if it takes over twice its time."""
        if self._calibration is None or await self._forgot():
            await self.start()
        if self._options.mode == "forced":
            await self._set(CTRL_MEAS, self._options.ctrl_meas)
            await asyncio.sleep(self._options.conversion_s)
            await self._wait(MEASURING, STATUS_POLL_S, math.ceil(self._options.conversion_s / STATUS_POLL_S))
        assert self._calibration is not None
        return decode(await self._get(DATA, DATA_BYTES), self._calibration)

    async def stop(self) -> None:
        """Put the chip to sleep (0.1 uA); never raises."""
        with suppress(DriverError):
            await self._set(CTRL_MEAS, SLEEP)

    @staticmethod
    async def probe(bus: I2cBus, address: int) -> str | None:
        """As Probeable: reads the chip id."""
        chip = (await bus.write_read(address, bytes((ID,)), 1))[0]
        if chip in OTHER_CHIPS:
            raise WrongDevice(f"{OTHER_CHIPS[chip]} (chip id {chip:#04x}), which this driver cannot read")
        return f"BMP280, chip id {chip:#04x}" if chip in CHIP_IDS else None

    async def _identify(self) -> None:
        chip = (await self._get(ID, 1))[0]
        if chip in CHIP_IDS:
            return
        at = f"I2C address {self._options.address:#04x}"
        if chip in (0x00, 0xFF):
            raise BusError(f"{at} reads constant {chip:#04x}: a stuck line or a sensor without power")
        way_out = "name its own driver in the configuration, or check the address"
        if chip == 0x60:
            way_out = "it measures humidity too, so use a driver for the BME280 if one is installed, or fit a BMP280"
        raise WrongDevice(f"at {at} is {OTHER_CHIPS.get(chip, 'no BMP280')} (chip id {chip:#04x}, not 0x58): {way_out}")

    async def _forgot(self) -> bool:
        ctrl_meas, config = await self._get(CTRL_MEAS, 2)
        if config & CONFIG_USED != self._options.config:
            return True
        return self._options.mode == "normal" and ctrl_meas != self._options.ctrl_meas

    async def _wait(self, flag: int, pace_s: float, polls: int) -> None:
        for _ in range(polls):
            if not (await self._get(STATUS, 1))[0] & flag:
                return
            await asyncio.sleep(pace_s)
        raise BusTimeout(f"BMP280 status bit {flag:#04x} stays set for over {polls * pace_s * 1000:.0f} ms")

    async def _set(self, register: int, value: int) -> None:
        await self._bus.write(self._options.address, bytes((register, value)))

    async def _get(self, register: int, size: int) -> bytes:
        answer = await self._bus.write_read(self._options.address, bytes((register,)), size)
        if len(answer) != size:
            raise BadData(f"BMP280 register {register:#04x}: {len(answer)} bytes instead of {size}")
        return answer


def calibration(block: bytes) -> Calibration:
    """The 24 bytes from 0x88, little-endian; BadData for a block that no factory wrote."""
    if len(block) != CALIBRATION_BYTES:
        raise BadData(f"BMP280 calibration of {len(block)} bytes, expected {CALIBRATION_BYTES}")
    found = Calibration(*struct.unpack("<Hhh Hhhhhhhhh", block))
    if len(set(block)) == 1 or 0 in (found.t1, found.t2, found.p1):
        raise BadData(f"BMP280 calibration cannot be true: {block.hex(' ')}; look at wiring and power")
    return found


def compensate(adc_t: int, adc_p: int, c: Calibration) -> tuple[float, float]:
    """Raw 20-bit words as degC and Pa, in double precision (§8.1); NaN pressure where the formula divides by zero."""
    x = (adc_t / 16384 - c.t1 / 1024) * c.t2
    y = (adc_t / 131072 - c.t1 / 8192) ** 2 * c.t3
    t_fine = x + y
    a = t_fine / 2 - 64000
    b = a * a * c.p6 / 32768 + 2 * a * c.p5
    b = b / 4 + 65536 * c.p4
    d = (c.p3 * a * a / 524288 + c.p2 * a) / 524288
    d = (1 + d / 32768) * c.p1
    if d == 0:
        return t_fine / 5120, math.nan
    p = (1048576 - adc_p - b / 4096) * 6250 / d
    return t_fine / 5120, p + (c.p9 * p * p / 2**31 + p * c.p8 / 32768 + c.p7) / 16


def decode(burst: bytes, c: Calibration) -> tuple[Sample, ...]:
    """The 6 bytes from 0xF7 as pressure hPa and temperature degC; BadData where no temperature was measured."""
    if len(burst) != DATA_BYTES:
        raise BadData(f"BMP280 data of {len(burst)} bytes, expected {DATA_BYTES}: {burst.hex(' ')}")
    adc_p, adc_t = int.from_bytes(burst[:3], "big") >> 4, int.from_bytes(burst[3:], "big") >> 4
    if adc_t == adc_p == NEVER_MEASURED:  # alone it is also the word of a room at 25 or 26 degC
        raise BadData(f"BMP280 has not measured yet: {burst.hex(' ')}")
    temperature, pressure_pa = compensate(adc_t, adc_p, c)
    if adc_p == NEVER_MEASURED or math.isnan(pressure_pa):
        pressure = Sample(Quantity.PRESSURE.value, math.nan, Quality.BAD, Reason.NOT_A_NUMBER)
    else:
        pressure = Sample(Quantity.PRESSURE.value, pressure_pa / 100)
    return pressure, Sample(Quantity.TEMPERATURE.value, temperature)


DRIVER = Bmp280
