"""The DuckDB instance and its files: opening, re-opening after a failed checkpoint, and errors in plain words."""

import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from gateway.store.errors import (
    QueryTooBig,
    StoreClosed,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreNotWritable,
    StoreTooNew,
)

CHECKPOINT_AT_MB: float = 32
"""Log size at which DuckDB folds it into the file. Each fold rewrites the last row group: seldom costs fewer bytes."""
MAX_SPILL_MB = 512
INTERRUPT_EVERY_S = 0.02
_FULL = ("No space left", "Disk quota exceeded", "File too large")


class Engine:
    """Owns hot.duckdb and hot.lock. Synchronous; all but `reader` belongs to one thread.

    hot.lock holds our process id and the number of the last committed batch. It is written after each commit without
    an fsync, so it is never ahead of the data unless the data lost something.
    """

    def __init__(self, folder: Path, memory_limit_mb: int, threads: int) -> None:
        self.folder = folder
        self.file = folder / "hot.duckdb"
        self._config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{memory_limit_mb}MB",
            "threads": threads,
            "checkpoint_threshold": f"{CHECKPOINT_AT_MB}MB",
            "temp_directory": str(folder / "hot.spill"),
            "max_temp_directory_size": f"{MAX_SPILL_MB}MB",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        self._lock = -1
        self._instance: duckdb.DuckDBPyConnection | None = None
        self._writer: duckdb.DuckDBPyConnection | None = None
        self._readers: set[duckdb.DuckDBPyConnection] = set()
        self._free = threading.Condition()

    @property
    def writer(self) -> duckdb.DuckDBPyConnection:
        """The one connection that changes anything."""
        if self._writer is None:
            raise StoreClosed(f"{self.file} is not open: use the store inside its `async with`")
        return self._writer

    @property
    def is_open(self) -> bool:
        return self._writer is not None

    def lock(self) -> int:
        """Take the folder for this process; returns the last batch number noted there (0 at first)."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / "hot.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreNotWritable(
                f"cannot write to {self.folder} ({error.strerror}): give the gateway's user that folder, "
                "or choose another with --data"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = self._noted()[0]
            os.close(self._lock)
            self._lock = -1
            raise StoreLocked(
                f"{self.folder} is in use by process {holder or 'unknown'}: stop that gateway, "
                "or choose another folder with --data"
            ) from error
        return self._noted()[1]

    def note(self, batch: int) -> None:
        """Write down the last committed batch number."""
        os.pwrite(self._lock, f"{os.getpid():>10} {batch:>20}\n".encode(), 0)

    def unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def connect(self) -> None:
        """Open the file (and make it), replaying its log; StoreError names what is wrong and the way out."""
        try:
            instance = duckdb.connect(str(self.file), config=self._config)
        except duckdb.Error as error:
            raise self._cannot_open(error) from error
        instance.execute("set global TimeZone = 'UTC'")
        self._instance, self._writer = instance, instance.cursor()

    def disconnect(self) -> None:
        """Close the file; running questions are interrupted. A clean close folds the log into the file."""
        with self._free:
            instance, writer = self._instance, self._writer
            self._instance = self._writer = None
            # Again and again: an interrupt that comes before its question began is lost.
            while not self._free.wait_for(lambda: not self._readers, INTERRUPT_EVERY_S):
                for cursor in self._readers:
                    cursor.interrupt()
        if writer is not None:
            writer.close()
        if instance is not None:
            instance.close()

    @contextmanager
    def reader(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of its own for one question, from any thread."""
        with self._free:
            if self._instance is None:
                raise StoreClosed(f"{self.file} is not open: use the store inside its `async with`")
            cursor = self._instance.cursor()
            self._readers.add(cursor)
        try:
            yield cursor
        except duckdb.Error as error:
            raise self.explain(error) from error
        finally:
            with self._free:
                self._readers.discard(cursor)
                self._free.notify_all()
            cursor.close()

    def explain(self, error: duckdb.Error) -> StoreError:
        """DuckDB's error as one of ours."""
        text = " ".join(str(error).split())
        if any(sign in text for sign in _FULL):
            return StoreFull(f"no room for {self.file} ({text[:200]}): free some space on its medium")
        if isinstance(error, duckdb.OutOfMemoryException):
            return QueryTooBig(
                f"the question needs more memory than the store may use ({text[:200]}): ask for less time"
            )
        if isinstance(error, duckdb.InterruptException):
            return StoreError(f"the question to {self.file} was interrupted: ask again")
        return StoreError(f"{self.file}: {text[:400]}")

    def _cannot_open(self, error: duckdb.Error) -> StoreError:
        text = " ".join(str(error).split())
        log = self.file.with_name(self.file.name + ".wal")
        if "lock on file" in text:
            return StoreLocked(f"{self.file} is open elsewhere ({text[:200]}): close that program")
        if "newer version" in text:
            return StoreTooNew(f"{self.file} was written by a newer DuckDB: install the newer gateway again")
        if any(sign in text for sign in _FULL):
            return StoreFull(f"no room to open {self.file} ({text[:200]}): free some space on its medium")
        if "WAL" in text and log.exists():
            kept = _copy_aside(log)
            return StoreDamaged(
                f"the log {log} cannot be replayed ({text[:200]}); a copy is {kept}. To start without the batches "
                f"since the last checkpoint move {log} away, or restore a backup"
            )
        if isinstance(error, duckdb.IOException) and ("Permission" in text or "Read-only" in text):
            return StoreNotWritable(f"cannot write {self.file} ({text[:200]}): give it to the gateway's user")
        return StoreDamaged(
            f"{self.file} cannot be opened ({text[:200]}): move it away to start empty, or restore a backup"
        )

    def _noted(self) -> tuple[str, int]:
        fields = os.pread(self._lock, 64, 0).split()
        if len(fields) == 2 and fields[1].isdigit():
            return fields[0].decode(errors="replace"), int(fields[1])
        return "", 0


def _copy_aside(file: Path) -> Path:
    """A copy beside the file under a name that was free; equal copies are not made twice."""
    number = 1
    while (kept := file.with_name(f"{file.name}.damaged-{number}")).exists():
        if kept.stat().st_size == file.stat().st_size and kept.read_bytes() == file.read_bytes():
            return kept
        number += 1
    shutil.copy2(file, kept)
    return kept
