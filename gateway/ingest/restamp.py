"""Times that were not known when they were written down, put right once they are."""

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gateway.clock import Clock, elapsed_s
from gateway.store.errors import StoreError
from gateway.store.types import Commit

log = logging.getLogger(__name__)

SAME_S = 1.0
"""Eras whose clocks differ by less are one: NTP slews."""
ERAS_LIMIT = 32
BOOTS_LIMIT = 1024
LOOKS = 5


@dataclass(frozen=True, slots=True)
class Era:
    """Batches (both included) that were written by a clock nobody trusted, which stood `offset_s` before the time
    that nobody can set."""

    first_batch: int
    last_batch: int
    offset_s: float


RedateClock = Callable[[int, int, timedelta], Awaitable[int]]
RedateBoot = Callable[[str, str, datetime], Awaitable[int]]


class Restamp:
    """Listens to commits: remembers what an untrusted clock dated, and has it moved as soon as the clock is right; has
    what a node's boot sent undated moved when its start becomes known."""

    def __init__(
        self,
        clock: Clock,
        redate_clock: RedateClock,
        redate_boot: RedateBoot,
        elapsed_s: Callable[[], float] = elapsed_s,
    ) -> None:
        self._clock, self._redate, self._redate_boot, self._elapsed_s = clock, redate_clock, redate_boot, elapsed_s
        self._eras: list[Era] = []
        self._boots: deque[tuple[int, str, str, datetime]] = deque(maxlen=BOOTS_LIMIT)

    def boot_known(self, device: str, boot: str, start: datetime) -> None:
        """From any thread: what was received of this boot and is not written yet is undated too, so it is looked for
        after several commits."""
        self._boots.append((LOOKS, device, boot, start))

    async def committed(self, commit: Commit) -> None:
        """After each commit; what the store does not take is tried again after the next."""
        for _ in range(len(self._boots)):
            await self._date_boot(*self._boots.popleft())
        offset_s = self._clock.now().timestamp() - self._elapsed_s()
        if not self._clock.trusted():
            self._remember(commit.batch, offset_s)
        elif self._eras:
            # What was received before the clock was right may have been written after it.
            self._eras[-1] = replace(self._eras[-1], last_batch=commit.batch)
            await self._settle(offset_s)

    async def _date_boot(self, looks: int, device: str, boot: str, start: datetime) -> None:
        try:
            moved = await self._redate_boot(device, boot, start)
        except StoreError as error:
            log.warning("readings of boot %s keep their uncertain times for now: %s", boot, error)
            moved, looks = 0, looks + 1
        if moved:
            log.info("%d readings of boot %s were dated", moved, boot)
        if looks > 1:
            self._boots.append((looks - 1, device, boot, start))

    def _remember(self, batch: int, offset_s: float) -> None:
        last = self._eras[-1] if self._eras else None
        if last is not None and abs(last.offset_s - offset_s) <= SAME_S:
            self._eras[-1] = replace(last, last_batch=batch)
        elif len(self._eras) < ERAS_LIMIT:
            self._eras.append(Era(batch, batch, offset_s))

    async def _settle(self, offset_s: float) -> None:
        try:
            while self._eras:
                era = self._eras[0]
                forward = timedelta(seconds=offset_s - era.offset_s)
                moved = await self._redate(era.first_batch, era.last_batch, forward)
                log.info("the clock is right: %d readings were moved by %s", moved, forward)
                self._eras.pop(0)
        except StoreError as error:
            log.warning("readings of an untrusted clock keep their times for now: %s", error)
