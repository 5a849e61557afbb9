"""Bluetooth through the real bleak and a real message bus; BlueZ itself is python-dbusmock's model of it."""

import asyncio
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
from bleak.backends.bluezdbus import manager as bleak_manager
from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from drivers.errors import BusUnavailable, NoDevice
from drivers.host.bluez import Bluez
from drivers.host.bluez_radio import BleakRadio
from drivers.host.open import open_bus
from drivers.model import Sample
from drivers.sensors.bthome import Bthome, BthomeOptions
from drivers.sensors.ess import BASE, SERVICE, Ess, EssOptions
from drivers.testing.ble import BTHOME

SYSTEM_PYTHON = "/usr/bin/python3"
MOCK, PROPERTIES = "org.freedesktop.DBus.Mock", "org.freedesktop.DBus.Properties"
ADAPTER, DEVICE, HCI = "org.bluez.Adapter1", "org.bluez.Device1", "/org/bluez/hci0"
MAC = "F1:F1:F1:F1:F1:F1"
PATH = f"{HCI}/dev_{MAC.replace(':', '_')}"
VALUE = "org.bluez.GattCharacteristic1"
DEADLINE_S = 10
CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="true"/>
<allow eavesdrop="true"/></policy></busconfig>"""


def _has_mock() -> bool:
    found = subprocess.run([SYSTEM_PYTHON, "-c", "import dbusmock"], capture_output=True, check=False)
    return shutil.which("dbus-daemon") is not None and found.returncode == 0


pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not (sys.platform == "linux" and _has_mock()), reason="needs dbus and python3-dbusmock"),
]


class World:
    """The model of BlueZ, and our own seat on its bus."""

    def __init__(self, bus):
        self.bus = bus

    async def call(self, path, interface, member, signature, *body):
        reply = await self.bus.call(Message("org.bluez", path, interface, member, signature=signature, body=list(body)))
        if reply.message_type is MessageType.ERROR:
            raise RuntimeError(f"{member}: {reply.error_name} {reply.body}")
        return reply.body

    async def add_adapter(self):
        await self.call("/org/bluez", "org.bluez.Mock", "AddAdapter", "ss", "hci0", "bench")
        await self.call(HCI, MOCK, "AddProperty", "ssv", ADAPTER, "Roles", Variant("as", ["central", "peripheral"]))

    async def powered(self, on):
        await self.call(HCI, MOCK, "UpdateProperties", "sa{sv}", ADAPTER, {"Powered": Variant("b", on)})

    async def adapter(self, name):
        return (await self.call(HCI, PROPERTIES, "Get", "ss", ADAPTER, name))[0].value

    async def emit(self, path, interface, signal, signature, *arguments):
        await self.call(path, MOCK, "EmitSignal", "sssav", interface, signal, signature, list(arguments))

    async def appear(self, data, rssi=-50, **more):
        """A device is heard for the first time. The template would mistype its service data."""
        said = {
            "Address": Variant("s", MAC),
            "AddressType": Variant("s", "random"),
            "Name": Variant("s", "porch"),
            "Alias": Variant("s", "porch"),
            **{name: Variant("b", False) for name in ("Paired", "Connected", "Trusted", "Blocked", "ServicesResolved")},
            "Adapter": Variant("o", HCI),
            "UUIDs": Variant("as", []),
            "RSSI": Variant("n", rssi),
            "ServiceData": service_data(data),
        } | more
        await self.call("/", MOCK, "AddObject", "ssa{sv}a(ssss)", PATH, DEVICE, said, [])
        await self.interfaces_added(PATH, DEVICE, said)

    async def appear_with_values(self):
        """A device that can be connected to, with a temperature and a humidity; the former notifies."""
        yes = "{'Connected': dbus.Boolean(True), 'ServicesResolved': dbus.Boolean(True)}"
        connecting = (("Connect", yes), ("Disconnect", yes.replace("True", "False")))
        await self.appear(frame(0))
        methods = [[name, "", "", f"self.UpdateProperties('{DEVICE}', {to})"] for name, to in connecting]
        await self.call(PATH, MOCK, "AddMethods", "sa(ssss)", DEVICE, methods)
        service = f"{PATH}/service0010"
        about = {"UUID": Variant("s", SERVICE), "Device": Variant("o", PATH), "Primary": Variant("b", True)}
        await self.interfaces_added(service, "org.bluez.GattService1", about)
        for path, number, flags, value in (
            ("char0011", 0x2A6E, ["read", "notify"], "[0x66, 0x08]"),
            ("char0014", 0x2A6F, ["read"], "[0xa0, 0x11]"),
        ):
            offered = {
                "UUID": Variant("s", BASE.format(number)),
                "Service": Variant("o", service),
                "Flags": Variant("as", flags),
            }
            methods = [["ReadValue", "a{sv}", "ay", f"ret = {value}"], ["StartNotify", "", "", ""]]
            await self.call("/", MOCK, "AddObject", "ssa{sv}a(ssss)", f"{service}/{path}", VALUE, offered, methods)
            await self.interfaces_added(f"{service}/{path}", VALUE, offered)

    async def interfaces_added(self, path, interface, properties):
        signal = ("org.freedesktop.DBus.ObjectManager", "InterfacesAdded", "oa{sa{sv}}")
        await self.emit("/", *signal, Variant("o", path), Variant("a{sa{sv}}", {interface: properties}))

    async def change(self, path, interface, changed):
        signal = (PROPERTIES, "PropertiesChanged", "sa{sv}as")
        await self.emit(path, *signal, Variant("s", interface), Variant("a{sv}", changed), Variant("as", []))

    async def say(self, data, rssi=-50):
        await self.change(PATH, DEVICE, {"ServiceData": service_data(data), "RSSI": Variant("n", rssi)})


def service_data(data):
    return Variant("a{sv}", {BTHOME: Variant("ay", data)})


def frame(n):
    return bytes((0x40, 0, n, 0x02, 0xCA, n))


async def until(condition):
    """Ask another process until it says yes, at most until the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():
            pass


