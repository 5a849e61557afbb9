"""The simulated chips are as awkward as the real ones."""

import asyncio
import struct

import pytest

from drivers.errors import NoDevice
from drivers.sensors.scd30 import Command, frame, words
from drivers.testing.bmp280_chip import Bmp280Chip
from drivers.testing.buses import SimulatedI2c
from drivers.testing.recording import Row, Wave
from drivers.testing.scd30_chip import BOOT_S, Scd30Chip
from drivers.testing.virtual import run_virtual


def ask(chip: Scd30Chip, command: int, size: int, now_s: float, pause_s: float = 0.0031) -> bytes:
    chip.write(frame(command), now_s)
    return chip.read(size, now_s + pause_s)


def ready(chip: Scd30Chip, now_s: float) -> bool:
    return ask(chip, Command.DATA_READY, 3, now_s) == bytes.fromhex("0001b0")


def started() -> Scd30Chip:
    chip = Scd30Chip(lambda t: Row(t, 400 + t, 20, 50), zeros=0)
    chip.write(frame(Command.START, 0), 0)
    return chip


# ---- SCD30


def test_a_read_needs_three_milliseconds_and_a_stop():
    chip = started()
    assert words(ask(chip, Command.FIRMWARE, 3, 0)) == b"\x03\x42"
    assert ask(chip, Command.FIRMWARE, 3, 1, pause_s=0.0029) == b"UUU"
    with pytest.raises(NoDevice):
        ask(chip, Command.FIRMWARE, 3, 2, pause_s=0)


def test_an_answer_is_given_once():
    chip = started()
    ask(chip, Command.FIRMWARE, 3, 0)
    with pytest.raises(NoDevice):
        chip.read(3, 1)


def test_a_wrong_checksum_or_an_unknown_command_is_not_acknowledged():
    chip = started()
    for data in ("46000005ff", "abcd", "d304000081", "46"):
        with pytest.raises(NoDevice):
            chip.write(bytes.fromhex(data), 1)
    assert words(ask(chip, Command.INTERVAL, 3, 1)) == b"\x00\x02"


def test_data_ready_rises_with_the_interval_and_falls_with_the_read():
    chip = started()
    assert not ready(chip, 1.9)
    assert ready(chip, 2.1)
    (co2,) = struct.unpack(">f", words(ask(chip, Command.MEASUREMENT, 18, 2.2))[:4])
    assert co2 == 402
    assert not ready(chip, 2.3)
    assert ask(chip, Command.MEASUREMENT, 18, 2.4) == bytes.fromhex("ffffac") * 6
    assert ready(chip, 9.9)
    (co2,) = struct.unpack(">f", words(ask(chip, Command.MEASUREMENT, 18, 9.95))[:4])
    assert co2 == 408  # the newest, the ones between are overwritten


def test_stop_start_and_settings_survive_a_power_cycle():
    chip = started()
    chip.write(frame(Command.INTERVAL, 5), 1)
    chip.write(frame(Command.STOP), 1)
    chip.power_cycle(10)
    with pytest.raises(NoDevice):
        chip.write(frame(Command.FIRMWARE), 10 + BOOT_S / 2)
    assert words(ask(chip, Command.INTERVAL, 3, 13)) == b"\x00\x05"
    assert not ready(chip, 100)
    chip.write(frame(Command.START, 0), 100)
    chip.power_cycle(101)
    assert ready(chip, 109)


def test_zeros_after_a_boot_not_after_a_start():
    chip = Scd30Chip(Wave(), zeros=1)
    chip.write(frame(Command.START, 0), 0)
    seen = []
    for now_s in (3, 5, 7):
        if now_s == 7:
            chip.write(frame(Command.START, 0), 5)
        assert ready(chip, now_s + 0.5)
        seen.append(struct.unpack(">f", words(ask(chip, Command.MEASUREMENT, 18, now_s + 0.6))[:4])[0] > 0)
    assert seen == [False, True, True]


def test_a_pressure_in_pascal_shows_zero_for_ever():
    chip = started()
    chip.write(frame(Command.START, 10132), 0)
    assert ready(chip, 20)
    assert words(ask(chip, Command.MEASUREMENT, 18, 20))[:4] == bytes(4)


def test_the_temperature_offset_is_subtracted():
    chip = started()
    chip.write(frame(Command.TEMPERATURE_OFFSET, 250), 0)
    assert ready(chip, 20)
    assert struct.unpack(">3f", words(ask(chip, Command.MEASUREMENT, 18, 20)))[1] == 17.5


