"""A simulated SCD30 on its UART, frame by frame: the chip of the I2C simulator behind other wires."""

import struct

from drivers.checksum import crc16_modbus
from drivers.errors import NoDevice
from drivers.testing import scd30_chip
from drivers.testing.scd30_chip import Scd30Chip

UNIT = 0x61
READS, WRITE = (3, 4), 6
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS = 1, 2
ACTS = {0x34: scd30_chip.RESET, 0x37: scd30_chip.STOP}
SETTINGS = {
    0x25: scd30_chip.INTERVAL,
    0x36: scd30_chip.START,
    0x38: scd30_chip.ALTITUDE,
    0x39: scd30_chip.REFERENCE,
    0x3A: scd30_chip.SELF_CALIBRATION,
    0x3B: scd30_chip.TEMPERATURE_OFFSET,
}
READABLE = {0x20: scd30_chip.FIRMWARE, 0x27: scd30_chip.DATA_READY, **SETTINGS}
MEASUREMENT, MEASUREMENT_WORDS = 0x28, 6
PAUSE_S = 0.0031  # what the I2C side of the chip wants between command and read


class Scd30Uart:
    """A SerialDevice: silent to other units, to damaged frames and while it starts; else an answer or an exception."""

    def __init__(self, chip: Scd30Chip) -> None:
        self.chip = chip
        self.requests: list[bytes] = []

    def receive(self, data: bytes, now_s: float) -> bytes:
        """As SerialDevice."""
        if len(data) != 8 or data[0] != UNIT or _framed(data[:-2]) != data:
            return b""
        self.requests.append(data)
        function, register, word = struct.unpack(">BHH", data[1:6])
        try:
            self.chip.write(scd30_chip.FIRMWARE.to_bytes(2, "big"), now_s)
        except NoDevice:  # it is starting
            return b""
        if function not in (*READS, WRITE):
            return _exception(function, ILLEGAL_FUNCTION)
        try:
            if function == WRITE:
                self._write(register, word, now_s)
                return data
            plain = self._read(register, word, now_s)
        except (NoDevice, KeyError):
            return _exception(function, ILLEGAL_ADDRESS)
        return _framed(bytes((UNIT, function, len(plain))) + plain)

    def _write(self, register: int, word: int, now_s: float) -> None:
        if register in ACTS:
            self.chip.write(ACTS[register].to_bytes(2, "big"), now_s)
            return
        self.chip.write(SETTINGS[register].to_bytes(2, "big") + scd30_chip.checked(word.to_bytes(2, "big")), now_s)

    def _read(self, register: int, count: int, now_s: float) -> bytes:
        whole = (register, count) == (MEASUREMENT, MEASUREMENT_WORDS)
        if not whole and count != 1:
            raise KeyError(count)
        command = scd30_chip.MEASUREMENT if whole else READABLE[register]
        self.chip.write(command.to_bytes(2, "big"), now_s)
        answer = self.chip.read(3 * count, now_s + PAUSE_S)
        return b"".join(answer[i : i + 2] for i in range(0, len(answer), 3))


def _framed(body: bytes) -> bytes:
    return body + struct.pack("<H", crc16_modbus(body))


def _exception(function: int, code: int) -> bytes:
    return _framed(bytes((UNIT, function | 0x80, code)))
