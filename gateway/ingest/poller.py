"""Keep one sensor read, for ever: its errors set the pace, and no other sensor notices."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Never

from drivers.api import Driver
from drivers.errors import BadData, BusError, BusTimeout, BusUnavailable, WrongDevice
from drivers.model import Channel, Quality, Reason, Sample
from gateway.clock import Clock
from gateway.ingest.quality import mark
from gateway.reading import Message, stamp

log = logging.getLogger(__name__)

RETRY_FIRST_S = 1.0
RETRY_LAST_S = 60.0
FAULTY_RETRY_S = 60.0  # what a person has to put right
BAD_IN_A_ROW = 10  # this many bad answers ask for a restart of the sensor
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

    `status` hears of changes only: None when it works, the error when it does not. `started` is called after each
    start, before the first reading. Bus errors are retried with back-off and jitter up to a minute, bad answers are
    skipped, a wrong or unreachable device and a broken driver are tried again every minute.
    """
    polled = _Polled(device, sensor, driver, interval_s, put, clock, status)
    retry_s = RETRY_FIRST_S
    try:
        while True:
            try:
                async with asyncio.timeout(polled.patience_s):
                    await driver.start()
                started(device, sensor)
                await polled.read()
            except (BusError, BadData) as error:
                retry_s = RETRY_FIRST_S if polled.works else min(retry_s * 2, RETRY_LAST_S)
                polled.failed(error)
                await asyncio.sleep(random.uniform(retry_s / 2, retry_s))  # noqa: S311 - jitter, not a secret
            except TimeoutError:
                polled.failed(BusTimeout(f"no answer within {polled.patience_s:g} s"))
                await asyncio.sleep(RETRY_LAST_S)
            except (WrongDevice, BusUnavailable) as error:
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

    @property
    def works(self) -> bool:
        return self.said is None

    @property
    def patience_s(self) -> float:
        """How long the device may take to answer; one that measures by itself may need an interval of its own."""
        return max(60.0, 3 * self.interval_s)

    def worked(self) -> None:
        if not self.works:
            self.said = None
            self.status(self.device, self.sensor, None)

    def failed(self, error: Exception) -> None:
        if self.said is not type(error):
            self.said = type(error)
            log.warning("%s/%s: %s", self.device, self.sensor, error)
            self.status(self.device, self.sensor, error)

    async def read(self) -> Never:
        """Read at the cadence until an error that asks for a restart; periods that were missed are skipped."""
        loop = asyncio.get_running_loop()
        channels = {channel.key: channel for channel in self.driver.CHANNELS}
        due_s, bad = loop.time(), 0
        while True:
            try:
                async with asyncio.timeout(self.patience_s):
                    samples = await self.driver.read()
            except BadData as error:
                bad += 1
                log.info("%s/%s: %s", self.device, self.sensor, error)
                if bad >= BAD_IN_A_ROW:
                    raise
            else:
                bad = 0
                if samples:
                    await self.put(_message(self.device, self.sensor, channels, samples, self.clock))
                self.worked()
            now_s = loop.time()
            due_s += self.interval_s * (1 + max(0, int((now_s - due_s) / self.interval_s)))
            await asyncio.sleep(due_s - now_s)


def _message(
    device: str, sensor: str, channels: Mapping[str, Channel], samples: Sequence[Sample], clock: Clock
) -> Message:
    """Dated here, so that a batch that has to be written twice is stored once."""
    now = clock.now()
    readings = tuple(stamp(sample, channels[sample.channel], device, sensor, now) for sample in samples)
    if not clock.trusted():
        readings = tuple(mark(reading, Quality.UNCERTAIN, Reason.CLOCK_UNTRUSTED) for reading in readings)
    return Message(device, sensor, readings, timed=True)
