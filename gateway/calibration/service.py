"""Calibrating sensors while they are read: guarded, read back, judged accordingly, and written down."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from drivers.api import Calibratable, Calibration
from drivers.errors import BusTimeout, DriverError, NotReady
from drivers.model import Channel, Quality, Quantity, Reason
from gateway.calibration.changes import Altitude, Change, Pressure, Recalibration, SelfCalibration, check
from gateway.calibration.guard import WINDOW, Air, air, objections
from gateway.clock import Clock
from gateway.store import queries
from gateway.store.db import Store
from gateway.store.errors import StoreError
from gateway.store.types import Event, Point

log = logging.getLogger(__name__)

WITHIN_S = 30.0  # a sensor that takes longer for a calibration does not answer
POINTS = 2000
EVENT = "calibration"

Recent = Callable[[str, str, str], Awaitable[Sequence[Point]]]
"""(device, sensor, metric) -> what was stored in the guard's WINDOW, in order of time."""
Judgement = tuple[Quality, Reason]
Doubted = Callable[[tuple[str, str, str], float, float, Judgement], None]
"""((device, sensor, metric), from and until as Unix times, how far to believe readings of that time)."""


class Declined(ValueError):
    """The guard says no; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """A sensor that can be calibrated, with its driver's options as configured.

    `pressure_from` is the sensor of its device that tells it the pressure, None where nobody does. `keeper` is who
    reads it: at its restart a pressure is forgotten.
    """

    device: str
    sensor: str
    driver: Calibratable
    channels: Sequence[Channel]
    options: Any
    pressure_from: str | None = None
    keeper: str = "gateway"

    @property
    def name(self) -> str:
        """How people call it."""
        return f"{self.device}/{self.sensor}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, or would be (`after` None). `changed` False: the sensor held it already, nothing was written."""

    device: str
    sensor: str
    change: str
    before: Calibration
    after: Calibration | None
    changed: bool
    notes: tuple[str, ...] = ()
    air: Air | None = None


