"""What a Sensirion SCD30 does on either wire (interface description SCD30 1.0): commands, options, recovery."""

import asyncio
import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import ClassVar, Self

from drivers.api import Calibration
from drivers.errors import BadData, BusTimeout, DriverError, NoDevice, NotReady, Refused
from drivers.model import Channel, Quality, Quantity, Reason, Sample

ADDRESS = 0x61  # interface description, "I2C address" and "Modbus address": cannot be changed
WRITE_PAUSE_S = 0.010  # what the maker's own drivers wait after a write
RESET_S = 2.0  # data sheet: up to 2 s from power-up or soft reset to the first answer
POLL_MAX_S = 5.0  # a new measurement is noticed no later than this
FIRST_SAMPLES = 3  # after a start this many may come as an exact zero, and after a zero this many are too low
VALUE_BYTES = 12  # of a measurement, without checksums
CO2_CEILING_PPM = 40_000.0  # the output's end stop, not a measurement
REFERENCE_LOW_PPM, REFERENCE_HIGH_PPM = 400, 2000
RECALIBRATE_AT_S = 2  # forced recalibration is specified for this interval only
MEASURED_WITHIN_S = 60.0  # who was not read for longer may have stopped measuring
INTERVAL_LOW_S, INTERVAL_HIGH_S = 2, 1800
OFFSET_RULE = "0 to 655.35; it is subtracted, and kept without a sign: a negative one would be hundreds of degrees"

CHANNELS: tuple[Channel, ...] = (
    Channel(Quantity.CO2, 0, CO2_CEILING_PPM, usual_low=380, usual_high=5000, frozen_after=10, warm_up_s=120),
    Channel(Quantity.TEMPERATURE, -40, 70, usual_low=0, usual_high=50, frozen_after=10, warm_up_s=600),
    Channel(Quantity.HUMIDITY, 0, 100, usual_low=3, usual_high=99, warm_up_s=600),
)


class Command(IntEnum):
    """The one command table: the value is the I2C command, `register` the Modbus register ("Sensor commands").

    Without an argument a setting is read back.
    """

    register: int

    def __new__(cls, code: int, register: int) -> Self:
        """A member that is its I2C command and knows its register."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.register = register
        return member

    START = 0x0010, 0x0036
    STOP = 0x0104, 0x0037
    DATA_READY = 0x0202, 0x0027
    MEASUREMENT = 0x0300, 0x0028
    INTERVAL = 0x4600, 0x0025
    ALTITUDE = 0x5102, 0x0038
    REFERENCE = 0x5204, 0x0039
    SELF_CALIBRATION = 0x5306, 0x003A
    TEMPERATURE_OFFSET = 0x5403, 0x003B
    FIRMWARE = 0xD100, 0x0020
    RESET = 0xD304, 0x0034


@dataclass(frozen=True, slots=True)
class Scd30Options:
    """How to run the chip. None leaves the chip's own stored setting alone.

    `pressure_hpa` is the station pressure and overrides the altitude; None starts without pressure compensation.
    """

    address: int = ADDRESS
    interval_s: int = 2
    self_calibration: bool | None = None
    temperature_offset_degc: float | None = None
    altitude_m: int | None = None
    pressure_hpa: float | None = None

    def __post_init__(self) -> None:
        if self.address != ADDRESS:
            raise ValueError(f"address {self.address:#04x}: an SCD30 answers at 0x61 only; leave the option out")
        offset, altitude = self.temperature_offset_degc, self.altitude_m
        rules = {
            "interval_s": (_whole(self.interval_s, INTERVAL_LOW_S, INTERVAL_HIGH_S), "whole seconds from 2 to 1800"),
            "self_calibration": (self.self_calibration in (None, True, False), "true, false, or leave it out"),
            "temperature_offset_degc": (offset is None or 0 <= offset <= 655.35, OFFSET_RULE),
            "altitude_m": (altitude is None or _whole(altitude, 0, 0xFFFF), "whole metres from 0 to 65535"),
        }
        for name, (kept, rule) in rules.items():
            if not kept:
                raise ValueError(f"{name} {getattr(self, name)!r}: {rule}")
        if self.pressure_hpa is not None:
            checked_pressure(self.pressure_hpa)

    def stored(self) -> dict[Command, int]:
        """The settings to hold in the chip's memory, as the words it keeps."""
        offset = self.temperature_offset_degc
        wanted = {
            Command.INTERVAL: self.interval_s,
            Command.SELF_CALIBRATION: self.self_calibration,
            Command.TEMPERATURE_OFFSET: None if offset is None else round(offset * 100),
            Command.ALTITUDE: self.altitude_m,
        }
        return {command: int(word) for command, word in wanted.items() if word is not None}


