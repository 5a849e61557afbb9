"""Sensirion SCD30 on I2C: CO2, temperature, humidity, with its settings (interface description 1.0).

The bus must stretch for 150 ms: SoftI2C(freq=50000, timeout=200000).
"""

import asyncio
import struct
import time

from micropython import const

from node.sensors import SensorError
from node.tasks import forget

CHANNELS = {"co2": "ppm", "temperature": "degC", "humidity": "%RH"}
_ADDRESS = const(0x61)
_START = const(0x0010)
_STOP = const(0x0104)
_READY = const(0x0202)
_MEASUREMENT = const(0x0300)
_INTERVAL = const(0x4600)
_ALTITUDE = const(0x5102)
_FIRMWARE = const(0xD100)
_RESET = const(0xD304)
_PAUSE_MS = const(10)  # between a command and its answer more than 3, after a write 10
_RESET_MS = const(2000)
_ZEROS = const(3)  # so many samples after a start may be an exact zero
_FRESH_MS = const(60000)
_MEASURES_S = const(2)  # forced recalibration is specified for it only


class Sensor:
    """`options`: pressure_hpa (700 to 1400), altitude_m; other settings are kept in the chip as they are."""

    CHANNELS = CHANNELS
    COMMANDS = ("recalibrate_sensor", "set_self_calibration", "set_temperature_offset", "set_altitude", "set_pressure")

    def __init__(self, bus, options):
        self._bus = bus
        self._pressure = checked("pressure_hpa", options.get("pressure_hpa") or 0, 700, 1400)
        self._altitude = options.get("altitude_m")
        self._may_be_zero = 0
        self._measured = None
        self._line = asyncio.Lock()

    async def start(self):
        """Identify, hold the settings, measure every 2 s."""
        await self.word(_FIRMWARE)
        await self.hold(_INTERVAL, _MEASURES_S)
        if self._altitude is not None:
            await self.hold(_ALTITUDE, checked("altitude_m", self._altitude, 0, 65535))
        await self._measure()

    async def read(self):
        """The newest measurement; CO2 is None where it was an exact zero, which no air has."""
        for revive in (self._measure, self._reset, None):
            if await self._ready():
                break
            if revive is None:
                raise SensorError("the SCD30 measures nothing, even after a reset: cycle its power")
            await revive()
        co2, temperature, humidity = await self._sample()
        while co2 == 0 and self._may_be_zero > 0:
            self._may_be_zero -= 1
            if not await self._ready():
                break
            co2, temperature, humidity = await self._sample()
        self._may_be_zero = 0
        self._measured = time.ticks_ms()
        found = {"co2": co2 or None, "temperature": temperature, "humidity": humidity}
        return {name: None if value is None or value != value else round(value, 2) for name, value in found.items()}

    async def command(self, name, args):
        """One of COMMANDS, or show_calibration; ValueError where it cannot be, in one line. Returns the calibration
        afterwards."""
        from node.sensors import calibration

        try:
            return await calibration.command(self, name, args)
        finally:
            forget("node.sensors.calibration")

    def fresh(self):
        """Whether it measured within the last minute."""
        return self._measured is not None and time.ticks_diff(time.ticks_ms(), self._measured) <= _FRESH_MS

    async def press(self, pressure):
        """Measure with this ambient pressure, in hPa; 0 switches the correction off."""
        self._pressure = pressure
        await self._measure()

    async def _measure(self):
        await self._tell(_START, self._pressure)
        self._may_be_zero = _ZEROS

    async def _reset(self):
        await self._tell(_RESET)
        await asyncio.sleep_ms(_RESET_MS)
        try:
            await self.word(_READY)  # a reset glitches the line: the first answer counts for nothing
        except (OSError, SensorError):
            pass
        await self.start()

    async def _ready(self):
        """Whether a sample is there, within three measurements and 5 s."""
        began = time.ticks_ms()
        while await self.word(_READY) != 1:
            if time.ticks_diff(time.ticks_ms(), began) > 3000 * _MEASURES_S + 5000:
                return False
            await asyncio.sleep_ms(500)
        return True

    async def _sample(self):
        return struct.unpack(">fff", await self._ask(_MEASUREMENT, 18))

    async def hold(self, command, wanted):
        """Write a setting where it differs: the chip's memory wears."""
        if await self.word(command) != wanted:
            await self.put(command, wanted)

    async def put(self, command, wanted):
        """Write a setting, and read it back."""
        await self._tell(command, wanted)
        now = await self.word(command)
        if now != wanted:
            raise SensorError("SCD30 setting 0x%04x: wrote %d, reads back %d" % (command, wanted, now))

    async def word(self, command):
        """What the chip answers to a command, 16 bits."""
        return struct.unpack(">H", await self._ask(command, 3))[0]

    async def _tell(self, command, argument=None):
        async with self._line:
            self._bus.writeto(_ADDRESS, frame(command, argument))
            await asyncio.sleep_ms(_PAUSE_MS)

    async def _ask(self, command, size):
        """The words behind a command, without their checksums; asked twice where they came damaged."""
        async with self._line:
            try:
                return await self._once(command, size)
            except SensorError:
                return await self._once(command, size)

    async def _once(self, command, size):
        self._bus.writeto(_ADDRESS, frame(command))
        await asyncio.sleep_ms(_PAUSE_MS)
        return words(self._bus.readfrom(_ADDRESS, size))


def checked(name, value, low, high, factor=1):
    """The word to write; 0 switches a pressure off."""
    if value == 0 and name == "pressure_hpa":
        return 0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError("%s is a number from %g to %g" % (name, low, high))
    return int(round(value * factor))


def frame(command, argument=None):
    """The bytes of a write behind the address."""
    data = struct.pack(">H", command)
    if argument is None:
        return data
    word = struct.pack(">H", argument)
    return data + word + bytes([crc8(word)])


def words(raw):
    """The plain bytes of an answer; SensorError where a checksum is wrong."""
    plain = b""
    for index in range(0, len(raw), 3):
        pair = raw[index : index + 2]
        if crc8(pair) != raw[index + 2]:
            raise SensorError("an SCD30 answer came damaged")
        plain += pair
    return plain


def crc8(data):
    """Polynomial 0x31, begun with 0xFF."""
    crc = 0xFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x31) & 0xFF if crc & 0x80 else crc << 1
    return crc
