"""What a board's raw REPL runs code with: a frame of code on standard input, its output, 0x04, its traceback, 0x04.

The globals last from one piece of code to the next, as on a board. With FLASH_KB the file system is a littlefs of that
size instead of the working directory; PLATFORM, VERSION and MACHINE are what the board says that it is. The flash keeps
no file as it was written whose name holds WORN.
"""

import os
import sys

import esp32
import machine
import network


class Flash:
    """A block device in memory."""

    SIZE = 4096

    def __init__(self, blocks):
        self.data = bytearray(blocks * self.SIZE)

    def readblocks(self, number, buffer, offset=0):
        begin = number * self.SIZE + offset
        buffer[:] = self.data[begin : begin + len(buffer)]

    def writeblocks(self, number, buffer, offset=0):
        begin = number * self.SIZE + offset
        self.data[begin : begin + len(buffer)] = buffer

    def ioctl(self, op, argument):
        if op == 4:
            return len(self.data) // self.SIZE
        return self.SIZE if op == 5 else 0


class Implementation(tuple):
    """`sys.implementation` of a board: a tuple with names."""

    name = "micropython"
    version = tuple(int(part) for part in (os.getenv("VERSION") or "1.25.0").split(".")) + ("",)
    _machine = os.getenv("MACHINE") or "Generic ESP32 module with ESP32"
    _mpy = sys.implementation._mpy


class System:
    """`sys` of an ESP32: the rest is this interpreter's own."""

    platform = os.getenv("PLATFORM") or "esp32"
    implementation = Implementation(
        ("micropython", Implementation.version, Implementation._machine, Implementation._mpy)
    )
    modules, path, stdin, stdout, print_exception = sys.modules, sys.path, sys.stdin, sys.stdout, sys.print_exception


class Worn:
    """A file whose last byte goes missing."""

    def __init__(self, file):
        self._file = file

    def write(self, data):
        return self._file.write(data[:-1])

    def close(self):
        self._file.close()


def worn(path, mode="r"):
    file = open(path, mode)  # noqa: SIM115 - it is handed on
    return Worn(file) if "w" in mode and os.getenv("WORN") in path else file


def serve():
    import binascii
    import hashlib
    import json

    world = {"__name__": "__main__"}
    if os.getenv("FLASH_KB"):
        import vfs

        flash = Flash(int(os.getenv("FLASH_KB")) // 4)
        vfs.VfsLfs2.mkfs(flash)
        vfs.mount(vfs.VfsLfs2(flash), "/")
        os.chdir("/")
    if os.getenv("WORN"):
        world["open"] = worn
    sys.modules["sys"] = System
    take, tell = sys.stdin.buffer.read, sys.stdout.buffer.write
    while True:
        size = take(4)
        if len(size) < 4:
            return
        code = take(int.from_bytes(size, "big"))
        try:
            exec(code, world)
            tell(b"\x04")
        except SystemExit:
            raise
        except BaseException as error:
            tell(b"\x04")
            sys.print_exception(error)
        tell(b"\x04")


serve()
