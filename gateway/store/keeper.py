"""The store's housekeeping: seals closed hours, compacts, expires, watches the room that is left, keeps a good copy.

One task, woken by the hour or by a hot file that grows too large. Slow work runs on the store's working thread or in a
child at idle priority; the writer is held up only by the transaction that makes a result true.
"""

import asyncio
import json
import logging
import shutil
import sys
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Never

import duckdb

from gateway.clock import Clock
from gateway.store import codes
from gateway.store.db import Store
from gateway.store.errors import StoreError
from gateway.store.known import Known
from gateway.store.segments import parquet, seal
from gateway.store.segments.layout import DAY_MS, HOUR_MS, Level, Merge, Seal, Segment, month_of, plan
from gateway.store.segments.merge import Job
from gateway.store.types import Event

log = logging.getLogger(__name__)

SEAL_AFTER_S = 90.0
"""So long after the full hour: what was measured before it has arrived."""
HELD_IN = ("dated", "reading", "newest")
ALL_MS = 253_402_300_800_000  # the year 10000
KEEP_IN_DAYS_BELOW = 62
"""Raw readings that live shorter than this many days stay in day files, so that they can go day by day."""
SPARE_MB = 16


@dataclass(frozen=True, slots=True)
class Retention:
    """Raw readings of a metric, a device, or both (None: any) live so many days; rollups stay for ever."""

    raw_days: int
    metric: str | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Keeping:
    """`hot_rows` is what the hot file may hold before the hour is over. Below `warn_free_mb` an event says so, below
    `least_free_mb` the oldest raw readings give way. Undated rows wait `undated_days` for their time."""

    hot_rows: int = 500_000
    undated_days: float = 7.0
    retention: tuple[Retention, ...] = ()
    warn_free_mb: int = 1024
    least_free_mb: int = 256
    merge_memory_mb: int = 96


