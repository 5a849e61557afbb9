"""Each benchmark runs with tiny numbers and yields finite figures, so that it still runs when it is needed."""

import json
import math
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from bench import (
    ble,
    formats,
    healing,
    idle,
    ingest,
    jail_python,
    jail_sql,
    logins,
    stalls,
    startup,
    store,
    surface,
    tools,
    wires,
)
from bench.figures import Figure, Goal, save, table
from tests.brokers import needs_mosquitto


def assert_all_finite(figures: Sequence[Figure]) -> None:
    """They are there, each with a name of its own beside its peer; what was measured is a number above zero."""
    assert figures
    assert len({(each.what, each.peer) for each in figures}) == len(figures)
    for each in figures:
        assert math.isfinite(each.value), each
        assert each.value >= 0, each
        assert each.value > 0 or each.unit in {"%", "/s", "ms", "KiB"}, each
        assert each.peer_value is None or math.isfinite(each.peer_value), each


def test_a_table_and_a_file_tell_what_was_met(tmp_path: Path) -> None:
    figures = [
        Figure("fast", 25_000.0, "/s", goal=Goal(20_000, at_least=True)),
        Figure("slow", 3.0, "ms", "floor", 1.0, Goal(2.0, of_ratio=True)),
        Figure("plain", 0.5, "s"),
    ]
    lines = table(figures).splitlines()
    assert lines[2] == "| fast | 25,000 /s |  |  | >= 20,000 | yes |"
    assert lines[3] == "| slow | 3 ms | floor: 1 ms | 3.00 | <= 2 x | **no** |"
    assert lines[4] == "| plain | 0.5 s |  |  |  |  |"
    saved = json.loads(save("some", figures, tmp_path).read_text())
    assert [each["met"] for each in saved["figures"]] == [True, False, None]


async def test_store() -> None:
    assert_all_finite(await store.measure(store.Size({10: 3, 100: 2}, 1, 5_000)))


@needs_mosquitto
@pytest.mark.slow
async def test_ingest() -> None:
    figures = await ingest.measure(ingest.Size(60, 1))
    assert_all_finite(figures)
    assert len(figures) == 10


@pytest.mark.slow
async def test_tools() -> None:
    assert_all_finite(await tools.measure(tools.Size(3, 1, timedelta(minutes=5))))


@pytest.mark.slow
async def test_surface() -> None:
    figures = await surface.measure(surface.QUICK)
    assert_all_finite(figures)
    assert len([each for each in figures if "memory of the" in each.what]) == 3  # itself, SQL, analysis


@pytest.mark.slow
async def test_jail_sql() -> None:
    assert_all_finite(await jail_sql.measure(jail_sql.QUICK))


@pytest.mark.slow
async def test_jail_python() -> None:
    assert_all_finite(await jail_python.measure(jail_python.QUICK))


@pytest.mark.slow
async def test_stalls() -> None:
    assert_all_finite(await stalls.measure(stalls.Size(10, 6_000, 5)))


@pytest.mark.slow
async def test_formats() -> None:
    """Both give the same answers, or it would not end well."""
    figures = await formats.measure(formats.Size(2, 6_000, 1))
    assert_all_finite(figures)
    assert all(each.peer_value for each in figures)


@needs_mosquitto
async def test_logins() -> None:
    assert_all_finite(await logins.measure(logins.QUICK))


@pytest.mark.slow
async def test_startup(tmp_path: Path) -> None:
    welcome_s, live_s = await startup.start(tmp_path)
    assert 0 < welcome_s < live_s < startup.LIVE_WITHIN_S


@pytest.mark.slow
async def test_ble() -> None:
    figures = await ble.measure(ble.Size(0.5, 0.1, 1.0))
    assert_all_finite(figures)
    assert len(figures) == (13 if await ble.missing() == "" else 7)
    for each in figures:
        if "sensors that were read" in each.what:
            assert each.value >= ble.BEACONS
        if "adverts heard" in each.what:
            assert each.value > 0, each


@pytest.mark.slow
async def test_healing() -> None:
    figures = await healing.measure(healing.Size(1, (5.0,)))
    assert_all_finite(figures)
    assert all(each.met is not False for each in figures), figures  # virtual time: no machine is too slow for it
    assert len([each for each in figures if each.goal]) == 2 * len(healing.KINDS) - 1 + 2


@pytest.mark.slow
async def test_wires() -> None:
    figures = await wires.measure(wires.QUICK)
    assert_all_finite(figures)
    assert len(figures) == len(wires.OUTAGES)
    assert all(each.met for each in figures), figures


@pytest.mark.slow
async def test_idle() -> None:
    figures = await idle.measure(idle.Size({idle.APPLIANCE: (0.0, 0.3)}))
    assert_all_finite(figures)
    held = next(each for each in figures if "PSS of gateway and broker" in each.what)
    assert 20 < held.value < 1000
