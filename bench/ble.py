"""What Bluetooth costs: 50 beacons at 10 adverts/s and 20 I2C sensors read at once.

The adverts are injected at the inbox, as bleak hands them over; drivers, polling and decoding are real. The same
beacons then come through the real bleak and a message bus of our own: what that costs is told without a goal.
"""

import asyncio
import gc
import inspect
import logging
import os
import shutil
import sys
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import psutil  # type: ignore[import-untyped,unused-ignore]
from bleak.backends.bluezdbus import manager as bleak_manager
from dbus_fast import Message as BusMessage
from dbus_fast import MessageType
from dbus_fast.aio import MessageBus

from bench.figures import Figure, Goal
from bench.processes import child, cpu_s, output_of
from drivers.api import Driver
from drivers.bus import Advert, GattLink
from drivers.errors import NoDevice
from drivers.host.bluez import Bluez
from drivers.host.bluez_radio import BleakRadio
from drivers.sensors._bthome import UUID
from drivers.sensors._scd30 import Scd30Options
from drivers.sensors.bmp280 import Bmp280, Bmp280Options
from drivers.sensors.bthome import Bthome, BthomeOptions
from drivers.sensors.scd30 import Scd30
from drivers.testing.bmp280_chip import Bmp280Chip
from drivers.testing.buses import SimulatedI2c
from drivers.testing.recording import Wave
from drivers.testing.scd30_chip import Scd30Chip
from gateway.ingest.poller import poll
from gateway.reading import Message

BEACONS, ADVERTS_PER_S, I2C_PAIRS = 50, 10, 10
INTERVAL_S = 2.0
MOST_PERCENT = 15.0
MOST_GROWN_KIB = 64.0
"""The boxes keep one advert an address; what grows on is a leak."""
LEAST_HEARD = 0.95

Named = tuple[str, Driver]


@dataclass(frozen=True, slots=True)
class Size:
    """Seconds: until all has started, for each of the two looks at memory, and those in which CPU is measured."""

    settle_s: float
    grow_s: float
    measure_s: float


FULL, QUICK = Size(5.0, 20.0, 60.0), Size(3.0, 3.0, 8.0)


class QuietRadio:
    """An adapter whose adverts the bench makes."""

    def __init__(self) -> None:
        self.heard: Callable[[Advert], None] = lambda _: None

    async def start(self, heard: Callable[[Advert], None], *, passive: bool) -> None:
        self.heard = heard

    async def stop(self) -> None:
        return

    async def power_cycle(self) -> None:
        return

    def connect(self, address: str) -> AbstractAsyncContextManager[GattLink]:
        raise NoDevice(address)