class Scd30Base(ABC):
    """One SCD30 on some wire. A restart seen in the data (exact zero) is passed on as bad, the samples after it as
    uncertain. A wire adds the four conversations that are abstract here."""

    Options: ClassVar[type[Scd30Options]] = Scd30Options
    CHANNELS: ClassVar[tuple[Channel, ...]] = CHANNELS

    def __init__(self, options: Scd30Options) -> None:
        self._options = options
        self._pressure_hpa = options.pressure_hpa
        self._may_be_zero = 0
        self._uncertain = 0
        self._measured_s: float | None = None  # when the chip last measured, by the loop's time
        self._line = asyncio.Lock()  # one conversation at a time: an answer follows its question
        self._setting = asyncio.Lock()  # one change of the calibration at a time

    @property
    def patience_s(self) -> float:
        """As Patient: three waits for data with a restart and a reset between them, and zeros to be passed over."""
        return 3 * self._wait_s + RESET_S + FIRST_SAMPLES * self._options.interval_s + 10

    @property
    def _wait_s(self) -> float:
        return 3 * self._options.interval_s + 5

    @abstractmethod
    async def _identify(self) -> None:
        """Return if an SCD30 answers; WrongDevice if another device does."""

    @abstractmethod
    async def _send(self, command: Command, argument: int | None) -> None:
        """One write; no argument for STOP and RESET."""

    @abstractmethod
    async def _ask(self, command: Command) -> int:
        """The word behind a command; BadData if it came damaged."""

    @abstractmethod
    async def _measurement(self) -> bytes:
        """The VALUE_BYTES of the unread measurement; BadData if they came damaged."""

    async def start(self) -> None:
        """Identify, write only the settings that differ and read them back (BadData if one did not take), measure."""
        await self._identify()
        for command, wanted in self._options.stored().items():
            await self._hold(command, wanted)
        await self._measure()

    async def read(self) -> Sequence[Sample]:
        """The newest unread measurement, waiting for it; BusTimeout if even a restart and a reset bring none."""
        samples = await self._next()
        for _ in range(self._may_be_zero):
            if samples[0].reason is not Reason.ZERO:
                break
            self._uncertain = FIRST_SAMPLES
            samples = await self._next()
        self._may_be_zero = 0
        return self._settled(samples)

    async def stop(self) -> None:
        """Stop measuring; the chip stays stopped over a power cycle. Never raises."""
        self._measured_s = None
        with suppress(DriverError):
            await self._tell(Command.STOP)

    async def read_calibration(self) -> Calibration:
        """As Calibratable."""
        async with self._setting:
            return await self._calibration()

    async def recalibrate(self, reference_ppm: int) -> Calibration:
        """As Calibratable: 400 to 2000 ppm, while measuring every 2 s; the air must have been stable for 2 minutes."""
        if not _whole(reference_ppm, REFERENCE_LOW_PPM, REFERENCE_HIGH_PPM):
            raise ValueError(f"reference_ppm {reference_ppm!r}: the SCD30 takes whole ppm from 400 to 2000")
        async with self._setting:
            if (interval_s := await self._word(Command.INTERVAL)) != RECALIBRATE_AT_S:
                raise NotReady(
                    f"the SCD30 measures every {interval_s} s, and forced recalibration needs 2 s: "
                    "set options.interval_s = 2 and start again"
                )
            now_s = asyncio.get_running_loop().time()
            if self._measured_s is None or now_s - self._measured_s > MEASURED_WITHIN_S:
                raise NotReady(
                    f"the SCD30 gave no measurement for {MEASURED_WITHIN_S:g} s, and forced recalibration needs it "
                    "measuring: wait for its readings"
                )
            await self._tell(Command.REFERENCE, reference_ppm)
            await self._took(Command.REFERENCE, reference_ppm)
            return await self._calibration()

    async def set_self_calibration(self, on: bool) -> Calibration:
        """As Calibratable: needs 7 days of power in one piece and an hour of fresh air a day."""
        return await self._keep(Command.SELF_CALIBRATION, replace(self._options, self_calibration=on))

    async def set_temperature_offset(self, offset_degc: float) -> Calibration:
        """As Calibratable: 0 to 655.35, in steps of 0.01; settles within ten minutes."""
        return await self._keep(Command.TEMPERATURE_OFFSET, replace(self._options, temperature_offset_degc=offset_degc))

    async def set_altitude(self, altitude_m: int) -> Calibration:
        """As Calibratable: 0 to 65535."""
        return await self._keep(Command.ALTITUDE, replace(self._options, altitude_m=altitude_m))

    async def set_pressure(self, pressure_hpa: float | None) -> Calibration:
        """As Calibratable: 700 to 1400 hPa, rounded to whole ones. It is told by starting to measure anew and wears the
        chip's memory: call directly after a read, on a change of 2 hPa, at most every five minutes."""
        word = 0 if pressure_hpa is None else round(checked_pressure(pressure_hpa))
        async with self._setting:
            before = self._pressure_hpa
            self._pressure_hpa = pressure_hpa  # a revival in the middle tells the new one too
            try:
                if await self._pressure(before) != word:
                    await self._tell(Command.START, word)
                    if (now := await self._pressure(pressure_hpa)) != word:
                        raise BadData(f"SCD30 pressure: wrote {word}, reads back {now}")
            except DriverError:
                self._pressure_hpa = before
                raise
            return await self._calibration()

    async def _keep(self, command: Command, options: Scd30Options) -> Calibration:
        """Write one setting; a reset of the chip brings back what was set last."""
        async with self._setting:
            await self._hold(command, options.stored()[command])
            self._options = options
            return await self._calibration()

    async def _hold(self, command: Command, wanted: int) -> None:
        """Write it where it differs: the memory wears."""
        if await self._word(command) != wanted:
            await self._tell(command, wanted)
            await self._took(command, wanted)

    async def _took(self, command: Command, wanted: int) -> None:
        if (now := await self._word(command)) != wanted:
            raise BadData(f"SCD30 setting {command.name}: wrote {wanted}, reads back {now}")

    async def _pressure(self, told_hpa: float | None) -> int:
        """The word the chip compensates with. Its maker documents no way to ask; many libraries do, and where the chip
        does not answer, what it acknowledged counts."""
        try:
            return await self._word(Command.START)
        except (NoDevice, Refused):
            return 0 if told_hpa is None else round(told_hpa)

    async def _calibration(self) -> Calibration:
        firmware, pressure_hpa = await self._word(Command.FIRMWARE), await self._pressure(self._pressure_hpa)
        return Calibration(
            self_calibration=await self._word(Command.SELF_CALIBRATION) == 1,
            temperature_offset_degc=await self._word(Command.TEMPERATURE_OFFSET) / 100,
            altitude_m=await self._word(Command.ALTITUDE),
            pressure_hpa=float(pressure_hpa) if pressure_hpa else None,
            reference_ppm=await self._word(Command.REFERENCE),
            firmware=f"{firmware >> 8}.{firmware & 0xFF}",
        )

    async def _measure(self) -> None:
        pressure_hpa = self._pressure_hpa
        await self._tell(Command.START, 0 if pressure_hpa is None else round(pressure_hpa))
        self._may_be_zero = FIRST_SAMPLES

    async def _reset(self) -> None:
        await self._tell(Command.RESET)
        await asyncio.sleep(RESET_S)
        with suppress(DriverError):  # a reset glitches the line, so the first answer counts for nothing
            await self._word(Command.DATA_READY)
        await self.start()

    async def _next(self) -> tuple[Sample, ...]:
        await self._data()
        async with self._line:
            try:
                samples = judged(await self._measurement())
            except BadData as first:
                samples = judged(await self._measurement())
                if all(math.isnan(s.value) for s in samples):  # the chip had already given the measurement away
                    raise first from None
        self._measured_s = asyncio.get_running_loop().time()
        return samples

    async def _data(self) -> None:
        for revive in (self._measure, self._reset, None):
            if await self._ready():
                return
            if revive is not None:
                await revive()
        raise BusTimeout("SCD30 measures nothing, even after a restart and a soft reset: cycle its power")

    async def _ready(self) -> bool:
        loop = asyncio.get_running_loop()
        pace_s = min(self._options.interval_s / 4, POLL_MAX_S)
        deadline = loop.time() + self._wait_s
        while await self._word(Command.DATA_READY) != 1:
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(pace_s)
        return True

    def _settled(self, samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
        co2, *others = samples
        if co2.reason is Reason.ZERO:
            self._uncertain = FIRST_SAMPLES
        elif self._uncertain:
            self._uncertain -= 1
            if co2.quality is Quality.GOOD:
                co2 = Sample(co2.channel, co2.value, Quality.UNCERTAIN, Reason.WARM_UP)
        return (co2, *others)

    async def _tell(self, command: Command, argument: int | None = None) -> None:
        async with self._line:
            await self._send(command, argument)
            await asyncio.sleep(WRITE_PAUSE_S)

    async def _word(self, command: Command) -> int:
        async with self._line:
            try:
                return await self._ask(command)
            except BadData:
                return await self._ask(command)


def checked_pressure(pressure_hpa: float) -> float:
    """The pressure itself if the chip takes it (700 to 1400 hPa), else ValueError with the likely mix-up."""
    if 700 <= pressure_hpa <= 1400:
        return pressure_hpa
    meant = {"Pa": pressure_hpa / 100, "kPa": pressure_hpa * 10}
    hint = next((f"; {pressure_hpa:g} {u} is {p:g} hPa" for u, p in meant.items() if 700 <= p <= 1400), "")
    raise ValueError(f"pressure_hpa {pressure_hpa!r}: the SCD30 takes 700 to 1400 hPa{hint}; below 700 give altitude_m")


def judged(values: bytes) -> tuple[Sample, ...]:
    """The 12 bytes of a measurement without checksums as CO2 ppm, temperature degC, humidity %RH."""
    return tuple(_judged(c.key, v) for c, v in zip(CHANNELS, struct.unpack(">3f", values), strict=True))


def _judged(channel: str, value: float) -> Sample:
    if not math.isfinite(value):
        return Sample(channel, math.nan, Quality.BAD, Reason.NOT_A_NUMBER)
    if channel == Quantity.CO2:
        if value == 0:
            return Sample(channel, value, Quality.BAD, Reason.ZERO)
        if not 0 < value < CO2_CEILING_PPM:
            return Sample(channel, value, Quality.BAD, Reason.OUT_OF_RANGE)
    return Sample(channel, value)


def _whole(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high
