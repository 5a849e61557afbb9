"""Our Bluetooth over the real BlueZ and the kernel's own stack; only the radio is virtual (air.py).

bluetoothd runs as a distribution starts it; one test asks for its experimental parts.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from bleak.backends.bluezdbus import manager as bleak_manager
from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from drivers.errors import BadData, BusUnavailable, NoDevice
from drivers.host import bluez
from drivers.host.bluez import Bluez
from drivers.host.bluez_radio import BleakRadio
from drivers.host.open import open_bus
from drivers.model import Sample
from drivers.sensors.bthome import Bthome, BthomeOptions
from drivers.sensors.ess import Ess, EssOptions

sys.path.insert(0, str(Path(__file__).parent))
from air import Air, Sensor, bthome

VECTORS = Path(__file__).parents[3] / "tests/vectors/bthome_vectors.json"
NAMES = {"carbon_dioxide": "co2"} | {
    name: name for name in ("temperature", "humidity", "pressure", "battery", "voltage")
}
ROOM_BYTES = 24  # of a legacy advertisement, beside the flags
MAC, DEVICE = "A4:C1:38:8D:18:B2", "F2:F2:F2:F2:F2:F2"
DEADLINE_S = 60
ADAPTER, PROPERTIES = "org.bluez.Adapter1", "org.freedesktop.DBus.Properties"
DAEMON = "/usr/libexec/bluetooth/bluetoothd"


class Bench:
    """The air, and our own seat on the system bus."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus, self.air = bus, Air()

    async def adapter(self, name: str) -> Any:
        """A property of hci0, None while BlueZ has no such adapter."""
        reply = await self._call("Get", "ss", ADAPTER, name)
        return None if reply.message_type is MessageType.ERROR else reply.body[0].value

    async def power(self, *, on: bool) -> None:
        """Switch hci0."""
        reply = await self._call("Set", "ssv", ADAPTER, "Powered", Variant("b", on))
        assert reply.message_type is not MessageType.ERROR, reply.body

    async def _call(self, member: str, signature: str, *body: Any) -> Message:
        reply = await self._bus.call(
            Message("org.bluez", "/org/bluez/hci0", PROPERTIES, member, signature=signature, body=list(body))
        )
        assert reply is not None
        return reply

    @asynccontextmanager
    async def plugged(self) -> AsyncIterator[None]:
        """hci0, powered by BlueZ as on a real machine."""
        async with self.air.plugged():
            await self.until_powered()
            yield
        await until(self._absent)

    async def until_powered(self) -> None:
        """BlueZ has seen the adapter and switched it on."""

        async def powered() -> bool:
            return bool(await self.adapter("Powered"))

        await until(powered)

    async def _absent(self) -> bool:
        return await self.adapter("Powered") is None


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask another process until it says yes, at most until the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():
            pass