class SystemClock:
    """Wall time that is trusted."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def trusted(self) -> bool:
        return True


class Lateness:
    """When each sensor was read last, and the longest that any took beyond its interval since `reset`."""

    def __init__(self) -> None:
        self.readings = 0
        self._worst_s = 0.0
        self._last_s: dict[str, float] = {}

    async def put(self, message: Message) -> None:
        now_s = asyncio.get_running_loop().time()
        self._late(now_s, self._last_s.get(message.device, now_s))
        self._last_s[message.device] = now_s
        self.readings += len(message.readings)

    def reset(self) -> None:
        self._worst_s, self.readings = 0.0, 0

    def worst_s(self) -> float:
        """Those that are due and still missing included."""
        now_s = asyncio.get_running_loop().time()
        for last_s in self._last_s.values():
            self._late(now_s, last_s)
        return self._worst_s

    @property
    def sensors(self) -> int:
        return len(self._last_s)

    def _late(self, now_s: float, last_s: float) -> None:
        self._worst_s = max(self._worst_s, now_s - last_s - INTERVAL_S)


@dataclass(frozen=True, slots=True)
class Used:
    """What a stretch of traffic showed."""

    sensors: int
    heard_per_s: float
    readings_per_s: float
    cpu_percent: float
    late_s: float


async def measure(size: Size) -> list[Figure]:
    """The injected load beside its adverts alone; then the beacons through D-Bus, where that is installed."""
    alone = await _adverts_alone(size)
    return [*await _injected(size, alone), *await _through_dbus(size)]


async def _adverts_alone(size: Size) -> float:
    """Percent of a core that the bench needs to make the adverts."""
    sender = asyncio.create_task(_beacons(QuietRadio()), name="beacons")
    began_s, used_s = time.perf_counter(), time.process_time()
    await asyncio.sleep(size.measure_s / 2)
    share = 100 * (time.process_time() - used_s) / (time.perf_counter() - began_s)
    sender.cancel()
    await asyncio.wait([sender])
    return share


async def _injected(size: Size, alone: float) -> list[Figure]:
    radio, late = QuietRadio(), Lateness()
    sensors = [*_beacon_drivers(bus := Bluez(radio)), *_wired()]
    async with bus, _polled(sensors, late):
        sender = asyncio.create_task(_beacons(radio), name="beacons")
        await asyncio.sleep(size.settle_s)
        held, grown = await _memory(size)
        used = await _use(size, bus, late)
        sender.cancel()
        await asyncio.wait([sender])
    name, peer = f"ble, {BEACONS} beacons and {2 * I2C_PAIRS} I2C sensors", "making the adverts alone"
    return [
        *_figures(name, used, len(sensors), (peer, alone), goals=True),
        Figure(f"{name}: memory taken anew meanwhile", held, "KiB"),
        Figure(f"{name}: memory grown in {size.grow_s:g} s more", grown, "KiB", goal=Goal(MOST_GROWN_KIB)),
    ]


def _figures(name: str, used: Used, sensors: int, peer: tuple[str, float] | None, *, goals: bool) -> list[Figure]:
    def goal(limit: float, *, at_least: bool = False) -> Goal | None:
        return Goal(limit, at_least=at_least) if goals else None

    adverts = BEACONS * ADVERTS_PER_S * LEAST_HEARD
    beside: tuple[str, float | None] = peer or ("", None)
    return [
        Figure(f"{name}: adverts heard", used.heard_per_s, "/s", goal=goal(adverts, at_least=True)),
        Figure(f"{name}: sensors that were read", used.sensors, "", goal=goal(sensors, at_least=True)),
        Figure(f"{name}: readings", used.readings_per_s, "/s"),
        Figure(f"{name}: CPU of one core", used.cpu_percent, "%", *beside, goal(MOST_PERCENT)),
        Figure(f"{name}: latest behind its interval", 1e3 * used.late_s, "ms", goal=goal(1e3 * INTERVAL_S)),
    ]


async def _beacons(radio: QuietRadio) -> None:
    """Every beacon ten times a second, evenly spread, with a new value each second."""
    loop = asyncio.get_running_loop()
    due_s, n = loop.time(), 0
    while True:
        for at, address in enumerate(ADDRESSES):
            radio.heard(Advert(address, loop.time(), -60, {UUID: _frame(n // ADVERTS_PER_S, at)}))
            due_s += 1 / (ADVERTS_PER_S * BEACONS)
            await asyncio.sleep(max(0.0, due_s - loop.time()))
        n += 1


ADDRESSES = [f"A4:C1:38:00:00:{n:02X}" for n in range(BEACONS)]


def _frame(packet: int, at: int) -> bytes:
    """BTHome: packet id, battery, temperature, humidity, pressure."""
    value = 2000 + (packet * 7 + at) % 500
    return bytes((0x40, 0, packet % 256, 1, 90, 2)) + value.to_bytes(2, "little") + b"\x03\xbf\x13\x04\x13\x8a\x01"


def _beacon_drivers(bus: Bluez) -> list[Named]:
    return [(address, Bthome(bus, BthomeOptions(address))) for address in ADDRESSES]


def _wired() -> list[Named]:
    made: list[Named] = []
    for n in range(I2C_PAIRS):
        wire = SimulatedI2c([Scd30Chip(Wave()), Bmp280Chip(Wave())])
        made += [(f"scd30 {n}", Scd30(wire, Scd30Options())), (f"bmp280 {n}", Bmp280(wire, Bmp280Options()))]
    return made


@asynccontextmanager
async def _polled(sensors: Sequence[Named], late: Lateness) -> AsyncIterator[None]:
    """All of them read by the real poller."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(poll(name, "sensor", driver, INTERVAL_S, late.put, SystemClock()), name=f"poll {name}")
            for name, driver in sensors
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _memory(size: Size) -> tuple[float, float]:
    """KiB allocated in a first stretch and still held, and what a second one of the same length added to it."""
    gc.collect()
    tracemalloc.start()
    try:
        await asyncio.sleep(size.grow_s)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        await asyncio.sleep(size.grow_s)
        gc.collect()
        return held / 1024, max(0, tracemalloc.get_traced_memory()[0] - held) / 1024
    finally:
        tracemalloc.stop()


