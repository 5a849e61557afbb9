"""How long sensors on the other wires take to resume after an outage: serial (Modbus) and Bluetooth LE.

As `healing`, which does I2C: real drivers, the real poller, byte-level devices, virtual time; the worst of all rounds.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.figures import Figure, Goal
from bench.healing import AFTER_S, BEFORE_S, FULL, QUICK, RESUMES_WITHIN_S, Size
from drivers.api import Driver
from drivers.errors import BusError, DriverError, NoDevice
from drivers.modbus import ModbusRtu
from drivers.sensors.bthome import Bthome, BthomeOptions
from drivers.sensors.ess import Ess, EssOptions
from drivers.sensors.scd30_modbus import Scd30Modbus
from drivers.testing import ble
from drivers.testing.recording import Wave
from drivers.testing.scd30_chip import Scd30Chip
from drivers.testing.serial_line import FaultyLine, SimulatedSerial
from drivers.testing.serial_scd30 import Scd30Uart
from drivers.testing.virtual import run_virtual
from gateway.clock import SystemClock
from gateway.ingest.poller import poll
from gateway.reading import Message

__all__ = ["FULL", "QUICK", "measure"]

INTERVAL_S = 5.0
ADDRESS = "A4:C1:38:8D:18:B2"
TEMPERATURE = "00002a6e-0000-1000-8000-00805f9b34fb"

Wired = tuple[Driver, Any]
"""A driver, and the faulty wire below it."""


def modbus() -> Wired:
    line = FaultyLine(SimulatedSerial(Scd30Uart(Scd30Chip(Wave()))))
    return Scd30Modbus(ModbusRtu(line), Scd30Modbus.Options()), line


def beacon() -> Wired:
    air = ble.SimulatedAir([ble.Beacon(ADDRESS, lambda n: bytes((0x40, 0x00, n % 256, 0x02, 0xCA, n % 256)))])
    wire = ble.FaultyAir(air)
    return Bthome(wire, BthomeOptions(ADDRESS)), wire


def peripheral() -> Wired:
    value = ble.Value(TEMPERATURE, lambda now_s: int(2000 + now_s % 500).to_bytes(2, "little"), period_s=5)
    wire = ble.FaultyAir(ble.SimulatedAir(peripherals=[ble.Peripheral(ADDRESS, [value])]))
    return Ess(wire, EssOptions(ADDRESS)), wire


def gone(error: DriverError | None, wire: Any) -> None:
    wire.gone = error


def silent(value: bool, wire: Any) -> None:
    wire.silent = value


@dataclass(frozen=True, slots=True)
class Outage:
    """A wire, and how its trouble begins and ends."""

    make: Callable[[], Wired]
    begin: Callable[[Any], None]
    end: Callable[[Any], None]


OUTAGES = {
    "scd30_modbus, line silent": Outage(modbus, partial(silent, True), partial(silent, False)),
    "scd30_modbus, unplugged": Outage(modbus, partial(gone, NoDevice("x")), partial(gone, None)),
    "bthome, adapter lost": Outage(beacon, partial(gone, BusError("x")), partial(gone, None)),
    "ess, device out of reach": Outage(peripheral, partial(gone, NoDevice("x")), partial(gone, None)),
}


def once(outage: Outage, lasts_s: float, phase_s: float) -> float:
    """Seconds from the end of one outage to the next reading that is kept."""
    put: list[float] = []
    ends: list[float] = []

    async def script() -> None:
        loop = asyncio.get_running_loop()
        driver, wire = outage.make()

        async def keep(_message: Message) -> None:
            put.append(loop.time())

        polled = asyncio.create_task(poll("bench", "sensor", driver, INTERVAL_S, keep, SystemClock()), name="poll")
        await asyncio.sleep(BEFORE_S + phase_s)
        outage.begin(wire)
        await asyncio.sleep(lasts_s)
        outage.end(wire)
        ends.append(loop.time())
        await asyncio.sleep(AFTER_S)
        polled.cancel()
        with suppress(asyncio.CancelledError):
            await polled

    run_virtual(script())
    return next(at_s for at_s in put if at_s >= ends[0]) - ends[0]


def resumed(size: Size) -> list[Figure]:
    """One row a kind of outage."""
    figures = []
    for name, outage in OUTAGES.items():
        found = [once(outage, lasts_s, random.uniform(0, 5)) for lasts_s in size.lasts_s for _ in range(size.times)]
        text = f"wires, {name}: resumed, worst of {len(found)}"
        figures.append(Figure(text, max(found), "s", goal=Goal(RESUMES_WITHIN_S)))
    return figures


async def measure(size: Size) -> list[Figure]:
    """Virtual loops, so in a thread of their own; that everything fails is no news here."""
    logging.disable(logging.WARNING)
    try:
        return await asyncio.to_thread(resumed, size)
    finally:
        logging.disable(logging.NOTSET)