@pytest.fixture
async def service(request: pytest.FixtureRequest) -> AsyncIterator[MessageBus]:
    options = getattr(request, "param", ())
    with Path("/out/bluetoothd.log").open("ab") as log:  # noqa: ASYNC230 - a local file, opened once
        daemon = await asyncio.create_subprocess_exec(DAEMON, "--nodetach", *options, stdout=log, stderr=log)
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()

    async def stands() -> bool:
        asked = Message(
            *("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "NameHasOwner"),
            signature="s",
            body=["org.bluez"],
        )
        reply = await bus.call(asked)
        return reply is not None and bool(reply.body[0])

    try:
        await until(stands)
        yield bus
        await close_bleak()
    finally:
        bus.disconnect()
        await bus.wait_for_disconnect()
        daemon.terminate()
        await daemon.wait()


async def close_bleak() -> None:
    """bleak keeps its connection for the life of the process; a test must not leave it behind."""
    for manager in list(bleak_manager._global_instances.values()):
        if manager._bus is not None:
            manager._bus.disconnect()
            if manager._bus_watcher_task is not None:
                await asyncio.wait([manager._bus_watcher_task])
    bleak_manager._global_instances.clear()


@pytest.fixture
async def bench(service: MessageBus) -> AsyncIterator[Bench]:
    bench = Bench(service)
    try:
        yield bench
    finally:
        bench.air.close()


def vectors() -> list[dict[str, Any]]:
    """Those whose values are right, that name a quantity of ours and that fit into a legacy advertisement."""
    every = json.loads(VECTORS.read_text())["vectors"]
    return [
        each
        for each in every
        if each["verdict"] == "ok"
        and each["uuid"] == "FCD2"
        and len(each["service_data"]) <= 2 * ROOM_BYTES
        and each["expect"].keys() & NAMES.keys()
    ]


@pytest.mark.parametrize(("service", "scan"), [((), "active"), (("--experimental",), "passive")], indirect=["service"])
async def test_every_bthome_vector_becomes_samples(bench: Bench, scan: str) -> None:
    encrypted = 0
    async with bench.plugged(), open_bus(f"ble:hci0?scan={scan}") as bus:
        for vector in vectors():
            driver = Bthome(bus, BthomeOptions(vector["mac"], bind_key=vector["key"] or "", timeout_s=DEADLINE_S))
            await driver.start()
            bench.air.say(vector["mac"], bthome(bytes.fromhex(vector["service_data"])))
            wanted = {NAMES[k]: v for k, v in vector["expect"].items() if k in NAMES}
            found: dict[str, float] = {}
            async with asyncio.timeout(DEADLINE_S):
                while not all(found.get(k) == pytest.approx(v) for k, v in wanted.items()):
                    found = {s.channel: s.value for s in await driver.read()}
            assert found["rssi"] == -50
            encrypted += vector["key"] is not None
    assert len(vectors()) >= 20
    assert encrypted >= 5


async def test_a_beacon_with_a_wrong_key_is_refused(bench: Bench) -> None:
    data = bytes.fromhex("41f5d9b1776c92f890688e3e00000000fcedd41a")  # the last byte is another
    options = BthomeOptions("DE:AD:BE:EF:00:01", bind_key=bytes(range(16)).hex(), timeout_s=5)
    async with bench.plugged(), open_bus("ble:hci0") as bus:
        driver = Bthome(bus, options)
        await driver.start()
        bench.air.say(options.address, bthome(data))
        with pytest.raises(BadData, match="nothing acceptable of DE:AD:BE:EF:00:01"):
            await driver.read()


async def test_a_beacon_that_stays_the_same_is_heard_again_and_again(bench: Bench) -> None:
    async with bench.plugged(), Bluez(BleakRadio("hci0"), scanning="active") as bus:
        await bus.listen(MAC)
        bench.air.say(MAC, bthome(bytes.fromhex("4002ca0903bf13")))
        first = await bus.next(MAC)
        for _ in range(3):
            async with asyncio.timeout(DEADLINE_S):
                assert (await bus.next(MAC)).service_data == first.service_data


async def test_a_beacon_nobody_listens_to_is_proposed(bench: Bench) -> None:
    async with bench.plugged(), Bluez(BleakRadio("hci0")) as bus:
        bench.air.say(MAC, bthome(bytes.fromhex("4002ca0903bf13")))

        async def seen() -> bool:
            await bench.adapter("Powered")
            return bool(bus.seen())

        await until(seen)
        (sighting,) = bus.seen()
        assert (sighting.address, sighting.driver) == (MAC, "bthome")
        assert sighting.measures == ("temperature", "humidity", "rssi")


async def until_connectable(driver: Ess) -> None:
    """BlueZ has to hear a device before it can be connected to."""

    async def connectable() -> bool:
        try:
            await driver.start()
        except NoDevice:
            return False
        return True

    await until(connectable)


AT_FIRST = (Sample("temperature", 21.5), Sample("humidity", 45.12), Sample("pressure", 1013.252))


async def test_environmental_sensing_is_read(bench: Bench) -> None:
    async with bench.plugged(), open_bus("ble:hci0") as bus:
        await Sensor(bench.air.link, DEVICE).advertise()
        driver = Ess(bus, EssOptions(DEVICE))
        await until_connectable(driver)
        assert await driver.read() == AT_FIRST
        assert await driver.read() == AT_FIRST
        await driver.stop()


async def test_environmental_sensing_notifies_and_is_connected_again_when_it_hung_up(bench: Bench) -> None:
    async with bench.plugged(), open_bus("ble:hci0") as bus:
        sensor = Sensor(bench.air.link, DEVICE)
        await sensor.advertise()
        driver = Ess(bus, EssOptions(DEVICE, mode="notify"))
        await until_connectable(driver)
        assert await driver.read() == AT_FIRST
        before_hundredths = 2150
        for hundredths in (2160, -1234):
            await sensor.notify(hundredths)
            before = Sample("temperature", before_hundredths / 100)
            async with asyncio.timeout(DEADLINE_S):
                while (heard := await driver.read()) != (Sample("temperature", hundredths / 100),):
                    assert heard == (before,)  # BlueZ tells the answer to a read as a notification, too
            before_hundredths = hundredths
        await sensor.hang_up()
        with pytest.raises(NoDevice, match="the connection is lost"):
            await driver.read()
        await until_connectable(driver)
        assert (await driver.read())[0] == Sample("temperature", -12.34)
        await driver.stop()


async def test_beacons_are_heard_while_a_device_is_connected(bench: Bench) -> None:
    async with bench.plugged(), Bluez(BleakRadio("hci0")) as bus:
        sensor = Sensor(bench.air.link, DEVICE)
        await sensor.advertise()
        driver = Ess(bus, EssOptions(DEVICE, mode="notify"))
        await until_connectable(driver)
        await bus.listen(MAC)
        bench.air.say(MAC, bthome(bytes.fromhex("4002ca0903bf13")))
        async with asyncio.timeout(DEADLINE_S):
            assert (await bus.next(MAC)).address == MAC
        assert await driver.read() == AT_FIRST
        await driver.stop()


@pytest.mark.parametrize(
    ("deaf_until", "cures"),
    [("scan", ["scanning anew"]), ("reset", ["scanning anew", "switching the adapter off and on"])],
)
async def test_the_watch_heals_a_radio_that_went_deaf(bench: Bench, deaf_until: str, cures: list[str]) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    async with bench.plugged(), Bluez(BleakRadio("hci0"), silence_s=5, report=told.put_nowait) as bus:
        await bus.listen(MAC)
        bench.air.say(MAC, bthome(bytes.fromhex("4002ca0903bf13")))
        await bus.next(MAC)
        assert bench.air.adapter is not None
        bench.air.adapter.deaf_until = deaf_until
        for cure in cures:
            async with asyncio.timeout(DEADLINE_S):
                assert cure in await told.get()
        bench.air.say(MAC, bthome(bytes.fromhex("4002ca0903b718")))
        async with asyncio.timeout(DEADLINE_S):
            while not any(b"\xb7\x18" in data for data in (await bus.next(MAC)).service_data.values()):
                pass
        assert bus.counts.power_cycles == cures.count("switching the adapter off and on")
        assert await bench.adapter("Powered")


async def test_an_adapter_pulled_out_and_plugged_in_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bluez, "RETRY_S", 2.0)
    told: asyncio.Queue[str] = asyncio.Queue()
    radio = Bluez(BleakRadio("hci0"), silence_s=5, report=told.put_nowait)
    async with bench.plugged():
        await radio.__aenter__()
        await radio.listen(MAC)
        bench.air.say(MAC, bthome(bytes.fromhex("4002ca0903bf13")))
        await radio.next(MAC)
    try:
        async with asyncio.timeout(DEADLINE_S):
            while "cannot be used: Bluetooth adapter hci0 is missing" not in await told.get():
                pass
        with pytest.raises(BusUnavailable, match="hci0 is missing"):
            await radio.next(MAC)
        async with bench.plugged():
            async with asyncio.timeout(DEADLINE_S):
                while "listens again" not in await told.get():
                    pass
                assert (await radio.next(MAC)).address == MAC
    finally:
        await radio.__aexit__()


