"""BMP280: the data sheet's example and a real part's numbers, the conversation, and what goes wrong."""

import asyncio
import json
import math
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from drivers.errors import BadData, BusError, BusTimeout, WrongDevice
from drivers.model import Quality, Reason, Sample
from drivers.sensors.bmp280 import Bmp280, Bmp280Options, Calibration, calibration, compensate, decode
from drivers.testing import bmp280_chip
from drivers.testing.bmp280_chip import Bmp280Chip
from drivers.testing.buses import RecordingI2c, ScriptedI2c, SimulatedI2c, Write, WriteRead
from drivers.testing.recording import Row, Wave
from drivers.testing.virtual import run_virtual

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "bmp280_vectors.json").read_text())
BLOCKS = {name: bytes.fromhex(c["bytes_88_9F"]) for name, c in VECTORS["calibrations"].items()}
A, B = BLOCKS.values()
BURST = bytes.fromhex("655AC07EED00")  # data sheet 3.11.3


class World:
    """A chip, a bus that records, a driver."""

    def __init__(self, chip: Bmp280Chip | None = None, **options: object) -> None:
        self.chip = chip or Bmp280Chip(Wave(pressure=1001.5, temperature=22.0, swing=0))
        self.bus = RecordingI2c(SimulatedI2c([self.chip]))
        self.driver = Bmp280(self.bus, Bmp280Options(address=self.chip.address, **options))  # type: ignore[arg-type]

    def written(self) -> list[str]:
        return [s.data.hex() for s in self.bus.steps if isinstance(s, Write)]


# ---- pure functions


@pytest.mark.parametrize("name", BLOCKS)
def test_calibration_of_the_example_and_of_a_real_part(name):
    expected = VECTORS["calibrations"][name]["coefficients"]
    assert calibration(BLOCKS[name]) == Calibration(**{k.lower(): v for k, v in expected.items()})


@pytest.mark.parametrize("v", VECTORS["vectors"], ids=lambda v: f"{v['calib'][0]}-{v['burst_F7_FC']}")
def test_every_compensation_vector(v):
    c = calibration(BLOCKS[v["calib"]])
    temperature, pressure_pa = compensate(v["adc_T"], v["adc_P"], c)
    assert temperature == pytest.approx(v["float"]["temp_c"], abs=1e-6)
    assert pressure_pa == pytest.approx(v["float"]["press_pa"], abs=1e-3)
    assert temperature == pytest.approx(v["int64"]["temp_centi"] / 100, abs=0.01)
    assert pressure_pa == pytest.approx(v["int64"]["press_pa"], abs=0.5)
    burst = bytes.fromhex(v["burst_F7_FC"])
    if v["note"]:
        with pytest.raises(BadData, match="not measured"):
            decode(burst, c)
    else:
        assert decode(burst, c) == (Sample("pressure", pressure_pa / 100), Sample("temperature", temperature))


def test_skipped_pressure_alone_leaves_the_temperature():
    pressure, temperature = decode(bytes.fromhex("8000007EED00"), calibration(A))
    assert math.isnan(pressure.value)
    assert (pressure.quality, pressure.reason) == (Quality.BAD, Reason.NOT_A_NUMBER)
    assert temperature.value == pytest.approx(25.0825, abs=1e-4)


@pytest.mark.parametrize("block", [bytes(24), b"\xff" * 24, bytes(6) + A[6:], A[:6] + bytes(2) + A[8:], A[:23]])
def test_a_calibration_that_no_factory_wrote_is_bad_data(block):
    with pytest.raises(BadData, match="calibration"):
        calibration(block)


@settings(deadline=None)
@given(
    st.binary(max_size=30) | st.binary(min_size=24, max_size=24),
    st.binary(max_size=8) | st.binary(min_size=6, max_size=6),
)
def test_any_bytes_are_a_value_or_bad_data(block, burst):
    try:
        samples = decode(burst, calibration(block))
    except BadData:
        return
    assert [s.channel for s in samples] == ["pressure", "temperature"]


@settings(deadline=None)
@given(st.floats(-40, 85), st.floats(300, 1100), st.sampled_from([A, B]))
def test_what_the_chip_encodes_the_driver_decodes(temperature, pressure, block):
    c = calibration(block)
    adc_t, adc_p = bmp280_chip.adc(temperature, pressure * 100, [getattr(c, f) for f in c.__dataclass_fields__])
    assume(0 < adc_t < 0xFFFFF and 0 < adc_p < 0xFFFFF)
    got_t, got_p = compensate(adc_t, adc_p, c)
    assert got_t == pytest.approx(temperature, abs=0.0003)  # half a step of 20 bits
    assert got_p == pytest.approx(pressure * 100, abs=0.25)


