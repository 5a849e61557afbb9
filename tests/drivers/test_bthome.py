"""The BTHome driver over simulated air, in virtual time."""

import asyncio

import pytest

from drivers.bus import Advert
from drivers.errors import BadData, BusTimeout, BusUnavailable, WrongDevice
from drivers.model import Sample
from drivers.sensors.bthome import Bthome, BthomeOptions, offers
from drivers.testing.ble import BTHOME, Beacon, FaultyAir, SimulatedAir
from drivers.testing.virtual import run_virtual

MAC = "DE:AD:BE:EF:00:01"
KEY = "000102030405060708090a0b0c0d0e0f"
SEALED = bytes.fromhex("41f5d9b1776c92f890688e3e00000000fcedd41b")
LATER = bytes.fromhex("41597563a433b736587cee1a010000000316199f")
PLAIN = bytes.fromhex("400001016402660803a01104cd8b0112a401")


def counting(n: int) -> bytes:
    return bytes((0x40, 0, n % 256, 0x3D)) + (n % 65536).to_bytes(2, "little")


def reads(payload, count=1, *, period_s=1.0, uuid=BTHOME, **options):
    """So many reads of a beacon, and the time that took."""

    async def main():
        driver = Bthome(SimulatedAir([Beacon(MAC, payload, period_s, uuid)]), BthomeOptions(MAC, **options))
        await driver.start()
        found = [await driver.read() for _ in range(count)]
        return found, asyncio.get_running_loop().time()

    return run_virtual(main())


def test_the_values_of_an_advert():
    (first,), _ = reads(lambda _: PLAIN)
    assert first == (
        Sample("battery", 100),
        Sample("temperature", 21.5),
        Sample("humidity", 45.12),
        Sample("pressure", 1013.25),
        Sample("co2", 420),
        Sample("rssi", -60),
    )


def test_each_new_frame_is_read_once():
    found, took_s = reads(counting, 4, period_s=2.5)
    assert [samples[0].value for samples in found] == [0, 1, 2, 3]
    assert took_s == pytest.approx(7.5)


def test_ten_repetitions_of_a_packet_are_one_reading():
    found, took_s = reads(lambda n: counting(n // 10), 3, period_s=0.1)
    assert [samples[0].value for samples in found] == [0, 1, 2]
    assert took_s == pytest.approx(2.0)


def test_an_encrypted_beacon_is_read_with_its_key():
    (first, second), _ = reads(lambda n: (SEALED, LATER)[n], 2, bind_key=KEY)
    assert [s.value for s in first] == [21.5, 45.12, 420, -60]
    assert [s.value for s in second] == [21.51, 45.1, 425, -60]


def test_forged_frames_in_between_do_not_silence_a_beacon():
    said = [PLAIN, b"\x41", SEALED[:-1] + b"\0", SEALED]
    (first,), took_s = reads(lambda n: said[min(n, 3)], bind_key=KEY)
    assert first[0] == Sample("temperature", 21.5)
    assert took_s == pytest.approx(3)


def test_nothing_but_refused_frames():
    with pytest.raises(BadData, match="in plain though a key is set"):
        reads(lambda n: PLAIN + bytes((n % 256,)), bind_key=KEY)
    with pytest.raises(BadData, match="no key is known: give bind_key_file"):
        reads(lambda n: SEALED)
    with pytest.raises(BadData, match="does not fit its key"):
        reads(lambda n: SEALED, bind_key="ff" * 16)
    with pytest.raises(BadData, match="v1"):
        reads(lambda n: PLAIN, uuid="0000181c-0000-1000-8000-00805f9b34fb")


def test_other_adverts_are_another_device():
    with pytest.raises(WrongDevice, match="none of them BTHome: check the address"):
        reads(lambda n: b"\1", uuid="0000feaa-0000-1000-8000-00805f9b34fb")


def test_silence_is_a_timeout():
    with pytest.raises(BusTimeout, match=f"{MAC} in 45 s"):
        reads(counting, 2, period_s=100)


def test_a_trigger_based_beacon_may_be_silent():
    found, took_s = reads(lambda n: bytes.fromhex("440021015e3a01"), 2, period_s=100, timeout_s=10)
    assert found == [(Sample("battery", 94), Sample("rssi", -60)), ()]
    assert took_s == pytest.approx(10)


def test_an_advert_that_waited_for_long_is_not_dated_now():
    class Hoard(SimulatedAir):
        async def next(self, address):
            advert = await super().next(address)
            if advert.time_s == 0:
                await asyncio.sleep(15.1)  # nobody asked for it so long
            return advert

    async def main():
        driver = Bthome(Hoard([Beacon(MAC, counting)]), BthomeOptions(MAC))
        await driver.start()
        return await driver.read()

    assert run_virtual(main())[0] == Sample("count", 15)


def test_the_radios_trouble_comes_out_as_it_is():
    async def main():
        air = FaultyAir(SimulatedAir())
        driver = Bthome(air, BthomeOptions(MAC))
        await driver.start()
        air.gone = BusUnavailable("unplugged")
        await driver.read()

    with pytest.raises(BusUnavailable, match="unplugged"):
        run_virtual(main())


def test_without_an_address_nothing_is_guessed():
    with pytest.raises(WrongDevice, match="put `address` of the beacon"):
        run_virtual(Bthome(SimulatedAir(), BthomeOptions()).start())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"address": "A4:C1:38:8D:18"}, "six bytes"),
        ({"address": "A4:C1:38:8D:18:GG"}, "six bytes"),
        ({"bind_key": KEY[:-1]}, "32 hexadecimal digits, these are 31 characters"),
        ({"bind_key": KEY + "00"}, "34 characters"),
        ({"bind_key": "x" * 32}, "32 hexadecimal digits"),
        ({"timeout_s": 0}, "timeout_s 0"),
    ],
)
def test_wrong_options(options, says):
    with pytest.raises(ValueError, match=says) as raised:
        BthomeOptions(**options)
    assert str(options.get("bind_key", "never said")) not in str(raised.value)


def test_the_key_is_never_shown():
    options = BthomeOptions(MAC.lower().replace(":", "-"), KEY)
    assert options.address == MAC
    assert options.key == bytes.fromhex(KEY)
    assert KEY not in repr(options)
    assert KEY not in repr(Bthome(SimulatedAir(), options))


def test_what_a_beacon_offers():
    def advert(data):
        return Advert(MAC, 0.0, -60, {BTHOME: data})

    assert offers(advert(PLAIN)) == ("battery", "temperature", "humidity", "pressure", "co2", "rssi")
    assert offers(advert(SEALED)) == ("encrypted",)
    for other in (b"", b"\x20\x02\xca\x09", b"\x40\xfe"):
        assert offers(advert(other)) is None
    assert offers(Advert(MAC, 0.0, -60)) is None