@asynccontextmanager
async def daemon(folder):
    config = folder / "bus.conf"
    config.write_text(CONFIG.format(folder / "bus"))
    process = await asyncio.create_subprocess_exec(
        "dbus-daemon",
        f"--config-file={config}",
        "--nofork",
        "--nopidfile",
        "--print-address=1",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert await process.stdout.readline()  # its address: it listens
        yield
    finally:
        process.kill()
        await process.wait()


@pytest.fixture
async def system_bus(tmp_path, monkeypatch):
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'bus'}")
    async with daemon(tmp_path):
        yield
        await close_bleak()


async def close_bleak():
    """bleak keeps its connection for the life of the process; a test must not leave it behind."""
    for manager in list(bleak_manager._global_instances.values()):
        if manager._bus is not None:
            manager._bus.disconnect()
            if manager._bus_watcher_task is not None:
                await asyncio.wait([manager._bus_watcher_task])
    bleak_manager._global_instances.clear()


@pytest.fixture
async def world(system_bus):
    mock = await asyncio.create_subprocess_exec(
        *(SYSTEM_PYTHON, "-m", "dbusmock", "--system", "--template", "bluez5"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    try:
        here = Message(
            *("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "NameHasOwner"),
            signature="s",
            body=["org.bluez"],
        )

        async def stands():
            return (await bus.call(here)).body[0]

        await until(stands)
        world = World(bus)
        await until_template(world)
        yield world
    finally:
        bus.disconnect()
        await bus.wait_for_disconnect()
        mock.kill()
        await mock.wait()


async def until_template(world):
    """The name is taken before the template is loaded."""

    async def loaded():
        try:
            await world.call("/org/bluez", "org.freedesktop.DBus.Introspectable", "Introspect", "")
            await world.add_adapter()
        except RuntimeError:
            return False
        return True

    await until(loaded)


async def test_adverts_come_through(world):
    async with open_bus("ble:hci0") as bus:
        assert await world.adapter("Discovering")
        driver = Bthome(bus, BthomeOptions(MAC, timeout_s=DEADLINE_S))
        await driver.start()
        await world.appear(frame(0))
        found = [await driver.read()]
        for n in (1, 2, 3):
            await world.say(frame(n), rssi=-50 - n)
            found.append(await driver.read())
        assert [samples[-1] for samples in found] == [Sample("rssi", -50 - n) for n in range(4)]
        assert [samples[0].value for samples in found] == [2.02, 4.58, 7.14, 9.70]
    assert not await world.adapter("Discovering")


async def test_a_change_that_was_not_heard_on_the_air_is_no_advert(world):
    async with Bluez(BleakRadio("hci0")) as bus:
        await bus.listen(MAC)
        await world.appear(frame(1))
        await bus.next(MAC)
        heard = bus.counts.heard
        await world.emit(
            PATH,
            PROPERTIES,
            "PropertiesChanged",
            "sa{sv}as",
            Variant("s", DEVICE),
            Variant("a{sv}", {}),
            Variant("as", ["RSSI"]),
        )
        await world.change(PATH, DEVICE, {"Connected": Variant("b", False)})
        await world.say(frame(2))
        assert (await bus.next(MAC)).service_data[BTHOME] == frame(2)
        assert bus.counts.heard == heard + 1


async def test_new_beacons_are_proposed(world):
    async with Bluez(BleakRadio("hci0")) as bus:
        await world.appear(frame(1))

        async def seen():
            await world.adapter("Powered")
            return bus.seen()

        await until(seen)
        (sighting,) = bus.seen()
        assert (sighting.address, sighting.name, sighting.rssi) == (MAC, "porch", -50)
        assert sighting.measures == ("temperature", "rssi")


async def test_a_silent_radio_is_scanned_anew_and_power_cycled(world, monkeypatch):
    monkeypatch.setattr("drivers.host.bluez_radio.POWER_PAUSE_S", 0.0)
    told: asyncio.Queue[str] = asyncio.Queue()
    async with Bluez(BleakRadio("hci0"), silence_s=0.2, report=told.put_nowait) as bus, asyncio.timeout(DEADLINE_S):
        assert "scanning anew" in await told.get()
        assert "switching the adapter off and on" in await told.get()
        await told.get()  # the cycle before it is through
        assert await world.adapter("Powered")
        await bus.listen(MAC)
        await world.appear(frame(1))

        async def heard():
            await world.say(frame(2))
            return bus.counts.heard

        await until(heard)
        assert (await bus.next(MAC)).address == MAC
        assert bus.counts.power_cycles >= 1


@pytest.mark.parametrize("spec", ["ble:hci0", "ble:hci0?scan=active", "ble:hci0?scan=passive"])
async def test_an_adapter_that_is_off(world, spec):
    await world.powered(False)
    with pytest.raises(BusUnavailable, match="hci0 is off: `rfkill unblock bluetooth`"):
        async with open_bus(spec):
            pass


async def test_an_adapter_that_is_not_there(world):
    with pytest.raises(BusUnavailable, match="hci7 is missing: `bluetoothctl list`"):
        async with open_bus("ble:hci7"):
            pass


async def test_an_adapter_without_passive_scanning(world):
    with pytest.raises(BusUnavailable, match="scan=active"):
        async with open_bus("ble:hci0?scan=passive"):
            pass


async def test_no_bluetooth_service(system_bus):
    with pytest.raises(BusUnavailable, match="systemctl enable --now bluetooth"):
        async with open_bus("ble:hci0"):
            pass


async def test_no_bus_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'none'}")
    with pytest.raises(BusUnavailable, match="no D-Bus"):
        async with open_bus("ble:hci0"):
            pass


async def test_a_device_nobody_hears_cannot_be_connected(world):
    async with open_bus("ble:hci0") as bus:
        with pytest.raises(NoDevice, match="not heard lately"):
            await Ess(bus, EssOptions(MAC)).start()


async def test_values_are_read_over_a_connection(world):
    async with open_bus("ble:hci0") as bus, asyncio.timeout(DEADLINE_S):
        await world.appear_with_values()
        driver = Ess(bus, EssOptions(MAC))
        await until_connectable(driver)
        assert await driver.read() == (Sample("temperature", 21.5), Sample("humidity", 45.12))
        await driver.stop()


async def test_notifications_and_a_lost_connection(world):
    async with open_bus("ble:hci0") as bus, asyncio.timeout(DEADLINE_S):
        await world.appear_with_values()
        driver = Ess(bus, EssOptions(MAC, mode="notify"))
        await until_connectable(driver)
        assert await driver.read() == (Sample("temperature", 21.5), Sample("humidity", 45.12))
        await world.change(f"{PATH}/service0010/char0011", VALUE, {"Value": Variant("ay", b"\x70\x08")})
        assert await driver.read() == (Sample("temperature", 21.6),)
        lost = {"Connected": Variant("b", False), "ServicesResolved": Variant("b", False)}
        await world.call(PATH, MOCK, "UpdateProperties", "sa{sv}", DEVICE, lost)
        with pytest.raises(NoDevice, match="the connection is lost"):
            await driver.read()
        assert await driver.read() == (Sample("temperature", 21.5), Sample("humidity", 45.12))
        await driver.stop()


async def until_connectable(driver):
    """bleak learns of the device by a signal, which may come after our own call's answer."""

    async def connectable():
        try:
            await driver.start()
        except NoDevice:
            return False
        return True

    await until(connectable)
