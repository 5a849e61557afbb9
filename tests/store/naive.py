"""The answers of `queries` about one series, from a list in memory: slow, plain, and made another way."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from statistics import fmean, stdev
from typing import NamedTuple
from zoneinfo import ZoneInfo

from drivers.model import Quality
from gateway.store import codes
from gateway.store.queries.pieces import Pieces
from gateway.store.segments.layout import BUCKET_MS

MINUTE_MS = 60_000


class Row(NamedTuple):
    """A stored reading; the quality as its class."""

    ms: int
    value: float | None
    quality: Quality

    @property
    def usable(self) -> float | None:
        return self.value if self.quality < Quality.BAD else None


class Cell(NamedTuple):
    """What an answer knows of one time: a reading, or 15 minutes of them."""

    ms: int
    rows: tuple[Row, ...]
    is_rolled: bool


def cells(rows: Sequence[Row], of: Pieces) -> list[Cell]:
    """What of all rows that were ever stored an answer made of these pieces sees, in order."""
    found: list[Cell] = []
    buckets: dict[int, list[Row]] = {}
    for row in ordered(rows):
        bucket_ms = row.ms // BUCKET_MS * BUCKET_MS
        if of.rolled is not None and of.rolled[0] <= bucket_ms < of.rolled[1]:
            buckets.setdefault(bucket_ms, []).append(row)
        elif any(start_ms <= row.ms < end_ms for start_ms, end_ms in of.raw):
            found.append(Cell(row.ms, (row,), False))
    found += [Cell(bucket_ms, tuple(inside), True) for bucket_ms, inside in buckets.items()]
    return sorted(found, key=lambda cell: cell.ms)


def seen(found: Sequence[Cell]) -> list[Row]:
    """Their readings, in order."""
    return [row for cell in found for row in cell.rows]


def ordered(rows: Sequence[Row]) -> list[Row]:
    """By time; of one time by value, the empty one first."""
    return sorted(rows, key=lambda row: (row.ms, row.value is not None, row.value or 0.0, row.quality))


def values(rows: Sequence[Row]) -> list[float]:
    """The usable ones, in order."""
    return [row.usable for row in rows if row.usable is not None]


def quantile(some: Sequence[float], share: float) -> float | None:
    """Between neighbours in proportion."""
    if not some:
        return None
    in_order = sorted(some)
    place = share * (len(in_order) - 1)
    low, high = in_order[math.floor(place)], in_order[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def spread(some: Sequence[float]) -> float | None:
    return stdev(some) if len(some) > 1 else None


def means(cells: Sequence[Cell]) -> list[float]:
    """Of each quarter of an hour."""
    found: dict[int, list[float]] = {}
    for cell in cells:
        found.setdefault(cell.ms // BUCKET_MS, []).extend(values(cell.rows))
    return [fmean(some) for some in found.values() if some]


def grouped(cells: Sequence[Cell], span: Callable[[int], int]) -> dict[int, list[Row]]:
    """The rows of each span that holds a usable one, by its start."""
    found: dict[int, list[Row]] = {}
    for cell in cells:
        found.setdefault(span(cell.ms), []).extend(cell.rows)
    return {start: rows for start, rows in sorted(found.items()) if values(rows)}


def hour_of(zone: ZoneInfo) -> Callable[[int], int]:
    """When the hour began that the site's clock shows, minute by minute."""

    def label(ms: int) -> tuple[object, ...]:
        shown = codes.from_ms(ms).astimezone(zone)
        return shown.date(), shown.hour, shown.utcoffset()

    return lambda ms: _began(ms, label)


def day_of(zone: ZoneInfo) -> Callable[[int], int]:
    """When the site's day began."""
    return lambda ms: _began(ms, lambda at: (codes.from_ms(at).astimezone(zone).date(),))


def _began(ms: int, label: Callable[[int], tuple[object, ...]]) -> int:
    ms -= ms % MINUTE_MS
    shown = label(ms)
    while label(ms - MINUTE_MS) == shown:
        ms -= MINUTE_MS
    return ms


def steps(cells: Sequence[Cell]) -> list[float]:
    """How far readings are apart: of several in a bucket their even distance."""
    found: list[float] = []
    before: int | None = None
    for cell in cells:
        at = last_ms(cell)
        if len(cell.rows) > 1:
            found.append(BUCKET_MS / len(cell.rows))
        elif before is not None and at > before:
            found.append(at - before)
        before = at
    return sorted(found)


def interval(cells: Sequence[Cell]) -> timedelta | None:
    """The usual one: that in the middle."""
    found = steps(cells)
    return timedelta(milliseconds=found[(len(found) - 1) // 2]) if found else None


def last_ms(cell: Cell) -> int:
    """When its last usable reading was; of a bucket without one its start."""
    if not cell.is_rolled:
        return cell.ms
    return max((row.ms for row in cell.rows if row.usable is not None), default=cell.ms)


def silences(cells: Sequence[Cell], end_ms: int, factor: float) -> Counter[tuple[int, int]]:
    """(from, to) in milliseconds of every time that is longer than `factor` usual intervals."""
    usual = interval(cells)
    if usual is None:
        return Counter()
    edges = []
    quiet_from = None
    for cell in cells:
        if quiet_from is not None:
            edges.append((quiet_from, cell.ms))
        bad_last = cell.is_rolled and any(row.usable is None for row in cell.rows)
        until = cell.ms + BUCKET_MS if bad_last else last_ms(cell)
        quiet_from = until if quiet_from is None else max(quiet_from, until)
    if quiet_from is not None:
        edges.append((quiet_from, end_ms))
    return Counter(edge for edge in edges if edge[1] - edge[0] > factor * usual / timedelta(milliseconds=1))
