"""SCD30: the maker's frames byte for byte, the conversation, and everything the field has done to it."""

import asyncio
import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.errors import BadData, BusError, BusTimeout, NoDevice, WrongDevice
from drivers.model import Quality, Reason, Sample
from drivers.sensors.scd30 import Command, Scd30, Scd30Options, decode, frame
from drivers.testing import scd30_chip
from drivers.testing.buses import FaultyI2c, Flip, Read, RecordingI2c, ScriptedI2c, SimulatedI2c, Step, Write
from drivers.testing.recording import Row, Wave
from drivers.testing.scd30_chip import Scd30Chip
from drivers.testing.virtual import run_virtual

EXAMPLE = bytes.fromhex("43DBCB8C2E8F41D970E7FFF54243BF3A1B74")  # interface description, read measurement


class World:
    """A chip, a bus that records, a driver."""

    def __init__(self, chip: Scd30Chip | None = None, **options: object) -> None:
        self.chip = chip or Scd30Chip(Wave(), zeros=0)
        self.bus = RecordingI2c(SimulatedI2c([self.chip]))
        self.driver = Scd30(self.bus, Scd30Options(**options))  # type: ignore[arg-type]

    def written(self) -> list[str]:
        """Every command with an argument, and the bare ones that act."""
        acts = {frame(Command.STOP), frame(Command.RESET)}
        data = [s.data for s in self.bus.steps if isinstance(s, Write)]
        return [d.hex() for d in data if len(d) > 2 or d in acts]


# ---- the conversation


def asks(command: int, answer: str) -> tuple[Step, Step]:
    return Write(0x61, command.to_bytes(2, "big")), Read(0x61, bytes.fromhex(answer))


def tells(data: str) -> Step:
    return Write(0x61, bytes.fromhex(data))


def test_the_whole_conversation_byte_by_byte():
    bus = ScriptedI2c(
        *asks(0xD100, "0342f3"),
        *asks(0x4600, "003c39"),
        tells("46000002e3"),
        *asks(0x4600, "0002e3"),
        *asks(0x5306, "0001b0"),
        tells("5306000081"),
        *asks(0x5306, "000081"),
        *asks(0x5403, "01f433"),
        *asks(0x5102, "03e8d4"),
        tells("0010034455"),
        *asks(0x0202, "000081"),
        *asks(0x0202, "0001b0"),
        *asks(0x0300, EXAMPLE.hex()),
        tells("0104"),
    )
    options = Scd30Options(self_calibration=False, temperature_offset_degc=5, altitude_m=1000, pressure_hpa=836.4)

    async def main():
        driver = Scd30(bus, options)
        await driver.start()
        co2, temperature, humidity = await driver.read()
        await driver.stop()
        return co2.value, temperature.value, humidity.value

    assert run_virtual(main()) == struct.unpack(">3f", bytes.fromhex("43DB8C2E41D9E7FF42433A1B"))
    bus.done()


def test_only_what_differs_is_written():
    async def main():
        world = World(interval_s=2, self_calibration=False)
        world.chip.settings |= {scd30_chip.TEMPERATURE_OFFSET: 321, scd30_chip.ALTITUDE: 99}
        await world.driver.start()
        return world

    world = run_virtual(main())
    assert world.written() == ["0010000081"]
    assert world.chip.settings[scd30_chip.TEMPERATURE_OFFSET] == 321


def test_settings_are_written_once_and_kept():
    async def main():
        world = World(interval_s=5, self_calibration=True, temperature_offset_degc=2.5, altitude_m=300)
        await world.driver.start()
        await world.driver.start()
        return world

    world = run_virtual(main())
    start = "0010000081"
    assert world.written() == ["4600000574", "53060001b0", "540300fad8", "5102012c8e", start, start]


def test_a_setting_that_does_not_take_is_bad_data():
    async def main():
        world = World(interval_s=5)
        world.chip.refuses.add(scd30_chip.INTERVAL)
        with pytest.raises(BadData, match="INTERVAL: wrote 5, reads back 2"):
            await world.driver.start()
        return world

    assert "0010000081" not in run_virtual(main()).written()


