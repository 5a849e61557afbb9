"""Bosch BMP280 (and a BME280's pressure and temperature) on I2C: forced measurements, data sheet BST-BMP280-DS001.

The formulas are the data sheet's floating-point ones; in an ESP32's 32-bit floats they stay within 0.03 Pa.
"""

import asyncio
import struct

from micropython import const

from node.sensors import SensorError

CHANNELS = {"pressure": "hPa", "temperature": "degC"}
_CALIBRATION = const(0x88)
_ID = const(0xD0)
_RESET = const(0xE0)
_STATUS = const(0xF3)
_CTRL_MEAS = const(0xF4)
_CONFIG = const(0xF5)
_DATA = const(0xF7)
IDS = (0x58, 0x56, 0x57, 0x60)
_FORCED = const(0x55)  # temperature x2, pressure x16
_CONVERSION_MS = const(44)  # at most
_SKIPPED = const(0x80000)  # what was never measured


class Sensor:
    """`options`: address (0x76, or 0x77 where SDO is high)."""

    CHANNELS = CHANNELS

    def __init__(self, bus, options):
        self._bus, self._address = bus, options.get("address", 0x76)
        self._calibration = None

    async def start(self):
        """Identify, reset, read the calibration."""
        chip = self._read(_ID, 1)[0]
        if chip not in IDS:
            raise SensorError("0x%02x is no BMP280: its id is 0x%02x" % (self._address, chip))
        self._write(_RESET, 0xB6)
        for _ in range(10):
            await asyncio.sleep_ms(3)
            if not self._read(_STATUS, 1)[0] & 1:
                break
        self._calibration = calibration(self._read(_CALIBRATION, 24))
        self._write(_CONFIG, 0)

    async def read(self):
        """Pressure and temperature of one measurement."""
        self._write(_CTRL_MEAS, _FORCED)
        await asyncio.sleep_ms(_CONVERSION_MS)
        for _ in range(10):
            if not self._read(_STATUS, 1)[0] & 8:
                break
            await asyncio.sleep_ms(5)
        temperature, pressure_pa = compensate(self._calibration, self._read(_DATA, 6))
        return {"temperature": round(temperature, 2), "pressure": round(pressure_pa / 100, 3)}

    def _read(self, register, size):
        return self._bus.readfrom_mem(self._address, register, size)

    def _write(self, register, value):
        self._bus.writeto_mem(self._address, register, bytes([value]))


def calibration(raw):
    """T1 to T3, P1 to P9 of the 24 bytes from 0x88; SensorError where they are none."""
    found = struct.unpack("<HhhHhhhhhhhh", raw)
    if found[0] == 0 or found[3] == 0 or found[0] == 0xFFFF:
        raise SensorError("the BMP280's calibration is not readable")
    return found


def compensate(coefficients, burst):
    """(degrees Celsius, pascal) of the six bytes from 0xF7; SensorError where one was not measured."""
    t1, t2, t3, p1, p2, p3, p4, p5, p6, p7, p8, p9 = coefficients
    up = burst[0] << 12 | burst[1] << 4 | burst[2] >> 4
    ut = burst[3] << 12 | burst[4] << 4 | burst[5] >> 4
    if _SKIPPED in (up, ut):
        raise SensorError("the BMP280 has not measured")
    x = (ut / 16384 - t1 / 1024) * t2
    y = (ut / 131072 - t1 / 8192) * (ut / 131072 - t1 / 8192) * t3
    fine = x + y
    a = fine / 2 - 64000
    b = a * a * p6 / 32768 + 2 * a * p5
    b = b / 4 + 65536 * p4
    c = (p3 * a * a / 524288 + p2 * a) / 524288
    c = (1 + c / 32768) * p1
    if c == 0:
        raise SensorError("the BMP280's calibration is none")
    p = (1048576 - up - b / 4096) * 6250 / c
    return fine / 5120, p + (p9 * p * p / 2147483648 + p * p8 / 32768 + p7) / 16
