"""Wall time, and whether it may be trusted yet."""

from datetime import UTC, datetime
from typing import Protocol

RELEASED = datetime(2026, 11, 1, tzinfo=UTC)
"""No correct clock shows an earlier time than the day this release was made."""


class Clock(Protocol):
    """The one source of wall time; tests inject their own."""

    def now(self) -> datetime:
        """Aware UTC."""

    def trusted(self) -> bool:
        """False while the clock was plainly never set (a Pi without a real-time clock, before NTP)."""


class SystemClock:
    """The operating system's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def trusted(self) -> bool:
        return self.now() >= RELEASED
