"""A board's flash as it is: littlefs on a file, which the unix port speaks as well as an ESP32 does.

`micropython flash.py make FOLDER…` formats it and copies what lies in the folders; `run` starts main.py from it; `show`
tells what is on it as JSON. FLASH names the file, BLOCKS how large it is. With KILL=n the power fails in the n-th write
or erase of a run, half of which is done; with COUNT the number of them so far is left in the file of that name.
"""

import os
import sys

BLOCK = 4096
UNIT = 128  # an ESP32 has 32: four times as many calls, and as many steps at which the power could fail


class Flash:
    """The block device (os.AbstractBlockDev, extended)."""

    def __init__(self, path, blocks):
        self._blocks = blocks
        self._file = open(path, "r+b")  # noqa: SIM115  for as long as the program runs
        self._kill = int(os.getenv("KILL") or 0)
        self._count = os.getenv("COUNT")
        self.done = 0

    def readblocks(self, number, buffer, offset=0):
        self._file.seek(number * BLOCK + offset)
        self._file.readinto(buffer)

    def writeblocks(self, number, buffer, offset=0):
        self._put(number * BLOCK + offset, bytes(buffer))

    def ioctl(self, what, argument):
        if what == 4:
            return self._blocks
        if what == 5:
            return BLOCK
        if what == 6:
            self._put(argument * BLOCK, b"\xff" * BLOCK)
        return 0

    def _put(self, place, data):
        self.done += 1
        self._file.seek(place)
        if self.done == self._kill:
            import ffi

            self._file.write(data[: len(data) // 2])
            ffi.open("libc.so.6").func("i", "raise", "i")(9)
        self._file.write(data)
        if self._count:
            with open(self._count, "w") as file:
                file.write(str(self.done))


def copy(source, target):
    """A folder of the host into the flash."""
    for name in os.listdir(source):
        path = source + "/" + name
        if os.stat(path)[0] & 0x4000:
            os.mkdir(target + "/" + name)
            copy(path, target + "/" + name)
        else:
            with open(path, "rb") as read, open(target + "/" + name, "wb") as written:
                written.write(read.read())


def show(folder, found):
    """Every file's content in hexadecimal, by its path."""
    import binascii

    for name in os.listdir(folder):
        path = folder + "/" + name
        if os.stat(path)[0] & 0x4000:
            show(path, found)
        else:
            with open(path, "rb") as file:
                found[path[len("/flash/") :]] = binascii.hexlify(file.read()).decode()
    return found


def main():
    device = Flash(os.getenv("FLASH"), int(os.getenv("BLOCKS") or 128))
    what = sys.argv[1]
    if what == "make":
        device.ioctl(6, 0)
        os.VfsLfs2.mkfs(device, readsize=UNIT, progsize=UNIT)
    os.mount(os.VfsLfs2(device, readsize=UNIT, progsize=UNIT), "/flash")
    if what == "make":
        for folder in sys.argv[2:]:
            copy(folder, "/flash")
    elif what == "show":
        import json

        json.dump(show("/flash", {}), sys.stdout)
    else:
        os.chdir("/flash")
        with open("main.py") as file:
            program = file.read()
        exec(program, {"__name__": "__main__"})


main()
