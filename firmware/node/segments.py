"""Append-only files of checked lines, in a folder: the flash side of the ring.

A line is `crc32 boot seq rest`, all text, the sum over everything behind it. A file is begun when the last is full or
has a damaged end, and deleted as a whole: flash is never rewritten in place.
"""

import binascii
import os

from micropython import const

_SEGMENT_BYTES = const(16384)  # four blocks: a file of them costs no more flash than it holds


def line(boot, seq, rest):
    """A record as it stands in the flash."""
    text = ("%s %d %s" % (boot, seq, rest)).encode()
    return b"%08x %s\n" % (binascii.crc32(text) & 0xFFFFFFFF, text)


def parse(raw):
    """(boot, seq, rest, bytes) of a line; boot "" where it is damaged or torn."""
    try:
        text = raw[9:-1]
        if raw[-1:] == b"\n" and int(raw[:8], 16) == binascii.crc32(text) & 0xFFFFFFFF:
            boot, seq, rest = text.decode().split(" ", 2)
            return boot, int(seq), rest, len(raw)
    except (ValueError, UnicodeError):  # the sum is right by chance
        pass
    return "", 0, "", len(raw)


class Segments:
    """The files, oldest first: `numbers` and `sizes` side by side."""

    def __init__(self, folder):
        self._folder = folder
        self.numbers = []
        self.sizes = []
        self._closed = True

    def open(self):
        """Look at what is there; what a failing power left half done is put right."""
        try:
            os.mkdir(self._folder)
        except OSError:  # it is there
            pass
        for name in sorted(os.listdir(self._folder)):
            if len(name) == 8 and name.isdigit():
                self.numbers.append(int(name))
                self.sizes.append(os.stat(self._path(int(name)))[6])
            else:
                os.remove(self._folder + "/" + name)
        self._closed = not self.numbers or not self._ends_well(self.numbers[-1])

    def total(self):
        """Bytes of all files."""
        return sum(self.sizes)

    def append(self, lines):
        """Write lines, at once and to one file; (number, offset) of the first. OSError where the flash is full."""
        if self._closed or self.sizes[-1] >= _SEGMENT_BYTES:
            self.numbers.append((self.numbers[-1] if self.numbers else 0) + 1)
            self.sizes.append(0)
            self._closed = False
        number, offset = self.numbers[-1], self.sizes[-1]
        data = b"".join(lines)
        self._closed = True  # a failure leaves a torn end: then nothing follows it
        self.sizes[-1] += len(data)
        with open(self._path(number), "ab") as file:
            file.write(data)
        self._closed = False
        return number, offset

    def read(self, number, offset, most):
        """Up to so many parsed lines from there."""
        found = []
        with open(self._path(number), "rb") as file:
            file.seek(offset)
            while len(found) < most:
                raw = file.readline()
                if not raw:
                    break
                found.append(parse(raw))
        return found

    def after(self, number):
        """The number of the file behind this one, None where it is the last."""
        for other in self.numbers:
            if other > number:
                return other
        return None

    def drop(self, number):
        """Delete a file."""
        index = self.numbers.index(number)
        os.remove(self._path(number))
        del self.numbers[index]
        del self.sizes[index]
        if not self.numbers or index == len(self.numbers):
            self._closed = True

    def replace(self, number, lines):
        """Put other lines in the place of a file's; one rename commits it."""
        data = b"".join(lines)
        new = self._folder + "/new"
        with open(new, "wb") as file:
            file.write(data)
        os.rename(new, self._path(number))
        index = self.numbers.index(number)
        self.sizes[index] = len(data)
        if index == len(self.numbers) - 1:
            self._closed = True

    def _path(self, number):
        return "%s/%08d" % (self._folder, number)

    def _ends_well(self, number):
        with open(self._path(number), "rb") as file:
            last = b"\n"
            while True:
                block = file.read(512)
                if not block:
                    return last == b"\n"
                last = block[-1:]
