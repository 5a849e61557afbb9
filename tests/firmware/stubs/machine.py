"""`machine` of an ESP32 for the unix port. I2C goes over TCP to chips of the test; reset ends the process."""

import errno
import gc
import os
import socket
import struct
import sys
import time

from micropython import const

_RESET = const(42)
"""Exit code of a reset: whoever runs the process starts it again."""

_ASLEEP = const(43)


def reset():
    raise SystemExit(_RESET)


def reset_cause():
    return int(os.getenv("RESET_CAUSE") or 1)


def unique_id():
    return b"\x24\x0a\xc4\x00\x01\x10"


def deepsleep(ms=0):
    print("deepsleep", ms)
    raise SystemExit(_ASLEEP)


class Pin:
    IN, OUT, PULL_UP = 1, 3, 2
    levels = {}

    def __init__(self, number, mode=-1, pull=-1, value=None):
        self.number = number

    def value(self, level=None):
        if level is None:
            return self.levels.get(self.number, 0)
        self.levels[self.number] = level
        return None


class RTC:
    """Its memory outlives a sleep and a reset in a file; who cuts the power deletes it."""

    def memory(self, data=None):
        if data is None:
            try:
                with open("rtc.bin", "rb") as file:
                    return file.read()
            except OSError:
                return b""
        with open("rtc.bin", "wb") as file:
            file.write(data)
        return None


class WDT:
    """Whoever feeds it is told, with HEAP, once a minute of the board's time, what lives on the heap. With BITES it
    bites: SIGALRM ends the process, so much sooner as the board's time goes faster."""

    def __init__(self, id=0, timeout=5000):
        self.timeout = timeout
        self._tells = os.getenv("HEAP")
        self._began, self._minute = time.ticks_ms(), 0
        self.feed()

    def feed(self):
        if os.getenv("BITES"):
            import bites

            bites.after(self.timeout)
        minute = time.ticks_diff(time.ticks_ms(), self._began) // 60000
        if self._tells and minute > self._minute:
            self._minute = minute
            gc.collect()
            print("heap", minute * 60, gc.mem_alloc())


class SoftI2C:
    """One TCP connection: (op, address, size, length of data) and data there, (acknowledged, size) and data back."""

    def __init__(self, scl=None, sda=None, freq=400000, timeout=50000):
        port = os.getenv("I2C_PORT")
        self._line = None
        if port:
            self._line = socket.socket()
            self._line.connect(socket.getaddrinfo("127.0.0.1", int(port))[0][-1])

    def writeto(self, address, data, stop=True):
        self._ask(1, address, 0, data)
        return len(data)

    def readfrom(self, address, size, stop=True):
        return self._ask(2, address, size, b"")

    def readfrom_into(self, address, buffer, stop=True):
        buffer[:] = self.readfrom(address, len(buffer))

    def readfrom_mem(self, address, register, size, addrsize=8):
        self.writeto(address, bytes([register]))
        return self.readfrom(address, size)

    def writeto_mem(self, address, register, data, addrsize=8):
        self.writeto(address, bytes([register]) + bytes(data))

    def _ask(self, op, address, size, data):
        if self._line is None:
            raise OSError(errno.ENODEV)
        self._line.write(struct.pack(">BBHH", op, address, size, len(data)) + bytes(data))
        acknowledged, size = struct.unpack(">BH", self._line.read(3))
        answer = self._line.read(size) if size else b""
        if not acknowledged:
            raise OSError(errno.ENODEV)
        return answer


if sys.platform != "linux":
    raise ImportError("this stands for an ESP32's module on the unix port only")