async def _use(size: Size, bus: Bluez, late: Lateness) -> Used:
    late.reset()
    heard, used_s, began_s = bus.counts.heard, time.process_time(), time.perf_counter()
    await asyncio.sleep(size.measure_s)
    used_s, took_s = time.process_time() - used_s, time.perf_counter() - began_s
    return Used(
        late.sensors,
        (bus.counts.heard - heard) / took_s,
        late.readings / took_s,
        100 * used_s / took_s,
        late.worst_s(),
    )


SYSTEM_PYTHON = "/usr/bin/python3"
"""Where distributions put python3-dbusmock."""
FIND = "import importlib.util as u, sys; sys.exit(not (u.find_spec('dbusmock') and u.find_spec('gi')))"
HCI = "hci0"
READY_WITHIN_S = 15.0
BUS = 'exec dbus-daemon --session --nofork --nopidfile --address="$0" --print-address=1 2>/dev/null'
"""Silent: as root it complains of a limit on files that it does not need."""
STAND_IN = """
import time
from dbus import Array, Boolean, ByteArray, Dictionary, Int16, ObjectPath
from dbus.lowlevel import SignalMessage
from gi.repository import GLib

adapter, device = "/org/bluez/{hci}", "org.bluez.Device1"
{frame}

def send(path, interface, name, signature, *body):
    for connection, _, _ in mock.locations:
        message = SignalMessage(path, interface, name)
        message.append(*body, signature=signature)
        connection.send_message(message)

def heard(packet, at):
    data = Dictionary({{"{uuid}": ByteArray(_frame(packet, at))}}, signature="sv")
    return {{"ServiceData": data, "RSSI": Int16(-60)}}

paths = []
for at, address in enumerate({addresses}):
    paths.append(adapter + "/dev_" + address.replace(":", "_"))
    names = ("Paired", "Connected", "Trusted", "Blocked", "ServicesResolved")
    said = {{"Address": address, "AddressType": "random", "Alias": "beacon", "Adapter": ObjectPath(adapter)}}
    said |= heard(0, at) | {{name: Boolean(False) for name in names}} | {{"UUIDs": Array([], signature="s")}}
    added = Dictionary({{device: Dictionary(said, signature="sv")}}, signature="sa{{sv}}")
    send("/", "org.freedesktop.DBus.ObjectManager", "InterfacesAdded", "oa{{sa{{sv}}}}", ObjectPath(paths[-1]), added)

began_s, sent = time.monotonic(), 0

def say():
    global sent
    while sent < (time.monotonic() - began_s) * {per_s} * len(paths):
        n, at = divmod(sent, len(paths))
        changed = (device, heard(n // {per_s}, at), Array([], signature="s"))
        send(paths[at], "org.freedesktop.DBus.Properties", "PropertiesChanged", "sa{{sv}}as", *changed)
        sent += 1
    return True

GLib.timeout_add(1, say)
"""


