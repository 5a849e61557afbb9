"""The store: one writer thread, one transaction a batch, acknowledged after its COMMIT."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import duckdb

from gateway.reading import Message, Reading
from gateway.store import views
from gateway.store.engine import INTERRUPT_EVERY_S
from gateway.store.errors import StoreClosed
from gateway.store.known import Known
from gateway.store.mend.repair import GOOD_COPY
from gateway.store.segments.layout import Segment
from gateway.store.segments.view import View
from gateway.store.types import Commit, Series
from gateway.store.writer import Writer

READ_ONLY = "begin transaction read only"
"""Any other transaction keeps the log from being folded."""

T = TypeVar("T")
Connection = duckdb.DuckDBPyConnection


class Store:
    """Owner of the data folder: `async with Store(folder) as store`. One per folder and machine."""

    def __init__(self, folder: Path, *, memory_limit_mb: int = 128, threads: int = 2) -> None:
        self._writer = Writer(folder, memory_limit_mb, threads)
        self._writing: ThreadPoolExecutor | None = None
        self._reading: ThreadPoolExecutor | None = None
        self._working: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        """Open or create the data; StoreError says in one line why not and what to do."""
        self._writing = ThreadPoolExecutor(1, "store-writer")
        self._reading = ThreadPoolExecutor(2, "store-reader")
        self._working = ThreadPoolExecutor(1, "store-keeper")
        try:
            await self._on_writer(self._writer.open)
        except BaseException:
            self._stop_threads()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the newest values down and close the file; what was appended is on disk already."""
        try:
            await self._on_writer(self._writer.close)
        finally:
            self._stop_threads()

    @property
    def folder(self) -> Path:
        return self._writer.engine.folder

    @property
    def segments_folder(self) -> Path:
        """Where sealed readings lie."""
        return self._writer.shelf.folder

    @property
    def lost_batches(self) -> tuple[int, int] | None:
        """Batches (first, last) that were committed once and are not in the file that was opened."""
        return self._writer.lost_batches

    @property
    def batch(self) -> int:
        """Number of the last committed batch; continues over restarts."""
        return self._writer.known.batch

    @property
    def version(self) -> tuple[int, int]:
        """(of segments and stored readings, of the small tables): each grows right after a change of them, so what was
        looked at after asking is at least that new. Appended and re-dated readings change neither."""
        return self._writer.shelf.generation, self._writer.changes

    @property
    def known(self) -> Known:
        """What is remembered of the file; read it through `queries` where they can answer."""
        return self._writer.known

    def newest(self) -> Mapping[int, Reading]:
        """Newest reading of each series by its id: greatest time, the later arrival among equals; from memory."""
        return self._writer.known.newest

    def series(self) -> Mapping[int, Series]:
        """Every series by its id."""
        return self._writer.known.series

    @property
    def segments(self) -> tuple[Segment, ...]:
        """What is sealed now, by number."""
        return self._writer.shelf.segments

    @property
    def view_names(self) -> frozenset[str]:
        """The views that exist for assistants."""
        return frozenset(self._writer.views) - views.HIDDEN

    async def append(self, messages: Sequence[Message]) -> Commit:
        """Store what is not stored yet, all or nothing; returns after COMMIT (synced). Counts are in readings.

        StoreError: nothing of it was stored (where even that is unknown, offering the same messages again finds out).
        ValueError: a message breaks `delivery.check`, or a time has no zone; nothing was stored.
        """
        return await self._on_writer(lambda: self._writer.append(messages))

    async def write(self, change: Callable[[Connection], T], adopt: Callable[[Known], None] | None = None) -> T:
        """Change small tables in one transaction; `adopt` tells memory of it after the COMMIT. For commands.py."""
        return await self._on_writer(lambda: self._writer.write(change, adopt))

    async def read(self, question: Callable[[Connection], T]) -> T:
        """Answer a question about the small tables on a reader thread with a connection of its own; a cancelled one is
        interrupted."""
        return await self._answer(self._reading, question)

    async def ask(self, question: Callable[[View], T]) -> T:
        """Answer a question about readings, hot and sealed ones as of one moment; else as `read`."""
        return await self._answer(self._reading, lambda cursor: self._viewed(cursor, question, READ_ONLY))

    async def work(self, job: Callable[[View], T]) -> T:
        """As `ask`, on the one thread for long work: what it waits for delays no question."""
        return await self._answer(self._working, lambda cursor: self._viewed(cursor, job, "begin"))

    async def rearrange(
        self,
        change: Callable[[Connection], T],
        add: Sequence[Segment] = (),
        remove: Sequence[Segment] = (),
        adopt: Callable[[Known], None] | None = None,
    ) -> T:
        """Move readings between hot rows and segments: `change`, and the list of segments, in one transaction. Files of
        removed segments go when their last reader has finished. After a StoreError the next start decides."""
        return await self._on_writer(lambda: self._writer.rearrange(change, add, remove, adopt))

    async def checkpoint(self) -> None:
        """Fold the log into the hot file: right after rows have left it costs least."""
        await self._on_writer(self._writer.checkpoint)

    async def save_copy(self) -> None:
        """Make hot.good.duckdb, the hot file as of now, which takes its place when that is damaged."""
        await self._on_writer(self._writer.checkpoint)
        await self._answer(self._working, self._writer.save_copy)

    @property
    def has_copy(self) -> bool:
        """Whether there is a last good copy of the hot file."""
        return self._writer.engine.file.with_name(GOOD_COPY).exists()

    async def rebuild(self) -> None:
        """Write the hot file anew, so that what was deleted is in none of its blocks; running questions fail once."""
        await self._on_writer(self._writer.rebuild)

    def when_crowded(self, rows: int, call: Callable[[], None] | None) -> None:
        """Call this (on the writer thread) after each batch that leaves at least so many hot rows."""
        self._writer.crowded = None if call is None else (rows, call)

    async def _answer(self, executor: ThreadPoolExecutor | None, question: Callable[[Connection], T]) -> T:
        if executor is None:
            raise StoreClosed(f"{self.folder} is not open: use the store inside its `async with`")
        if not self._writer.engine.is_open:
            await self._on_writer(self._writer.ensure_open)
        cursors: list[Connection] = []

        def answer() -> T:
            with self._writer.engine.reader() as cursor:
                cursors.append(cursor)
                return question(cursor)

        running = executor.submit(answer)
        try:
            return await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            _interrupt(running, cursors)
            raise

    def _viewed(self, cursor: Connection, question: Callable[[View], T], how: str) -> T:
        def begin() -> None:
            cursor.execute(how)
            cursor.execute("select 1 from dated limit 1").fetchall()  # the snapshot is taken at the first look

        with self._writer.shelf.hold(begin) as segments:
            try:
                return question(View(cursor, segments, self._writer.shelf.folder))
            finally:
                with suppress(duckdb.Error):
                    cursor.execute("rollback")

    async def _on_writer(self, job: Callable[[], T]) -> T:
        if self._writing is None:
            raise StoreClosed(f"{self.folder} is not open: use the store inside its `async with`")
        return await asyncio.get_running_loop().run_in_executor(self._writing, job)

    def _stop_threads(self) -> None:
        for executor in (self._writing, self._reading, self._working):
            if executor is not None:
                executor.shutdown(wait=True)
        self._writing = self._reading = self._working = None


def _interrupt(running: Future[T], cursors: Sequence[Connection]) -> None:
    """Until it ends: an interrupt that comes before its question began is lost."""
    if running.done():
        return
    for cursor in cursors:
        with suppress(duckdb.Error):
            cursor.interrupt()
    asyncio.get_running_loop().call_later(INTERRUPT_EVERY_S, _interrupt, running, cursors)
