"""DuckDB's log (hot.duckdb.wal) and the heads of its file as bytes: enough to tell where damage begins.

The log of DuckDB 2.0 is a head, then records: size (8 bytes, little endian), checksum (8), so many bytes; a record that
says commit ends a transaction. DuckDB verifies each record before it replays any, but neither the head nor a size has a
checksum: damage there passes for a torn end, and all that follows is dropped without a word. So we look first.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto
from functools import reduce
from operator import ne, xor
from pathlib import Path
from typing import BinaryIO

COMMITTED = bytes.fromhex("0500000000000000e7fe7d722fed3d5e640064ffff")
"""The record that ends a transaction: always the same bytes."""
_FRAME_BYTES = 16
_COMMIT = COMMITTED[_FRAME_BYTES:]
_STEP_BYTES = 1 << 20

_WELL_FORMED = re.compile(
    rb"d\0be\0\x02f\0\x10(?:[\x80-\xff]\x01|[\0-\x7f]){16}g\0[\x80-\xff]*[\0-\x7f]\xff\xff", re.DOTALL
)

HEAD_BYTES = 4096
"""A DuckDB file begins with three of these: what it is, and two that take turns at each checkpoint."""
_MAGIC, _IDENTIFIER, _ITERATION = slice(8, 12), slice(124, 140), slice(8, 16)
_FIELDS_BYTES = (160, 64, 64)
_WORD = (1 << 64) - 1


SPOILT_BYTES = 8


class Fit(Enum):
    """How a log goes with a file."""

    CURRENT = auto()
    SUPERSEDED = auto()
    """Of the checkpoint before: all of it is in the file already."""
    SPOILT = auto()
    """Ours, with a few wrong bytes in its head."""
    FOREIGN = auto()
    """Of another file, or of another state of this one; DuckDB refuses it."""
    DESTROYED = auto()
    """No head that DuckDB could read: it would drop all of the log without a word."""
    UNKNOWN = auto()
    """Of a version that is not known here."""


@dataclass(frozen=True, slots=True)
class Belonging:
    """Which file a log goes with: the file's identifier and the number of its last checkpoint."""

    identifier: bytes
    iteration: int

    def encode(self) -> bytes:
        """The head of such a log."""
        numbers = b"".join(_varint(byte) for byte in self.identifier)
        return (
            b"d\0be\0\x02f\0" + _varint(len(self.identifier)) + numbers + b"g\0" + _varint(self.iteration) + b"\xff\xff"
        )

    def judge(self, start: bytes) -> Fit:
        """How the beginning of a log (64 bytes) goes with this file.

        A head of which a few bytes are wrong is ours, except in the number of the checkpoint: a log that is replayed on
        another state of its file spoils it.
        """
        head = self.encode()
        number = len(_varint(self.iteration)) + 2
        if start.startswith(head):
            return Fit.CURRENT
        if self.iteration and start.startswith(Belonging(self.identifier, self.iteration - 1).encode()):
            return Fit.SUPERSEDED
        sure = start[len(head) - number : len(head) - 2] == head[-number:-2]
        if sure and sum(map(ne, head, start)) <= SPOILT_BYTES:
            return Fit.SPOILT
        if _WELL_FORMED.match(start):
            return Fit.FOREIGN
        return Fit.UNKNOWN if start.startswith(b"d\0be\0") and start[5:6] != b"\2" else Fit.DESTROYED


@dataclass(frozen=True, slots=True)
class FileHead:
    """The three heads of a DuckDB file. `identifier` is empty, an iteration None where its checksum is wrong."""

    identifier: bytes
    iterations: tuple[int | None, int | None]
    claimed: tuple[int, int]
    """The iterations as they stand there, believed or not."""

    @property
    def is_sound(self) -> bool:
        return bool(self.identifier) and None not in self.iterations

    @property
    def iteration(self) -> int | None:
        """Number of the newest checkpoint that has a sound head."""
        return max((each for each in self.iterations if each is not None), default=None)


