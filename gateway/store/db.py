"""The store: one writer thread, one transaction a batch, acknowledged after its COMMIT."""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import duckdb

from gateway.reading import Message, Reading
from gateway.store import views
from gateway.store.batch import Batch, stored_already
from gateway.store.engine import INTERRUPT_EVERY_S, Engine
from gateway.store.errors import StoreClosed, StoreError
from gateway.store.known import Known, save_setting
from gateway.store.schema import migrate
from gateway.store.types import Commit, Series

SAVE_EVERY_BATCHES = 720
"""How often the newest values are written down: an hour of batches, which a start-up after a power cut has to scan."""
_DURABLE = "COMMIT succeeded and is durable"

log = logging.getLogger(__name__)
T = TypeVar("T")
Connection = duckdb.DuckDBPyConnection


class Store:
    """Owner of the data folder: `async with Store(folder) as store`. One per folder and machine."""

    def __init__(self, folder: Path, *, memory_limit_mb: int = 128, threads: int = 2) -> None:
        self._engine = Engine(folder, memory_limit_mb, threads)
        self._known = Known()
        self._views: dict[str, str] = {}
        self._unsure: tuple[Sequence[Message], Commit] | None = None
        self._writing: ThreadPoolExecutor | None = None
        self._reading: ThreadPoolExecutor | None = None
        self.lost_batches: tuple[int, int] | None = None
        """Batches (first, last) that were committed once and are not in the file that was opened."""

    async def __aenter__(self) -> Self:
        """Open or create the data; StoreError says in one line why not and what to do."""
        self._writing = ThreadPoolExecutor(1, "store-writer")
        self._reading = ThreadPoolExecutor(2, "store-reader")
        try:
            await self._on_writer(self._open)
        except BaseException:
            self._stop_threads()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the newest values down and close the file; what was appended is on disk already."""
        try:
            await self._on_writer(self._close)
        finally:
            self._stop_threads()

    @property
    def folder(self) -> Path:
        return self._engine.folder

    @property
    def batch(self) -> int:
        """Number of the last committed batch; continues over restarts."""
        return self._known.batch

    @property
    def known(self) -> Known:
        """What is remembered of the file; read it through `queries` where they can answer."""
        return self._known

    def newest(self) -> Mapping[int, Reading]:
        """Newest reading of each series by its id: greatest time, the later arrival among equals; from memory."""
        return self._known.newest

    def series(self) -> Mapping[int, Series]:
        """Every series by its id."""
        return self._known.series

    @property
    def view_names(self) -> frozenset[str]:
        """The views that exist for assistants."""
        return frozenset(self._views)

    async def append(self, messages: Sequence[Message]) -> Commit:
        """Store what is not stored yet, all or nothing; returns after COMMIT (synced). Counts are in readings.

        StoreError: nothing of it was stored (where even that is unknown, offering the same messages again finds out).
        ValueError: a message breaks `delivery.check`, or a time has no zone; nothing was stored.
        """
        return await self._on_writer(lambda: self._append(messages))

    async def write(self, change: Callable[[Connection], T], adopt: Callable[[Known], None] | None = None) -> T:
        """Change small tables in one transaction; `adopt` tells memory of it after the COMMIT. For commands.py."""
        return await self._on_writer(lambda: self._write(change, adopt))

    async def read(self, question: Callable[[Connection], T]) -> T:
        """Answer a question on a reader thread with a connection of its own; a cancelled one is interrupted."""
        if self._reading is None:
            raise StoreClosed(f"{self.folder} is not open: use the store inside its `async with`")
        if not self._engine.is_open:
            await self._on_writer(self._ensure_open)
        cursors: list[Connection] = []

        def answer() -> T:
            with self._engine.reader() as cursor:
                cursors.append(cursor)
                return question(cursor)

        running = self._reading.submit(answer)
        try:
            return await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            _interrupt(running, cursors)
            raise

    async def _on_writer(self, job: Callable[[], T]) -> T:
        if self._writing is None:
            raise StoreClosed(f"{self.folder} is not open: use the store inside its `async with`")
        return await asyncio.get_running_loop().run_in_executor(self._writing, job)

    def _stop_threads(self) -> None:
        for executor in (self._writing, self._reading):
            if executor is not None:
                executor.shutdown(wait=True)
        self._writing = self._reading = None

    # What follows runs on the writer thread.

    def _open(self) -> None:
        noted = self._engine.lock()
        try:
            self._load()
            if noted > self._known.batch:
                self._report_loss(noted)
            self._engine.note(self._known.batch)
        except BaseException:
            self._engine.disconnect()
            self._engine.unlock()
            raise

    def _load(self) -> None:
        self._engine.connect()
        db = self._engine.writer
        try:
            migrate(db, str(self._engine.file))
            self._known = Known.load(db)
            row = db.execute("select value from setting where name = 'views'").fetchone()
            self._views = json.loads(row[0]) if row else {}
            self._refresh_views()
        except duckdb.Error as error:
            self._engine.disconnect()
            raise self._engine.explain(error) from error

    def _report_loss(self, noted: int) -> None:
        """The file ends before a batch that was acknowledged: say so, and never use those numbers again."""
        first = self._known.batch + 1
        self.lost_batches = (first, noted)
        message = f"{self._engine.file} lost batches {first} to {noted}, which were committed once"
        log.error("%s: its medium lies about writes, or an older copy was put in its place", message)
        self._known.batch = noted
        self._remember()
        self._write(
            lambda db: db.execute(
                "insert into event values (now()::TIMESTAMP, 'store_loss', '', ?, ?)",
                [message, json.dumps({"first_batch": first, "last_batch": noted})],
            ),
            None,
        )

    def _close(self) -> None:
        try:
            if self._engine.is_open and self._known.batch > self._known.newest_batch:
                self._remember()
        except StoreError as error:
            log.warning("the newest values were not written down, the next start scans for them: %s", error)
        finally:
            self._engine.disconnect()
            self._engine.unlock()

    def _ensure_open(self) -> None:
        """Open again after a failure killed the instance; StoreError while that is not possible."""
        if not self._engine.is_open:
            self._load()

    def _append(self, messages: Sequence[Message]) -> Commit:
        self._ensure_open()
        if self._unsure is not None:
            offered, commit = self._unsure
            self._unsure = None
            if self._known.batch >= commit.batch and list(offered) == list(messages):
                return commit
        try:
            return self._attempt(messages)
        except duckdb.FatalException as error:
            # The instance died between batches; of this batch nothing had been begun.
            log.warning("re-opening %s: %s", self._engine.file, error)
            self._engine.disconnect()
            self._ensure_open()
        try:
            return self._attempt(messages)
        except duckdb.Error as error:
            raise self._engine.explain(error) from error

    def _attempt(self, messages: Sequence[Message]) -> Commit:
        """One try. FatalException: not begun. Other failures of the engine are StoreErrors."""
        batch = self._plan(messages)
        commit = batch.outcome()
        if batch.is_empty:
            return commit
        db = self._engine.writer
        self._in_transaction(db, batch.write)
        try:
            db.execute("commit")
        except duckdb.Error as error:
            return self._find_out(messages, commit, error)
        batch.adopt()
        self._note()
        self._housekeep(batch.new_names)
        return commit

    def _plan(self, messages: Sequence[Message]) -> Batch:
        known, db = self._known, self._engine.writer
        boots = {(each.device, each.delivery.boot): None for each in messages if each.delivery is not None}
        unknown = [key for key in boots if key not in known.boots]
        try:
            if unknown:
                known.load_boots(db, list(boots))
            stored = stored_already(db, known, messages)
        except duckdb.FatalException:
            raise
        except duckdb.Error as error:
            raise self._engine.explain(error) from error
        batch = Batch(known)
        for message in messages:
            batch.take(message, stored)
        return batch

    def _in_transaction(self, db: Connection, change: Callable[[Connection], T]) -> T:
        """Begin and change, without the COMMIT; whatever goes wrong is rolled back."""
        try:
            db.execute("begin")
            return change(db)
        except BaseException as error:
            with suppress(duckdb.Error):
                db.execute("rollback")
            if isinstance(error, duckdb.Error) and not isinstance(error, duckdb.FatalException):
                raise self._engine.explain(error) from error
            raise

    def _find_out(self, messages: Sequence[Message], commit: Commit, error: duckdb.Error) -> Commit:
        """A COMMIT failed: it may be durable all the same (a checkpoint failed after it). The file knows."""
        self._unsure = (messages, commit)
        log.warning("re-opening %s after a failed COMMIT: %s", self._engine.file, error)
        self._engine.disconnect()
        self._ensure_open()
        self._unsure = None
        if self._known.batch >= commit.batch:
            self._note()
            return commit
        raise self._engine.explain(error) from error

    def _write(self, change: Callable[[Connection], T], adopt: Callable[[Known], None] | None) -> T:
        self._ensure_open()
        db = self._engine.writer
        try:
            result = self._in_transaction(db, change)
        except duckdb.FatalException:
            self._engine.disconnect()
            self._ensure_open()
            db = self._engine.writer
            result = self._in_transaction(db, change)
        try:
            db.execute("commit")
        except duckdb.Error as error:
            self._engine.disconnect()
            self._ensure_open()
            if _DURABLE not in str(error):
                raise self._engine.explain(error) from error
            return result
        if adopt is not None:
            adopt(self._known)
            self._refresh_views()
        return result

    def _note(self) -> None:
        try:
            self._engine.note(self._known.batch)
        except OSError as error:
            log.warning("batch %d is stored, but not noted beside the file: %s", self._known.batch, error)

    def _housekeep(self, new_names: bool) -> None:
        """Work that may follow a COMMIT; its failure takes nothing back."""
        try:
            if new_names:
                self._refresh_views()
            if self._known.batch - self._known.newest_batch >= SAVE_EVERY_BATCHES:
                self._remember()
        except (StoreError, duckdb.Error) as error:
            log.warning("postponed until the next batch: %s", error)

    def _remember(self) -> None:
        """Write the newest values down and drop what the delivery journal no longer needs."""
        known = self._known
        self._write(known.save, None)
        known.newest_batch = known.batch

    def _refresh_views(self) -> None:
        known = self._known
        wanted = views.definitions(views.type_metrics(known.sensors.values(), known.series.values()))
        if wanted == self._views:
            return
        changed = {name: query for name, query in wanted.items() if self._views.get(name) != query}

        def change(db: Connection) -> None:
            for name, query in changed.items():
                db.execute(views.statement(name, query))
            save_setting(db, "views", json.dumps(wanted))

        self._write(change, None)
        self._views = wanted


def _interrupt(running: Future[T], cursors: Sequence[Connection]) -> None:
    """Until it ends: an interrupt that comes before its question began is lost."""
    if running.done():
        return
    for cursor in cursors:
        with suppress(duckdb.Error):
            cursor.interrupt()
    asyncio.get_running_loop().call_later(INTERRUPT_EVERY_S, _interrupt, running, cursors)
