"""What a segment is, and which segments should become one. Pure."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby

from gateway.store import codes

ANCESTORS = 2000
"""A month of hours is 744."""
BUCKET_MS = 900_000
"""Width of a rollup: 15 minutes divide the hours and days of every time zone on earth."""
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
DAY_CLOSED_AFTER_MS = HOUR_MS
MONTH_CLOSED_AFTER_MS = DAY_MS
LATE_SHARE = 0.05
LATE_FILES = 16
"""Late rows join their month again once they are this share of it, or came in this many files."""


class Level(IntEnum):
    """How far a segment has been compacted. Its rows lie in one UTC day or month; an hour's name is its usual age."""

    HOUR = 0
    DAY = 1
    MONTH = 2


@dataclass(frozen=True, slots=True, order=True)
class Seal:
    """What one sealing took out of the hot file: of the batches up to `batch` every dated row from before
    `cutoff_ms`, and every undated one that was received before `undated_ms`."""

    batch: int
    cutoff_ms: int
    undated_ms: int


@dataclass(frozen=True, slots=True)
class Segment:
    """One immutable piece of history: a raw file, a rollup file, or both. Times and series are both included.

    `rows` counts raw rows. `raw` or `roll` is empty where there is no such file; without a raw file all raw readings
    have expired, else those of the series `expired`. A rollup file, where there is one, covers everything the segment
    ever held. `seals` tells which hot rows are in it, `replaces` which segments it was made of, `ancestors` what those
    had been made of.
    """

    segment_id: int
    level: Level
    first_ms: int
    last_ms: int
    first_series: int
    last_series: int
    rows: int
    raw: str = ""
    raw_bytes: int = 0
    raw_sha256: str = ""
    roll: str = ""
    roll_bytes: int = 0
    roll_sha256: str = ""
    made_ms: int = 0
    seals: tuple[Seal, ...] = ()
    replaces: tuple[int, ...] = ()
    expired: tuple[int, ...] = ()
    ancestors: tuple[int, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The names of its files within the segments' folder."""
        return tuple(name for name in (self.raw, self.roll) if name)

    def overlaps(self, start_ms: int | None, end_ms: int | None, series: Collection[int] | None = None) -> bool:
        """Whether it may hold rows of this range (end excluded, None is open) and of one of these series."""
        if (end_ms is not None and self.first_ms >= end_ms) or (start_ms is not None and self.last_ms < start_ms):
            return False
        return series is None or any(self.first_series <= one <= self.last_series for one in series)


@dataclass(frozen=True, slots=True)
class Merge:
    """Make one level of these segments (several files where there are many rows)."""

    level: Level
    inputs: tuple[Segment, ...]


def day_of(ms: int) -> int:
    """The UTC day's start in milliseconds."""
    return ms - ms % DAY_MS


def month_of(ms: int) -> int:
    """The UTC month's start in milliseconds."""
    return codes.to_ms(codes.from_ms(ms).replace(day=1, hour=0, minute=0, second=0, microsecond=0))


def month_end(ms: int) -> int:
    """The start of the UTC month after the one that holds this moment."""
    return month_of(month_of(ms) + 32 * DAY_MS)


def partitions(days_ms: Iterable[int], now_ms: int) -> list[tuple[int, int]]:
    """The ranges [start, end) that a sealing's rows are split by: days of this month and the last one, months of what
    is older or ahead of now, so that an import of ten years makes 120 files and not 3,650."""
    recent = month_of(month_of(now_ms) - DAY_MS)
    ranges = {
        (day, day + DAY_MS) if recent <= day <= now_ms else (month_of(day), month_end(day))
        for day in map(day_of, days_ms)
    }
    return sorted(ranges)


def plan(segments: Sequence[Segment], now_ms: int, keep_days: Collection[int] = ()) -> Merge | None:
    """The most useful merge now: closed days first, then closed months; None where nothing is to be gained.

    `keep_days` are months (their starts) that stay in days, because their raw readings expire day by day.
    """
    usable = [each for each in segments if each.raw]
    for day, found in _by(usable, day_of):
        hours = [each for each in found if each.level is Level.HOUR and day_of(each.last_ms) == day]
        if len(hours) > 1 and day + DAY_MS + DAY_CLOSED_AFTER_MS <= now_ms:
            return Merge(Level.DAY, tuple(hours))
    for month, found in _by(usable, month_of):
        if month in keep_days or month_end(month) + MONTH_CLOSED_AFTER_MS > now_ms:
            continue
        if _worth_joining(found):
            return Merge(Level.MONTH, tuple(found))
    return None


def minimal(seals: Iterable[Seal]) -> tuple[Seal, ...]:
    """The seals that are not implied by another one."""
    kept: list[Seal] = []
    for seal in sorted(set(seals), reverse=True):
        if not any(seal.cutoff_ms <= other.cutoff_ms and seal.undated_ms <= other.undated_ms for other in kept):
            kept.append(seal)
    return tuple(sorted(kept))


def _worth_joining(found: Sequence[Segment]) -> bool:
    """Whether the others are many enough beside what has been joined already, or beside the largest of them."""
    largest = max(found, key=lambda each: each.rows)
    joined = [each for each in found if each.level is Level.MONTH] or [largest]
    late = len(found) - len(joined)
    late_rows = sum(each.rows for each in found) - sum(each.rows for each in joined)
    return late >= LATE_FILES or (late > 0 and late_rows >= LATE_SHARE * sum(each.rows for each in joined))


def _by(segments: Iterable[Segment], period: Callable[[int], int]) -> list[tuple[int, list[Segment]]]:
    """By the period that each lies in, oldest first."""
    ordered = sorted(segments, key=lambda each: (period(each.first_ms), each.segment_id))
    return [(key, list(group)) for key, group in groupby(ordered, key=lambda each: period(each.first_ms))]
