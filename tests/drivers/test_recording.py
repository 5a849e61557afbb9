"""Recordings: real air, repeated without end, the same for the past and for now."""

from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.testing.recording import HOLD_S, Recording, Row, Wave, names, restless

SHORT = Recording([Row(0, 400.0), Row(2, 0.0), Row(4, 410.0), Row(104, 510.0)])


def test_the_packaged_ones():
    assert names() == ["living-room", "plant-room", "station"]


@pytest.mark.parametrize("name", names())
def test_each_carries_its_source_and_licence(name):
    text = resources.files("drivers.testing.recordings").joinpath(f"{name}.md").read_text()
    assert "GitHub `" in text
    assert "MIT License" in text
    assert "Copyright (c)" in text


@pytest.mark.parametrize(
    ("name", "rows", "hours", "columns"),
    [
        ("plant-room", 9471, 6.0, {"co2", "temperature", "humidity"}),
        ("living-room", 737, 20.66, {"co2", "temperature", "humidity"}),
        ("station", 1505, 2.09, {"pressure", "temperature"}),
    ],
)
def test_what_is_in_them(name, rows, hours, columns):
    recording = Recording.load(name)
    assert len(recording.rows()) == rows
    assert recording.span_s / 3600 == pytest.approx(hours, abs=0.01)
    first = recording.rows()[0]
    assert {c for c in ("co2", "temperature", "humidity", "pressure") if getattr(first, c) is not None} == columns


def test_rows_close_together_are_held_and_far_apart_are_joined():
    assert SHORT.at(1.9).co2 == 400
    assert SHORT.at(2.0).co2 == 0
    assert SHORT.at(3.9).co2 == 0
    assert SHORT.at(54).co2 == 460
    assert HOLD_S == 10


def test_it_wraps_around():
    span_s = SHORT.span_s
    assert span_s == 104 + 104 / 3
    assert SHORT.at(span_s) == SHORT.at(0)
    assert SHORT.at(-1) == SHORT.at(span_s - 1)
    assert SHORT.at(span_s - 1).co2 == 510


@settings(deadline=None)
@given(st.floats(0, 4e9), st.floats(0, 4e9))
def test_seeding_and_replay_agree_at_every_time(now_s, epoch_s):
    recording = Recording.load("living-room")
    assert recording.replay(lambda: now_s, epoch_s)(123.0) == recording.at(now_s - epoch_s)


def test_a_path_works_like_a_name(tmp_path):
    path = tmp_path / "my.csv"
    path.write_text("offset_s,pressure\n0,1000\n5,1001\n")
    assert [r.pressure for r in Recording.load(path).rows()] == [1000, 1001]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n0,1\n", "header must be offset_s and some of co2"),
        ("offset_s\n0\n1\n", "header must be"),
        ("", "header must be"),
        ("offset_s,co2\n0,400\n1,None\n", "line 3: not 2 numbers"),
        ("offset_s,co2\n0,400\n1\n", "line 3: not 2 numbers"),
        ("offset_s,co2\n0,400\n1,2,3\n", "line 3: not 2 numbers"),
        ("offset_s,co2\n0,400\n", "two rows or more"),
        ("offset_s,co2\n1,400\n2,400\n", "start at 0"),
        ("offset_s,co2\n0,400\n2,400\n2,401\n", "rise with every row"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, says):
    path = tmp_path / "broken.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        Recording.load(path)


def test_a_missing_one_names_those_that_are_there():
    with pytest.raises(FileNotFoundError, match="'cellar': packaged are living-room, plant-room, station"):
        Recording.load("cellar")


def test_a_wave_swings_once_a_period():
    wave = Wave(co2=1000, swing=0.1, period_s=100)
    assert (wave(0).co2, wave(25).co2, wave(75).co2) == (1000, pytest.approx(1100), pytest.approx(900))
    assert wave(25).pressure == 1013.25


def test_a_restless_source_repeats_nothing_and_changes_no_digit_that_was_recorded():
    still = Row(0.0, co2=612.5, temperature=24.44, humidity=0.0)
    rows = [restless(lambda _: still)(0.0) for _ in range(2)]
    assert rows[0] == rows[1], "the same at each start"
    source = restless(lambda _: still)
    seen = [source(0.0) for _ in range(100)]
    assert len({row.temperature for row in seen}) == 100
    assert {round(row.temperature, 2) for row in seen} == {24.44}
    assert {row.humidity for row in seen} == {0.0}
    assert {row.pressure for row in seen} == {None}
