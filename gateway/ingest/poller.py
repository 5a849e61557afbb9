"""Keep one sensor read, for ever: its errors set the pace, and no other sensor notices."""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Never

from drivers.api import Driver, Patient
from drivers.errors import BadData, BusError, BusTimeout, BusUnavailable, WrongDevice
from drivers.model import Channel, Quality, Reason, Sample
from gateway.clock import Clock
from gateway.ingest.quality import mark
from gateway.ingest.stale import Unchanging, ValueFrozen, explained
from gateway.reading import Message, stamp

log = logging.getLogger(__name__)

RETRY_FIRST_S = 1.0
RETRY_LAST_S = 60.0
FAULTY_RETRY_S = 60.0  # what a person has to put right
PATIENCE_S = 60.0
BAD_IN_A_ROW = 10  # this many bad answers ask for a restart of the sensor
FROZEN_RESTART_S = 180.0  # how long a value may be frozen before the sensor is started again
FROZEN_RESTARTS_AN_HOUR = 3  # a start may write to the chip's memory
STOP_WITHIN_S = 5.0

StatusChanged = Callable[[str, str, Exception | None], None]


async def poll(  # noqa: PLR0917
    device: str,
    sensor: str,
    driver: Driver,
    interval_s: float,
    put: Callable[[Message], Awaitable[None]],
    clock: Clock,
    *,
    status: StatusChanged = lambda _device, _sensor, _error: None,
    started: Callable[[str, str], None] = lambda _device, _sensor: None,
) -> Never:
    """Start the driver, read it every `interval_s` without drift and hand each measurement to `put`.

    `status` hears of changes only: None at the first usable value, the error when its kind changes. `started` is called
    after each start, before the first reading. What a wire or a device may get over is tried again with back-off and
    jitter, from a second up to a minute; a wrong device and a broken driver every minute. Bad answers are skipped, ten
    in a row ask for a start; frozen values too, after three minutes and at most three times an hour. A start or a read
    that takes longer than the driver's own patience, at least a minute, is given up as a BusTimeout.
    """
    polled = _Polled(device, sensor, driver, interval_s, put, clock, status)
    try:
        while True:
            try:
                async with asyncio.timeout(polled.patience_s):
                    await driver.start()
                started(device, sensor)
                await polled.read()
            except ValueFrozen as error:
                log.warning("%s/%s: started again: %s", device, sensor, error)
            except (BusError, BusUnavailable, BadData) as error:
                await polled.retry(error)
            except TimeoutError:
                await polled.retry(BusTimeout(f"no answer within {polled.patience_s:g} s"))
            except WrongDevice as error:
                polled.failed(error)
                await asyncio.sleep(FAULTY_RETRY_S)
            except Exception as error:  # supervisor: a foreign driver's bug harms its own sensor only
                log.exception("driver of %s/%s", device, sensor)
                polled.failed(error)
                await asyncio.sleep(FAULTY_RETRY_S)
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_WITHIN_S):
                await driver.stop()