# ---- BMP280


def registers(chip: Bmp280Chip, register: int, size: int, now_s: float) -> bytes:
    chip.write(bytes((register,)), now_s)
    return chip.read(size, now_s)


def test_a_register_read_counts_up_and_a_write_takes_pairs():
    chip = Bmp280Chip(Wave())
    chip.write(bytes.fromhex("f510f457"), 1)
    assert registers(chip, 0xF4, 2, 1) == b"\x57\x10"
    assert registers(chip, 0xD0, 1, 1) == b"\x58"
    assert len(set(registers(chip, 0x88, 24, 1))) > 10


def test_a_forced_conversion_takes_its_time_and_sleeps_again():
    chip = Bmp280Chip(Wave())
    assert registers(chip, 0xF7, 6, 1) == bytes.fromhex("800000800000")
    chip.write(b"\xf4\x25", 1)
    assert registers(chip, 0xF3, 1, 1.006) == b"\x08"
    assert registers(chip, 0xF7, 6, 1.006) == bytes.fromhex("800000800000")
    assert registers(chip, 0xF3, 2, 1.007) == b"\x00\x24"
    first = registers(chip, 0xF7, 6, 1.007)
    assert first != bytes.fromhex("800000800000")
    assert registers(chip, 0xF7, 6, 200) == first


def test_a_skipped_channel_stays_at_its_reset_content():
    chip = Bmp280Chip(Wave())
    chip.write(b"\xf4\x21", 1)  # temperature only
    assert registers(chip, 0xF7, 3, 2) == bytes.fromhex("800000")
    assert registers(chip, 0xFA, 3, 2) != bytes.fromhex("800000")


def test_normal_mode_goes_on_by_itself_and_ignores_config():
    chip = Bmp280Chip(lambda t: Row(t, temperature=20 + t, pressure=1000))
    chip.write(bytes.fromhex("f5a0f427"), 1)
    chip.write(bytes.fromhex("f500"), 2)
    assert registers(chip, 0xF5, 1, 2) == b"\xa0"
    assert registers(chip, 0xFA, 3, 2) != registers(chip, 0xFA, 3, 4)
    statuses = {registers(chip, 0xF3, 1, 5 + i / 500) for i in range(520)}
    assert statuses == {b"\x00", b"\x08"}


def test_a_reset_empties_all_but_the_calibration_which_loads_in_two_milliseconds():
    chip = Bmp280Chip(Wave())
    chip.write(bytes.fromhex("f510f425"), 1)
    registers(chip, 0xF7, 6, 2)
    chip.write(b"\xe0\xb6", 3)
    assert registers(chip, 0xF3, 3, 3.001) == b"\x01\x00\x00"
    assert registers(chip, 0x88, 24, 3.001) == bytes(24)
    assert registers(chip, 0xF3, 1, 3.003) == b"\x00"
    assert registers(chip, 0xF7, 6, 3.003) == bytes.fromhex("800000800000")
    assert registers(chip, 0x88, 24, 3.003) != bytes(24)


def test_the_filter_smooths_a_step():
    pressure = [1000.0]
    chip = Bmp280Chip(lambda t: Row(t, temperature=20, pressure=pressure[0]))

    def convert(now_s: float) -> int:
        chip.write(b"\xf4\x25", now_s)
        return int.from_bytes(registers(chip, 0xF7, 3, now_s + 0.5), "big") >> 4

    chip.write(b"\xf5\x08", 1)  # coefficient 4
    before = convert(1)
    pressure[0] = 990.0
    steps = [convert(2 + i) for i in range(30)]
    part = (steps[4] - before) / (steps[-1] - before)
    assert 0.70 < part < 0.80  # data sheet table 6: 75 % after 5 samples


def test_chips_live_in_the_time_of_the_loop():
    async def main():
        bus = SimulatedI2c([Bmp280Chip(Wave())])
        await bus.write(0x76, b"\xe0\xb6")
        with pytest.raises(NoDevice):
            await bus.write_read(0x76, b"\xf3", 1)
        await asyncio.sleep(0.001)
        loading = await bus.write_read(0x76, b"\xf3", 1)
        await asyncio.sleep(0.002)
        return loading, await bus.write_read(0x76, b"\xf3", 1)

    assert run_virtual(main()) == (b"\x01", b"\x00")
