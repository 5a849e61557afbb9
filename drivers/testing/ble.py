"""Fake Bluetooth for driver tests, here and in third parties' packages: beacons and devices at the byte level."""

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from drivers.bus import Advert, BleCentral, BleInbox, Characteristic, GattLink
from drivers.errors import DriverError, NoDevice
from drivers.testing.buses import Fault, suffered

BTHOME = "0000fcd2-0000-1000-8000-00805f9b34fb"
ESS = "0000181a-0000-1000-8000-00805f9b34fb"


@dataclass(frozen=True, slots=True)
class Beacon:
    """Says `payload(n)` as the service data of `uuid` every `period_s`, for the n-th time (from 0), without end."""

    address: str
    payload: Callable[[int], bytes]
    period_s: float = 1.0
    uuid: str = BTHOME
    rssi: int = -60
    name: str = ""


@dataclass(frozen=True, slots=True)
class Value:
    """A characteristic of a device: `now(time_s)` gives its bytes; notified every `period_s` where that is not 0."""

    uuid: str
    now: Callable[[float], bytes]
    period_s: float = 0.0
    service: str = ESS


@dataclass(frozen=True, slots=True)
class Peripheral:
    """A device to connect to; the handles of its values are 0x10, 0x13, …"""

    address: str
    values: Sequence[Value]

    def characteristics(self) -> dict[int, tuple[Characteristic, Value]]:
        """What it offers, by handle."""
        numbered = zip(itertools.count(0x10, 3), self.values, strict=False)
        return {h: (Characteristic(h, v.uuid, v.service, notifies=v.period_s > 0), v) for h, v in numbered}


class SimulatedAir:
    """BleInbox and BleCentral over simulated beacons and devices, in the time of the running loop, without tasks."""

    def __init__(self, beacons: Iterable[Beacon] = (), peripherals: Iterable[Peripheral] = ()) -> None:
        self._beacons = {each.address: each for each in beacons}
        self._peripherals = {each.address: each for each in peripherals}
        self._given: dict[str, int] = {}

    async def listen(self, address: str) -> None:
        """As BleInbox."""
        await asyncio.sleep(0)

    async def next(self, address: str) -> Advert:
        """As BleInbox; an address that no beacon has is never heard."""
        await asyncio.sleep(0)
        beacon = self._beacons.get(address)
        if beacon is None:
            await asyncio.get_running_loop().create_future()
        assert beacon is not None
        n = max(math.floor(_now_s() / beacon.period_s), self._given.get(address, -1) + 1)
        await asyncio.sleep(max(0.0, n * beacon.period_s - _now_s()))
        self._given[address] = n
        said = {beacon.uuid: beacon.payload(n)}
        return Advert(address, n * beacon.period_s, beacon.rssi, said, name=beacon.name)

    @asynccontextmanager
    async def connect(self, address: str) -> AsyncIterator[GattLink]:
        """As BleCentral."""
        await asyncio.sleep(0)
        if address not in self._peripherals:
            raise NoDevice(f"{address}: not heard")
        yield _Link(self._peripherals[address])


class _Link:
    def __init__(self, peripheral: Peripheral) -> None:
        self._offered = peripheral.characteristics()
        self._due_s: dict[int, float] = {}

    @property
    def characteristics(self) -> tuple[Characteristic, ...]:
        return tuple(offered for offered, _ in self._offered.values())

    async def read(self, handle: int) -> bytes:
        await asyncio.sleep(0)
        return self._offered[handle][1].now(_now_s())

    async def subscribe(self, handle: int) -> None:
        await asyncio.sleep(0)
        self._due_s[handle] = _now_s() + self._offered[handle][1].period_s

    async def notified(self) -> Mapping[int, bytes]:
        if not self._due_s:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(max(0.0, min(self._due_s.values()) - _now_s()))
        now_s = _now_s()
        due = [handle for handle, due_s in self._due_s.items() if due_s <= now_s]
        for handle in due:
            self._due_s[handle] = now_s + self._offered[handle][1].period_s
        return {handle: self._offered[handle][1].now(now_s) for handle in due}


@dataclass(slots=True)
class _Spoiler:
    """Which exchange is next and how it goes wrong, shared by an air and the links made through it."""

    faults: dict[int, Fault]
    gone: DriverError | None = None
    transfers: int = 0

    async def before(self) -> Callable[[bytes], bytes]:
        n, self.transfers = self.transfers, self.transfers + 1
        if self.gone is not None:
            raise self.gone
        return await suffered(self.faults.get(n))


class FaultyAir:
    """Passes everything on and spoils the n-th exchange (from 0: listening, an advert, a connection, a read, …);
    `gone`, while set, is raised by every one."""

    def __init__(self, air: SimulatedAir, faults: Mapping[int, Fault] | None = None) -> None:
        self._inbox: BleInbox = air
        self._central: BleCentral = air
        self._spoiler = _Spoiler(dict(faults or {}))

    @property
    def gone(self) -> DriverError | None:
        """What every exchange raises for now."""
        return self._spoiler.gone

    @gone.setter
    def gone(self, error: DriverError | None) -> None:
        self._spoiler.gone = error

    @property
    def transfers(self) -> int:
        """How many exchanges were begun."""
        return self._spoiler.transfers

    async def listen(self, address: str) -> None:
        """As BleInbox."""
        await self._spoiler.before()
        await self._inbox.listen(address)

    async def next(self, address: str) -> Advert:
        """As BleInbox."""
        spoil = await self._spoiler.before()
        advert = await self._inbox.next(address)
        return replace(advert, service_data={uuid: spoil(said) for uuid, said in advert.service_data.items()})

    @asynccontextmanager
    async def connect(self, address: str) -> AsyncIterator[GattLink]:
        """As BleCentral."""
        await self._spoiler.before()
        async with self._central.connect(address) as link:
            yield _FaultyLink(link, self._spoiler)


@dataclass(frozen=True, slots=True)
class _FaultyLink:
    link: GattLink
    spoiler: _Spoiler = field(repr=False)

    @property
    def characteristics(self) -> tuple[Characteristic, ...]:
        return self.link.characteristics

    async def read(self, handle: int) -> bytes:
        spoil = await self.spoiler.before()
        return spoil(await self.link.read(handle))

    async def subscribe(self, handle: int) -> None:
        await self.spoiler.before()
        await self.link.subscribe(handle)

    async def notified(self) -> Mapping[int, bytes]:
        spoil = await self.spoiler.before()
        return {handle: spoil(value) for handle, value in (await self.link.notified()).items()}


def _now_s() -> float:
    return asyncio.get_running_loop().time()