@dataclass(frozen=True, slots=True)
class Walk:
    """What is in a log. `commits` are the offsets at which whole transactions end, `size` is that of the file.

    `damaged` says that what follows the last of them is more than a write that was never finished; `beyond` counts the
    commit records that stand there, out of reach.
    """

    start: int
    size: int
    commits: tuple[int, ...]
    damaged: bool = False
    beyond: int = 0

    @property
    def whole(self) -> int:
        """Bytes up to the end of the last whole transaction."""
        return self.commits[-1] if self.commits else 0

    @property
    def is_clean(self) -> bool:
        return self.whole == self.size


def read_head(file: Path) -> FileHead | None:
    """The heads of a DuckDB file; None if it is none, or not even that can be read."""
    try:
        with file.open("rb") as stream:
            first, *slots = [stream.read(HEAD_BYTES) for _ in range(3)]
    except OSError:
        return None
    if first[_MAGIC] != b"DUCK":
        return None
    one, two = [int.from_bytes(slot[_ITERATION], "little") for slot in slots]
    sound = [_is_sound(slot) for slot in slots]
    return FileHead(
        first[_IDENTIFIER] if _is_sound(first) else b"",
        (one if sound[0] else None, two if sound[1] else None),
        (one, two),
    )


def heal(heads: bytes) -> bytes | None:
    """The three heads of a file, where damage fell only on what is zero behind their fields; None where it did not, or
    there is none."""
    healed = b""
    for number, fields_bytes in enumerate(_FIELDS_BYTES):
        head = heads[number * HEAD_BYTES : (number + 1) * HEAD_BYTES]
        healed += head if _is_sound(head) else head[:fields_bytes].ljust(HEAD_BYTES, b"\0")
    sound = all(_is_sound(healed[at : at + HEAD_BYTES]) for at in range(0, len(healed), HEAD_BYTES))
    return healed if sound and healed != heads else None


def walk(file: Path, start: int, *, thorough: bool) -> Walk:
    """Follow the records from `start` on; `thorough` verifies their checksums too (30 MB: a third of a second)."""
    size = file.stat().st_size
    commits: list[int] = []
    at = start
    with file.open("rb") as stream:
        try:
            while at < size:
                record = _record_bytes(stream, at, size, thorough=thorough)
                if record is None:
                    break
                at += _FRAME_BYTES + record
                if record == len(_COMMIT):
                    stream.seek(at - len(COMMITTED))
                    if stream.read(len(COMMITTED)) == COMMITTED:
                        commits.append(at)
            if at >= size:
                return Walk(start, size, tuple(commits))
            stream.seek(at)
            frame = stream.read(_FRAME_BYTES)
            rest = stream.read()
        except OSError:
            return Walk(start, size, tuple(commits), damaged=True)
    beyond = (frame + rest).count(COMMITTED)
    torn = at + _FRAME_BYTES + int.from_bytes(frame[:8], "little") > size or not any(frame + rest)
    return Walk(start, size, tuple(commits), damaged=beyond > 0 or not torn, beyond=beyond)


def checksum(data: bytes) -> int:
    """DuckDB's checksum of a record or a head."""
    whole = len(data) // 8 * 8
    words = memoryview(data)[:whole].cast("Q")
    found = reduce(xor, map(0xBF58476D1CE4E5B9.__mul__, words), 5381) & _WORD
    return found if whole == len(data) else found ^ _remainder(data[whole:])


def _remainder(tail: bytes) -> int:
    """The part of the checksum that covers the last 1 to 7 bytes."""
    factor = 0xC6A4A7935BD1E995
    found = 0xE17A1465 ^ (len(tail) * factor & _WORD)
    found = (found ^ int.from_bytes(tail, "little")) * factor & _WORD
    found = (found ^ found >> 47) * factor & _WORD
    return found ^ found >> 47


def _record_bytes(stream: BinaryIO, at: int, size: int, *, thorough: bool) -> int | None:
    """Length of the record at an offset; None if it is not whole and sound."""
    stream.seek(at)
    frame = stream.read(_FRAME_BYTES)
    length = int.from_bytes(frame[:8], "little")
    if len(frame) < _FRAME_BYTES or not length or at + _FRAME_BYTES + length > size:
        return None
    if thorough and checksum(stream.read(length)) != int.from_bytes(frame[8:], "little"):
        return None
    return length


def _is_sound(head: bytes) -> bool:
    return len(head) == HEAD_BYTES and checksum(head[8:]) == int.from_bytes(head[:8], "little")


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
