"""One scan for many devices, the inboxes, and the watch over a silent radio; in virtual time, over a fake adapter."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from drivers.bus import Advert, BleCentral, BleInbox
from drivers.errors import BusError, BusTimeout, BusUnavailable, NoDevice
from drivers.host.bluez import CONNECT_S, RETRY_S, SEEN_MAX, STUCK_S, Bluez
from drivers.host.open import open_bus
from drivers.model import Sample
from drivers.sensors.bthome import Bthome, BthomeOptions
from drivers.sensors.ess import SERVICE
from drivers.testing.ble import BTHOME
from drivers.testing.virtual import run_virtual

MAC = "A4:C1:38:8D:18:B2"


class FakeRadio:
    """An adapter that writes down what it is told; `faults` are raised by the next starts, one each."""

    def __init__(self, *faults):
        self.faults = list(faults)
        self.did = []
        self.heard = None
        self.connecting = self.most_connecting = 0
        self.may_connect = asyncio.Event()

    def _note(self, what):
        self.did.append((round(asyncio.get_running_loop().time()), what))

    async def start(self, heard, *, passive):
        self._note("passive" if passive else "active")
        if self.faults and (fault := self.faults.pop(0)) is not None:
            if fault == "hang":
                await asyncio.get_running_loop().create_future()
            raise fault
        self.heard = heard

    async def stop(self):
        self._note("stop")
        self.heard = None

    async def power_cycle(self):
        self._note("power cycle")

    @asynccontextmanager
    async def connect(self, address):
        self.connecting += 1
        self.most_connecting = max(self.most_connecting, self.connecting)
        try:
            await self.may_connect.wait()
        finally:
            self.connecting -= 1
        if address != MAC:
            raise NoDevice(address)
        yield self
        self._note(f"left {address}")

    def say(self, data, address=MAC, **more):
        now_s = asyncio.get_running_loop().time()
        self.heard(Advert(address, now_s, -60, {BTHOME: data} if data else {}, **more))


def frame(n):
    return bytes((0x40, 0, n % 256, 0x3D)) + n.to_bytes(2, "little")


def on(main, *faults, **options):
    """Run main(bus, radio, told) on an open bus; what it returned and what the radio did."""
    told = []

    async def whole():
        radio = FakeRadio(*faults)
        async with Bluez(radio, report=told.append, **options) as bus:
            result = await main(bus, radio, told)
        return result, radio.did

    return run_virtual(whole())


def test_one_scan_for_all_and_until_the_last():
    async def main():
        radio = FakeRadio()
        bus = Bluez(radio)
        async with bus, bus:
            async with bus:
                assert len(radio.did) == 1
            assert radio.heard is not None
        async with bus:
            assert radio.heard is not None
        return [what for _, what in radio.did]

    assert run_virtual(main()) == ["passive", "stop", "passive", "stop"]


def test_the_newest_of_each_address_is_kept():
    async def main(bus, radio, _):
        await bus.listen(MAC)
        for n in range(1000):
            radio.say(frame(n))
        radio.say(frame(7), "00:00:00:00:00:01")
        advert = await bus.next(MAC)
        waiting = asyncio.create_task(bus.next(MAC), name="waiting")
        await asyncio.sleep(1)
        assert not waiting.done()
        radio.say(frame(1000))
        again = await waiting
        return advert.service_data[BTHOME], again.service_data[BTHOME], bus.counts

    (first, second, counts), _ = on(main)
    assert (first, second) == (frame(999), frame(1000))
    assert (counts.heard, counts.overwritten, counts.dropped) == (1002, 999, 0)


def test_a_cancelled_wait_loses_nothing():
    async def main(bus, radio, _):
        waiting = asyncio.create_task(bus.next(MAC), name="waiting")
        await asyncio.sleep(1)
        radio.say(frame(1))
        waiting.cancel()
        await asyncio.wait([waiting])
        return await bus.next(MAC)

    assert on(main)[0].service_data[BTHOME] == frame(1)


def test_a_driver_on_it():
    async def main(bus, radio, _):
        driver = Bthome(bus, BthomeOptions(MAC))
        await driver.start()
        radio.say(frame(42))
        return await driver.read()

    assert on(main)[0] == (Sample("count", 42), Sample("rssi", -60))


def test_strangers_are_bounded_and_proposed():
    async def main(bus, radio, _):
        await bus.listen(MAC)
        radio.say(frame(1))
        for n in range(SEEN_MAX + 36):
            radio.say(bytes.fromhex("4002ca09"), f"00:00:00:00:00:{n:02X}", name=f"porch {n}")
        for n in range(2000):
            radio.say(b"", f"00:00:00:01:{n // 256:02X}:{n % 256:02X}")  # phones passing by
        radio.say(b"", "00:00:00:00:00:FF", service_uuids=(SERVICE,))
        await asyncio.sleep(2)
        return bus.seen(), bus.counts.dropped

    (seen, dropped), _ = on(main)
    assert len(seen) == SEEN_MAX
    assert dropped == 37
    assert MAC not in {each.address for each in seen}
    newest, before = seen[:2]
    assert (newest.address, newest.driver, newest.measures) == ("00:00:00:00:00:FF", "ess", ("after connecting",))
    assert (before.name, before.driver, before.measures) == ("porch 99", "bthome", ("temperature", "rssi"))
    assert before.age_s == pytest.approx(2)


def test_whoever_is_listened_to_is_no_longer_proposed():
    async def main(bus, radio, _):
        radio.say(frame(1))
        before = bus.seen()
        await bus.listen(MAC.lower())
        return before, bus.seen()

    ((before,), after), _ = on(main)
    assert before.address == MAC
    assert after == ()


def test_silence_first_restarts_the_scan_then_the_adapter_and_then_has_more_patience():
    async def main(bus, radio, told):
        await asyncio.sleep(100)
        radio.say(frame(1))  # until here all is well
        await asyncio.sleep(3000)
        return told, bus.counts

    (told, counts), did = on(main, silence_s=120)
    assert did[:-1] == [
        (0, "passive"),
        (220, "stop"),
        (220, "active"),  # a passive scan that hears nothing may not be supported after all
        (460, "stop"),
        (460, "power cycle"),
        (460, "active"),
        (940, "stop"),
        (940, "power cycle"),
        (940, "active"),
        (1900, "stop"),
        (1900, "power cycle"),
        (1900, "active"),
    ]
    assert told[0] == "no Bluetooth advert from anybody for 120 s: scanning anew"
    assert told[1] == "no Bluetooth advert from anybody for 360 s: switching the adapter off and on"
    assert (counts.restarts, counts.power_cycles) == (4, 3)


def test_an_advert_ends_the_suspicion():
    async def main(bus, radio, told):
        await asyncio.sleep(250)
        radio.say(frame(1))
        await asyncio.sleep(120 + 200)
        return told

    told, did = on(main, silence_s=120)
    assert [what for _, what in did].count("power cycle") == 0
    assert len(told) == 2


def test_the_adapter_is_not_switched_off_under_a_connected_device():
    async def main(bus, radio, told):
        radio.may_connect.set()
        async with bus.connect(MAC):
            await asyncio.sleep(3000)

    _, did = on(main, silence_s=120)
    assert "power cycle" not in [what for _, what in did]


def test_an_adapter_that_is_pulled_out_is_told_to_all_and_taken_back():
    async def main(bus, radio, told):
        waiting = asyncio.create_task(bus.next(MAC), name="waiting")
        await asyncio.wait([waiting])
        with pytest.raises(BusUnavailable, match="gone"):
            await bus.listen(MAC)
        lost_s = asyncio.get_running_loop().time()
        await asyncio.sleep(3 * RETRY_S + 1)
        await bus.listen(MAC)
        radio.say(frame(3))
        return waiting.exception(), lost_s, (await bus.next(MAC)).service_data[BTHOME], told

    gone = BusUnavailable("hci0 is gone")
    (error, lost_s, data, told), did = on(main, None, gone, gone, gone, silence_s=120)
    assert isinstance(error, BusUnavailable)
    assert lost_s == pytest.approx(120)
    assert data == frame(3)
    assert told[1:] == ["the Bluetooth adapter cannot be used: hci0 is gone", "the Bluetooth adapter listens again"]
    assert [at for at, what in did if what in ("passive", "active")] == [0, 120, 130, 140, 150]


def test_auto_falls_back_to_an_active_scan():
    async def main(bus, radio, told):
        return told

    told, did = on(main, BusError("passive scanning on Linux requires --experimental"))
    assert [what for _, what in did] == ["passive", "active", "stop"]
    assert told == []


@pytest.mark.parametrize(
    ("scanning", "faults", "says"),
    [
        ("passive", [BusError("no monitors")], r"no monitors; or put \?scan=active"),
        ("active", [BusError("InProgress")], "InProgress: restart the bluetooth service"),
        ("auto", [BusUnavailable("is switched off: `bluetoothctl power on`")], "power on"),
        ("active", ["hang"], f"does not answer within {STUCK_S:g} s: restart the bluetooth service"),
    ],
)
def test_a_radio_that_cannot_be_used_at_the_start(scanning, faults, says):
    async def main(*_):
        raise AssertionError("it was opened")

    with pytest.raises(BusUnavailable, match=says):
        on(main, *faults, scanning=scanning)


def test_connections_are_made_one_at_a_time():
    async def main(bus, radio, _):
        async def visit():
            async with bus.connect(MAC):
                await asyncio.sleep(10)

        async with asyncio.TaskGroup() as group:
            for n in range(3):
                group.create_task(visit(), name=f"visit {n}")
            await asyncio.sleep(1)
            radio.may_connect.set()
        return radio.most_connecting, asyncio.get_running_loop().time()

    (most, took_s), _ = on(main)
    assert most == 1
    assert took_s == pytest.approx(11)  # connected they are side by side


def test_a_connection_that_does_not_come_is_given_up():
    async def main(bus, radio, _):
        with pytest.raises(BusTimeout, match=f"{MAC}: no connection in {CONNECT_S:g} s"):
            async with bus.connect(MAC):
                pass
        radio.may_connect.set()
        with pytest.raises(NoDevice):
            async with bus.connect("00:00:00:00:00:01"):
                pass
        async with bus.connect(MAC) as link:
            return link is radio

    assert on(main)[0]


def test_it_must_be_opened_first():
    async def main():
        await Bluez(FakeRadio()).listen(MAC)

    with pytest.raises(RuntimeError, match="async with"):
        run_virtual(main())


@pytest.mark.parametrize("spec", ["ble:", "ble:0", "ble:hci", "ble:hcix", "ble:hci0?scan=loud", "ble:hci0?adverts=1"])
def test_a_malformed_word_is_refused_at_once(spec):
    with pytest.raises(ValueError, match=r"ble:hci0|one of auto, passive, active"):
        open_bus(spec)


@pytest.mark.parametrize("bus", [BleInbox, BleCentral])
def test_only_bluetooth_gives_what_a_beacon_needs(bus):
    open_bus("ble:hci0", wanted=bus)
    with pytest.raises(ValueError, match="needs ble:ADAPTER"):
        open_bus("i2c:1", wanted=bus)
