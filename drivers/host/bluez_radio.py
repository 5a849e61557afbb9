"""The Bluetooth adapter itself: bleak over BlueZ and D-Bus. Importing this imports bleak."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from bleak import BleakClient, BleakScanner
from bleak.args.bluez import BlueZScannerArgs, OrPattern
from bleak.assigned_numbers import AdvertisementDataType
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import BleakDeviceNotFoundError, BleakError
from dbus_fast import BusType, DBusError, Message, MessageType, Variant
from dbus_fast.aio.message_bus import MessageBus

from drivers.bus import Advert, Characteristic, GattLink
from drivers.errors import BusError, BusTimeout, BusUnavailable, NoDevice

BLUEZ, ADAPTER, PROPERTIES = "org.bluez", "org.bluez.Adapter1", "org.freedesktop.DBus.Properties"
NOT_TOLD_DBM = -127  # what bleak says where BlueZ has no RSSI: the properties changed, but nothing was heard
NO_SERVICE = ("ServiceUnknown", "NameHasNoOwner", "Spawn.", "NoSuchUnit", "UnitMasked")
NO_SUCH = ("UnknownObject", "UnknownMethod", "UnknownInterface")  # an object path without an adapter
POWER_PAUSE_S = 1.0

# What a passive scan lets through: BTHome, and devices that name Environmental Sensing first. BlueZ 5.82 hears nothing
# by these alone, so BTHome's flags (general discoverable, LE only) stand beside them; of five such patterns its
# bluetoothd died (hil/README.md).
PATTERNS = [
    OrPattern(0, AdvertisementDataType.SERVICE_DATA_UUID16, b"\xd2\xfc"),
    OrPattern(0, AdvertisementDataType.COMPLETE_LIST_SERVICE_UUID16, b"\x1a\x18"),
    OrPattern(0, AdvertisementDataType.INCOMPLETE_LIST_SERVICE_UUID16, b"\x1a\x18"),
    OrPattern(0, AdvertisementDataType.FLAGS, b"\x06"),
]


class BleakRadio:
    """The adapter of this name ("hci0") as Radio."""

    def __init__(self, adapter: str) -> None:
        self._adapter = adapter
        self._scanner: BleakScanner | None = None
        self._owed = False  # we switched it off

    async def start(self, heard: Callable[[Advert], None], *, passive: bool) -> None:
        """As Radio."""
        now_s = asyncio.get_running_loop().time

        def detected(device: BLEDevice, said: AdvertisementData) -> None:
            if said.rssi != NOT_TOLD_DBM:
                heard(advert(device, said, now_s()))

        arguments: BlueZScannerArgs = {"adapter": self._adapter}
        if passive:
            arguments["or_patterns"] = list(PATTERNS)
        else:
            arguments["filters"] = {"DuplicateData": True}  # or a value that stays the same looks like a dead beacon
        async with self._bus() as bus:
            await self._powered(bus)
        with self._meaning():
            scanner = BleakScanner(detected, scanning_mode="passive" if passive else "active", bluez=arguments)
            await scanner.start()
        self._scanner = scanner

    async def stop(self) -> None:
        """As Radio."""
        scanner, self._scanner = self._scanner, None
        if scanner is not None:
            with suppress(BusError, BusUnavailable), self._meaning():
                await scanner.stop()

    async def power_cycle(self) -> None:
        """As Radio."""
        async with self._bus() as bus:
            self._owed = True
            await self._switch(bus, on=False)
            await asyncio.sleep(POWER_PAUSE_S)
            await self._switch(bus, on=True)
            self._owed = False

    @asynccontextmanager
    async def connect(self, address: str) -> AsyncIterator[GattLink]:
        """As BleCentral."""
        path = f"/org/bluez/{self._adapter}/dev_{address.replace(':', '_')}"
        link = _Link(address, self._meaning)
        device = BLEDevice(address, None, {"path": path, "props": {}})
        client = BleakClient(device, link.lost, bluez={"adapter": self._adapter})
        with self._meaning(address):
            await client.connect()
        try:
            link.opened(client)
            yield link
        finally:
            with suppress(BusError, BusUnavailable), self._meaning(address):
                await client.disconnect()

    async def _powered(self, bus: MessageBus) -> None:
        reply = await self._call(bus, PROPERTIES, "GetAll", "s", ADAPTER)
        properties = {name: variant.value for name, variant in reply[0].items()}
        if properties.get("Powered"):
            return
        if self._owed and properties.get("PowerState") != "off-blocked":
            await self._switch(bus, on=True)
            self._owed = False
            return
        raise BusUnavailable(
            f"Bluetooth adapter {self._adapter} is off: `rfkill unblock bluetooth`, then `bluetoothctl power on`"
        )

    async def _switch(self, bus: MessageBus, *, on: bool) -> None:
        await self._call(bus, PROPERTIES, "Set", "ssv", ADAPTER, "Powered", Variant("b", on))

    async def _call(self, bus: MessageBus, interface: str, member: str, signature: str, *body: Any) -> list[Any]:
        reply = await bus.call(
            Message(BLUEZ, f"/org/bluez/{self._adapter}", interface, member, signature=signature, body=list(body))
        )
        assert reply is not None
        if reply.message_type is MessageType.ERROR:
            absent = "not found " if str(reply.error_name).endswith(NO_SUCH) else ""
            raise meaning(self._adapter, f"{absent}{reply.error_name} {' '.join(map(str, reply.body))}")
        return list(reply.body)

    @asynccontextmanager
    async def _bus(self) -> AsyncIterator[MessageBus]:
        with self._meaning():
            bus = MessageBus(bus_type=BusType.SYSTEM)
            try:
                await bus.connect()
                yield bus
            finally:
                bus.disconnect()

    @contextmanager
    def _meaning(self, address: str = "") -> Iterator[None]:
        """Raise what went wrong below as one of our errors."""
        try:
            yield
        except BleakDeviceNotFoundError as error:
            raise not_heard(address) from error
        except BleakError as error:
            if address and "not found" in str(error):
                raise not_heard(address) from error
            raise meaning(self._adapter, str(error), address) from error
        except TimeoutError as error:
            raise BusTimeout(f"{address or self._adapter}: no answer over Bluetooth") from error
        except (OSError, EOFError, DBusError) as error:
            raise BusUnavailable(
                f"no D-Bus ({error}): install and start bluez and dbus; in a container mount the host's socket and set "
                "DBUS_SYSTEM_BUS_ADDRESS"
            ) from error


class _Link:
    """One connected device as GattLink."""

    def __init__(self, address: str, meaning_of: Callable[[str], Any]) -> None:
        self._address, self._meaning = address, meaning_of
        self._client: BleakClient | None = None
        self._characteristics: tuple[Characteristic, ...] = ()
        self._newest: dict[int, bytes] = {}
        self._news = asyncio.Event()
        self._gone = False

    @property
    def characteristics(self) -> tuple[Characteristic, ...]:
        """As GattLink."""
        return self._characteristics

    def opened(self, client: BleakClient) -> None:
        """The connection stands and what the device offers is known."""
        self._client = client
        found = (
            Characteristic(
                each.handle,
                each.uuid,
                service.uuid,
                "read" in each.properties,
                "notify" in each.properties or "indicate" in each.properties,
            )
            for service in client.services
            for each in service.characteristics
        )
        self._characteristics = tuple(sorted(found, key=lambda c: c.handle))

    def lost(self, _client: BleakClient) -> None:
        """The device went away."""
        self._gone = True
        self._news.set()

    async def read(self, handle: int) -> bytes:
        """As GattLink."""
        client = self._there()
        with self._meaning(self._address):
            return bytes(await client.read_gatt_char(handle))

    async def subscribe(self, handle: int) -> None:
        """As GattLink."""
        client = self._there()
        with self._meaning(self._address):
            await client.start_notify(handle, lambda _, value: self._notified(handle, bytes(value)))

    async def notified(self) -> Mapping[int, bytes]:
        """As GattLink."""
        while not self._newest:
            self._there()
            self._news.clear()
            await self._news.wait()
        newest, self._newest = self._newest, {}
        return newest

    def _notified(self, handle: int, value: bytes) -> None:
        self._newest[handle] = value
        self._news.set()

    def _there(self) -> BleakClient:
        if self._gone or self._client is None:
            raise NoDevice(f"{self._address}: the connection is lost")
        return self._client


def advert(device: BLEDevice, said: AdvertisementData, now_s: float) -> Advert:
    """What bleak heard, as ours."""
    return Advert(
        device.address.upper(),
        now_s,
        said.rssi,
        {uuid.lower(): bytes(data) for uuid, data in said.service_data.items()},
        said.manufacturer_data,
        tuple(uuid.lower() for uuid in said.service_uuids),
        said.local_name or "",
    )


def not_heard(address: str) -> NoDevice:
    """A device that BlueZ does not know at present."""
    return NoDevice(f"{address}: not heard lately; is it on and in reach? If it needs an active scan: ?scan=active")


ADAPTER_TROUBLE = (
    (("Blocked", "rfkill"), "is blocked: `rfkill unblock bluetooth`"),
    (("NotReady",), "is switched off: `bluetoothctl power on`"),
    (
        ("not found",),
        "is missing: `bluetoothctl list` shows those there are; on a Raspberry Pi look for `dtoverlay=disable-bt`",
    ),
)


def meaning(adapter: str, text: str, address: str = "") -> BusError | BusUnavailable:
    """What BlueZ or D-Bus said about an adapter, or about a device on it."""
    if any(sign in text for sign in NO_SERVICE):
        return BusUnavailable("no Bluetooth service: install bluez, then `sudo systemctl enable --now bluetooth`")
    if "AccessDenied" in text or "AuthError" in text or "DENIED" in text:
        return BusUnavailable(f"no permission for Bluetooth ({text}): `sudo usermod -aG bluetooth $USER`, log in again")
    if address:
        return BusError(f"{address}: {text}")
    for signs, trouble in ADAPTER_TROUBLE:
        if any(sign in text for sign in signs):
            return BusUnavailable(f"Bluetooth adapter {adapter} {trouble} ({text})")
    return BusError(f"Bluetooth adapter {adapter}: {text}")