class Calibrations:
    """All sensors that can be calibrated: the wired ones, and what `find` (device, sensor) knows beside.

    `record` keeps an event before anybody hears that it is done; `note` keeps one without waiting for the disk, where a
    sensor is being read. `doubt` tells the judge.
    """

    def __init__(
        self,
        targets: Iterable[Target],
        *,
        recent: Recent,
        record: Callable[[Event], Awaitable[None]],
        note: Callable[[Event], None],
        doubt: Doubted,
        clock: Clock,
        find: Callable[[str, str], Target | None] = lambda _device, _sensor: None,
    ) -> None:
        self._find = find
        self._targets = {(each.device, each.sensor): each for each in targets}
        self._recent, self._record, self._note, self._doubt, self._clock = recent, record, note, doubt, clock

    async def show(self, device: str, sensor: str) -> tuple[Calibration, str | None]:
        """What the sensor holds now, and which sensor tells it the pressure; LookupError, DriverError."""
        target = self._target(device, sensor)
        async with _within(target.name):
            return await target.driver.read_calibration(), target.pressure_from

    async def apply(
        self, device: str, sensor: str, change: Change, *, by: str, dry_run: bool = False, force: bool = False
    ) -> Outcome:
        """Guard, do it, mark what has to settle, keep an event of who did what; with `dry_run` only say what would be.

        LookupError for a sensor that cannot be calibrated, ValueError for a value out of range, Declined where the
        guard objects (`force` overrules what is a matter of judgement), DriverError where the sensor does not take it.
        """
        target = self._target(device, sensor)
        check(change, target.options)
        if isinstance(change, Pressure) and target.pressure_from and not force:
            raise Declined(
                f"{target.name} takes its pressure from {target.pressure_from!r}, which would soon overrule this: "
                'set pressure_from = "off" for the device, or use force'
            )
        async with _within(target.name):
            seen = await self._guarded(target, change, force)
            before = await target.driver.read_calibration()
        notes = (*_remarks(change, target), *_warnings(change, before))
        held = change.held(before)
        after = before if held else None
        if not held and not dry_run:
            after = await self._do(target, change, before, by, seen=seen)
        return Outcome(device, sensor, str(change), before, after, not held, notes, seen)

    async def tell_pressure(self, device: str, sensor: str, pressure_hpa: float, barometer: str) -> None:
        """What a barometer beside it says; kept as an event where the sensor held another. DriverError."""
        target, change = self._target(device, sensor), Pressure(pressure_hpa)
        async with _within(target.name):
            before = await target.driver.read_calibration()
        if not change.held(before):
            await self._do(target, change, before, barometer, waits=False)

    async def _guarded(self, target: Target, change: Change, force: bool) -> Air | None:
        if not isinstance(change, Recalibration):
            return None
        metric = next((channel.key for channel in target.channels if channel.quantity is Quantity.CO2), "")
        seen = air(await self._recent(target.device, target.sensor, metric), self._clock.now())
        found = objections(seen, change.reference_ppm)
        if found.final:
            raise Declined(f"{target.name}: no {change}: {'; '.join(found.final)}")
        if found.doubts and not force:
            raise Declined(f"{target.name}: no {change}: {'; '.join(found.doubts)}; if you are sure, use force")
        return seen

    async def _do(
        self,
        target: Target,
        change: Change,
        before: Calibration,
        by: str,
        *,
        seen: Air | None = None,
        waits: bool = True,
    ) -> Calibration:
        detail: dict[str, Any] = {"sensor": target.sensor, "change": str(change), "by": by, "before": asdict(before)}
        if seen is not None:
            detail |= {"readings": seen.n, "median_ppm": seen.median_ppm, "spread_ppm": seen.spread_ppm}
        out = isinstance(change, Recalibration)
        began_s = self._now_s()
        if out:
            self._mark(target, change, began_s, began_s + WITHIN_S)
        try:
            async with _within(target.name):
                after = await change.on(target.driver)
        except DriverError as error:
            self._settle(target, change, began_s, written=not isinstance(error, NotReady))
            if not isinstance(error, NotReady):
                text = f"{target.sensor}: {change} failed, what the sensor holds now is not known: {error}"
                await self._keep(target, text, detail | {"error": str(error)}, waits)
            raise
        self._settle(target, change, began_s, written=True)
        await self._keep(target, f"{target.sensor}: {change}", detail | {"after": asdict(after)}, waits)
        return after

    def _settle(self, target: Target, change: Change, began_s: float, *, written: bool) -> None:
        """What the change leaves behind in the readings from its begin on."""
        ended_s = from_s = self._now_s()
        if isinstance(change, Recalibration):
            self._mark(target, change, began_s, ended_s)
        else:
            from_s = began_s
        if written:
            self._mark(target, change, from_s, ended_s, settles=True)

    def _mark(self, target: Target, change: Change, from_s: float, until_s: float, *, settles: bool = False) -> None:
        """Out of service in that time; or uncertain in it, and until all has settled after it."""
        for channel in target.channels:
            settles_s = change.SETTLES.get(channel.quantity)
            if settles_s is None:
                continue
            verdict = (Quality.UNCERTAIN, Reason.WARM_UP) if settles else (Quality.BAD, Reason.OUT_OF_SERVICE)
            ends_s = until_s + settles_s if settles else until_s
            self._doubt((target.device, target.sensor, channel.key), from_s, ends_s, verdict)

    async def _keep(self, target: Target, text: str, detail: Mapping[str, Any], waits: bool) -> None:
        event = Event(self._clock.now(), EVENT, target.device, text, detail)
        if not waits:
            self._note(event)
            return
        try:
            await self._record(event)
        except StoreError as error:
            log.error("event not kept (%s, %s by %s): %s", target.device, text, detail["by"], error)

    def _target(self, device: str, sensor: str) -> Target:
        target = self._targets.get((device, sensor)) or self._find(device, sensor)
        if target is None:
            known = ", ".join(sorted(each.name for each in self._targets.values())) or "none on this gateway"
            raise LookupError(
                f"{device}/{sensor} is no wired sensor that can be calibrated; those are: {known}; "
                "nor is it one that a node of ours told of"
            )
        return target

    def _now_s(self) -> float:
        return self._clock.now().timestamp()


def stored(store: Store, flush: Callable[[], Awaitable[None]], clock: Clock) -> Recent:
    """Recent readings from the store, after what is still on its way there."""

    async def recent(device: str, sensor: str, metric: str) -> Sequence[Point]:
        await flush()
        series = queries.find_series(store, device=device, sensor=sensor, metric=metric)
        now = clock.now()
        found = [await queries.points(store, each.series_id, now - WINDOW, now, POINTS) for each in series]
        return found[0].points if found else ()

    return recent


def _remarks(change: Change, target: Target) -> list[str]:
    """What somebody who changes this should know, whatever the sensor holds."""
    if not change.OPTION:
        return []
    configured = getattr(target.options, change.OPTION, None)
    if configured is not None:
        return [f"the configuration says {change.OPTION} = {configured}, which comes back at the gateway's next start"]
    if isinstance(change, Pressure):
        return [f"the pressure is forgotten at the {target.keeper}'s next start; keep it as options.pressure_hpa"]
    return []


def _warnings(change: Change, now: Calibration) -> list[str]:
    """What makes a change useless as the sensor stands."""
    if isinstance(change, Recalibration) and now.self_calibration:
        return ["self-calibration is on and will overrule this within days; switch it off if nobody airs to 400 ppm"]
    if isinstance(change, SelfCalibration) and change.on_:
        return ["it needs 7 days of power in one piece and an hour of fresh air a day, and overrules a recalibration"]
    if isinstance(change, Altitude) and now.pressure_hpa is not None:
        return [f"the pressure ({now.pressure_hpa:.0f} hPa) overrules the altitude as long as it is set"]
    return []


@asynccontextmanager
async def _within(name: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(WITHIN_S):
            yield
    except TimeoutError:
        raise BusTimeout(f"{name} took longer than {WITHIN_S:g} s to answer") from None
