"""Wall time, and whether it may be trusted yet."""

import ctypes
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

RELEASED = datetime(2026, 11, 1, tzinfo=UTC)
"""No correct clock shows an earlier time than the day this release was made."""
AHEAD_S = 300.0
"""No time that is further in the future than this is believed; a clock that is set by more than this has jumped."""
SETTLED_S = 3600.0
"""A clock that went on evenly for so long after a jump was meant to be set so."""
_UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)


class Clock(Protocol):
    """The one source of wall time; tests inject their own."""

    def now(self) -> datetime:
        """Aware UTC."""

    def trusted(self) -> bool:
        """False while the clock was plainly never set (a Pi without a real-time clock, before NTP), or has jumped."""


def elapsed_s() -> float:
    """Seconds that nobody can set, a sleeping machine's included."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def synchronised() -> bool:
    """Whether the kernel says that a time service keeps the clock; whoever sets it by hand revokes that."""
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    # Nothing is to be changed: an empty struct timex, which is smaller than this everywhere.
    return adjtimex is not None and adjtimex(ctypes.create_string_buffer(512)) not in {-1, _UNSYNCHRONISED}


class SystemClock:
    """The operating system's clock. When it jumps, by hand or by a time service, it is trusted again as soon as the
    kernel calls it synchronised, else after an hour without another jump."""

    def __init__(
        self,
        wall_s: Callable[[], float] = time.time,
        elapsed_s: Callable[[], float] = elapsed_s,
        synchronised: Callable[[], bool] = synchronised,
    ) -> None:
        self._wall_s, self._elapsed_s, self._synchronised = wall_s, elapsed_s, synchronised
        self._offset_s = wall_s() - elapsed_s()
        self._jumped_s: float | None = None

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._wall_s(), UTC)

    def trusted(self) -> bool:
        elapsed_s = self._elapsed_s()
        offset_s = self._wall_s() - elapsed_s
        if abs(offset_s - self._offset_s) > AHEAD_S:
            self._jumped_s = elapsed_s
        self._offset_s = offset_s
        if self._jumped_s is not None and (elapsed_s - self._jumped_s > SETTLED_S or self._synchronised()):
            self._jumped_s = None
        return self._jumped_s is None and self.now() >= RELEASED