SETTINGS = st.fixed_dictionaries(
    {
        "oversampling_temperature": st.sampled_from([1, 2, 4, 8, 16]),
        "oversampling_pressure": st.sampled_from([1, 2, 4, 8, 16]),
        "mode": st.sampled_from(["forced", "normal"]),
        "filter": st.sampled_from([0, 2, 16]),
    }
)


@settings(deadline=None)
@given(st.floats(-20, 60), st.floats(600, 1080), SETTINGS)
def test_the_whole_line_keeps_the_resolution(temperature, pressure, settings):
    async def main():
        world = World(Bmp280Chip(lambda t: Row(t, temperature=temperature, pressure=pressure)), **settings)
        await world.driver.start()
        await world.driver.read()
        return await world.driver.read()

    got_p, got_t = run_virtual(main())
    assert got_t.value == pytest.approx(temperature, abs=0.013)  # two steps at x1: 0.005 K each, and rounding
    assert got_p.value == pytest.approx(pressure, abs=0.06)  # 2.62 Pa a step at x1
    fine = settings["oversampling_temperature"] == settings["oversampling_pressure"] == 16
    if fine or settings["filter"]:
        assert got_p.value == pytest.approx(pressure, abs=0.005)


# ---- options


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"address": 0x78}, "address 120: one of 0x76, 0x77"),
        ({"mode": "sleep"}, "mode 'sleep': one of forced, normal"),
        ({"oversampling_temperature": 0}, "oversampling_temperature 0: one of 1, 2, 4, 8, 16"),
        ({"oversampling_pressure": 3}, "oversampling_pressure 3: one of 1, 2, 4, 8, 16"),
        ({"filter": 1}, "filter 1: one of 0, 2, 4, 8, 16"),
        ({"standby_ms": 10}, "standby_ms 10: one of 0.5, 62.5, 125, 250, 500, 1000, 2000, 4000"),
    ],
)
def test_wrong_options_say_what_is_allowed(option, says):
    with pytest.raises(ValueError, match=says.split(":", maxsplit=1)[0]) as caught:
        Bmp280Options(**option)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("t", "p", "mode", "filter_", "standby_ms", "ctrl_meas", "config", "max_ms"),
    [
        (1, 1, "forced", 0, 0.5, 0x25, 0x00, 6.4),
        (1, 1, "normal", 16, 0.5, 0x27, 0x10, 6.4),
        (1, 4, "forced", 16, 500, 0x2D, 0x90, 13.3),
        (2, 16, "normal", 0, 1000, 0x57, 0xA0, 43.2),
        (16, 16, "forced", 0, 0.5, 0xB5, 0x00, 75.4),
        (1, 8, "forced", 0, 0.5, 0x31, 0x00, 22.5),
    ],
)
def test_registers_and_times_of_the_data_sheet(*, t, p, mode, filter_, standby_ms, ctrl_meas, config, max_ms):
    options = Bmp280Options(0x76, mode, t, p, filter_, standby_ms)
    assert (options.ctrl_meas, options.config) == (ctrl_meas, config)
    assert options.conversion_s * 1000 == pytest.approx(max_ms, abs=0.051)


# ---- the conversation


def get(register: int, answer: str) -> WriteRead:
    return WriteRead(0x76, bytes((register,)), bytes.fromhex(answer))


def put(data: str) -> Write:
    return Write(0x76, bytes.fromhex(data))


SET_UP = (get(0xD0, "58"), put("e0b6"), get(0xF3, "01"), get(0xF3, "00"), get(0x88, A.hex()), put("f590"))


def test_the_forced_conversation_byte_by_byte():
    bus = ScriptedI2c(
        *SET_UP,
        get(0xF4, "0090"),
        put("f42d"),
        get(0xF3, "08"),
        get(0xF3, "00"),
        get(0xF7, BURST.hex()),
        get(0xF4, "2c90"),
        put("f42d"),
        get(0xF3, "00"),
        get(0xF7, BURST.hex()),
        put("f400"),
    )

    async def main():
        driver = Bmp280(bus, Bmp280Options(0x76, "forced", 1, 4, 16, 500))
        await driver.start()
        await driver.read()
        samples = await driver.read()
        await driver.stop()
        return samples

    pressure, temperature = run_virtual(main())
    assert pressure.value == pytest.approx(1006.53267, abs=1e-5)
    assert temperature.value == pytest.approx(25.0825, abs=1e-4)
    bus.done()


