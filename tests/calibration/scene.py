"""A calibratable sensor with real drivers on a byte-level chip, and a service whose events are kept in a list."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from drivers.bus import I2cBus
from drivers.model import Quality, Reason
from drivers.sensors.scd30 import Scd30
from drivers.testing.buses import FaultyI2c, SimulatedI2c
from drivers.testing.recording import Wave
from drivers.testing.scd30_chip import Scd30Chip
from gateway.calibration.service import Calibrations, Target
from gateway.ingest.quality import Doubt, Judge
from gateway.store.types import Event, Point

T0 = datetime(2026, 11, 20, 12, tzinfo=UTC)


class LoopClock:
    """Wall time that goes with the loop's."""

    def now(self) -> datetime:
        return T0 + timedelta(seconds=asyncio.get_running_loop().time())

    def trusted(self) -> bool:
        return True


class Scene:
    """attic/scd30 in calm air of 600 ppm; `points` is what the guard sees, made calm by `calm`."""

    def __init__(self, *, pressure_from: str | None = None, bus: I2cBus | None = None, **options: object) -> None:
        self.clock = LoopClock()
        self.chip = Scd30Chip(Wave(swing=0), zeros=0)
        self.bus = FaultyI2c(bus or SimulatedI2c([self.chip]))
        self.driver = Scd30(self.bus, Scd30.Options(**options))  # type: ignore[arg-type]
        self.judge = Judge(lambda _d, _s, metric: {c.key: c for c in Scd30.CHANNELS}.get(metric))
        self.events: list[Event] = []
        self.points: Sequence[Point] = ()
        target = Target("attic", "scd30", self.driver, Scd30.CHANNELS, self.driver._options, pressure_from)
        self.service = Calibrations(
            [target],
            recent=self._recent,
            record=self._record,
            note=self.events.append,
            doubt=lambda series, from_s, until_s, verdict: self.judge.doubt(*series, Doubt(from_s, until_s, *verdict)),
            clock=self.clock,
        )

    async def measuring(self) -> "Scene":
        """Started, read once, and calm for three minutes."""
        await self.driver.start()
        await self.driver.read()
        self.calm()
        return self

    def calm(self, ppm: float = 600.0) -> None:
        """Three minutes of calm air until now."""
        now = self.clock.now()
        times = [now - timedelta(seconds=2 * n) for n in range(88, -1, -1)]
        self.points = [Point(t, ppm + n % 3, Quality.GOOD, Reason.NONE) for n, t in enumerate(times)]

    async def _recent(self, device: str, sensor: str, metric: str) -> Sequence[Point]:
        assert (device, sensor, metric) == ("attic", "scd30", "co2")
        return self.points

    async def _record(self, event: Event) -> None:
        self.events.append(event)