@pytest.mark.parametrize(
    ("answers", "kind", "says"),
    [
        (["424d50"] * 3, WrongDevice, "42 4d 50"),
        (["000000"] * 3, BusError, "stuck line"),
        (["ffffff"] * 3, BusError, "without power"),
        (["0342f2", "0342f1", "0342f0"], BadData, "wiring"),
    ],
)
def test_who_answers_is_told_apart(answers, kind, says):
    async def main():
        await Scd30(ScriptedI2c(*(s for a in answers for s in asks(0xD100, a))), Scd30Options()).start()

    with pytest.raises(kind, match=says) as caught:
        run_virtual(main())
    assert type(caught.value) is kind


def test_one_noisy_firmware_answer_does_not_refuse_the_chip():
    async def main():
        driver = Scd30(FaultyI2c(World().bus, {1: Flip(3)}), Scd30Options())
        await driver.start()
        return await driver.read()

    assert run_virtual(main())[0].quality is Quality.GOOD


# ---- reading


@settings(deadline=None)
@given(
    st.floats(0.0, 39_999.0, exclude_min=True, width=32),
    st.floats(-40, 70, width=32),
    st.floats(0, 100, width=32),
)
def test_what_the_chip_encodes_the_driver_decodes(co2, temperature, humidity):
    async def main():
        world = World(Scd30Chip(lambda t: Row(t, co2, temperature, humidity), zeros=0))
        await world.driver.start()
        return await world.driver.read()

    assert run_virtual(main()) == (
        Sample("co2", co2),
        Sample("temperature", temperature),
        Sample("humidity", humidity),
    )


def test_readings_follow_the_interval():
    async def main():
        loop, world = asyncio.get_running_loop(), World(interval_s=60)
        await world.driver.start()
        times = []
        for _ in range(3):
            await world.driver.read()
            times.append(loop.time())
        return times

    first, second, third = run_virtual(main())
    assert 60 <= first <= 66
    assert 55 <= second - first <= 66
    assert 55 <= third - second <= 66


def test_a_corrupt_measurement_is_read_again():
    async def main():
        bus = ScriptedI2c(
            *asks(0x0202, "0001b0"),
            *asks(0x0300, (EXAMPLE[:-1] + b"\0").hex()),
            *asks(0x0300, EXAMPLE.hex()),
        )
        driver = Scd30(bus, Scd30Options())
        samples = await driver.read()
        bus.done()
        return samples

    assert run_virtual(main()) == decode(EXAMPLE)


@pytest.mark.parametrize("second", [EXAMPLE[:-1] + b"\0", bytes.fromhex("ffffac") * 6], ids=["corrupt", "given away"])
def test_a_measurement_corrupt_twice_is_bad_data(second):
    bus = ScriptedI2c(
        *asks(0x0202, "0001b0"),
        *asks(0x0300, (EXAMPLE[:-1] + b"\0").hex()),
        *asks(0x0300, second.hex()),
    )
    with pytest.raises(BadData, match="word 5"):
        run_virtual(Scd30(bus, Scd30Options()).read())
    bus.done()


def test_no_number_is_a_bad_sample():
    bus = ScriptedI2c(*asks(0x0202, "0001b0"), *asks(0x0300, "ffffac" * 6))
    samples = run_virtual(Scd30(bus, Scd30Options()).read())
    assert all(math.isnan(s.value) and s.reason is Reason.NOT_A_NUMBER for s in samples)


@pytest.mark.parametrize("zeros", [1, 2, 3])
def test_zeros_after_a_start_are_dropped_and_the_next_three_are_uncertain(zeros):
    async def main():
        world = World(Scd30Chip(Wave(), zeros=zeros))
        await world.driver.start()
        return [(await world.driver.read())[0] for _ in range(4)]

    samples = run_virtual(main())
    assert all(s.value > 0 for s in samples)
    assert [s.reason for s in samples] == [Reason.WARM_UP] * 3 + [Reason.NONE]


def test_a_sensor_that_only_says_zero_is_bad_not_silent():
    async def main():
        world = World(Scd30Chip(Wave(), zeros=1000))
        await world.driver.start()
        return [(await world.driver.read())[0] for _ in range(5)]

    assert {(s.value, s.quality, s.reason) for s in run_virtual(main())} == {(0.0, Quality.BAD, Reason.ZERO)}


