"""Spans of time that a range is cut into: of equal length, or by the clock on the site's wall. Pure.

A day of the site has 23 or 25 hours where the clock is changed, and hours begin at :30 or :45 of UTC in some zones.
Spans are kept as runs of equal ones, so that arithmetic tells the span of a moment.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from zoneinfo import ZoneInfo

from gateway.store import codes
from gateway.store.segments.layout import BUCKET_MS, DAY_MS, HOUR_MS

WEEK_MS = 7 * DAY_MS
MONDAY_MS = 3 * DAY_MS
"""1970-01-01 was a Thursday: weeks are counted from the Monday before."""
LAWS_FROM_MS, LAWS_TO_MS = (codes.to_ms(datetime(year, 1, 1, tzinfo=UTC)) for year in (1970, 2200))
"""Clocks are taken not to change outside of these years."""


@dataclass(frozen=True, slots=True)
class Run:
    """`count` spans of `width_ms` each, the first from `start_ms` on (milliseconds since 1970)."""

    start_ms: int
    width_ms: int
    count: int

    @property
    def end_ms(self) -> int:
        return self.start_ms + self.width_ms * self.count


Spans = tuple[Run, ...]
"""Runs without a hole between them, oldest first."""


def cut(start: datetime, end: datetime, width: timedelta, zone: ZoneInfo | None = None) -> Spans:
    """The spans that cover a range: by the site's clock where a zone is given and the width is whole days, or hours
    that divide one; else of equal length, counted from 1970-01-01 UTC."""
    start_ms, end_ms = codes.bound_ms(start), codes.bound_ms(end)
    width_ms = width // timedelta(milliseconds=1)
    if zone is not None and (width_ms % DAY_MS == 0 or (width_ms % HOUR_MS == 0 and DAY_MS % width_ms == 0)):
        return _runs(_edges(start_ms, end_ms, width_ms, zone))
    first, behind = start_ms // width_ms, -(-end_ms // width_ms)
    return (Run(first * width_ms, width_ms, behind - first),)


def today(now: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The day of the site that holds this moment, as aware UTC: its start, and the start of the next one."""
    moment = codes.from_ms(codes.to_ms(now))
    ((start_ms, end_ms),) = bounds(cut(moment, moment + timedelta(milliseconds=1), timedelta(days=1), zone))
    return codes.from_ms(start_ms), codes.from_ms(end_ms)


def bounds(spans: Spans) -> Iterator[tuple[int, int]]:
    """Start and end (excluded) of each span, in milliseconds."""
    for run in spans:
        for number in range(run.count):
            start_ms = run.start_ms + number * run.width_ms
            yield start_ms, start_ms + run.width_ms


def are_whole_buckets(spans: Spans) -> bool:
    """Whether each span consists of whole 15 minutes of UTC: of whole rollups."""
    return all(run.start_ms % BUCKET_MS == 0 and run.width_ms % BUCKET_MS == 0 for run in spans)


def key(spans: Spans, ms: str) -> str:
    """SQL of the start of the span that holds a moment, both in milliseconds."""
    starts = [f"{run.start_ms} + ({ms} - {run.start_ms}) // {run.width_ms} * {run.width_ms}" for run in spans]
    if len(spans) == 1:
        return starts[0]
    cases = " ".join(f"when {ms} < {run.end_ms} then {start}" for run, start in zip(spans, starts, strict=True))
    return f"case {cases} end"


def _edges(start_ms: int, end_ms: int, width_ms: int, zone: ZoneInfo) -> list[int]:
    """Where the spans begin that cover a range, and where the last one ends.

    A span begins whenever the site's clock first shows its number. An hour is never longer than 60 minutes: what the
    clock shows twice are two; a longer span takes with it what the clock shows again.
    """
    origin_ms = MONDAY_MS if width_ms % WEEK_MS == 0 else 0
    edges: list[int] = []
    number = None
    margin_ms = width_ms + DAY_MS
    for from_ms, to_ms, offset_ms in _offsets(start_ms - margin_ms, end_ms + margin_ms, zone):
        ahead_ms = offset_ms + origin_ms
        full_ms = (from_ms + ahead_ms) // width_ms * width_ms + width_ms - ahead_ms
        for edge_ms in (from_ms, *range(full_ms, to_ms, width_ms)):
            shown = (edge_ms + ahead_ms) // width_ms
            if number is None or shown > number or width_ms == HOUR_MS:
                edges.append(edge_ms)
                number = shown
    first = max(at for at, edge_ms in enumerate(edges) if edge_ms <= start_ms)
    last = min(at for at, edge_ms in enumerate(edges) if edge_ms >= end_ms)
    return edges[first : last + 1]


def _offsets(start_ms: int, end_ms: int, zone: ZoneInfo) -> Iterator[tuple[int, int, int]]:
    """(from, to, how far the site's clock is ahead of UTC then), oldest first, all in milliseconds."""
    from_ms, offset_ms = start_ms, _offset(start_ms, zone)
    known_ms = max(start_ms, LAWS_FROM_MS)
    while known_ms < min(end_ms, LAWS_TO_MS):
        next_ms = min(known_ms + DAY_MS, end_ms)
        if _offset(next_ms, zone) != offset_ms:
            low_ms = known_ms
            while next_ms - low_ms > 1:
                middle_ms = (low_ms + next_ms) // 2
                low_ms, next_ms = (middle_ms, next_ms) if _offset(middle_ms, zone) == offset_ms else (low_ms, middle_ms)
            yield from_ms, next_ms, offset_ms
            from_ms, offset_ms = next_ms, _offset(next_ms, zone)
        known_ms = next_ms
    yield from_ms, end_ms, offset_ms


def _offset(ms: int, zone: ZoneInfo) -> int:
    moment = codes.from_ms(min(max(ms, LAWS_FROM_MS), LAWS_TO_MS))
    return (moment.astimezone(zone).utcoffset() or timedelta()) // timedelta(milliseconds=1)


def _runs(edges: Sequence[int]) -> Spans:
    runs: list[Run] = []
    for width_ms, some in groupby(pairwise(edges), key=lambda pair: pair[1] - pair[0]):
        (start_ms, _), *more = some
        runs.append(Run(start_ms, width_ms, 1 + len(more)))
    return tuple(runs)
