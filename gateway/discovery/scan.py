"""What hangs on the wires of this machine: identities are asked for, nothing is configured; settings are proposed."""

import asyncio
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drivers import registry
from drivers.api import Driver, Probeable
from drivers.bus import I2cBus, ModbusLine, SerialPort
from drivers.errors import BusError, BusUnavailable, DriverError, NoDevice, WrongDevice
from drivers.host.open import open_bus

TRIES = 3  # a clock that is stretched too long, or a device that was talking to somebody else
RETRY_S = 0.05
BUS_WITHIN_S = 15.0
LISTEN_S = 8.0  # beacons speak every few seconds

NO_I2C = (
    "no I2C bus: on a Raspberry Pi put `dtparam=i2c_arm=on` into config.txt and reboot; elsewhere "
    "`sudo modprobe i2c-dev`"
)
MISSED = (
    "what did not answer may still be there (an SCD30 stretches the clock): look at wiring and power, on a Raspberry "
    "Pi 3 or older slow the bus down (`dtparam=i2c_arm_baudrate=10000`), then scan again"
)
NO_PORT = "no serial port under /dev/serial/by-id: no USB adapter or ESP32 is plugged in"


@dataclass(frozen=True, slots=True)
class Found:
    """A device that said what it is, and the sensor settings that would use it."""

    driver: str
    bus: str
    what: str
    options: Mapping[str, Any] = field(default_factory=dict)
    usual: bool = True
    """Whether it is at its usual address, so that the driver's name alone tells which it is."""