async def _through_dbus(size: Size) -> list[Figure]:
    name = f"ble, {BEACONS} beacons through D-Bus"
    if reason := await missing():
        print(f"{name}: not measured: {reason}", file=sys.stderr, flush=True)
        return []
    late = Lateness()
    async with AsyncExitStack() as stack:
        daemon, say = await stack.enter_async_context(_stand_in())
        bus = await stack.enter_async_context(Bluez(BleakRadio(HCI), scanning="active"))
        sensors = _beacon_drivers(bus)
        await stack.enter_async_context(_polled(sensors, late))
        await say()
        await asyncio.sleep(size.settle_s)
        before_s = cpu_s([daemon])
        used = await _use(size, bus, late)
        daemon_percent = 100 * (cpu_s([daemon]) - before_s) / size.measure_s
    beside = Figure(f"{name}: CPU of the bus daemon", daemon_percent, "%")
    return [*_figures(name, used, len(sensors), None, goals=False), beside]


async def missing() -> str:
    """Why there is no D-Bus here to measure with, "" where there is."""
    if shutil.which("dbus-daemon") is None:
        return "needs dbus-daemon"
    try:
        await output_of(SYSTEM_PYTHON, "-c", FIND)
    except (OSError, RuntimeError):
        return f"needs python3-dbusmock for {SYSTEM_PYTHON}"
    return ""


@asynccontextmanager
async def _stand_in() -> AsyncIterator[tuple[psutil.Process, Callable[[], Awaitable[None]]]]:
    """A bus of our own with an adapter on it, as this process's system bus; a call begins its beacons' adverts."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix:path={folder}/bus"
        async with child("sh", "-c", BUS, address) as daemon:
            assert daemon.stdout is not None
            async with asyncio.timeout(READY_WITHIN_S):
                assert await daemon.stdout.readline()  # its address: it listens
            with _system_bus(address):
                async with _model(address) as say:
                    try:
                        yield psutil.Process(daemon.pid), say
                    finally:
                        await _leave_bus()


@asynccontextmanager
async def _model(address: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """python-dbusmock's BlueZ with one adapter."""
    command = ("-m", "dbusmock", "--system", "--logfile", os.devnull, "--template", "bluez5")
    async with child(SYSTEM_PYTHON, "-W", "ignore", *command) as mock:
        bus = await MessageBus(bus_address=address).connect()
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                while not await _called(bus, "/org/bluez", "org.bluez.Mock", "AddAdapter", "ss", HCI, "bench"):
                    pass  # it is asked again as soon as it, or the bus in its place, has answered
            yield partial(_say, bus)
        finally:
            bus.disconnect()
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
            mock.terminate()  # an interrupt would make it print a traceback


async def _say(bus: MessageBus) -> None:
    """Let the stand-in for BlueZ hear the beacons from now on."""
    source = STAND_IN.format(
        hci=HCI, frame=inspect.getsource(_frame), uuid=UUID, addresses=ADDRESSES, per_s=ADVERTS_PER_S
    )
    mock, path = "org.freedesktop.DBus.Mock", f"/org/bluez/{HCI}"
    run = ("org.bluez.Bench", "Run", "s", "", "exec(args[0], {'mock': self})")
    assert await _called(bus, path, mock, "AddMethod", "sssss", *run)
    assert await _called(bus, path, "org.bluez.Bench", "Run", "s", source)


async def _called(bus: MessageBus, path: str, interface: str, member: str, signature: str, *body: str) -> bool:
    message = BusMessage("org.bluez", path, interface, member, signature=signature, body=list(body))
    reply = await bus.call(message)
    return reply is not None and reply.message_type is MessageType.METHOD_RETURN


@contextmanager
def _system_bus(address: str) -> Iterator[None]:
    name = "DBUS_SYSTEM_BUS_ADDRESS"
    before = os.environ.get(name)
    os.environ[name] = address
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


async def _leave_bus() -> None:
    """bleak keeps its connection for the life of the process, and would call its end a loss."""
    logging.getLogger(bleak_manager.__name__).setLevel(logging.ERROR)
    for manager in list(bleak_manager._global_instances.values()):
        if manager._bus is not None:
            manager._bus.disconnect()
            if manager._bus_watcher_task is not None:
                await asyncio.wait([manager._bus_watcher_task])
    bleak_manager._global_instances.clear()