def test_a_brown_out_in_a_running_series_is_bad_then_uncertain():
    async def main():
        loop, world = asyncio.get_running_loop(), World(Scd30Chip(Wave(), zeros=1))
        await world.driver.start()
        for _ in range(5):
            await world.driver.read()
        world.chip.power_cycle(loop.time())
        await asyncio.sleep(scd30_chip.BOOT_S)
        return [await world.driver.read() for _ in range(5)]

    samples = run_virtual(main())
    verdicts = [(s[0].quality, s[0].reason) for s in samples]
    uncertain = (Quality.UNCERTAIN, Reason.WARM_UP)
    assert verdicts == [(Quality.BAD, Reason.ZERO), uncertain, uncertain, uncertain, (Quality.GOOD, Reason.NONE)]
    assert all(s.quality is Quality.GOOD for sample in samples for s in sample[1:])


# ---- silence


@pytest.mark.parametrize(
    ("hung", "cures", "within_s"),
    [("start", ["0010000081"], 20), ("reset", ["0010000081", "d304", "0010000081"], 40)],
)
def test_silence_is_cured_by_restart_then_reset(hung, cures, within_s):
    async def main():
        world = World()
        await world.driver.start()
        world.chip.hung = hung
        before = len(world.written())
        await world.driver.read()
        return world.written()[before:], asyncio.get_running_loop().time()

    written, took_s = run_virtual(main())
    assert written == cures
    assert took_s < within_s


@pytest.mark.parametrize("interval_s", [2, 1800])
def test_silence_that_nothing_cures_is_a_timeout(interval_s):
    async def main():
        world = World(interval_s=interval_s)
        await world.driver.start()
        world.chip.hung = "never"
        with pytest.raises(BusTimeout, match="power"):
            await world.driver.read()
        return asyncio.get_running_loop().time()

    patience_s = 3 * interval_s + 5
    assert 3 * patience_s <= run_virtual(main()) <= 3 * patience_s + 20


def test_a_sensor_that_arrives_stopped_is_started():
    async def main():
        world = World(Scd30Chip(Wave(), running=False, zeros=0))
        await world.driver.start()
        await world.driver.read()
        await world.driver.stop()
        return world.chip.running

    assert run_virtual(main()) is False


def test_a_cancelled_wait_leaves_the_driver_usable():
    async def main():
        world = World(interval_s=60)
        await world.driver.start()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7):
                await world.driver.read()
        return await world.driver.read()

    assert run_virtual(main())[0].quality is Quality.GOOD


# ---- pressure


def test_pressure_is_sent_only_when_the_chip_holds_another():
    async def main():
        world = World()
        await world.driver.start()
        for hpa in (1000.4, 1000.2, 998.4, 997.6):
            await world.driver.set_pressure(hpa)
        return world

    world = run_virtual(main())
    assert world.written() == ["0010000081", frame(Command.START, 1000).hex(), frame(Command.START, 998).hex()]
    assert world.chip.pressure_mbar == 998


def test_pressure_survives_a_reset_of_the_chip():
    async def main():
        world = World(pressure_hpa=1013)
        await world.driver.start()
        await world.driver.set_pressure(950)
        world.chip.hung = "reset"
        await world.driver.read()
        return world.chip.pressure_mbar

    assert run_virtual(main()) == 950


def test_pressure_in_another_unit_is_refused_before_the_wire():
    async def main():
        world = World()
        with pytest.raises(ValueError, match=r"101325 Pa is 1013\.25 hPa"):
            await world.driver.set_pressure(101325)
        return world.bus.steps

    assert run_virtual(main()) == []


def test_pressure_that_did_not_reach_the_chip_is_sent_again():
    async def main():
        world = World()
        bus = FaultyI2c(world.bus)
        driver = Scd30(bus, Scd30Options())
        await driver.start()
        bus.gone = NoDevice("gone")
        with pytest.raises(NoDevice):
            await driver.set_pressure(980)
        bus.gone = None
        await driver.set_pressure(980)
        return world.chip.pressure_mbar

    assert run_virtual(main()) == 980
