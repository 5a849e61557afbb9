"""Which part of a range is answered from readings and which from rollups, and both as rows of one kind.

Readings are exact and take time; rollups know 15 minutes at a time. Those are used where readings have expired, and for
all whole quarters of an hour of a range that holds more readings than should be looked through.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.store import codes
from gateway.store.cells import of_readings, of_rollups
from gateway.store.db import Store
from gateway.store.segments import parquet
from gateway.store.segments.layout import BUCKET_MS, Segment
from gateway.store.segments.view import View
from gateway.store.types import Point, Source

AT_ONCE = 1_000_000
"""Readings that are looked through for one answer where there is a choice (tune)."""

Ids = Collection[int] | None
"""Series by their ids; None means all."""
Range = tuple[int, int]
"""Milliseconds since 1970, the end is excluded."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """A range: `raw` parts of it are answered from readings, `rolled` from the rollups of the buckets that begin in it.
    Readings from before `gone_ms` have expired; `expired` where that concerns its beginning, which is then that of a
    bucket."""

    raw: tuple[Range, ...]
    rolled: Range | None
    gone_ms: int
    expired: bool

    @property
    def source(self) -> Source:
        if self.rolled is None:
            return "raw"
        return "raw+rollup" if self.raw else "rollup"

    @property
    def resolution(self) -> timedelta:
        """How exactly the range's bounds are known."""
        return timedelta(milliseconds=BUCKET_MS) if self.expired else timedelta(0)

    @property
    def of_times(self) -> timedelta:
        """How exactly times within it are known."""
        return timedelta(milliseconds=BUCKET_MS) if self.rolled is not None else self.resolution


def bounds(start: datetime, end: datetime) -> Range:
    """The milliseconds within; ValueError where there are none in between."""
    low, high = codes.bound_ms(start), codes.bound_ms(end)
    if start >= end:
        raise ValueError(f"start {start.isoformat()} is not before end {end.isoformat()}: swap them or widen the range")
    return low, high


def known(store: Store, series_id: int) -> int:
    """The same number; LookupError where there is no such series."""
    if series_id not in store.series():
        raise LookupError(f"series {series_id} does not exist: find_series names those that do")
    return series_id


def pieces(view: View, series: Ids, within: Range, at_once: float | None = None) -> Pieces:
    """How a range of these series is answered: from rollups where readings have expired, and where rollup files stand
    for more than `at_once` readings (AT_ONCE); from readings all else, the edges that no whole bucket covers too."""
    start_ms, end_ms = within
    low_ms, gone_ms = _up(start_ms), _gone_ms(view, series)
    expired = gone_ms > start_ms
    high_ms = min(_up(gone_ms), _up(end_ms)) if expired else low_ms
    if about(view, series, within, rolled=True) > (AT_ONCE if at_once is None else at_once):
        high_ms = max(high_ms, _down(end_ms))
    if high_ms > low_ms:
        raw = [(start_ms, start_ms if expired else low_ms), (high_ms, end_ms)]
        some = tuple(each for each in raw if each[0] < each[1])
        return Pieces(some, (low_ms, high_ms), gone_ms, expired)
    return Pieces(((low_ms if expired else start_ms, end_ms),), None, gone_ms, expired)


def about(view: View, series: Ids, within: Range, *, rolled: bool = False) -> float:
    """About how many sealed readings of these series a range has, or how many of them rollup files stand for."""
    start_ms, end_ms = within
    rows = 0.0
    for each in view.segments:
        if (each.roll if rolled else each.raw) and each.overlaps(start_ms, end_ms, series):
            held = range(each.first_series, each.last_series + 1)
            asked = len(held) if series is None else sum(one in held for one in series)
            shared_ms = min(end_ms, each.last_ms + 1) - max(start_ms, each.first_ms)
            rows += each.rows * asked / len(held) * shared_ms / (each.last_ms + 1 - each.first_ms)
    return rows


def cells(view: View, series: Ids, of: Pieces, *, merge: bool = False) -> str:
    """SQL of what the pieces hold as `cells` (see there), to stand after FROM; with `merge` one row a bucket."""
    parts = [of_readings(view.raw(series, *piece)) for piece in of.raw]
    if of.rolled is not None:
        partials = view.rollup(series, *of.rolled)
        parts.append(of_rollups(parquet.merged(partials) if merge else partials))
    return parquet.union(parts)


def point(ms: int, value: float | None, quality: int) -> Point:
    """As it is answered."""
    return Point(codes.from_ms(ms), value, *codes.unpack(quality))


def _gone_ms(view: View, series: Ids) -> int:
    """Readings of some of these series from before this moment have expired, or may have. 0: none."""
    return max((each.last_ms + BUCKET_MS for each in view.segments if _lacks(each, series)), default=0)


def _lacks(segment: Segment, series: Ids) -> bool:
    if not segment.raw:
        return segment.overlaps(None, None, series)
    return bool(segment.expired) and (series is None or not set(segment.expired).isdisjoint(series))


def _down(ms: int) -> int:
    return ms - ms % BUCKET_MS


def _up(ms: int) -> int:
    return -(-ms // BUCKET_MS) * BUCKET_MS
