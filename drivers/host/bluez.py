"""Bluetooth LE of this machine: one scan for all devices of an adapter, an inbox for each, a watch over the radio."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

from drivers.bus import Advert, GattLink, ble_address
from drivers.errors import BusError, BusTimeout, BusUnavailable, DriverError
from drivers.sensors import bthome, ess

log = logging.getLogger(__name__)

Scanning = Literal["auto", "passive", "active"]

SILENCE_S = 120.0  # no advert from anybody: first the scan is restarted, then, after twice this, the adapter
SILENCE_MAX_S = 3600.0  # each vain cure doubles the patience: a house may simply be quiet
RETRY_S = 10.0  # while the adapter is gone
STUCK_S = 30.0  # a scan that takes longer to start or stop will not come
CONNECT_S = 30.0
SEEN_MAX = 64  # beacons that nobody listens to


class Radio(Protocol):
    """One adapter. Raises BusUnavailable with the way out where it cannot be used, BusError otherwise."""

    async def start(self, heard: Callable[[Advert], None], *, passive: bool) -> None:
        """Begin to scan and hand over each advert, in the loop's thread."""

    async def stop(self) -> None:
        """End the scan; never raises."""

    async def power_cycle(self) -> None:
        """Switch the adapter off and on again."""

    def connect(self, address: str) -> AbstractAsyncContextManager[GattLink]:
        """As BleCentral."""


@dataclass(slots=True)
class Counts:
    """What the scan did since it was opened."""

    heard: int = 0
    overwritten: int = 0
    dropped: int = 0
    restarts: int = 0
    power_cycles: int = 0


@dataclass(frozen=True, slots=True)
class Sighting:
    """A beacon in reach that no driver listens to: the driver it would take and what that would measure."""

    address: str
    name: str
    rssi: int | None
    driver: str
    measures: tuple[str, ...]
    age_s: float


@dataclass(slots=True)
class _Box:
    newest: Advert | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


