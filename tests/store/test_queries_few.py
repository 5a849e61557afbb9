"""Figures made in Python of few readings: the same as by SQL, and only where the readings are few."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from math import isclose
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.model import Quality
from gateway.store import codes, queries
from gateway.store.db import Store
from gateway.store.keeper import Keeper, Keeping, Retention
from gateway.store.queries import few
from gateway.store.queries.pieces import pieces
from gateway.store.segments.view import View
from gateway.store.types import Statistics
from tests.store.builders import T0, local, reading
from tests.store.test_keeper import SetClock
from tests.store.test_keeper_model import in_process

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
T0_MS = codes.to_ms(T0)

Row = tuple[int, float | None, Quality]
"""Seconds since T0, value, quality."""

# Few different times and values, so that several readings share theirs. (SQL groups by value: -0.0 becomes 0.0.)
row = st.tuples(
    st.integers(0, 40),
    st.one_of(
        st.none(),
        st.sampled_from([-3.0, -0.3, -0.1, 0.0, 0.1, 0.3, 3.0]),
        st.sampled_from([-3.0, 0.0, 3.0]),
        st.floats(-1e6, 1e6).map(lambda value: value + 0.0),
    ),
    st.sampled_from([Quality.GOOD, Quality.GOOD, Quality.UNCERTAIN, Quality.BAD]),
)


async def fill(store: Store, rows: Sequence[Row], *, sealed: bool = False) -> None:
    await store.append([local(reading(value, at, quality=quality)) for at, value, quality in rows])
    if sealed:
        await Keeper(store, SetClock(T0 + DAY), merge=in_process).seal(everything=True)


async def both_ways(ask: Callable[[], Any]) -> tuple[Any, Any]:
    """What is answered in Python, and by SQL."""
    answers = []
    for most in (few.FEW, -1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(few, "FEW", most)
            answers.append(await ask())
    return answers[0], answers[1]


def near(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return isclose(one, other, rel_tol=1e-12, abs_tol=1e-6)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(row, min_size=5, max_size=60, unique_by=lambda one: one[:2]),
    sealed=st.booleans(),
    bounds=st.lists(st.integers(0, 41), min_size=3, max_size=3, unique=True).map(sorted),
)
async def test_both_ways_give_the_same(rows: list[Row], sealed: bool, bounds: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with Store(Path(folder)) as store:
            await fill(store, rows, sealed=sealed)
            start, middle, end = (T0 + each * SECOND for each in bounds)
            figures, same = await both_ways(lambda: queries.statistics(store, 1, start, end))
            check_figures(figures, same)
            compared, same = await both_ways(lambda: queries.compare(store, 1, (start, middle), (middle, end)))
            for one, other in ((compared.first, same.first), (compared.second, same.second)):
                check_figures(one.figures, other.figures)
                assert (one.interval, one.coverage) == (other.interval, other.coverage)
            points, same = await both_ways(lambda: queries.points(store, 1, start, end, 100))
            assert points == same
            thinned, same = await both_ways(lambda: queries.points(store, 1, T0, T0 + DAY, 4))
            assert (thinned.total, thinned.bad) == (same.total, same.bad)
            assert {each.value for each in thinned.points} == {each.value for each in same.points}
            assert (thinned.points[:1], thinned.points[-1:]) == (same.points[:1], same.points[-1:])
            hits, same = await both_ways(lambda: queries.anomalies(store, T0, T0 + DAY, below=1e5))
            assert hits.total == same.total
            assert [(hit.time, hit.value, hit.quality) for hit in hits.hits] == [
                (hit.time, hit.value, hit.quality) for hit in same.hits
            ]


def check_figures(figures: Statistics, same: Statistics) -> None:
    """All but the last digits of what is a sum: they depend on the order in which it was made."""
    assert replace(figures, mean=None, stddev=None) == replace(same, mean=None, stddev=None)
    assert near(figures.mean, same.mean)
    assert near(figures.stddev, same.stddev)


async def test_only_few_readings_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few, "FEW", 10)
    async with Store(tmp_path) as store:
        keeper = Keeper(store, SetClock(T0 + 40 * DAY), Keeping(retention=(Retention(3),)), merge=in_process)

        async def fetched(first: int, behind: int) -> list[int] | None:
            """Seconds since T0 of what is fetched of a range."""

            def ask(view: View) -> list[int] | None:
                of = pieces(view, [1], (T0_MS + first * 1000, T0_MS + behind * 1000))
                rows = few.few(view, [1], of)
                return None if rows is None else [(row[1] - T0_MS) // 1000 for row in rows]

            return await store.ask(ask)

        await fill(store, [(at, 20.0, Quality.GOOD) for at in range(10)])
        assert await fetched(0, 3600) == list(range(10))
        await fill(store, [(10, 20.0, Quality.GOOD)])
        assert await fetched(0, 3600) is None  # hot ones are seen to be many when they come
        await keeper.seal(everything=True)
        assert await fetched(0, 3600) is None
        assert await fetched(1, 11) == list(range(1, 11))
        await keeper.expire()
        assert await fetched(0, 3600) is None  # there are rollups only
