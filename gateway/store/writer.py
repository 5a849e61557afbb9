"""What changes the data: one transaction at a time, on the one thread that owns the connection for writing."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from gateway.reading import Message
from gateway.store.backups import transplant
from gateway.store.batch import Batch
from gateway.store.engine import Engine
from gateway.store.errors import StoreDamaged, StoreError, StoreFull
from gateway.store.files import sync_folder
from gateway.store.known import Known, save_setting
from gateway.store.mend import repair
from gateway.store.mend.incidents import Incidents
from gateway.store.schema import SCHEMA, migrate, schema_of
from gateway.store.segments import manifest, parquet, reconcile, seal
from gateway.store.segments.layout import Segment
from gateway.store.segments.view import Shelf, View
from gateway.store.types import Commit
from gateway.store.views import definitions, statement, type_metrics

SAVE_EVERY_BATCHES = 720
"""How often the newest values are written down: an hour of batches, which a start-up after a power cut has to scan."""
LEAST_ROOM_BYTES = 256 << 10
"""Once the medium was full nothing is tried below this: each failure closes the file and opens it again."""
COPY_TRIES = 3
_DURABLE = "COMMIT succeeded and is durable"

log = logging.getLogger(__name__)
T = TypeVar("T")
Connection = duckdb.DuckDBPyConnection


class Writer:
    """Owns the hot file and the list of segments. Synchronous; everything but reading its attributes belongs to the
    writer thread. A failed COMMIT is looked up in the file before anything is said about it."""

    def __init__(self, folder: Path, memory_limit_mb: int, threads: int) -> None:
        self.engine = Engine(folder, memory_limit_mb, threads)
        self.known = Known()
        self.views: dict[str, str] = {}
        self.shelf = Shelf(folder / "segments")
        self.crowded: tuple[int, Callable[[], None]] | None = None
        self.lost_batches: tuple[int, int] | None = None
        self.changes = 0
        self._incidents = Incidents()
        self._telling = False
        self._unsure: tuple[Sequence[Message], Commit] | None = None

    def open(self) -> None:
        self.engine.lock()
        try:
            self._load()
            self._match_disk()
            self._settle()
            if transplant.is_copy(self.engine.writer):
                self.write(lambda db: transplant.tell(db, datetime.now(UTC)), None)
        except BaseException:
            self.engine.disconnect()
            self.engine.unlock()
            raise

    def _load(self) -> None:
        try:
            self._read_in()
        except StoreDamaged:
            self._read_in()  # now with a look at every block, and what is damaged is repaired

    def _read_in(self) -> None:
        self.engine.connect()
        db = self.engine.writer
        try:
            self._copy_before_migrating(db)
            migrate(db, str(self.engine.file))
            self.shelf.reset(manifest.load(db))
            self.known = Known.load(db, self.shelf.segments)
            row = db.execute("select value from setting where name = 'views'").fetchone()
            self.views = json.loads(row[0]) if row else {}
            self._refresh_views()
        except duckdb.Error as error:
            self.engine.disconnect()
            raise self.engine.explain(error) from error

    def _copy_before_migrating(self, db: Connection) -> None:
        """What an older gateway wrote stays beside it as that gateway left it: hot.schema-N.duckdb."""
        number = schema_of(db)
        if 0 < number < SCHEMA:
            self.engine.copy_to(db, self.engine.file.with_name(f"hot.schema-{number}.duckdb"))

    def _match_disk(self) -> None:
        """Make the list of segments equal to what lies on disk, once, before anybody writes there."""
        folder, db = self.shelf.folder, self.engine.writer
        folder.mkdir(exist_ok=True)
        found = reconcile.look(db, folder, self.shelf.segments, self.known.batch)
        reconcile.put_aside(folder, found)
        if found.differs:
            batch = self.known.batch
            self.rearrange(lambda db: seal.forget_sealed(db, found.adopt, batch), found.adopt, found.drop, None)
            self.known = Known.load(db, self.shelf.segments)
            self.known.see_sealed(db, parquet.scan(folder, [each.raw for each in found.adopt if each.raw]), found.adopt)
            self._remember()
        for kind, text, detail in found.events():
            log.warning("%s", text)
            self._event(kind, text, detail)
        reconcile.tidy(folder, found)

    def _settle(self) -> None:
        """After opening: what was repaired or is missing becomes an event; lost batch numbers are not used again."""
        mended, noted = self.engine.mended()
        newest = max((reading.received for reading in self.known.newest.values()), default=None)
        loss = self._incidents.opened(str(self.engine.file), mended, noted, self.known.batch, newest)
        if loss is not None:
            self.lost_batches = (loss.first_batch, loss.last_batch)
            self.known.batch = loss.last_batch
        if (mended or loss is not None) and not self._telling:
            self._tell(remember=True)
        if self.known.batch != noted.batch:
            self._note()

    def _tell(self, *, remember: bool = False) -> None:
        """Write the events that are not written yet; later, where that fails now."""

        def change(db: Connection) -> None:
            self._incidents.write(db)
            if remember:
                self.known.save(db)

        untold = self._incidents.untold
        self._telling = True  # where it fails the file is opened again, and would be told of again
        try:
            self.write(change, None)
        except (StoreError, duckdb.Error) as error:
            log.warning("%d events are written later: %s", len(untold), error)
            return
        finally:
            self._telling = False
        self._incidents.written(untold)
        if remember:
            self.known.newest_batch = self.known.batch

    def _event(self, kind: str, text: str, detail: Mapping[str, Any]) -> None:
        told = [kind, text, json.dumps(detail)]
        self.write(lambda db: db.execute("insert into event values (now()::TIMESTAMP, ?, '', ?, ?)", told), None)

    def close(self) -> None:
        try:
            if self.engine.is_open and self.known.batch > self.known.newest_batch:
                self._remember()
        except StoreError as error:
            log.warning("the newest values were not written down, the next start scans for them: %s", error)
        finally:
            self.engine.disconnect()
            self.engine.unlock()

    def ensure_open(self) -> None:
        """Open again after a failure killed the instance; StoreError while that is not possible."""
        if not self.engine.is_open:
            self._load()
            self._settle()

    def append(self, messages: Sequence[Message]) -> Commit:
        try:
            if self._incidents.is_full and self.engine.room_bytes < LEAST_ROOM_BYTES:
                raise StoreFull(f"no room for {self.engine.file}: free some space on its medium")
            commit = self._append(messages)
        except StoreFull as error:
            self._incidents.full(str(error))
            raise
        self._incidents.stored()
        if self._incidents.untold:
            self._tell()
        return commit

    def _append(self, messages: Sequence[Message]) -> Commit:
        self.ensure_open()
        if self._unsure is not None:
            offered, commit = self._unsure
            self._unsure = None
            if self.known.batch >= commit.batch and list(offered) == list(messages):
                return commit
        try:
            return self._attempt(messages)
        except duckdb.FatalException as error:
            # The instance died between batches; of this batch nothing had been begun.
            log.warning("re-opening %s: %s", self.engine.file, error)
            self.engine.disconnect()
            self.ensure_open()
        try:
            return self._attempt(messages)
        except duckdb.Error as error:
            raise self.engine.explain(error) from error

    def _attempt(self, messages: Sequence[Message]) -> Commit:
        """One try. FatalException: not begun. Other failures of the engine are StoreErrors."""
        batch = self._plan(messages)
        commit = batch.outcome()
        if batch.is_empty:
            return commit
        db = self.engine.writer
        self._in_transaction(db, batch.write)
        try:
            db.execute("commit")
        except duckdb.Error as error:
            return self._find_out(messages, commit, error)
        batch.adopt()
        self.known.hot_rows += commit.stored
        self._note()
        if self.crowded is not None and self.known.hot_rows >= self.crowded[0]:
            self.crowded[1]()
        self.changes += batch.new_names
        self._housekeep(batch.new_names)
        return commit

    def _plan(self, messages: Sequence[Message]) -> Batch:
        known, db = self.known, self.engine.writer
        boots = {(each.device, each.delivery.boot): None for each in messages if each.delivery is not None}
        unknown = [key for key in boots if key not in known.boots]
        batch = Batch(known)
        try:
            if unknown:
                known.load_boots(db, list(boots))
            for message in messages:
                batch.take(message)
            batch.settle(db, View(db, self.shelf.segments, self.shelf.folder).raw)
        except duckdb.FatalException:
            raise
        except duckdb.Error as error:
            raise self.engine.explain(error) from error
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
                raise self.engine.explain(error) from error
            raise

    def _find_out(self, messages: Sequence[Message], commit: Commit, error: duckdb.Error) -> Commit:
        """A COMMIT failed: it may be durable all the same (a checkpoint failed after it). The file knows."""
        self._unsure = (messages, commit)
        log.warning("re-opening %s after a failed COMMIT: %s", self.engine.file, error)
        self.engine.disconnect()
        self.ensure_open()
        self._unsure = None
        if self.known.batch >= commit.batch:
            self._note()
            return commit
        raise self.engine.explain(error) from error

    def write(
        self,
        change: Callable[[Connection], T],
        adopt: Callable[[Known], None] | None,
        committing: AbstractContextManager[None] | None = None,
    ) -> T:
        self.ensure_open()
        db = self.engine.writer
        try:
            result = self._in_transaction(db, change)
        except duckdb.FatalException:
            self.engine.disconnect()
            self.ensure_open()
            db = self.engine.writer
            result = self._in_transaction(db, change)
        try:
            with committing or nullcontext():
                db.execute("commit")
        except duckdb.Error as error:
            self.engine.disconnect()
            self.ensure_open()
            if _DURABLE not in str(error):
                raise self.engine.explain(error) from error
            return result
        self.changes += 1
        if adopt is not None:
            adopt(self.known)
            self._refresh_views()
        return result

    def rearrange(
        self,
        change: Callable[[Connection], T],
        add: Sequence[Segment],
        remove: Sequence[Segment],
        adopt: Callable[[Known], None] | None,
    ) -> T:
        gone = {each.segment_id for each in remove}

        def rearranged(before: tuple[Segment, ...]) -> tuple[Segment, ...]:
            return (*(each for each in before if each.segment_id not in gone), *add)

        def both(db: Connection) -> T:
            result = change(db)
            manifest.remove(db, remove)
            manifest.add(db, add)
            self.known.save(db)
            return result

        result = self.write(both, adopt, self.shelf.change(rearranged))
        self.known.newest_batch = self.known.batch
        if adopt is not None:
            self._remember()
        self._refresh_views()
        return result

    def checkpoint(self) -> None:
        """Fold the log into the file, unless a question is in the way; StoreError where it failed, and the file is open
        again."""
        self.ensure_open()
        try:
            self.engine.writer.execute("checkpoint")
        except duckdb.TransactionException as error:
            log.info("the log is folded later: %s", error)
        except duckdb.Error as error:
            self.engine.disconnect()
            self.ensure_open()
            raise self.engine.explain(error) from error

    def save_copy(self, _cursor: Connection) -> None:
        """From any thread: the file as of its last checkpoint becomes hot.good.duckdb, after every block was read. Not
        a compact one: the log goes with its own file only, and with its log the copy has lost nothing."""
        for _ in range(COPY_TRIES):
            if repair.save_copy(self.engine.file):
                return
        log.warning("no copy was made: %d checkpoints came in between", COPY_TRIES)

    def rebuild(self) -> None:
        """The same rows in a new file under the old name."""
        self.checkpoint()
        fresh = self.engine.file.with_name("hot.rebuilt.duckdb")
        self.engine.copy_to(self.engine.writer, fresh)
        self.engine.disconnect()
        fresh.replace(self.engine.file)
        repair.log_of(self.engine.file).unlink(missing_ok=True)  # if it was not folded: all of it is in the new file
        sync_folder(self.engine.folder)
        self.ensure_open()

    def _note(self) -> None:
        try:
            self.engine.note(self.known.batch)
        except OSError as error:
            log.warning("batch %d is stored, but not noted beside the file: %s", self.known.batch, error)

    def _housekeep(self, new_names: bool) -> None:
        """Work that may follow a COMMIT; its failure takes nothing back."""
        try:
            if new_names:
                self._refresh_views()
            if self.known.batch - self.known.newest_batch >= SAVE_EVERY_BATCHES:
                self._remember()
            self.engine.allow_checkpoints()
            self.engine.extend_log()
        except (StoreError, duckdb.Error) as error:
            log.warning("postponed until the next batch: %s", error)

    def _remember(self) -> None:
        """Write the newest values down and drop what the delivery journal no longer needs."""
        known = self.known
        self.write(known.save, None)
        known.newest_batch = known.batch

    def _refresh_views(self) -> None:
        """Make views anew that change with names or segments; where that fails they stay behind until the next time."""
        known = self.known
        stored = View(self.engine.writer, self.shelf.segments, self.shelf.folder)
        wanted = definitions(type_metrics(known.sensors.values(), known.series.values()), stored)
        prints = {name: sha256(query.encode()).hexdigest()[:16] for name, query in wanted.items()}
        if prints == self.views:
            return

        def change(db: Connection) -> None:
            for name, query in wanted.items():
                if self.views.get(name) != prints[name]:
                    db.execute(statement(name, query))
            save_setting(db, "views", json.dumps(prints))

        try:
            self.write(change, None)
        except (StoreError, duckdb.Error) as error:
            log.warning("the views for assistants are not up to date: %s", error)
        else:
            self.views = prints