class Bluez:
    """An adapter as BleInbox and BleCentral; it scans for as long as at least one `async with` is inside.

    Addresses that are listened to keep their newest advert; of all others at most SEEN_MAX, and only those that could
    be proposed. `report` hears of every cure and of every loss and return of the radio. `scanning` "auto" is passive
    where the adapter can, and turns active when it hears nothing.
    """

    def __init__(
        self,
        radio: Radio,
        *,
        scanning: Scanning = "auto",
        silence_s: float = SILENCE_S,
        report: Callable[[str], None] = log.warning,
    ) -> None:
        self._radio, self._scanning, self._silence_s, self._report = radio, scanning, silence_s, report
        self._passive = scanning != "active"
        self._boxes: dict[str, _Box] = {}
        self._seen: OrderedDict[str, tuple[Advert, str, tuple[str, ...]]] = OrderedDict()
        self._connecting = asyncio.Lock()
        self._users = self._links = 0
        self._entering = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        self._fault: DriverError | None = None
        self._heard_s = self._scanned_s = 0.0
        self.counts = Counts()

    async def __aenter__(self) -> Self:
        async with self._entering:
            if not self._users:
                self._fault = None
                self._heard_s = asyncio.get_running_loop().time()
                await self._scan()
                self._watch = asyncio.create_task(self._watching(), name="ble.watch")
            self._users += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        async with self._entering:
            self._users -= 1
            if self._users:
                return
            watch, self._watch = self._watch, None
            assert watch is not None
            watch.cancel()
            await asyncio.wait([watch])
            await self._radio.stop()
            if not watch.cancelled() and (error := watch.exception()) is not None:
                raise error

    async def listen(self, address: str) -> None:
        """As BleInbox."""
        self._usable()
        self._box(address)

    async def next(self, address: str) -> Advert:
        """As BleInbox."""
        box = self._box(address)
        while True:
            self._usable()
            if box.newest is not None:
                advert, box.newest = box.newest, None
                return advert
            box.arrived.clear()
            await box.arrived.wait()

    @asynccontextmanager
    async def connect(self, address: str) -> AsyncIterator[GattLink]:
        """As BleCentral; while one device is being connected to, others wait."""
        self._usable()
        link = self._radio.connect(ble_address(address))
        async with self._connecting:
            try:
                async with asyncio.timeout(CONNECT_S):
                    connected = await link.__aenter__()
            except TimeoutError:
                raise BusTimeout(f"{address}: no connection in {CONNECT_S:g} s; is it in reach and awake?") from None
        self._links += 1
        try:
            yield connected
        finally:
            self._links -= 1
            await link.__aexit__(None, None, None)

    def seen(self) -> tuple[Sighting, ...]:
        """The beacons in reach that could be configured, the last heard first."""
        now_s = asyncio.get_running_loop().time()
        return tuple(
            Sighting(a.address, a.name, a.rssi, driver, measures, now_s - a.time_s)
            for a, driver, measures in reversed(self._seen.values())
        )

    @property
    def silent_s(self) -> float:
        """How long nobody at all was heard, since the adapter was opened."""
        return asyncio.get_running_loop().time() - self._heard_s

    def _usable(self) -> None:
        if self._fault is not None:
            raise type(self._fault)(*self._fault.args)
        if not self._users:
            raise RuntimeError("the Bluetooth adapter is not open: use it inside `async with`")

    def _box(self, address: str) -> _Box:
        address = ble_address(address)
        self._seen.pop(address, None)
        return self._boxes.setdefault(address, _Box())

    def _heard(self, advert: Advert) -> None:
        self.counts.heard += 1
        self._heard_s = advert.time_s
        box = self._boxes.get(advert.address)
        if box is not None:
            self.counts.overwritten += box.newest is not None
            box.newest = advert
            box.arrived.set()
            return
        measures = bthome.offers(advert)
        driver = "bthome"
        if measures is None:
            measures, driver = ess.offers(advert), "ess"
        if measures is None:
            return
        self._seen[advert.address] = (advert, driver, measures)
        self._seen.move_to_end(advert.address)
        if len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)
            self.counts.dropped += 1

    async def _scan(self) -> None:
        self._scanned_s = asyncio.get_running_loop().time()
        if self._passive:
            try:
                return await self._start(passive=True)
            except BusUnavailable:
                raise
            except BusError as error:
                if self._scanning == "passive":
                    raise BusUnavailable(f"{error}; or put ?scan=active behind the adapter's name") from error
                log.info("%s; scanning actively instead", error)
                self._passive = False
        try:
            await self._start(passive=False)
        except BusError as error:
            raise BusUnavailable(f"{error}: restart the bluetooth service") from error
        return None

    async def _start(self, *, passive: bool) -> None:
        try:
            async with asyncio.timeout(STUCK_S):
                await self._radio.start(self._heard, passive=passive)
        except TimeoutError:
            raise BusTimeout(f"the Bluetooth service does not answer within {STUCK_S:g} s") from None

    async def _watching(self) -> None:
        vain, heard = 0, self.counts.heard
        while True:
            if self._fault is not None:
                await asyncio.sleep(RETRY_S)
            else:
                if self.counts.heard != heard:
                    vain, heard = 0, self.counts.heard
                quiet_s = asyncio.get_running_loop().time() - max(self._heard_s, self._scanned_s)
                patience_s = min(self._silence_s * 2**vain, SILENCE_MAX_S)
                if quiet_s < patience_s:
                    await asyncio.sleep(patience_s - quiet_s)
                    continue
            try:
                await self._cure(vain)
            except (BusError, BusUnavailable) as error:
                self._lost(error)
            vain = min(vain + 1, 16)

    async def _cure(self, vain: int) -> None:
        """First a new scan; if that was in vain, the adapter is switched off and on unless a device is connected."""
        await self._radio.stop()
        if self._fault is None:
            cycle = vain > 0 and not self._links
            cure = "switching the adapter off and on" if cycle else "scanning anew"
            self._report(f"no Bluetooth advert from anybody for {self.silent_s:.0f} s: {cure}")
            if cycle:
                self.counts.power_cycles += 1
                await self._radio.power_cycle()
            if self._scanning == "auto":
                self._passive = False
        self.counts.restarts += 1
        await self._scan()
        if self._fault is not None:
            self._fault = None
            self._report("the Bluetooth adapter listens again")

    def _lost(self, error: DriverError) -> None:
        if self._fault is None or str(self._fault) != str(error):
            self._report(f"the Bluetooth adapter cannot be used: {error}")
        self._fault = error
        for box in self._boxes.values():
            box.arrived.set()
