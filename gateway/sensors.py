"""From the settings of wired devices to drivers on open buses, each kept read by a task of its own."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Never

from drivers import registry
from drivers.api import Driver
from drivers.errors import WrongDevice
from drivers.host.open import open_bus
from drivers.model import Channel
from gateway.calibration import pressure
from gateway.clock import Clock
from gateway.config import Config, ConfigError, SensorSettings, secret
from gateway.ingest.poller import poll
from gateway.reading import Message

FIRST_START_S = 10.0
"""How long a sensor may take at start-up before the gateway goes on without it and keeps trying."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One configured sensor: its driver class and checked options, not yet on a bus."""

    device: str
    sensor: str
    kind: str
    driver: type[Driver]
    options: Any
    bus: str
    interval_s: float


def plan(config: Config) -> tuple[Plan, ...]:
    """Every sensor of the settings with its driver loaded; ConfigError names the driver or option that is wrong."""
    plans = tuple(_plan(device.id, sensor) for device in config.device for sensor in device.sensor)
    lines: dict[str, Plan] = {}
    for each in plans:
        other = lines.setdefault(each.bus, each)
        if each.bus.startswith("serial:") and each.driver.BUS is not other.driver.BUS:
            where = f"device {each.device!r}, sensor {each.sensor!r}"
            raise ConfigError(f"{where}: {each.kind} and {other.kind} cannot share {each.bus}; use another port")
    pressure.sources(config.device, plans)  # says now what is wrong with it
    return plans


def _plan(device: str, settings: SensorSettings) -> Plan:
    where = f"device {device!r}, sensor {settings.sensor!r}"
    try:
        driver = registry.load(settings.driver)
    except LookupError as error:
        raise ConfigError(f"{where}: {error.args[0]}") from error
    known = [field.name for field in dataclasses.fields(driver.Options)]
    given = _with_secrets(settings.options, known)
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"{where}: options.{name}: unknown option of {settings.driver}; {hint}")
    try:
        options = driver.Options(**given)
        open_bus(settings.bus, wanted=driver.BUS)  # only reads the text: a bus is opened when it is entered
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error
    return Plan(device, settings.sensor, settings.driver, driver, options, settings.bus, settings.interval_s)


def _with_secrets(options: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """The options with the content of a file in place of NAME_file, so that a key need not stand in the settings."""
    given = dict(options)
    for name in options:
        option = name.removesuffix("_file")
        if name not in known and option != name and option in known and option not in options:
            given[option] = secret(Path(given.pop(name)))
    return given


def channels(plans: Sequence[Plan]) -> Callable[[str, str, str], Channel | None]:
    """What is known of a channel: a wired sensor's own, else that of the driver a node's sensor is named after."""
    kinds: dict[str, dict[str, Channel]] = {}
    wired = {(each.device, each.sensor): each.kind for each in plans}
    available = registry.available()

    def channel_of(device: str, sensor: str, metric: str) -> Channel | None:
        kind = wired.get((device, sensor), sensor)
        if kind not in kinds:
            found = registry.load(kind).CHANNELS if kind in available else ()
            kinds[kind] = {channel.key: channel for channel in found}
        return kinds[kind].get(metric)

    return channel_of


async def attach(
    plans: Sequence[Plan], stack: AsyncExitStack, report: Callable[[str, str], None]
) -> list[tuple[Plan, Driver]]:
    """Open each bus once for as long as the stack lives and put the drivers on them; BusUnavailable says why not.

    `report` hears what a bus (its text) does to heal itself.
    """
    buses: dict[str, Any] = {}
    for each in plans:
        if each.bus not in buses:
            buses[each.bus] = await stack.enter_async_context(
                open_bus(each.bus, wanted=each.driver.BUS, report=partial(report, each.bus))
            )
    return [(each, each.driver(buses[each.bus], each.options)) for each in plans]


class Wired:
    """The tasks that keep the wired sensors read, and the first sign that each of them gave."""

    def __init__(self, report: Callable[[str, str, Exception | None], None]) -> None:
        self._report = report
        self._first: dict[tuple[str, str], asyncio.Future[Exception | None]] = {}

    def start(
        self,
        group: asyncio.TaskGroup,
        attached: Sequence[tuple[Plan, Driver]],
        put: Callable[[Message], Awaitable[None]],
        clock: Clock,
        restarted: Callable[[str, str], None],
    ) -> Sequence[asyncio.Task[Never]]:
        """One named task a sensor, in the group; they end by being cancelled."""

        def started(device: str, sensor: str) -> None:
            restarted(device, sensor)
            self._sign(device, sensor, None)

        tasks: list[asyncio.Task[Never]] = []
        for each, driver in attached:
            self._first[(each.device, each.sensor)] = asyncio.get_running_loop().create_future()
            work = poll(
                each.device, each.sensor, driver, each.interval_s, put, clock, status=self._status, started=started
            )
            tasks.append(group.create_task(work, name=f"poll {each.device}/{each.sensor}"))
        return tasks

    async def first_signs(self, plans: Sequence[Plan]) -> None:
        """Wait until every sensor has started or failed once, or for FIRST_START_S; WrongDevice is raised, a sensor
        that does not answer yet is left to its task."""
        if self._first:
            await asyncio.wait(self._first.values(), timeout=FIRST_START_S)
        for each in plans:
            sign = self._first[(each.device, each.sensor)]
            error = sign.result() if sign.done() else None
            if isinstance(error, WrongDevice):
                raise WrongDevice(f"device {each.device!r}, sensor {each.sensor!r} on {each.bus}: {error}") from error

    def _status(self, device: str, sensor: str, error: Exception | None) -> None:
        self._sign(device, sensor, error)
        self._report(device, sensor, error)

    def _sign(self, device: str, sensor: str, error: Exception | None) -> None:
        first = self._first[(device, sensor)]
        if not first.done():
            first.set_result(error)