@pytest.mark.parametrize("service", [("--experimental",)], indirect=True)
async def test_a_passive_scan_that_hears_nothing_turns_active(bench: Bench) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    async with bench.plugged(), Bluez(BleakRadio("hci0"), silence_s=5, report=told.put_nowait) as bus:
        await bus.listen(MAC)
        assert not await bench.adapter("Discovering")  # it is passive
        assert "scanning anew" in await told.get()
        bench.air.say(MAC, bthome(bytes.fromhex("4002ca0903bf13")))
        async with asyncio.timeout(DEADLINE_S):
            assert (await bus.next(MAC)).address == MAC
        assert await bench.adapter("Discovering")


async def test_passive_scanning_without_the_experimental_parts_names_the_way_out(bench: Bench) -> None:
    async with bench.plugged():
        with pytest.raises(BusUnavailable, match=r"--experimental.*or put \?scan=active behind the adapter's name"):
            async with open_bus("ble:hci0?scan=passive"):
                pass


async def test_an_adapter_that_is_missing(bench: Bench) -> None:
    with pytest.raises(BusUnavailable, match="hci7 is missing: `bluetoothctl list`"):
        async with open_bus("ble:hci7"):
            pass


async def test_an_adapter_that_is_off(bench: Bench) -> None:
    async with bench.plugged():
        await bench.power(on=False)
        with pytest.raises(BusUnavailable, match="hci0 is off: `rfkill unblock bluetooth`"):
            async with open_bus("ble:hci0"):
                pass


def rfkill() -> Path:
    """The only radio switch of the guest."""
    (switch,) = Path("/sys/class/rfkill").glob("rfkill*/soft")
    return switch


async def test_an_adapter_that_is_blocked(bench: Bench) -> None:
    async with bench.plugged():
        switch = rfkill()
        await asyncio.to_thread(switch.write_text, "1")  # the kernel waits for the adapter, which lives in this loop
        try:

            async def off() -> bool:
                return not await bench.adapter("Powered")

            await until(off)
            with pytest.raises(BusUnavailable, match="rfkill unblock bluetooth"):
                async with open_bus("ble:hci0"):
                    pass
        finally:
            await asyncio.to_thread(switch.write_text, "0")
        await bench.until_powered()


async def test_no_bluetooth_service() -> None:
    try:
        with pytest.raises(BusUnavailable, match=r"restart the bluetooth service|enable --now bluetooth"):
            async with open_bus("ble:hci0"):
                pass
    finally:
        await close_bleak()


NORMAL_USER = """
import asyncio
from drivers.host.open import open_bus
async def main():
    async with open_bus("ble:hci0"):
        print("listens")
asyncio.run(main())
"""


async def test_a_normal_user_may_listen(bench: Bench) -> None:
    async with bench.plugged():
        user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        done = await asyncio.to_thread(
            subprocess.run, [*user, sys.executable, "-c", NORMAL_USER], capture_output=True, text=True, check=False
        )
        assert done.stdout.strip() == "listens", done.stderr
