"""The Environmental Sensing Service: values of the GATT Specification Supplement, reading and notifications."""

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.bus import Advert, Characteristic
from drivers.errors import BadData, BusTimeout, NoDevice, WrongDevice
from drivers.model import Quality, Reason, Sample
from drivers.sensors.ess import BASE, SERVICE, TABLE, Ess, EssOptions, channels, decode, offers, sample
from drivers.testing.ble import FaultyAir, Peripheral, SimulatedAir, Value
from drivers.testing.buses import Fail
from drivers.testing.virtual import run_virtual

MAC = "F1:F1:F1:F1:F1:F1"
UNKNOWN, BEYOND, PROHIBITED = "unknown", "beyond", "prohibited"

VALUES = [
    (0x2A6E, "66 08", 21.50),
    (0x2A6E, "2e fb", -12.34),
    (0x2A6E, "00 80", UNKNOWN),
    (0x2A6E, "ff 7f", 327.67),
    (0x2A6E, "4d 95", -273.15),
    (0x2A6E, "4c 95", PROHIBITED),  # below absolute zero
    (0x2A6F, "a0 11", 45.12),
    (0x2A6F, "10 27", 100.00),
    (0x2A6F, "ff ff", UNKNOWN),
    (0x2A6F, "11 27", PROHIBITED),
    (0x2A6D, "54 76 0f 00", 1013.332),
    (0x2A6D, "04 76 0f 00", 1013.252),
    (0x2A6D, "72 91 0c 00", 823.666),
    (0x2B8C, "a4 01", 420),
    (0x2B8C, "fd ff", 65_533),
    (0x2B8C, "fe ff", BEYOND),
    (0x2B8C, "ff ff", UNKNOWN),
    (0x2BE7, "fd ff", 65_533),
    (0x2BE7, "fe ff", BEYOND),
    (0x2BE7, "ff ff", UNKNOWN),
    (0x2A6C, "00 71 02", 1600.00),
    (0x2A6C, "f0 d8 ff", -100.00),
    (0x2A7B, "f6", -10),
    (0x2A7A, "80", -128),
    (0x2A79, "7f", 127),
    (0x2A70, "64 00", 1.0),
    (0x2A71, "9f 8c", 359.99),
    (0x2A71, "a0 8c", PROHIBITED),
    (0x2A74, "0f", 1.5),
    (0x2A76, "0b", 11),
    (0x2A77, "0a 00", 1.0),
    (0x2A78, "05 00", 0.005),
    (0x2AA3, "00", UNKNOWN),
    (0x2AA3, "09", 9),
    (0x2AA3, "0a", PROHIBITED),
    (0x2A2C, "00 00", 0),
    (0x2AFB, "fe ff ff", 167_772.14),
    (0x2AFB, "ff ff ff", UNKNOWN),
    (0x2BE4, "fd", 253),
    (0x2BE4, "fe", BEYOND),
    (0x2BE4, "ff", UNKNOWN),
    (0x2B0D, "80", -64),
    (0x2B0D, "7e", 63),
    (0x2B0D, "7f", UNKNOWN),
    (0x2C1B, "c8", 100),
    (0x2C1B, "c9", PROHIBITED),
    (0x2C1B, "ff", UNKNOWN),
    (0x2A19, "64", 100),
    (0x2A19, "65", PROHIBITED),
    (0x2BD6, "0c 80", 120),  # 12e-8 kg/m3
    (0x2BD6, "19 90", 2500),  # 25e-7
    (0x2BD5, "ff 07", UNKNOWN),  # NaN
    (0x2BD6, "00 08", UNKNOWN),  # NRes
    (0x2BD7, "fe 07", UNKNOWN),  # +INF
    (0x2BD8, "02 08", UNKNOWN),  # -INF
    (0x2BD0, "01 08", UNKNOWN),  # reserved
    (0x2BD1, "d0 07", 2000),
]


@pytest.mark.parametrize(("number", "raw", "expected"), VALUES)
def test_value(number, raw, expected):
    entry = TABLE[number]
    if expected == PROHIBITED:
        with pytest.raises(BadData, match="prohibited"):
            decode(entry, bytes.fromhex(raw))
        return
    found = decode(entry, bytes.fromhex(raw))
    if expected == UNKNOWN:
        assert math.isnan(found.value)
        assert sample("x", found).quality is Quality.BAD
    elif expected == BEYOND:
        assert found.beyond
        assert sample("x", found) == Sample("x", found.value, Quality.BAD, Reason.OUT_OF_RANGE)
    else:
        assert found.value == pytest.approx(expected, rel=1e-12)
        assert sample("x", found).quality is Quality.GOOD


