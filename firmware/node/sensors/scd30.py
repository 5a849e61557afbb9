"""Sensirion SCD30 on I2C: CO2, temperature, humidity, and its calibration (interface description 1.0).

The bus must stretch for 150 ms: SoftI2C(freq=50000, timeout=200000).
"""

import asyncio
import struct
import time

from micropython import const

from node.sensors import SensorError

CHANNELS = {"co2": "ppm", "temperature": "degC", "humidity": "%RH"}
_ADDRESS = const(0x61)
_START = const(0x0010)
_STOP = const(0x0104)
_READY = const(0x0202)
_MEASUREMENT = const(0x0300)
_INTERVAL = const(0x4600)
_ALTITUDE = const(0x5102)
_REFERENCE = const(0x5204)
_SELF_CALIBRATION = const(0x5306)
_OFFSET = const(0x5403)
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
        self._pressure = self._checked("pressure_hpa", options.get("pressure_hpa") or 0, 700, 1400)
        self._altitude = options.get("altitude_m")
        self._may_be_zero = 0
        self._measured = None
        self._line = asyncio.Lock()

    async def start(self):
        """Identify, hold the settings, measure every 2 s."""
        await self._word(_FIRMWARE)
        await self._hold(_INTERVAL, _MEASURES_S)
        if self._altitude is not None:
            await self._hold(_ALTITUDE, self._checked("altitude_m", self._altitude, 0, 65535))
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

    async def calibration(self):
        """The chip's settings, read back."""
        firmware, pressure = await self._word(_FIRMWARE), await self._word(_START)
        return {
            "self_calibration": await self._word(_SELF_CALIBRATION) == 1,
            "temperature_offset_degc": await self._word(_OFFSET) / 100,
            "altitude_m": await self._word(_ALTITUDE),
            "pressure_hpa": pressure or None,
            "reference_ppm": await self._word(_REFERENCE),
            "firmware": "%d.%d" % (firmware >> 8, firmware & 0xFF),
        }

    async def command(self, name, args):
        """One of COMMANDS; ValueError where it cannot be, in one line. Returns the calibration afterwards."""
        if name == "recalibrate_sensor":
            reference = self._checked("reference_ppm", args.get("reference_ppm"), 400, 2000)
            if self._measured is None or time.ticks_diff(time.ticks_ms(), self._measured) > _FRESH_MS:
                raise ValueError("the SCD30 gave no measurement for a minute: wait for its readings")
            await self._put(_REFERENCE, reference)
        elif name == "set_self_calibration":
            if not isinstance(args.get("on"), bool):
                raise ValueError("on is true or false")
            await self._hold(_SELF_CALIBRATION, int(args["on"]))
        elif name == "set_temperature_offset":
            hundredths = self._checked("offset_degc", args.get("offset_degc"), 0, 655.35, 100)
            await self._hold(_OFFSET, hundredths)
        elif name == "set_altitude":
            await self._hold(_ALTITUDE, self._checked("altitude_m", args.get("altitude_m"), 0, 65535))
        else:
            self._pressure = self._checked("pressure_hpa", args.get("pressure_hpa") or 0, 700, 1400)
            await self._measure()
        return await self.calibration()

    def _checked(self, name, value, low, high, factor=1):
        """The word to write; 0 switches a pressure off."""
        if value == 0 and name == "pressure_hpa":
            return 0
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError("%s is a number from %g to %g" % (name, low, high))
        return int(round(value * factor))

    async def _measure(self):
        await self._tell(_START, self._pressure)
        self._may_be_zero = _ZEROS

    async def _reset(self):
        await self._tell(_RESET)
        await asyncio.sleep_ms(_RESET_MS)
        try:
            await self._word(_READY)  # a reset glitches the line: the first answer counts for nothing
        except (OSError, SensorError):
            pass
        await self.start()

    async def _ready(self):
        """Whether a sample is there, within three measurements and 5 s."""
        began = time.ticks_ms()
        while await self._word(_READY) != 1:
            if time.ticks_diff(time.ticks_ms(), began) > 3000 * _MEASURES_S + 5000:
                return False
            await asyncio.sleep_ms(500)
        return True

    async def _sample(self):
        return struct.unpack(">fff", await self._ask(_MEASUREMENT, 18))

    async def _hold(self, command, wanted):
        """Write where it differs: the chip's memory wears."""
        if await self._word(command) != wanted:
            await self._put(command, wanted)

    async def _put(self, command, wanted):
        await self._tell(command, wanted)
        now = await self._word(command)
        if now != wanted:
            raise SensorError("SCD30 setting 0x%04x: wrote %d, reads back %d" % (command, wanted, now))

    async def _word(self, command):
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