def test_the_normal_conversation_byte_by_byte():
    bus = ScriptedI2c(*SET_UP, put("f42f"), get(0xF4, "2f90"), get(0xF7, BURST.hex()))

    async def main():
        driver = Bmp280(bus, Bmp280Options(0x76, "normal", 1, 4, 16, 500))
        await driver.start()
        await driver.read()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) >= 0.0133
    bus.done()


@pytest.mark.parametrize("mode", ["forced", "normal"])
@pytest.mark.parametrize(("t", "p"), [(1, 1), (16, 16)])
def test_the_first_reading_is_already_true(mode, t, p):
    async def main():
        world = World(mode=mode, oversampling_temperature=t, oversampling_pressure=p)
        await world.driver.start()
        return await world.driver.read()

    pressure, temperature = run_virtual(main())
    assert pressure.value == pytest.approx(1001.5, abs=0.06)
    assert temperature.value == pytest.approx(22.0, abs=0.011)


def test_each_forced_read_is_a_new_conversion():
    async def main():
        world = World(Bmp280Chip(lambda t: Row(t, temperature=20 + t, pressure=1000)))
        await world.driver.start()
        first = (await world.driver.read())[1].value
        await asyncio.sleep(10)
        return (await world.driver.read())[1].value - first

    assert run_virtual(main()) == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize(
    ("chip_id", "says"),
    [
        (0x60, "BME280 .* use a driver for the BME280"),
        (0x61, "BME680 or BME688"),
        (0x55, "BMP180 or BMP085"),
        (0x42, "no BMP280 .*chip id 0x42"),
    ],
)
def test_other_chips_are_named(chip_id, says):
    with pytest.raises(WrongDevice, match=says):
        run_virtual(World(Bmp280Chip(Wave(), chip_id=chip_id)).driver.start())


@pytest.mark.parametrize("chip_id", [0x56, 0x57, 0x58])
@pytest.mark.parametrize("address", [0x76, 0x77])
def test_samples_of_the_part_and_both_addresses_are_accepted(chip_id, address):
    async def main():
        world = World(Bmp280Chip(Wave(), chip_id=chip_id, address=address))
        await world.driver.start()
        return await world.driver.read()

    assert len(run_virtual(main())) == 2


@pytest.mark.parametrize("constant", ["00", "ff"])
def test_a_stuck_line_is_not_another_chip(constant):
    with pytest.raises(BusError, match="stuck line"):
        run_virtual(Bmp280(ScriptedI2c(get(0xD0, constant)), Bmp280Options()).start())


def test_a_memory_that_never_loads_is_a_timeout():
    bus = ScriptedI2c(get(0xD0, "58"), put("e0b6"), *[get(0xF3, "01")] * 10)
    with pytest.raises(BusTimeout, match="0x01"):
        run_virtual(Bmp280(bus, Bmp280Options()).start())
    bus.done()


@pytest.mark.parametrize(("slow_s", "in_time"), [(0.02, True), (0.2, False)])
def test_a_slow_conversion_is_awaited_up_to_twice_its_time(slow_s, in_time):
    async def main():
        world = World()
        world.chip.slow_s = slow_s
        await world.driver.start()
        return await world.driver.read()

    if in_time:
        assert run_virtual(main())[0].value == pytest.approx(1001.5, abs=0.01)
    else:
        with pytest.raises(BusTimeout, match="0x08"):
            run_virtual(main())


# ---- brown-out


@pytest.mark.parametrize(
    ("options", "set_up_again"),
    [
        ({"mode": "normal", "filter": 4}, True),
        ({"mode": "normal", "standby_ms": 0.5}, True),  # config is 0 either way: only ctrl_meas tells
        ({"mode": "forced", "filter": 4}, True),
        ({"mode": "forced", "standby_ms": 0.5}, False),  # nothing that a forced reading needs was lost
    ],
)
def test_a_brown_out_is_noticed_and_mended(options, set_up_again):
    async def main():
        world = World(**options)
        await world.driver.start()
        await world.driver.read()
        before = len(world.bus.steps)
        world.chip.power_cycle(asyncio.get_running_loop().time())
        await asyncio.sleep(1)
        samples = await world.driver.read()
        written = [s.data for s in world.bus.steps[before:] if isinstance(s, Write)]
        return samples, written

    (pressure, temperature), written = run_virtual(main())
    assert (b"\xe0\xb6" in written) is set_up_again
    assert pressure.value == pytest.approx(1001.5, abs=0.01)
    assert temperature.value == pytest.approx(22.0, abs=0.01)


def test_stop_puts_it_to_sleep():
    async def main():
        world = World(mode="normal")
        await world.driver.start()
        await world.driver.stop()
        return world.written()[-1], await world.bus.write_read(0x76, b"\xf4", 1)

    assert run_virtual(main()) == ("f400", b"\x00")