@pytest.mark.parametrize("entry", TABLE.values(), ids=lambda e: e.name)
def test_a_wrong_length_is_refused(entry):
    for size in (0, entry.size - 1, entry.size + 1):
        if size != entry.size:
            with pytest.raises(BadData, match=f"bytes instead of {entry.size}"):
                decode(entry, b"\1" * size)


@settings(max_examples=10_000, deadline=None)
@given(entry=st.sampled_from(sorted(TABLE.values())), raw=st.binary(max_size=6))
def test_noise_is_a_value_or_refused(entry, raw):
    try:
        found = decode(entry, raw)
    except BadData:
        return
    assert len(raw) == entry.size
    assert not math.isinf(found.value)


def offered(*numbers):
    return tuple(Characteristic(0x20 - at, BASE.format(number), SERVICE) for at, number in enumerate(numbers))


def test_values_of_a_kind_are_told_apart_by_handle():
    found = channels(offered(0x2A6E, 0x2B0D, 0x2A00, 0x2A6F, 0x2A6E, 0x2A6E))
    assert {handle: name for handle, (name, _) in found.items()} == {
        0x1B: "temperature",
        0x1C: "temperature_2",
        0x1D: "humidity",
        0x1F: "temperature_3",
    }


def value(number, raw, period_s=0.0):
    return Value(BASE.format(number), raw if callable(raw) else lambda _: bytes.fromhex(raw), period_s)


def device(*values):
    return SimulatedAir(peripherals=[Peripheral(MAC, values)])


def test_read_connects_each_time():
    async def main():
        air = FaultyAir(device(value(0x2A6E, "6608"), value(0x2A6D, "0476 0f00"), value(0x2A00, "41")))
        driver = Ess(air, EssOptions(MAC))
        await driver.start()
        before = air.transfers
        found = await driver.read()
        return found, air.transfers - before

    found, exchanges = run_virtual(main())
    assert found == (Sample("temperature", 21.5), Sample("pressure", 1013.252))
    assert exchanges == 3  # a connection, two values


def test_notify_reads_once_and_then_waits_for_what_changes():
    async def main():
        rising = value(0x2A6E, lambda now_s: round(100 * now_s).to_bytes(2, "little"), period_s=10)
        driver = Ess(device(rising, value(0x2A6F, "a011")), EssOptions(MAC, mode="notify"))
        await driver.start()
        found = [await driver.read() for _ in range(3)]
        await driver.stop()
        return found, asyncio.get_running_loop().time()

    found, took_s = run_virtual(main())
    assert found == [
        (Sample("temperature", 0), Sample("humidity", 45.12)),
        (Sample("temperature", 10),),
        (Sample("temperature", 20),),
    ]
    assert took_s == pytest.approx(20)


def test_a_lost_connection_is_made_again_by_the_next_read():
    async def main():
        rising = value(0x2A6E, lambda now_s: round(100 * now_s).to_bytes(2, "little"), period_s=10)
        air = FaultyAir(device(rising), {3: Fail(NoDevice("the connection is lost"))})
        driver = Ess(air, EssOptions(MAC, mode="notify"))
        await driver.start()
        assert await driver.read() == (Sample("temperature", 0),)
        with pytest.raises(NoDevice, match="lost"):
            await driver.read()
        return [await driver.read(), await driver.read()]

    assert run_virtual(main()) == [(Sample("temperature", 0),), (Sample("temperature", 10),)]


@pytest.mark.parametrize(
    ("air", "mode", "says"),
    [
        (device(value(0x2A00, "41")), "read", "offers no value"),
        (device(value(0x2A6E, "6608")), "notify", 'set mode = "read"'),
    ],
)
def test_a_device_that_has_nothing_to_say(air, mode, says):
    with pytest.raises(WrongDevice, match=says):
        run_virtual(Ess(air, EssOptions(MAC, mode=mode)).start())


def test_options():
    assert EssOptions(MAC.lower()).address == MAC
    with pytest.raises(ValueError, match="six bytes"):
        EssOptions("F1")
    with pytest.raises(ValueError, match="one of read, notify"):
        EssOptions(MAC, mode="poll")
    with pytest.raises(WrongDevice, match="put `address`"):
        run_virtual(Ess(device(), EssOptions()).start())


def test_a_device_out_of_reach():
    with pytest.raises(NoDevice):
        run_virtual(Ess(SimulatedAir(), EssOptions(MAC)).start())
    air = FaultyAir(device(value(0x2A6E, "6608")), {0: Fail(BusTimeout("asleep"))})
    with pytest.raises(BusTimeout, match="asleep"):
        run_virtual(Ess(air, EssOptions(MAC)).start())


def test_what_a_device_offers():
    assert offers(Advert(MAC, 0.0, service_uuids=(SERVICE,))) == ("after connecting",)
    assert offers(Advert(MAC, 0.0)) is None
