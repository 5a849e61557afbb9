"""One consistent look at all readings: the hot rows of one moment and the segments of the same moment."""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from gateway.store.segments import parquet
from gateway.store.segments.layout import BUCKET_MS, Segment

HOT = """(select series_id, ts, value, quality from dated
    union all select series_id, ts, value, quality from reading)"""
"""SQL of the rows that are not sealed, to stand after FROM: those with a known time, and those without."""


@dataclass(frozen=True, slots=True)
class View:
    """What a question sees: `db` inside a read transaction, and the segments that belong to it.

    The methods give SQL to stand after FROM. Ranges are in milliseconds since 1970, their end is excluded and None is
    open; `series` are ids, None means all.
    """

    db: duckdb.DuckDBPyConnection
    segments: tuple[Segment, ...]
    folder: Path

    def raw(self, series: Collection[int] | None = None, start_ms: int | None = None, end_ms: int | None = None) -> str:
        """Rows of series_id, ts, value, quality that are stored as they were measured."""
        where = _where("ts", series, start_ms, end_ms)
        parts = [f"(select * from {HOT} {where})"]  # noqa: S608
        names = [each.raw for each in self._of(series, start_ms, end_ms) if each.raw]
        if names:
            parts.append(f"(select series_id, ts, value, quality from {parquet.scan(self.folder, names)} {where})")  # noqa: S608
        return parquet.union(parts)

    def rollup(
        self, series: Collection[int] | None = None, start_ms: int | None = None, end_ms: int | None = None
    ) -> str:
        """Rollups of the buckets that begin in the range; several rows of a bucket are to be merged."""
        where = _where("bucket", series, start_ms, end_ms)
        last_ms = None if end_ms is None else -(-end_ms // BUCKET_MS) * BUCKET_MS
        first_ms = None if start_ms is None else -(-start_ms // BUCKET_MS) * BUCKET_MS
        of_raw = _where("ts", series, first_ms, last_ms)
        found = self._of(series, start_ms, end_ms)
        rolls, raws = [each.roll for each in found if each.roll], [each.raw for each in found if not each.roll]
        rows = [f"(select * from {HOT} {of_raw})"]  # noqa: S608
        if raws:
            rows.append(f"(select series_id, ts, value, quality from {parquet.scan(self.folder, raws)} {of_raw})")  # noqa: S608
        parts = [parquet.rollup_of(each) for each in rows]
        if rolls:
            stored = parquet.scan(self.folder, rolls, parquet.ROLL_COLUMNS)
            parts.append(f"(select {parquet.ROLL_COLUMNS} from {stored} {where})")  # noqa: S608
        return parquet.union([f"(select {parquet.ROLL_COLUMNS} from {part})" for part in parts])  # noqa: S608

    def raw_from_ms(self, series_id: int) -> int:
        """Raw readings of this series from before this moment have expired, or may have: rollups remain. 0: none."""
        gone = [
            each.last_ms + BUCKET_MS
            for each in self._of([series_id], None, None)
            if not each.raw or series_id in each.expired
        ]
        return max(gone, default=0)

    def _of(self, series: Collection[int] | None, start_ms: int | None, end_ms: int | None) -> Sequence[Segment]:
        if start_ms is not None:
            start_ms -= BUCKET_MS  # a rollup file's last row is the start of a bucket
        return [each for each in self.segments if each.overlaps(start_ms, end_ms, series)]


class Shelf:
    """The segments of now, and who still reads earlier ones. Any thread; a file goes when nobody can need it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._generation = 0
        self._segments: tuple[Segment, ...] = ()
        self._held: Counter[int] = Counter()
        self._doomed: list[tuple[int, tuple[str, ...]]] = []

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments of now, by their id."""
        return self._segments

    @property
    def generation(self) -> int:
        """How often the segments changed, or readings that had been stored before."""
        return self._generation

    @contextmanager
    def hold(self, begin: Callable[[], object]) -> Iterator[tuple[Segment, ...]]:
        """The segments that belong to what `begin` opens: no change of both can come between."""
        with self._lock:
            begin()
            generation, segments = self._generation, self._segments
            self._held[generation] += 1
        try:
            yield segments
        finally:
            with self._lock:
                self._held[generation] -= 1
                if not self._held[generation]:
                    del self._held[generation]
            self._clear()

    @contextmanager
    def change(self, segments: Callable[[tuple[Segment, ...]], tuple[Segment, ...]]) -> Iterator[None]:
        """The body commits; after it these are the segments, and files of those that are gone are removed in time."""
        with self._lock:
            yield
            before = self._segments
            self._segments = tuple(sorted(segments(before), key=lambda each: each.segment_id))
            self._generation += 1
            kept = {name for each in self._segments for name in each.files}
            gone = tuple(name for each in before for name in each.files if name not in kept)
            if gone:
                self._doomed.append((self._generation, gone))
        self._clear()

    def reset(self, segments: Sequence[Segment]) -> None:
        """After the file was opened (again): these are what it lists."""
        with self.change(lambda _before: tuple(segments)):
            pass

    def _clear(self) -> None:
        with self._lock:
            oldest = min(self._held, default=self._generation)
            free = [names for generation, names in self._doomed if generation <= oldest]
            self._doomed = [each for each in self._doomed if each[0] > oldest]
        for names in free:
            parquet.discard(self.folder, names)


def _where(column: str, series: Collection[int] | None, start_ms: int | None, end_ms: int | None) -> str:
    terms = []
    if series is not None:
        ids = sorted(set(series))
        terms.append(
            f"series_id = {ids[0]}"
            if len(ids) == 1
            else f"series_id in ({', '.join(map(str, ids))})"
            if ids
            else "false"
        )
    if start_ms is not None:
        terms.append(f"{column} >= make_timestamp_ms({start_ms})::TIMESTAMP_MS")
    if end_ms is not None:
        terms.append(f"{column} < make_timestamp_ms({end_ms})::TIMESTAMP_MS")
    return "where " + " and ".join(terms) if terms else ""
