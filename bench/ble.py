"""What Bluetooth costs: `python -m bench.ble`: 50 beacons at 10 adverts/s and 20 I2C sensors read at once.

The adverts are injected at the inbox, as bleak hands them over; drivers, polling and decoding are real. `main` returns
the rows (what, measured, goal) that it prints. The goals: below 15 % of one core, nothing late by an interval, memory
that does not grow.
"""

import argparse
import asyncio
import gc
import resource
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from drivers.api import Driver
from drivers.bus import Advert, GattLink
from drivers.errors import NoDevice
from drivers.host.bluez import Bluez
from drivers.sensors.bmp280 import Bmp280, Bmp280Options
from drivers.sensors.bthome import UUID, Bthome, BthomeOptions
from drivers.sensors.scd30 import Scd30, Scd30Options
from drivers.testing.bmp280_chip import Bmp280Chip
from drivers.testing.buses import SimulatedI2c
from drivers.testing.recording import Wave
from drivers.testing.scd30_chip import Scd30Chip
from gateway.ingest.poller import poll
from gateway.reading import Message

BEACONS, ADVERTS_PER_S, I2C_PAIRS = 50, 10, 10
INTERVAL_S, WARM_UP_S = 2.0, 5.0
CORE_GOAL = 0.15

Row = tuple[str, str, str]


class QuietRadio:
    """An adapter whose adverts the bench makes."""

    heard: Callable[[Advert], None]

    async def start(self, heard: Callable[[Advert], None], *, passive: bool) -> None:
        self.heard = heard

    async def stop(self) -> None:
        return

    async def power_cycle(self) -> None:
        return

    @asynccontextmanager
    async def connect(self, address: str) -> AsyncIterator[GattLink]:
        raise NoDevice(address)
        yield


class SystemClock:
    """Wall time that is trusted."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def trusted(self) -> bool:
        return True


class Lateness:
    """When each sensor was read last, and the longest it ever took beyond its interval."""

    def __init__(self) -> None:
        self.readings = 0
        self.worst_s = 0.0
        self._last_s: dict[str, float] = {}

    async def put(self, message: Message) -> None:
        now_s = asyncio.get_running_loop().time()
        last_s = self._last_s.get(message.device)
        if last_s is not None:
            self.worst_s = max(self.worst_s, now_s - last_s - INTERVAL_S)
        self._last_s[message.device] = now_s
        self.readings += len(message.readings)

    @property
    def sensors(self) -> int:
        return len(self._last_s)


def addresses() -> list[str]:
    return [f"A4:C1:38:00:00:{n:02X}" for n in range(BEACONS)]


async def beacons(radio: QuietRadio) -> None:
    """Every beacon ten times a second, evenly spread, with a new value each second."""
    loop = asyncio.get_running_loop()
    mine, due_s, n = addresses(), loop.time(), 0
    while True:
        for at, address in enumerate(mine):
            packet = n // ADVERTS_PER_S
            value = 2000 + (packet * 7 + at) % 500
            data = (
                bytes((0x40, 0, packet % 256, 1, 90, 2)) + value.to_bytes(2, "little") + b"\x03\xbf\x13\x04\x13\x8a\x01"
            )
            radio.heard(Advert(address, loop.time(), -60, {UUID: data}))
            due_s += 1 / (ADVERTS_PER_S * BEACONS)
            await asyncio.sleep(max(0.0, due_s - loop.time()))
        n += 1


def drivers(bus: Bluez) -> list[tuple[str, Driver]]:
    made: list[tuple[str, Driver]] = [(address, Bthome(bus, BthomeOptions(address))) for address in addresses()]
    for n in range(I2C_PAIRS):
        wire = SimulatedI2c([Scd30Chip(Wave()), Bmp280Chip(Wave())])
        made += [(f"scd30 {n}", Scd30(wire, Scd30Options())), (f"bmp280 {n}", Bmp280(wire, Bmp280Options()))]
    return made


async def load(seconds: float) -> list[Row]:
    """Run the load; CPU is this process's, the injection of the adverts included."""
    radio, late = QuietRadio(), Lateness()
    async with Bluez(radio) as bus, asyncio.TaskGroup() as group:
        tasks = [group.create_task(beacons(radio), name="beacons")]
        for name, driver in drivers(bus):
            work: Awaitable[None] = poll(name, "sensor", driver, INTERVAL_S, late.put, SystemClock())
            tasks.append(group.create_task(work, name=f"poll {name}"))
        await asyncio.sleep(WARM_UP_S)
        gc.collect()
        tracemalloc.start()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        await asyncio.sleep(min(10.0, seconds / 2))
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        late.worst_s, late.readings = 0.0, 0
        heard, cpu_s, wall_s = bus.counts.heard, time.process_time(), time.perf_counter()
        await asyncio.sleep(seconds)
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
        heard = bus.counts.heard - heard
        for task in tasks:
            task.cancel()
    share = cpu_s / wall_s
    return [
        ("beacons, adverts/s heard", f"{BEACONS}, {heard / wall_s:.0f}", ""),
        (
            "sensors read, readings/s",
            f"{late.sensors}, {late.readings / wall_s:.0f}",
            f"{BEACONS + 2 * I2C_PAIRS} sensors",
        ),
        ("share of one core", f"{100 * share:.1f} %", f"{verdict(share < CORE_GOAL)} below {100 * CORE_GOAL:.0f} %"),
        (
            "latest reading behind its interval",
            f"{1000 * late.worst_s:.1f} ms",
            f"{verdict(late.worst_s < INTERVAL_S)} below {INTERVAL_S:g} s",
        ),
        ("memory grown meanwhile", f"{grown / 1024:.0f} KiB", f"{verdict(grown < 256 * 1024)} below 256 KiB"),
        ("memory at its most (whole process)", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB", ""),
    ]


def verdict(good: bool) -> str:
    return "ok:" if good else "MISSED:"


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="bench.ble", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    rows = asyncio.run(load(parser.parse_args(arguments).seconds))
    for what, measured, goal in rows:
        print(f"{what:38} {measured:>14}  {goal}")
    return rows


if __name__ == "__main__":
    sys.exit(any("MISSED" in goal for _, _, goal in main()))
