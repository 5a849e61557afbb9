"""hot.lock: who owns the data folder, and what a start has to know of the run before it."""

import errno
import fcntl
import mmap
import os
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from gateway.store.errors import StoreLocked, StoreNotWritable

_OLD_BYTES = 64
"""Earlier versions read so many bytes and take two words there, process id and batch: what came later stands behind."""
_PAGE_BYTES = 4096
"""The file is so long from the start, so that writing to it allocates nothing."""


class Phase(StrEnum):
    """How far a run had come when it wrote last."""

    CLOSED = "closed"
    OPENING = "opening"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Note:
    """The last committed batch, when it was committed (ms since 1970; 0: unknown), and how far that run had come."""

    batch: int = 0
    commit_ms: int = 0
    phase: Phase = Phase.CLOSED


class LockFile:
    """Holds DATA/hot.lock. It is written after each commit without an fsync, so it is never ahead of the data unless
    the data lost something; after a power cut it may be half a minute behind.

    It is written through a mapping: each write call would change the file's times, and a journaling file system would
    write several blocks for them beside those of each commit (`python -m bench bytes`).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor = -1
        self._page: mmap.mmap | None = None
        self.note = Note()

    def take(self) -> Note:
        """Own the folder (made if need be); returns what the last run wrote, nothing at first."""
        folder = self._folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(folder / "hot.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreNotWritable(
                f"cannot write to {folder} ({error.strerror}): give the gateway's user that folder, "
                "or choose another with --data"
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, _OLD_BYTES, 0).split()[:1]
            self.release()
            raise StoreLocked(
                f"{folder} is in use by process {holder[0].decode(errors='replace') if holder else 'unknown'}: "
                "stop that gateway, or choose another folder with --data"
            ) from error
        return self.again()

    def again(self) -> Note:
        """Read what the last run wrote, where somebody changed it since `take`."""
        self.note = self._read()
        return self.note

    def committed(self, batch: int) -> None:
        """Write down the last committed batch, and now."""
        self._write(Note(batch, time.time_ns() // 1_000_000, self.note.phase))

    def enter(self, phase: Phase) -> None:
        """Write down how far this run has come; that a closed store is open again is on disk before its data are."""
        before = self.note
        self._write(Note(before.batch, before.commit_ms, phase))
        if before.phase is Phase.CLOSED and self._page is not None:
            self._page.flush()
            os.fsync(self._descriptor)

    def release(self) -> None:
        if self._page is not None:
            self._page.close()
            self._page = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self) -> Note:
        text = os.pread(self._descriptor, 2 * _OLD_BYTES, 0)
        old, new = text[:_OLD_BYTES].split(), text[_OLD_BYTES:].split()
        if len(old) != 2 or not old[1].isdigit():
            return Note()
        if len(new) == 3 and new[0] == old[1] and new[1].isdigit() and new[2].decode(errors="replace") in list(Phase):
            return Note(int(new[0]), int(new[1]), Phase(new[2].decode()))
        return Note(int(old[1]), 0, Phase.OPEN)  # an earlier version wrote it, which did not say

    def _write(self, note: Note) -> None:
        old = f"{os.getpid():>10} {note.batch:>20}\n".ljust(_OLD_BYTES)
        text = f"{old}{note.batch:>20} {note.commit_ms:>20} {note.phase:<8}\n".encode()
        page = self._mapped()
        page[: len(text)] = text
        self.note = note

    def _mapped(self) -> mmap.mmap:
        """The file in memory, which it is long enough for, with its blocks: a mapping cannot report a full medium."""
        if self._page is None:
            if self._descriptor < 0:
                raise OSError(errno.EBADF, "the data folder is not held", str(self._folder / "hot.lock"))
            missing = _PAGE_BYTES - os.fstat(self._descriptor).st_size
            if missing > 0:
                os.pwrite(self._descriptor, b"\n" * missing, _PAGE_BYTES - missing)
                os.fsync(self._descriptor)
            self._page = mmap.mmap(self._descriptor, _PAGE_BYTES)
        return self._page