@dataclass(slots=True)
class _Polled:
    """One sensor, and what was last said of it: a kind of error, None when it works, "" when nothing was said yet."""

    device: str
    sensor: str
    driver: Driver
    interval_s: float
    put: Callable[[Message], Awaitable[None]]
    clock: Clock
    status: StatusChanged
    said: type[Exception] | str | None = ""
    logged: set[type[Exception]] = field(default_factory=set)  # kinds of this outage
    retry_s: float = RETRY_FIRST_S / 2
    unchanging: Unchanging = field(init=False)
    frozen_s: float | None = None  # loop time of the first frozen answer, or of the last start because of it
    restarts: deque[float] = field(default_factory=lambda: deque(maxlen=FROZEN_RESTARTS_AN_HOUR))

    def __post_init__(self) -> None:
        self.unchanging = Unchanging(self.driver.CHANNELS)

    @property
    def patience_s(self) -> float:
        """How long the device may take to answer."""
        own_s = self.driver.patience_s if isinstance(self.driver, Patient) else 0.0
        return max(PATIENCE_S, 3 * self.interval_s, own_s)

    def worked(self) -> None:
        if self.said is not None:
            self.said = None
            if self.logged:
                log.warning("%s/%s: works again", self.device, self.sensor)
            self.logged.clear()
            self.status(self.device, self.sensor, None)

    def failed(self, error: Exception) -> None:
        if self.said is type(error):
            return
        self.said = type(error)
        if type(error) not in self.logged:
            self.logged.add(type(error))
            log.warning("%s/%s: %s", self.device, self.sensor, error)
        self.status(self.device, self.sensor, error)

    async def retry(self, error: Exception) -> None:
        """Say it, and wait twice as long as the last time; answers reset that."""
        self.failed(error)
        self.retry_s = min(self.retry_s * 2, RETRY_LAST_S)
        await asyncio.sleep(random.uniform(self.retry_s / 2, self.retry_s))  # noqa: S311 - jitter, not a secret

    async def read(self) -> Never:
        """Read at the cadence until an error that asks for a restart; periods that were missed are skipped."""
        loop = asyncio.get_running_loop()
        due_s, bad = loop.time(), 0
        while True:
            try:
                async with asyncio.timeout(self.patience_s):
                    samples = await self.driver.read()
                if await self._keep(samples):
                    bad = 0
                elif samples:
                    raise BadData("no usable value in the answer")
            except BadData as error:
                bad += 1
                log.info("%s/%s: %s", self.device, self.sensor, error)
                if bad >= BAD_IN_A_ROW:
                    raise
            now_s = loop.time()
            due_s += self.interval_s * (1 + max(0, int((now_s - due_s) / self.interval_s)))
            await asyncio.sleep(due_s - now_s)

    async def _keep(self, samples: Sequence[Sample]) -> bool:
        """Hand a measurement on; whether anything in it can be used. ValueFrozen when it is time for a restart."""
        frozen = self.unchanging.see(samples, self.clock.now())
        if samples:
            await self.put(_message(self.device, self.sensor, self.driver, samples, frozen, self.clock))
        usable = any(sample.quality < Quality.BAD and sample.value == sample.value for sample in samples)
        if frozen:
            self._thaw(explained(frozen))
        elif usable:
            self.frozen_s = None
            self.retry_s = RETRY_FIRST_S / 2
            self.worked()
        return usable or bool(frozen)

    def _thaw(self, error: ValueFrozen) -> None:
        """Say it; raise it where the sensor should be started again."""
        self.failed(error)
        now_s = asyncio.get_running_loop().time()
        if self.frozen_s is None:
            self.frozen_s = now_s
        spent = len(self.restarts) == FROZEN_RESTARTS_AN_HOUR and now_s - self.restarts[0] < 3600
        if now_s - self.frozen_s >= FROZEN_RESTART_S and not spent:
            self.frozen_s = now_s
            self.restarts.append(now_s)
            raise error


def _message(  # noqa: PLR0917
    device: str,
    sensor: str,
    driver: Driver,
    samples: Sequence[Sample],
    frozen: Container[str],
    clock: Clock,
) -> Message:
    """Dated here, so that a batch that has to be written twice is stored once."""
    channels: Mapping[str, Channel] = {channel.key: channel for channel in driver.CHANNELS}
    now = clock.now()
    readings = tuple(stamp(sample, channels[sample.channel], device, sensor, now) for sample in samples)
    # A start makes the pipeline's judge forget: what was frozen before and still is, is said here.
    readings = tuple(mark(r, Quality.BAD, Reason.FROZEN) if r.metric in frozen else r for r in readings)
    if not clock.trusted():
        readings = tuple(mark(reading, Quality.UNCERTAIN, Reason.CLOCK_UNTRUSTED) for reading in readings)
    return Message(device, sensor, readings, timed=True)