class Keeper:
    """Keeps one open store; every method leaves it consistent, whatever happens meanwhile."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        settings: Keeping = Keeping(),
        note: Callable[[Event], None] = lambda _event: None,
        merge: Callable[[Job], Awaitable[list[tuple[str, str]]]] | None = None,
    ) -> None:
        self._merge = merge or run_child
        self._store, self._clock, self._settings, self._note = store, clock, settings, note
        self._busy = asyncio.Lock()
        self._wake = asyncio.Event()
        self._free_id = 0
        self._warned = False

    async def run(self) -> Never:
        """For ever: after each full hour, and whenever the hot file is crowded."""
        loop = asyncio.get_running_loop()
        self._store.when_crowded(self._settings.hot_rows, lambda: _wake(loop, self._wake))
        try:
            while True:
                await self.keep()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._until_due_s()):
                        await self._wake.wait()
                self._wake.clear()
        finally:
            self._store.when_crowded(0, None)

    async def keep(self) -> None:
        """Everything that is due now; what fails is told and tried again the next time."""
        try:
            sealed = await self.seal()
            merged = await self.compact()
            merged += await self.expire()
            merged += await self.make_room()
            if sealed or merged or not self._store.has_copy:
                await self.save_copy()
        except (StoreError, duckdb.Error, OSError, seal.HotChanged) as error:
            log.warning("housekeeping is tried again: %s", error)
            self._tell("store_problem", f"housekeeping is tried again: {error}")

    async def seal(self, *, everything: bool = False) -> int:
        """Seal closed hours (all rows where the hot file is crowded, or on request); the rows that were sealed."""
        async with self._busy:
            now_ms = codes.to_ms(self._clock.now())
            crowded = everything
            undated_ms = now_ms - int(self._settings.undated_days * DAY_MS)
            taken = 0
            if self._clock.trusted() and not everything:
                taken = await self._seal(Seal(self._store.batch, now_ms - now_ms % HOUR_MS, undated_ms), now_ms)
                crowded = self._store.known.hot_rows >= self._settings.hot_rows
            if crowded:
                taken += await self._seal(Seal(self._store.batch, ALL_MS, undated_ms), now_ms)
            if everything or self._store.known.hot_rows >= self._settings.hot_rows:
                taken += await self._seal(Seal(self._store.batch, ALL_MS, ALL_MS), now_ms)
            if taken:
                await self._store.checkpoint()
            return taken

    async def compact(self) -> int:
        """Merge what has become mergeable; how many merges that were."""
        done = 0
        while (merge := self._next_merge()) is not None:
            async with self._busy:
                await self._rewrite(merge.inputs, merge.level, expire=self._due(merge.inputs))
            done += 1
        return done

    async def expire(self) -> int:
        """Let raw readings go that have outlived their days; how many segments lost some."""
        done = 0
        for segment in self._store.segments:
            due = tuple(one for one in self._due((segment,)) if one not in segment.expired) if segment.raw else ()
            if due:
                async with self._busy:
                    await self._rewrite((segment,), segment.level, expire=due)
                done += 1
        return done

    async def make_room(self) -> int:
        """Where the medium is nearly full: warn, then let the oldest raw readings go, never those of the last day."""
        done = 0
        free = self._free_mb()
        if free < self._settings.warn_free_mb and not self._warned:
            self._tell("disk", f"only {free} MB are free beside the data: make room, or give raw readings fewer days")
        self._warned = free < self._settings.warn_free_mb * (1.25 if self._warned else 1)
        while self._free_mb() < self._settings.least_free_mb and (oldest := self._oldest_raw()) is not None:
            first, last = codes.from_ms(oldest.first_ms), codes.from_ms(oldest.last_ms)
            async with self._busy:
                await self._rewrite((oldest,), oldest.level, expire=None)
            self._tell("disk", f"raw readings of {first:%F %R} to {last:%F %R} UTC gave way; their rollups remain")
            done += 1
        return done

    async def delete_readings(self, series: Collection[int]) -> None:
        """Every reading and rollup of these series goes: out of the hot file, out of every segment, and from the blocks
        that the hot file no longer uses."""
        gone = tuple(sorted(series))
        async with self._busy:
            for segment in self._store.segments:
                if segment.overlaps(None, None, gone):
                    await self._rewrite((segment,), segment.level, drop=gone)

            def change(db: duckdb.DuckDBPyConnection) -> None:
                for table in HELD_IN:
                    db.execute(f"delete from {table} where list_contains($1::INTEGER[], series_id)", [list(gone)])  # noqa: S608

            await self._store.rearrange(change, adopt=lambda known: known.forget_values(gone))
            await self._store.rebuild()
            self._drop_evidence()
        await self.save_copy()

    async def mark(self, series: Collection[int], start_ms: int, end_ms: int, quality: int) -> None:
        """Correct how far readings of a range (end excluded) may be believed; rollups follow. `quality` as packed by
        `codes.pack`. Where raw readings have expired their rollups stay as they are."""
        marks = tuple((one, start_ms, end_ms, quality) for one in sorted(series))
        async with self._busy:
            for segment in self._store.segments:
                if segment.raw and segment.overlaps(start_ms, end_ms, series):
                    await self._rewrite((segment,), segment.level, marks=marks)

            def change(db: duckdb.DuckDBPyConnection) -> None:
                for table in HELD_IN:
                    db.execute(
                        f"""update {table} set quality = $4 where list_contains($1::INTEGER[], series_id)
                            and epoch_ms(ts) >= $2 and epoch_ms(ts) < $3""",  # noqa: S608
                        [list(series), start_ms, end_ms, quality],
                    )

            await self._store.rearrange(change, adopt=lambda known: known.requalify(marks))

    async def save_copy(self) -> None:
        """Put a copy of the hot file aside that a damaged one is replaced by: hot.good.duckdb."""
        await self._store.save_copy()

    def _drop_evidence(self) -> None:
        """Files that a repair or a migration put aside may hold what is to be gone."""
        for pattern in ("*.damaged*", "hot.schema-*", "segments/*.damaged"):
            for file in self._store.folder.glob(pattern):
                file.unlink()
                self._tell("deleted", f"{file.name}, which had been put aside, went with the readings")

    def _until_due_s(self) -> float:
        now = self._clock.now()
        due = now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1, seconds=SEAL_AFTER_S)
        return max(1.0, (due - now).total_seconds())

    async def _seal(self, what: Seal, now_ms: int) -> int:
        first_id = self._next_id()
        sealed = await self._store.work(lambda view: seal.write(view, what, first_id, now_ms))
        if not sealed.rows:
            return 0
        self._free_id = first_id + len(sealed.segments)
        rows = sealed.rows

        def adopt(known: Known) -> None:
            known.hot_rows -= rows

        try:
            await self._store.rearrange(lambda db: seal.settle(db, sealed), sealed.segments, adopt=adopt)
        except seal.HotChanged:
            seal.discard(self._store.segments_folder, sealed.segments)
            raise
        return rows

    def _next_merge(self) -> Merge | None:
        now_ms = codes.to_ms(self._clock.now())
        if not self._clock.trusted():
            return None
        short = any(each.raw_days < KEEP_IN_DAYS_BELOW for each in self._settings.retention)
        keep_days = {month_of(each.first_ms) for each in self._store.segments} if short else ()
        merge = plan(self._store.segments, now_ms, keep_days)
        if merge is None:
            return None
        need = sum(each.raw_bytes + each.roll_bytes for each in merge.inputs)
        return merge if self._free_mb() - SPARE_MB > need >> 20 else None

    async def _rewrite(
        self,
        inputs: Sequence[Segment],
        level: Level,
        *,
        drop: tuple[int, ...] = (),
        expire: tuple[int, ...] | None = (),
        marks: tuple[tuple[int, int, int, int], ...] = (),
    ) -> None:
        """Replace these segments by what a child makes of them."""
        folder = self._store.segments_folder
        now_ms = codes.to_ms(self._clock.now())
        job = Job(
            str(folder),
            self._settings.merge_memory_mb,
            level,
            self._next_id(),
            now_ms,
            tuple(inputs),
            drop,
            expire,
            marks,
        )
        try:
            names = await self._merge(job)
        except BaseException:
            self._discard_from(job.next_id)
            raise
        self._free_id = job.next_id + len(names)

        made = await self._store.work(lambda view: [parquet.inspect(view.db, folder, raw, roll) for raw, roll in names])
        await self._store.rearrange(lambda _db: None, made, inputs)

    def _discard_from(self, first_id: int) -> None:
        """What a merge wrote that did not come to its end; its numbers are given again."""
        folder = self._store.segments_folder
        names = [file.name for file in folder.iterdir()]
        found = [name for name in names if (match := parquet.NAME.fullmatch(name)) and int(match[1]) >= first_id]
        parquet.discard(folder, found)

    def _next_id(self) -> int:
        if not self._free_id:
            taken = [each.segment_id for each in self._store.segments]
            taken += [
                int(match[1])
                for each in self._store.segments_folder.iterdir()
                if (match := parquet.NAME.fullmatch(each.name))
            ]
            self._free_id = max(taken, default=0) + 1
        return self._free_id

    def _due(self, segments: Sequence[Segment]) -> tuple[int, ...]:
        """The series of these segments whose raw readings have all outlived their days."""
        if not self._settings.retention or not self._clock.trusted():
            return ()
        last_ms = max(each.last_ms for each in segments)
        first, last = min(each.first_series for each in segments), max(each.last_series for each in segments)
        expiry = self._expiry(codes.to_ms(self._clock.now()))
        return tuple(one for one, before_ms in expiry.items() if first <= one <= last and last_ms < before_ms)

    def _expiry(self, now_ms: int) -> dict[int, int]:
        """For each series with a limit the moment before which its raw readings go; the first rule that fits counts."""
        found = {}
        for series_id, series in self._store.series().items():
            for rule in self._settings.retention:
                if rule.metric in {None, series.metric} and rule.device in {None, series.device}:
                    found[series_id] = now_ms - rule.raw_days * DAY_MS
                    break
        return found

    def _oldest_raw(self) -> Segment | None:
        last_ms = codes.to_ms(self._clock.now()) - DAY_MS
        old = [each for each in self._store.segments if each.raw and each.last_ms < last_ms]
        return min(old, key=lambda each: each.first_ms, default=None)

    def _free_mb(self) -> int:
        return shutil.disk_usage(self._store.folder).free >> 20

    def _tell(self, kind: str, text: str) -> None:
        self._note(Event(self._clock.now(), kind, "", text))


async def run_child(job: Job) -> list[tuple[str, str]]:
    """The (raw, roll) names that the child wrote; StoreError with its words where it failed."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway.store.segments.merge",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, complaint = await child.communicate(job.text().encode() + b"\n")
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        raise StoreError(
            f"segments could not be merged ({complaint.decode(errors='replace').strip() or child.returncode})"
        )
    return [(raw, roll) for raw, roll in map(json.loads, output.splitlines())]


def _wake(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    loop.call_soon_threadsafe(event.set)
