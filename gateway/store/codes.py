"""How values are laid down on disk: times as integer milliseconds, quality as one byte."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from drivers.model import Quality, Reason

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
USABLE_BELOW = Quality.BAD << 6
"""A quality byte below this is good or uncertain."""

UNDATED = frozenset({Reason.TIME_UNKNOWN.value, Reason.CLOCK_UNTRUSTED.value})
"""The lower six bits of a quality byte that say that the time is not known (yet)."""
LAG_LIMIT_MS = 2**31 - 1
"""What fits into the column that tells how much later than measured a reading was received."""

_REASONS = {reason.value: reason for reason in Reason}
_UNPACKED = tuple((Quality(byte >> 6), _REASONS.get(byte & 63, Reason.UNSPECIFIED)) for byte in range(256))


def columns(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Rows as lists by column, which one statement takes all at once (`unnest`): by executemany each row costs half a
    millisecond."""
    return [list(column) for column in zip(*rows, strict=True)]


def pack(quality: Quality, reason: Reason) -> int:
    """Quality class in the top two bits, reason in the lower six."""
    return quality << 6 | reason


def unpack(byte: int) -> tuple[Quality, Reason]:
    """The inverse of `pack`; a reason that only a newer version knows reads as unspecified."""
    return _UNPACKED[byte]


def to_ms(time: datetime) -> int:
    """Milliseconds since 1970, rounded down; `time` must be aware."""
    if time.tzinfo is None:
        raise ValueError(f"time {time.isoformat()} has no time zone: attach UTC at the edge")
    delta = time - EPOCH
    return delta.days * 86_400_000 + delta.seconds * 1_000 + delta.microseconds // 1_000


def bound_ms(time: datetime) -> int:
    """The smallest whole millisecond that is not before `time`: a bound that keeps start in and end out."""
    ms = to_ms(time)
    return ms + 1 if from_ms(ms) < time else ms


def from_ms(ms: int) -> datetime:
    """Aware UTC."""
    return EPOCH + timedelta(milliseconds=ms)


def made_aware(time: datetime) -> datetime:
    """What DuckDB returns for a TIMESTAMP (naive UTC), made aware."""
    return time.replace(tzinfo=UTC)


def from_db(time: datetime | None) -> datetime | None:
    """The same for a column that may be NULL."""
    return None if time is None else made_aware(time)
