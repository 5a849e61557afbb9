"""SCD30 without a wire: the maker's frames byte for byte, verdicts, options."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.checksum import crc8_sensirion
from drivers.errors import BadData
from drivers.model import Quality, Reason, Sample
from drivers.sensors.scd30 import Command, Scd30Options, decode, frame, words
from drivers.testing.scd30_chip import checked

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "scd30_vectors.json").read_text())
EXAMPLE = bytes.fromhex("43DBCB8C2E8F41D970E7FFF54243BF3A1B74")  # interface description, read measurement
FRC = 0x5204

MEANT: dict[str, tuple[int, int | None]] = {
    "start continuous, no pressure compensation": (Command.START, 0),
    "start continuous, 1013 mbar": (Command.START, 1013),
    "start continuous, 700 mbar (min)": (Command.START, 700),
    "start continuous, 1400 mbar (max)": (Command.START, 1400),
    "start continuous, 836 mbar": (Command.START, 836),
    "stop": (Command.STOP, None),
    "interval 2 s": (Command.INTERVAL, 2),
    "interval 5 s": (Command.INTERVAL, 5),
    "interval 60 s": (Command.INTERVAL, 60),
    "interval 1800 s": (Command.INTERVAL, 1800),
    "data ready?": (Command.DATA_READY, None),
    "read measurement": (Command.MEASUREMENT, None),
    "ASC on": (Command.SELF_CALIBRATION, 1),
    "ASC off": (Command.SELF_CALIBRATION, 0),
    "FRC 400": (FRC, 400),
    "FRC 420": (FRC, 420),
    "FRC 450": (FRC, 450),
    "FRC 2000": (FRC, 2000),
    "temp offset 5.00 K": (Command.TEMPERATURE_OFFSET, 500),
    "temp offset 0": (Command.TEMPERATURE_OFFSET, 0),
    "temp offset 2.50 K": (Command.TEMPERATURE_OFFSET, 250),
    "altitude 1000 m": (Command.ALTITUDE, 1000),
    "altitude 300 m": (Command.ALTITUDE, 300),
    "firmware version": (Command.FIRMWARE, None),
    "soft reset": (Command.RESET, None),
    "get interval (same opcode, no argument)": (Command.INTERVAL, None),
    "get ASC": (Command.SELF_CALIBRATION, None),
    "get FRC": (FRC, None),
    "get temp offset": (Command.TEMPERATURE_OFFSET, None),
    "get altitude": (Command.ALTITUDE, None),
}


# ---- pure functions


@pytest.mark.parametrize("vector", VECTORS["crc8"], ids=lambda v: v["word"])
def test_crc8(vector):
    assert crc8_sensirion(bytes.fromhex(vector["word"])) == int(vector["crc8"], 16)


@pytest.mark.parametrize("vector", VECTORS["i2c_write"], ids=lambda v: v["what"])
def test_every_printed_write(vector):
    assert frame(*MEANT[vector["what"]]) == bytes.fromhex(vector["write"])


@pytest.mark.parametrize("vector", VECTORS["i2c_status_read"], ids=lambda v: v["what"])
def test_every_printed_word(vector):
    assert int.from_bytes(words(bytes.fromhex(vector["read"])), "big") == vector["value"]


VERDICTS = {
    "first sample after reset": (Quality.BAD, Reason.ZERO),
    "NaN co2": (Quality.BAD, Reason.NOT_A_NUMBER),
    "overrange clamp": (Quality.BAD, Reason.OUT_OF_RANGE),
}


@pytest.mark.parametrize("vector", VECTORS["measurement_read"], ids=lambda v: v["what"])
def test_every_printed_measurement(vector):
    answer = bytes.fromhex(vector["i2c_read_18"])
    if vector["what"].startswith("corrupt"):
        with pytest.raises(BadData, match="checksum of word 1"):
            decode(answer)
        return
    assert words(answer) == bytes.fromhex(vector["modbus_payload_12"])
    co2, temperature, humidity = decode(answer)
    expected = float(vector["co2"])
    assert co2.value == expected or (math.isnan(co2.value) and math.isnan(expected))
    assert (co2.quality, co2.reason) == VERDICTS.get(vector["what"], (Quality.GOOD, Reason.NONE))
    assert temperature == Sample("temperature", vector["temp"])
    assert humidity == Sample("humidity", vector["rh"])


@settings(deadline=None)
@given(st.binary(max_size=40) | st.binary(min_size=12, max_size=12).map(checked))
def test_any_bytes_are_a_value_or_bad_data(answer):
    try:
        samples = decode(answer)
    except BadData:
        return
    assert len(answer) == 18
    assert [s.channel for s in samples] == ["co2", "temperature", "humidity"]
    assert all(math.isfinite(s.value) or s.quality is Quality.BAD for s in samples)


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_words_strips_checksums_or_refuses(answer):
    try:
        plain = words(answer)
    except BadData:
        return
    assert checked(plain) == answer


@pytest.mark.parametrize("bit", range(18 * 8))
def test_no_flipped_bit_passes(bit):
    spoiled = bytearray(EXAMPLE)
    spoiled[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadData):
        decode(bytes(spoiled))


# ---- options


@pytest.mark.parametrize(
    ("options", "words_in_it"),
    [
        ({"address": 0x62}, ("0x62", "0x61")),
        ({"interval_s": 1}, ("interval_s 1", "2 to 1800")),
        ({"interval_s": 1801}, ("1801", "2 to 1800")),
        ({"interval_s": 2.5}, ("2.5", "whole seconds")),
        ({"interval_s": True}, ("True", "whole seconds")),
        ({"self_calibration": "yes"}, ("'yes'", "true, false")),
        ({"temperature_offset_degc": -0.5}, ("-0.5", "0 to 655.35")),
        ({"temperature_offset_degc": 655.36}, ("655.36", "0 to 655.35")),
        ({"temperature_offset_degc": math.nan}, ("nan", "0 to 655.35")),
        ({"altitude_m": -1}, ("-1", "0 to 65535")),
        ({"altitude_m": 12.5}, ("12.5", "whole metres")),
        ({"pressure_hpa": 699}, ("699", "700 to 1400", "altitude_m")),
        ({"pressure_hpa": 101325}, ("101325", "700 to 1400", "101325 Pa is 1013.25 hPa")),
        ({"pressure_hpa": 101.3}, ("101.3", "101.3 kPa is 1013 hPa")),
        ({"pressure_hpa": math.nan}, ("nan", "700 to 1400")),
    ],
)
def test_wrong_options_say_value_rule_and_way_out(options, words_in_it):
    with pytest.raises(ValueError, match=next(iter(options))) as caught:
        Scd30Options(**options)
    assert all(w in str(caught.value) for w in words_in_it), str(caught.value)


def test_bounds_are_inside():
    Scd30Options(interval_s=1800, temperature_offset_degc=655.35, altitude_m=65535, pressure_hpa=1400)
    Scd30Options(interval_s=2, temperature_offset_degc=0, altitude_m=0, pressure_hpa=700)
