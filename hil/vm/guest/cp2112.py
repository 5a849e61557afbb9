"""A CP2112 (USB to I2C bridge, Silicon Labs AN495) emulated over /dev/uhid, with our simulated chips behind it.

The kernel's own hid-cp2112 makes a /dev/i2c-N of it, the same as for the part on a desk. Run as a program it prints
"ready" and lives until it is ended, which unplugs it.
"""

import os
import struct
import sys
import time
from collections.abc import Iterable

from drivers.errors import NoDevice
from drivers.testing.bmp280_chip import Bmp280Chip
from drivers.testing.buses import Chip
from drivers.testing.recording import Row
from drivers.testing.scd30_chip import Scd30Chip

DESTROY, OUTPUT, GET_REPORT, GET_REPORT_REPLY = 1, 6, 9, 10  # linux/uhid.h
CREATE2, INPUT2, SET_REPORT, SET_REPORT_REPLY = 11, 12, 13, 14
DATA_MAX, EVENT_MAX = 4096, 4400
GPIO_CONFIG, GPIO_SET, VERSION, SMBUS_CONFIG, LOCK = 0x02, 0x04, 0x05, 0x06, 0x20
READ, WRITE_READ, FORCE, ANSWER, WRITE, STATUS, STATUS_ANSWER = 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16
ERROR, COMPLETE = (3, 0), (2, 5)  # status 0 and 1 of a transfer: not acknowledged; succeeded
ANSWER_BYTES, REPORT_BYTES, EIO = 61, 64, 5

AIR = Row(co2=1234.5, temperature=25.08247, humidity=48.25, pressure=1006.5325)
DATA_SHEET = (27504, 26435, -1000, 36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000)  # BMP280 §3.12


def descriptor() -> bytes:
    """The reports of the part, all of them of a vendor's page."""
    feature, output, given = b"\xb1\x02", b"\x91\x02", b"\x81\x02"
    reports = (
        *((GPIO_CONFIG, 4, feature), (0x03, 1, feature), (GPIO_SET, 2, feature), (VERSION, 2, feature)),
        *((SMBUS_CONFIG, 13, feature), (LOCK, 1, feature), (0x21, 9, feature)),
        *((number, 63, feature) for number in (0x22, 0x23, 0x24)),
        *((number, 63, output) for number in (READ, WRITE_READ, FORCE, WRITE, STATUS, 0x17)),
        *((number, 63, given) for number in (ANSWER, STATUS_ANSWER)),
    )
    each = b"".join(bytes((0x85, number, 0x95, size, 0x09, 1)) + kind for number, size, kind in reports)
    return b"\x06\x00\xff\x09\x01\xa1\x01\x15\x00\x26\xff\x00\x75\x08" + each + b"\xc0"


class Cp2112:
    """One part; `serve` answers the kernel until the process ends."""

    def __init__(self, chips: Iterable[Chip]) -> None:
        self._chips = {chip.address: chip for chip in chips}
        self._features = {
            GPIO_CONFIG: bytes((GPIO_CONFIG, 0, 0, 0, 0)),
            0x03: bytes((0x03, 0)),
            GPIO_SET: bytes((GPIO_SET, 0, 0)),
            VERSION: bytes((VERSION, 0x0C, 0x03)),
            SMBUS_CONFIG: struct.pack(">BIBBHHBH", SMBUS_CONFIG, 100_000, 2, 0, 0, 0, 0, 0),
            LOCK: bytes((LOCK, 0xFF)),
            0x21: bytes((0x21, *bytes(9))),
            **{number: bytes((number, 4, 3, 0x41, *bytes(60))) for number in (0x22, 0x23, 0x24)},
        }
        self._outcome: tuple[int, int] = COMPLETE
        self._answer = b""
        self._file = -1

    def serve(self) -> None:
        """Plug it in, then answer."""
        self._file = os.open("/dev/uhid", os.O_RDWR)
        told = descriptor()
        names = (b"CP2112 (emulated)", b"", b"")
        head = struct.pack("<I128s64s64sHHIIII", CREATE2, *names, len(told), 3, 0x10C4, 0xEA90, 0, 0)
        os.write(self._file, head + told.ljust(DATA_MAX, b"\0"))
        while True:
            self._event(os.read(self._file, EVENT_MAX))

    def _event(self, event: bytes) -> None:
        kind = int.from_bytes(event[:4], sys.byteorder)
        if kind == GET_REPORT:
            asked, number = struct.unpack_from("<IB", event, 4)
            content = self._features.get(number, b"")
            reply = struct.pack("<IIHH", GET_REPORT_REPLY, asked, 0 if content else EIO, len(content))
            os.write(self._file, reply + content.ljust(DATA_MAX, b"\0"))
        elif kind == SET_REPORT:
            asked, number, _, size = struct.unpack_from("<IBBH", event, 4)
            self._features[number] = event[12 : 12 + size]
            os.write(self._file, struct.pack("<IIH", SET_REPORT_REPLY, asked, 0))
        elif kind == OUTPUT:
            (size,) = struct.unpack_from("<H", event, 4 + DATA_MAX)
            self._report(event[4 : 4 + size])

    def _report(self, report: bytes) -> None:
        number = report[0]
        if number == READ:
            self._transfer(report[1] >> 1, None, int.from_bytes(report[2:4], "big"))
        elif number == WRITE_READ:
            self._transfer(report[1] >> 1, report[5 : 5 + report[4]], int.from_bytes(report[2:4], "big"))
        elif number == WRITE:
            self._transfer(report[1] >> 1, report[3 : 3 + report[2]], 0)
        elif number == STATUS:
            self._give(struct.pack(">BBBHH", STATUS_ANSWER, *self._outcome, 0, len(self._answer)))
        elif number == FORCE:
            size = min(ANSWER_BYTES, len(self._answer), int.from_bytes(report[1:3], "big"))
            part, self._answer = self._answer[:size], self._answer[size:]
            self._give(bytes((ANSWER, 2, size)) + part)

    def _transfer(self, address: int, written: bytes | None, size: int) -> None:
        self._outcome, self._answer = ERROR, b""
        chip, now_s = self._chips.get(address), time.monotonic()
        if chip is None:
            return
        try:
            if written is not None:
                chip.write(written, now_s)
            if size:
                self._answer = chip.read(size, now_s)
        except NoDevice:
            return
        self._outcome = COMPLETE

    def _give(self, report: bytes) -> None:
        head = struct.pack("<IH", INPUT2, REPORT_BYTES)
        os.write(self._file, head + report.ljust(REPORT_BYTES, b"\0").ljust(DATA_MAX, b"\0"))


if __name__ == "__main__":
    Cp2112([Scd30Chip(lambda _: AIR, zeros=0), Bmp280Chip(lambda _: AIR, coefficients=DATA_SHEET)]).serve()
