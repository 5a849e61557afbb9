"""The station pressure of a device's barometer for the CO2 sensors beside it, sent seldom: each change wears them."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median
from typing import Any, Protocol

from drivers.api import Calibratable, Driver
from drivers.bus import I2cBus
from drivers.errors import DriverError
from drivers.model import Quality, Quantity
from gateway.clock import Clock
from gateway.config import ConfigError, DeviceSettings
from gateway.reading import Reading
from gateway.store.types import Commit

log = logging.getLogger(__name__)

STEP_HPA = 2.0
EVERY_S = 300.0
LOW_HPA, HIGH_HPA = 700.0, 1400.0  # what a sensor takes; elsewhere the altitude has to do
LAST, LEAST = 5, 3  # readings the median is taken of
FRESH = timedelta(minutes=10)


class Planned(Protocol):
    """A configured sensor."""

    @property
    def device(self) -> str: ...

    @property
    def sensor(self) -> str: ...

    @property
    def driver(self) -> type[Driver]: ...

    @property
    def options(self) -> Any: ...


def sources(devices: Sequence[DeviceSettings], plans: Sequence[Planned]) -> dict[tuple[str, str], str]:
    """(device, sensor) of each CO2 sensor that is told the pressure -> the barometer of its device.

    "auto" needs exactly one I2C sensor with a pressure (what comes by radio may hang elsewhere) and leaves a CO2 sensor
    alone that was configured with `pressure_hpa`; ConfigError for a name that cannot do it.
    """
    found: dict[tuple[str, str], str] = {}
    for device in devices:
        own = [plan for plan in plans if plan.device == device.id]
        takers = [plan for plan in own if issubclass(plan.driver, Calibratable)]
        pinned = [plan.sensor for plan in takers if getattr(plan.options, "pressure_hpa", None) is not None]
        giver = _barometer(device, own)
        if giver is None:
            continue
        if device.pressure_from != "auto" and pinned:
            raise ConfigError(
                f"device {device.id!r}: pressure_from = {giver!r} and options.pressure_hpa of {pinned[0]!r}: choose one"
            )
        found |= {(device.id, plan.sensor): giver for plan in takers if plan.sensor not in pinned}
    return found


def _barometer(device: DeviceSettings, own: Sequence[Planned]) -> str | None:
    wanted = device.pressure_from
    able = [plan for plan in own if any(c.quantity is Quantity.PRESSURE for c in plan.driver.CHANNELS)]
    if wanted == "off":
        return None
    if wanted == "auto":
        wired = [plan.sensor for plan in able if plan.driver.BUS is I2cBus]
        return wired[0] if len(wired) == 1 else None
    if wanted not in {plan.sensor for plan in able}:
        known = ", ".join(repr(plan.sensor) for plan in able) or "none"
        raise ConfigError(
            f"device {device.id!r}: pressure_from = {wanted!r}: no sensor of it measures pressure under that name; "
            f'those that do: {known}; or use "auto" or "off"'
        )
    return wanted


def due(told_hpa: float | None, tried_s: float | None, pressure_hpa: float, now_s: float) -> bool:
    """Whether a sensor that was last told `told_hpa`, and last tried to be at `tried_s`, should be told this one."""
    if not LOW_HPA <= pressure_hpa <= HIGH_HPA or (tried_s is not None and now_s - tried_s < EVERY_S):
        return False
    return told_hpa is None or abs(pressure_hpa - told_hpa) >= STEP_HPA


@dataclass(slots=True)
class _Told:
    hpa: float | None = None
    tried_s: float | None = None
    failing: bool = False


@dataclass(slots=True)
class _Heard:
    readings: deque[Reading] = field(default_factory=lambda: deque(maxlen=LAST))


class PressureFeed:
    """Hears every commit, and is called `after` each measurement of a wired sensor, in its own task.

    `tell` (device, sensor, hPa, barometer) sets the pressure; its DriverErrors are logged and tried again later.
    """

    def __init__(
        self,
        sources_: Mapping[tuple[str, str], str],
        tell: Callable[[str, str, float, str], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self._sources, self._tell, self._clock = dict(sources_), tell, clock
        self._told = {taker: _Told() for taker in self._sources}
        self._heard = {(device, giver): _Heard() for (device, _), giver in self._sources.items()}

    async def committed(self, commit: Commit) -> None:
        """Keep the good pressures of the barometers."""
        for reading in commit.fresh:
            heard = self._heard.get((reading.device, reading.sensor))
            if heard is not None and reading.quantity is Quantity.PRESSURE and reading.quality is Quality.GOOD:
                heard.readings.append(reading)

    async def after(self, device: str, sensor: str) -> None:
        """Tell this sensor, which was read just now, the pressure if it is time."""
        giver = self._sources.get((device, sensor))
        if giver is None:
            return
        told, pressure_hpa = self._told[(device, sensor)], self._pressure_hpa(device, giver)
        now_s = asyncio.get_running_loop().time()
        if pressure_hpa is None or not due(told.hpa, told.tried_s, pressure_hpa, now_s):
            return
        told.tried_s = now_s
        try:
            await self._tell(device, sensor, pressure_hpa, giver)
        except DriverError as error:
            if not told.failing:
                log.warning("%s/%s was not told the pressure of %s: %s", device, sensor, giver, error)
            told.failing = True
        else:
            told.hpa, told.failing = pressure_hpa, False

    def _pressure_hpa(self, device: str, giver: str) -> float | None:
        oldest = self._clock.now() - FRESH
        fresh = [r.value for r in self._heard[(device, giver)].readings if r.value is not None and r.time >= oldest]
        return median(fresh) if len(fresh) >= LEAST else None
