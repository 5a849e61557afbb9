"""The DuckDB instance and its files: opening, re-opening after a failed checkpoint, and errors in plain words."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from gateway.store.backups import transplant
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
from gateway.store.files import quoted, reserve, sync_file
from gateway.store.mend import repair, rescue
from gateway.store.mend.repair import Mended
from gateway.store.note import LockFile, Note, Phase

CHECKPOINT_AT_MB: float = 32
"""Log size at which DuckDB folds it into the file. Each fold rewrites the last row group: seldom costs fewer bytes."""
MAX_SPILL_MB = 512
ROOM_TO_FOLD_BYTES = 96 << 20
"""Below this the log is not folded into the file: it may be as long as that, and both have to fit meanwhile."""
LOG_AHEAD_BYTES = 4 << 20
"""The log has blocks for so much more than it holds: where each COMMIT took some of its own, a journaling file system
wrote as many bytes for that as the log did (`python -m bench bytes`)."""
BLOCK_BYTES = 512  # stat(2), the unit of st_blocks
INTERRUPT_EVERY_S = 0.02
_FULL = ("No space left", "Disk quota exceeded", "File too large")


class Engine:
    """Owns hot.duckdb and hot.lock. Synchronous; all but `reader` and `explain` belongs to one thread.

    Opening repairs what is damaged, as far as that goes without guessing (see repair.py).
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
        self._lock = LockFile(folder)
        self._doubtful = False
        self._crashed = False
        self._holding = False
        self._mended: list[Mended] = []
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
        """Open, and nothing of it was found damaged since."""
        return self._writer is not None and not self._doubtful

    def lock(self) -> Note:
        """Take the folder for this process; returns what the run before it noted there."""
        noted = self._lock.take()
        if transplant.finish(self.folder):
            noted = self._lock.again()
        self._crashed = noted.phase is Phase.OPENING
        self._doubtful = noted.phase is not Phase.CLOSED
        return noted

    def note(self, batch: int) -> None:
        """Write down the last committed batch number, and when that was."""
        self._lock.committed(batch)

    def extend_log(self) -> None:
        """Have blocks for the log of the next COMMITs, where there is plenty of room for them."""
        with suppress(OSError):  # folded just now, or no room: the log takes blocks as it needs them
            log = repair.log_of(self.file)
            held = log.stat()
            if held.st_blocks * BLOCK_BYTES - held.st_size < LOG_AHEAD_BYTES // 16 and not self._holding:
                reserve(log, LOG_AHEAD_BYTES)

    def unlock(self) -> None:
        """Give the folder up, and note whether it was closed well."""
        if self._lock.note.phase is Phase.OPEN and not self._doubtful and not repair.log_of(self.file).exists():
            with suppress(OSError):
                self._lock.enter(Phase.CLOSED)
        self._lock.release()

    def connect(self) -> None:
        """Open the file (or make it) and replay its log; StoreError names what is wrong and the way out.

        Damage is repaired first, and `mended` says how. After a stop that was not clean every block is read once. What
        may have ended the process that opened it is tried out in a child before.
        """
        self.disconnect()
        try:
            self._lock.enter(Phase.OPENING)
            self._open_mended()
            self._doubtful = self._crashed = False
        except OSError as error:
            raise self._cannot_open(duckdb.IOException(f"{error.strerror}: {error.filename}")) from error
        finally:
            with suppress(OSError):
                self._lock.enter(Phase.OPEN)

    def mended(self) -> tuple[list[Mended], Note]:
        """What was done to the files since this was asked last, and the last note."""
        mended, self._mended = self._mended, []
        return mended, self._lock.note

    @property
    def room_bytes(self) -> int:
        """What is left on the medium for us."""
        room = os.statvfs(self.folder)
        return room.f_bavail * room.f_frsize

    def allow_checkpoints(self) -> None:
        """Fold the log again where that was put off for want of room and there is room now."""
        if self._holding and self.room_bytes >= ROOM_TO_FOLD_BYTES:
            self.writer.execute(f"set global checkpoint_threshold = '{CHECKPOINT_AT_MB}MB'")
            self._holding = False

    def _open_mended(self) -> None:
        found = repair.look_at_log(self.file)
        self._mended += [found] if found is not None else []
        refused = self._attach()
        for remedy in repair.REMEDIES:
            if refused is None:
                return
            if not isinstance(refused, StoreDamaged) or not self._is_ours():
                break
            found = remedy(self.file)
            if found is not None:
                self._mended.append(found)
                refused = self._attach(anew=remedy is repair.start_empty)
        if refused is not None:
            raise refused

    def _attach(self, *, anew: bool = False) -> StoreError | None:
        """Try to open; why not."""
        if not self.file.exists() and self._is_ours() and not anew:
            return StoreDamaged(f"{self.file} is missing: restore a backup")  # DuckDB would remove its log
        try:
            why = repair.probe(self.file) if self._crashed and self.file.exists() else None
            if why is not None:
                raise duckdb.Error(why)
            instance = duckdb.connect(str(self.file), config=self._config)
            self._instance, self._writer = instance, instance.cursor()
            instance.execute("set global TimeZone = 'UTC'")
            if self._doubtful:
                rescue.verify(self._writer)
        except duckdb.Error as error:
            refused = self._cannot_open(error)
            self._doubtful = True
            self.disconnect()
            return refused
        self._holding = self.room_bytes < ROOM_TO_FOLD_BYTES
        if self._holding:  # each COMMIT would fail to fold the log, and take the instance with it
            instance.execute("set global checkpoint_threshold = '1TB'")
        return None

    def _is_ours(self) -> bool:
        """There was a store here before: what stands under its name may be put aside and replaced."""
        segments = self.folder / "segments"
        return (
            self._lock.note.batch > 0
            or (self.folder / repair.GOOD_COPY).exists()
            or (segments.exists() and any(segments.iterdir()))
        )

    def disconnect(self) -> None:
        """Close the file; running questions are interrupted. A clean close folds the log into the file, but not into
        one that is in doubt."""
        with self._free:
            instance, writer = self._instance, self._writer
            self._instance = self._writer = None
            # Again and again: an interrupt that comes before its question began is lost.
            while not self._free.wait_for(lambda: not self._readers, INTERRUPT_EVERY_S):
                for cursor in self._readers:
                    cursor.interrupt()
        if writer is not None:
            if self._doubtful:
                with suppress(duckdb.Error):
                    writer.execute("pragma disable_checkpoint_on_shutdown")
            writer.close()
        if instance is not None:
            instance.close()

    def copy_to(self, cursor: duckdb.DuckDBPyConnection, target: Path) -> None:
        """Everything of the file as this connection sees it, into a new one; synced, then renamed."""
        part = target.with_name(f".{target.name}.part")
        part.unlink(missing_ok=True)
        cursor.execute(f"attach {quoted(part)} as copied")
        try:
            cursor.execute("copy from database hot to copied")
        finally:
            cursor.execute("detach copied")
        sync_file(part)
        part.replace(target)

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
        """DuckDB's error as one of ours. One that tells of damage makes the next writer open the file again."""
        text = " ".join(str(error).split())
        if any(sign in text for sign in _FULL):
            return StoreFull(f"no room for {self.file} ({text[:200]}): free some space on its medium")
        if isinstance(error, duckdb.OutOfMemoryException):
            return QueryTooBig(
                f"the question needs more memory than the store may use ({text[:200]}): ask for less time"
            )
        if isinstance(error, duckdb.InterruptException):
            return StoreError(f"the question to {self.file} was interrupted: ask again")
        if "Corrupt database file" in text or ("Could not read" in text and str(self.file) in text):
            self._doubtful = True
            return StoreDamaged(f"{self.file} has a damaged block ({text[:200]}): it is repaired at once, ask again")
        return StoreError(f"{self.file}: {text[:400]}")

    def _cannot_open(self, error: duckdb.Error) -> StoreError:
        text = " ".join(str(error).split())
        if "lock on file" in text:
            return StoreLocked(f"{self.file} is open elsewhere ({text[:200]}): close that program")
        if ("newer version" in text and "WAL" not in text) or "Failed to read WAL of version" in text:
            return StoreTooNew(f"{self.file} was written by a newer DuckDB: install the newer gateway again")
        if any(sign in text for sign in _FULL):
            return StoreFull(f"no room to open {self.file} ({text[:200]}): free some space on its medium")
        if isinstance(error, duckdb.IOException) and ("Permission" in text or "Read-only" in text):
            return StoreNotWritable(f"cannot write {self.file} ({text[:200]}): give it to the gateway's user")
        return StoreDamaged(
            f"{self.file} cannot be opened ({text[:200]}): move it away to start empty, or restore a backup"
        )
