"""Sensirion SCD30: CO2, temperature and humidity over I2C (interface description SCD30 1.0)."""

import asyncio
import math
import struct
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from drivers.bus import I2cBus
from drivers.checksum import crc8_sensirion
from drivers.errors import BadData, BusError, BusTimeout, DriverError, WrongDevice
from drivers.model import Channel, Quality, Quantity, Reason, Sample

ADDRESS = 0x61  # interface description, "I2C address": cannot be changed
READ_PAUSE_S = 0.005  # "I2C sequence": a stop and more than 3 ms before every read, no repeated start
WRITE_PAUSE_S = 0.010  # what the maker's own drivers wait after a write
RESET_S = 2.0  # data sheet: up to 2 s from power-up or soft reset to the first answer
POLL_MAX_S = 5.0  # a new measurement is noticed no later than this
FIRST_SAMPLES = 3  # after a start this many may come as an exact zero, and after a zero this many are too low
MEASUREMENT_BYTES = 18
CO2_CEILING_PPM = 40_000.0  # the output's end stop, not a measurement
PRESSURE_STEP_HPA = 2.0  # each change restarts the loop and wears non-volatile memory


class Command(IntEnum):
    """Two-byte commands; without an argument a setting is read back ("Sensor commands")."""

    START = 0x0010
    STOP = 0x0104
    DATA_READY = 0x0202
    MEASUREMENT = 0x0300
    INTERVAL = 0x4600
    ALTITUDE = 0x5102
    SELF_CALIBRATION = 0x5306
    TEMPERATURE_OFFSET = 0x5403
    FIRMWARE = 0xD100
    RESET = 0xD304


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
            "interval_s": (_whole(self.interval_s, 2, 1800), "whole seconds from 2 to 1800"),
            "self_calibration": (self.self_calibration in (None, True, False), "true, false, or leave it out"),
            "temperature_offset_degc": (offset is None or 0 <= offset <= 655.35, "0 to 655.35; it is subtracted"),
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


class Scd30:
    """One SCD30. A restart seen in the data (exact zero) is passed on as bad, the samples after it as uncertain."""

    BUS: ClassVar[type] = I2cBus
    Options: ClassVar[type[Scd30Options]] = Scd30Options
    CHANNELS: ClassVar[tuple[Channel, ...]] = (
        Channel(Quantity.CO2, 0, CO2_CEILING_PPM, usual_low=380, usual_high=5000, frozen_after=10, warm_up_s=120),
        Channel(Quantity.TEMPERATURE, -40, 70, usual_low=0, usual_high=50, frozen_after=10, warm_up_s=600),
        Channel(Quantity.HUMIDITY, 0, 100, usual_low=3, usual_high=99, warm_up_s=600),
    )

    def __init__(self, bus: I2cBus, options: Scd30Options) -> None:
        self._bus, self._options = bus, options
        self._pressure_hpa = options.pressure_hpa
        self._may_be_zero = 0
        self._uncertain = 0

    async def start(self) -> None:
        """Identify, write only the settings that differ and read them back (BadData if one did not take), measure."""
        await self._identify()
        for command, wanted in self._options.stored().items():
            if await self._word(command) == wanted:
                continue
            await self._tell(command, wanted)
            if (now := await self._word(command)) != wanted:
                raise BadData(f"SCD30 setting {command.name}: wrote {wanted}, reads back {now}")
        await self._measure()

    async def read(self) -> tuple[Sample, ...]:
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
        with suppress(DriverError):
            await self._tell(Command.STOP)

    async def set_pressure(self, pressure_hpa: float) -> None:
        """Compensate for this station pressure (700 to 1400 hPa, else ValueError) if it moved by 2 hPa or more.

        Call directly after a read and at most every five minutes: each change restarts the measurement loop.
        """
        checked_pressure(pressure_hpa)
        if self._pressure_hpa is not None and abs(pressure_hpa - self._pressure_hpa) < PRESSURE_STEP_HPA:
            return
        await self._tell(Command.START, round(pressure_hpa))
        self._pressure_hpa = pressure_hpa

    async def _identify(self) -> None:
        answers = set()
        for _ in range(3):
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
        try:
            return decode(await self._exchange(Command.MEASUREMENT, MEASUREMENT_BYTES))
        except BadData as first:
            samples = decode(await self._exchange(Command.MEASUREMENT, MEASUREMENT_BYTES))
            if all(math.isnan(s.value) for s in samples):  # the chip had already given the measurement away
                raise first from None
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
        deadline = loop.time() + 3 * self._options.interval_s + 5
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
        await self._bus.write(self._options.address, frame(command, argument))
        await asyncio.sleep(WRITE_PAUSE_S)

    async def _word(self, command: Command) -> int:
        try:
            plain = words(await self._exchange(command, 3))
        except BadData:
            plain = words(await self._exchange(command, 3))
        return int.from_bytes(plain, "big")

    async def _exchange(self, command: Command, size: int) -> bytes:
        await self._bus.write(self._options.address, frame(command))
        await asyncio.sleep(READ_PAUSE_S)
        return await self._bus.read(self._options.address, size)


def _whole(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def checked_pressure(pressure_hpa: float) -> float:
    """The pressure itself if the chip takes it (700 to 1400 hPa), else ValueError with the likely mix-up."""
    if 700 <= pressure_hpa <= 1400:
        return pressure_hpa
    meant = {"Pa": pressure_hpa / 100, "kPa": pressure_hpa * 10}
    hint = next((f"; {pressure_hpa:g} {u} is {p:g} hPa" for u, p in meant.items() if 700 <= p <= 1400), "")
    raise ValueError(f"pressure_hpa {pressure_hpa!r}: the SCD30 takes 700 to 1400 hPa{hint}; below 700 give altitude_m")


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
    plain = bytearray()
    for at in range(0, len(answer), 3):
        if crc8_sensirion(answer[at : at + 2]) != answer[at + 2]:
            raise BadData(f"SCD30 checksum of word {at // 3} in {answer.hex(' ')}")
        plain += answer[at : at + 2]
    return bytes(plain)


def decode(answer: bytes) -> tuple[Sample, ...]:
    """The 18 bytes of a measurement as CO2 ppm, temperature degC, humidity %RH; BadData if a checksum is wrong."""
    if len(answer) != MEASUREMENT_BYTES:
        raise BadData(f"SCD30 measurement of {len(answer)} bytes, expected {MEASUREMENT_BYTES}: {answer.hex(' ')}")
    values = struct.unpack(">3f", words(answer))
    return tuple(_judged(c.key, v) for c, v in zip(Scd30.CHANNELS, values, strict=True))


def _judged(channel: str, value: float) -> Sample:
    if not math.isfinite(value):
        return Sample(channel, math.nan, Quality.BAD, Reason.NOT_A_NUMBER)
    if channel == Quantity.CO2:
        if value == 0:
            return Sample(channel, value, Quality.BAD, Reason.ZERO)
        if not 0 < value < CO2_CEILING_PPM:
            return Sample(channel, value, Quality.BAD, Reason.OUT_OF_RANGE)
    return Sample(channel, value)


DRIVER = Scd30
