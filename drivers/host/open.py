"""From the text in a configuration to an open bus."""

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

from drivers.bus import BleCentral, BleInbox, I2cBus, ModbusLine, SerialPort
from drivers.errors import BusUnavailable

log = logging.getLogger(__name__)

SCHEMES = {
    "i2c": "i2c:NUMBER, as in i2c:1",
    "replay": "replay:RECORDING, a packaged name or a CSV's path",
    "ble": "ble:ADAPTER, as in ble:hci0 or ble:hci0?scan=active",
    "serial": "serial:PATH?baud=NUMBER, as in serial:/dev/serial/by-id/usb-NAME?baud=115200",
}
GIVES: dict[str, tuple[type, ...]] = {
    "i2c": (I2cBus,),
    "replay": (I2cBus,),
    "ble": (BleInbox, BleCentral),
    "serial": (SerialPort, ModbusLine),
}
BAUD, MODBUS_BAUD = 115_200, 19_200  # where the text names none
BAUD_LOW, BAUD_HIGH = 300, 4_000_000
ROOM, STATION = "plant-room", "station"  # fill what a replayed recording lacks


def open_bus(
    spec: str,
    now: Callable[[], float] = time.time,
    *,
    wanted: type | None = None,
    report: Callable[[str], None] = log.warning,
) -> AbstractAsyncContextManager[Any]:
    """The bus that `spec` names, opened by `async with` (BusUnavailable); ValueError at once for a malformed spec.

    `wanted` is the BUS of the driver that will sit on it, and ValueError says if `spec` cannot give that. A serial port
    is wrapped in Modbus RTU where a ModbusLine is wanted. `report` hears what a bus does to heal itself (Bluetooth).

    "replay:FILE" is a simulated bus with an SCD30 and a BMP280 (0x76) in the air of the recording at `now()` seconds
    modulo its span; quantities that FILE lacks come from packaged recordings.
    """
    scheme, colon, rest = spec.partition(":")
    if not colon or scheme not in SCHEMES:
        raise ValueError(f"bus {spec!r}: it must be one of {'; '.join(SCHEMES.values())}")
    if wanted is not None and wanted not in GIVES[scheme]:
        fit = [SCHEMES[name] for name, kinds in GIVES.items() if wanted in kinds]
        raise ValueError(f"bus {spec!r}: the driver needs {' or '.join(fit) or wanted.__name__}")
    if scheme == "serial":
        return _serial(*_port(spec, rest, MODBUS_BAUD if wanted is ModbusLine else BAUD), modbus=wanted is ModbusLine)
    if scheme == "ble":
        return _bluetooth(*_adapter(spec, rest), report)
    if scheme == "replay":
        if not rest:
            raise ValueError(f"bus {spec!r}: it must be {SCHEMES[scheme]}")
        return _replay(rest, now)
    if not (rest.isascii() and rest.isdigit()):
        raise ValueError(f"bus {spec!r}: it must be {SCHEMES[scheme]}")
    return _linux(int(rest))


@asynccontextmanager
async def _linux(number: int) -> AsyncIterator[I2cBus]:
    from drivers.host.linux_i2c import LinuxI2c  # noqa: PLC0415 - a replaying machine may lack its library

    async with LinuxI2c(number) as bus:
        yield bus


def _port(spec: str, rest: str, baud: int) -> tuple[str, int]:
    """(path, baud) of a serial port."""
    path, _, query = rest.partition("?")
    options = parse_qsl(query, keep_blank_values=True)
    for name, value in options:
        if name != "baud":
            raise ValueError(f"bus {spec!r}: unknown option {name!r}; it must be {SCHEMES['serial']}")
        if not (value.isascii() and value.isdigit() and BAUD_LOW <= int(value) <= BAUD_HIGH):
            raise ValueError(f"bus {spec!r}: baud is a number from {BAUD_LOW} to {BAUD_HIGH}")
        baud = int(value)
    if not path.startswith("/") or (query and not options):
        raise ValueError(f"bus {spec!r}: it must be {SCHEMES['serial']}")
    return path, baud


def _adapter(spec: str, rest: str) -> tuple[str, str]:
    """(adapter, how to scan) of a Bluetooth bus."""
    name, _, query = rest.partition("?")
    scan = query.removeprefix("scan=") if query else "auto"
    if not (name.startswith("hci") and name[3:].isascii() and name[3:].isdigit()):
        raise ValueError(f"bus {spec!r}: it must be {SCHEMES['ble']}")
    if scan not in ("auto", "passive", "active"):
        raise ValueError(f"bus {spec!r}: after the adapter comes ?scan= with one of auto, passive, active")
    return name, scan


@asynccontextmanager
async def _bluetooth(adapter: str, scan: Any, report: Callable[[str], None]) -> AsyncIterator[BleInbox]:
    try:
        from drivers.host.bluez_radio import BleakRadio  # noqa: PLC0415 - 14 MiB that only Bluetooth is worth
    except ImportError as error:
        raise BusUnavailable(f"bus ble:{adapter}: {error}; install it with `pip install bleak`") from error
    from drivers.host.bluez import Bluez  # noqa: PLC0415

    async with Bluez(BleakRadio(adapter), scanning=scan, report=report) as bus:
        yield bus


@asynccontextmanager
async def _serial(path: str, baud: int, *, modbus: bool) -> AsyncIterator[SerialPort | ModbusLine]:
    from drivers.host.serial_port import LinuxSerial  # noqa: PLC0415 - most gateways have no serial sensor
    from drivers.modbus import ModbusRtu  # noqa: PLC0415

    async with LinuxSerial(path, baud) as port:
        yield ModbusRtu(port, baud) if modbus else port


@asynccontextmanager
async def _replay(name: str, now: Callable[[], float]) -> AsyncIterator[I2cBus]:
    from drivers.testing.bmp280_chip import Bmp280Chip  # noqa: PLC0415 - only a demo needs the simulators
    from drivers.testing.buses import SimulatedI2c  # noqa: PLC0415
    from drivers.testing.recording import Recording, names, restless  # noqa: PLC0415
    from drivers.testing.scd30_chip import Scd30Chip  # noqa: PLC0415

    try:
        recording = Recording.load(name)
    except (OSError, ValueError) as error:
        raise BusUnavailable(f"bus replay:{name}: {error}") from error
    first = recording.rows()[0]
    room = recording if first.co2 is not None else Recording.load(ROOM)
    station = recording if first.pressure is not None else Recording.load(STATION)
    sources = (room.replay(now), station.replay(now))
    if name in names():  # ours are rounded to two decimals
        sources = (restless(sources[0]), restless(sources[1]))
    yield SimulatedI2c([Scd30Chip(sources[0]), Bmp280Chip(sources[1])])
