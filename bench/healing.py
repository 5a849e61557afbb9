"""How long a wired sensor takes to be noticed failing and to resume, by the kind of its trouble.

Real drivers and the real poller on byte-level chips, in virtual time: what is counted is waiting, not computing. The
back-off has jitter, so that each kind is repeated; the figure is the worst of all.
"""

import asyncio
import functools
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from bench.figures import Figure, Goal
from drivers.errors import BusError, BusTimeout, BusUnavailable, DriverError, NoDevice
from drivers.testing.virtual import run_virtual
from tests.trouble import House

ADDRESSES = {"scd30": 0x61, "bmp280": 0x76}
BEFORE_S, AFTER_S = 61.0, 400.0
RESUMES_WITHIN_S = 75.0
"""A back-off of a minute, and a start with its first measurement."""
RESETS_WITHIN_S = 105.0
"""Before it resets the chip, the driver waits twice eleven seconds for data and starts the measurement again."""
NEVER_WITHIN_S = 140.0
"""The patience with a transfer that never ends comes on top; a real bus ends it by the kernel's time-out."""


@dataclass(frozen=True, slots=True)
class Size:
    """How often each kind is repeated, and how long it lasts (seconds)."""

    times: int
    lasts_s: tuple[float, ...]


FULL, QUICK = Size(10, (5.0, 60.0, 1800.0)), Size(2, (60.0,))

Begin = Callable[[House, str], None]


def trouble(kind: DriverError | str) -> Begin:
    """Every transfer of the sensor is spoiled so."""

    def begin(house: House, sensor: str) -> None:
        house.bus.trouble[ADDRESSES[sensor]] = kind

    return begin


def still(house: House, sensor: str) -> None:
    """The air stands still to the last digit."""
    frozen = house.air(asyncio.get_running_loop().time())
    house.air = lambda _t_s: frozen


def hung(house: House, sensor: str) -> None:
    """The chip answers, and has no data until it is reset."""
    if sensor == "scd30":
        house.scd30.hung = "never"


def power_cut(house: House, sensor: str) -> None:
    """The chip lost power for a moment."""
    (house.scd30 if sensor == "scd30" else house.bmp280).power_cycle(asyncio.get_running_loop().time())


KINDS: dict[str, Begin] = {
    "not acknowledged": trouble(NoDevice("x")),
    "time-out of the line": trouble(BusTimeout("x")),
    "bus error": trouble(BusError("x")),
    "bus gone (unplugged)": trouble(BusUnavailable("x")),
    "hangs for the kernel's 0.25 s": trouble("hangs"),
    "a transfer that never ends": trouble("never ends"),
    "flipped bits": trouble("flips"),
    "short answers": trouble("shortens"),
    "power cut of the chip": power_cut,
    "no data until a reset (SCD30)": hung,
    "value frozen": still,
}


@dataclass(frozen=True, slots=True)
class Healed:
    """Seconds from the trouble to the word of it (None: nobody had to hear), and from its end to the next reading."""

    noticed_s: float | None
    resumed_s: float


def once(kind: str, sensor: str, lasts_s: float, phase_s: float) -> Healed:
    """One trouble from its begin to well after its end."""
    house = House(one_thread=True)
    times: list[float] = []

    async def script() -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(BEFORE_S + phase_s)
        air, began_s = house.air, loop.time()
        KINDS[kind](house, sensor)
        await asyncio.sleep(lasts_s)
        house.air = air
        house.bus.trouble.clear()
        if house.scd30.hung:
            house.scd30.hung = "reset"
        times.extend((began_s, loop.time()))
        await asyncio.sleep(AFTER_S)

    run_virtual(house.run(script))
    began_s, ended_s = times
    said = next((at_s for at_s, error in house.said[sensor] if error is not None and at_s >= began_s), None)
    well_s = max((at_s for at_s, error in house.said[sensor] if error is None), default=0.0)
    resumed_s = next(at_s for at_s in house.put[sensor] if at_s >= max(ended_s, well_s))
    return Healed(None if said is None else said - began_s, resumed_s - ended_s)


def healing(size: Size) -> list[Figure]:
    """Two rows a kind and sensor: noticed, resumed."""
    figures: list[Figure] = []
    for sensor in ADDRESSES:
        for kind in KINDS:
            if "SCD30" in kind and sensor != "scd30":
                continue
            lasting = (0.0,) if kind.startswith("power cut") else (1800.0,) if "frozen" in kind else size.lasts_s
            found = [
                once(kind, sensor, lasts_s, random.uniform(0, 5)) for lasts_s in lasting for _ in range(size.times)
            ]
            noticed = [each.noticed_s for each in found if each.noticed_s is not None]
            if noticed:
                name = f"healing, {sensor}, {kind}: noticed {len(noticed)} times of {len(found)}, worst"
                figures.append(Figure(name, max(noticed), "s"))
            resumed = [each.resumed_s for each in found]
            limit_s = NEVER_WITHIN_S if "never" in kind else RESETS_WITHIN_S if "reset" in kind else RESUMES_WITHIN_S
            name = f"healing, {sensor}, {kind}: {'resumed' if noticed else 'never noticed, next reading'}"
            figures.append(Figure(f"{name}, worst of {len(found)}", max(resumed), "s", goal=Goal(limit_s)))
            figures.append(Figure(f"{name}, median", median(resumed), "s"))
    return figures


def neighbours() -> list[Figure]:
    """How late one sensor is read while the other hangs on the same bus with one thread."""
    figures = []
    for dead, alive in (("scd30", "bmp280"), ("bmp280", "scd30")):
        well, house = House(one_thread=True), House(one_thread=True)
        run_virtual(well.run(functools.partial(asyncio.sleep, 3600.0)))
        house.bus.trouble[ADDRESSES[dead]] = "hangs"
        run_virtual(house.run(functools.partial(asyncio.sleep, 3600.0)))
        name = f"healing, {alive} beside a hanging {dead}: longest gap between readings"
        beside = ("beside a healthy one", well.worst_gap(alive))
        figures.append(Figure(name, house.worst_gap(alive), "s", *beside, Goal(well.worst_gap(alive) + 5)))
    return figures


async def measure(size: Size) -> list[Figure]:
    """Virtual loops, so in a thread of their own; that everything fails is no news here."""
    logging.disable(logging.WARNING)
    try:
        return await asyncio.to_thread(lambda: healing(size) + neighbours())
    finally:
        logging.disable(logging.NOTSET)