@dataclass(frozen=True, slots=True)
class Port:
    """A serial port; nothing was sent to it, so only its user knows which of the drivers that might fit does."""

    bus: str
    might_fit: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scan:
    """What was found: wired devices, beacons in reach (anybody's), serial ports; and what was not, and why."""

    found: tuple[Found, ...] = ()
    beacons: tuple[Found, ...] = ()
    ports: tuple[Port, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """Where to look: bus texts of I2C and Bluetooth adapters, paths of serial ports; `open` is `open_bus`."""

    i2c: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    ble: tuple[str, ...] = ()
    open: Callable[[str], AbstractAsyncContextManager[Any]] = open_bus


def machine(devices: Path = Path("/dev"), classes: Path = Path("/sys/class")) -> Machine:
    """This machine's wires."""
    numbers = sorted(int(n) for path in devices.glob("i2c-*") if (n := path.name.removeprefix("i2c-")).isdecimal())
    ports = sorted(str(path) for path in (devices / "serial" / "by-id").glob("*"))
    if (devices / "serial0").exists():
        ports.append(str(devices / "serial0"))
    adapters = sorted(path.name for path in (classes / "bluetooth").glob("hci*") if ":" not in path.name)
    return Machine(tuple(f"i2c:{n}" for n in numbers), tuple(ports), tuple(f"ble:{name}" for name in adapters))


async def scan(where: Machine, known: Collection[tuple[str, int]] = (), listen_s: float = LISTEN_S) -> Scan:
    """Look everywhere. Pairs of bus and I2C address in `known` are left alone: a running gateway may be talking there.

    On I2C only the addresses of installed drivers are asked, with the one question that tells their device's identity.
    """
    drivers, notes = _drivers()
    found: list[Found] = []
    if not where.i2c:
        notes.append(NO_I2C)
    for spec in where.i2c:
        found += await _i2c(spec, where, _probes(drivers), known, notes)
    if where.i2c and any("nothing answers" in note for note in notes):
        notes.append(MISSED)
    beacons = await _beacons(where, notes, listen_s)
    return Scan(tuple(found), tuple(beacons), tuple(_ports(where, drivers, notes)), tuple(notes))


def _drivers() -> tuple[dict[str, type[Driver]], list[str]]:
    drivers: dict[str, type[Driver]] = {}
    notes: list[str] = []
    for name in sorted(registry.available()):
        try:
            drivers[name] = registry.load(name)
        except Exception as error:  # noqa: BLE001 - supervisor: a third party's broken package must not hide the others
            notes.append(f"driver {name} cannot be loaded: {error}")
    return drivers, notes


def _probes(drivers: Mapping[str, object]) -> dict[str, Probeable]:
    """Those on I2C that can tell whether their device is there."""
    return {
        name: driver
        for name, driver in drivers.items()
        if isinstance(driver, Probeable) and getattr(driver, "BUS", None) is I2cBus
    }


async def _i2c(
    spec: str,
    where: Machine,
    probes: Mapping[str, Probeable],
    known: Collection[tuple[str, int]],
    notes: list[str],
) -> list[Found]:
    """What answers on one bus."""
    asking: dict[int, list[str]] = {}
    for name, probe in probes.items():
        for address in probe.ADDRESSES:
            asking.setdefault(address, []).append(name)
    found: list[Found] = []
    silent: list[int] = []
    try:
        async with asyncio.timeout(BUS_WITHIN_S), where.open(spec) as bus:
            for address in sorted(asking):
                if (spec, address) in known:
                    notes.append(f"{spec} address {address:#04x} is configured already: left alone")
                    continue
                said = [(name, await _asked(probes[name], bus, address)) for name in asking[address]]
                found += [each for name, word in said if (each := _found(probes[name], name, spec, address, word))]
                if all(isinstance(word, NoDevice) for _, word in said):
                    silent.append(address)
                elif not any(isinstance(word, str) for _, word in said):
                    notes.append(f"{spec} address {address:#04x}: {_stranger(said)}")
    except BusUnavailable as error:
        notes.append(str(error))
        return found
    except TimeoutError:
        notes.append(f"{spec}: given up after {BUS_WITHIN_S:g} s: the bus hangs; look at its wiring")
        return found
    if silent:
        notes.append(f"{spec}: nothing answers at {', '.join(f'{address:#04x}' for address in silent)}")
    return found


async def _asked(probe: Probeable, bus: I2cBus, address: int) -> str | Exception | None:
    """What the device says it is, None where something else answers; the error where nothing or a known one does."""
    said: str | Exception | None = None
    for attempt in range(TRIES):
        if attempt:
            await asyncio.sleep(RETRY_S)
        try:
            said = await probe.probe(bus, address)
        except BusError as error:
            said = error
        except WrongDevice as error:
            return error
        except BusUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - supervisor: a foreign driver's bug harms its own probe only
            return error
        if isinstance(said, str):
            return said
    return said


def _found(probe: Probeable, name: str, spec: str, address: int, said: object) -> Found | None:
    if not isinstance(said, str):
        return None
    usual = address == probe.ADDRESSES[0]
    return Found(name, spec, f"{said} at {address:#04x}", {} if usual else {"address": address}, usual)


def _stranger(said: Iterable[tuple[str, object]]) -> str:
    """Something answers that no driver reads: what is known of it."""
    named = [str(word) for _, word in said if isinstance(word, WrongDevice)]
    if named:
        return f"{named[0]}; no installed driver reads it"
    broken = [f"{name}: {word}" for name, word in said if isinstance(word, Exception)]
    return "; ".join(broken) or f"something answers, but not as {' or '.join(name for name, _ in said)} would"


def _ports(where: Machine, drivers: Mapping[str, type[Driver]], notes: list[str]) -> Iterable[Port]:
    fit = tuple(name for name, driver in drivers.items() if driver.BUS in (SerialPort, ModbusLine))
    if not where.ports:
        notes.append(NO_PORT)
    for path in where.ports:
        if not os.access(path, os.R_OK | os.W_OK):
            notes.append(f"{path}: no permission; `sudo usermod -aG dialout $USER`, then log in again")
        yield Port(f"serial:{path}", fit)


async def _beacons(where: Machine, notes: list[str], listen_s: float) -> list[Found]:
    """What is heard on each Bluetooth adapter in so many seconds."""
    if not where.ble:
        notes.append("no Bluetooth adapter")
    heard: list[Found] = []
    for spec in where.ble:
        try:
            async with where.open(spec) as adapter:
                await asyncio.sleep(listen_s)
                for each in adapter.seen():
                    what = f"{each.name or each.address}, {each.rssi} dBm: {', '.join(each.measures)}"
                    heard.append(Found(each.driver, spec, what, {"address": each.address}))
                if not adapter.seen():
                    notes.append(f"{spec}: no new beacon within {listen_s:g} s; some speak only every few minutes")
        except DriverError as error:
            notes.append(f"{spec}: {error}")
    return heard
