"""Which part of a range comes from readings and which from rollups; and that nobody can tell by the figures."""

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.model import Quality, Reason
from gateway.store import codes, queries
from gateway.store.db import Store
from gateway.store.keeper import Keeper, Keeping, Retention
from gateway.store.queries import figures
from gateway.store.queries.pieces import AT_ONCE, pieces
from gateway.store.segments import parquet
from gateway.store.segments.layout import BUCKET_MS, Level, Seal, Segment
from gateway.store.segments.parquet import Draft
from gateway.store.segments.view import View
from gateway.store.types import Point
from tests.store.builders import T0, local, reading
from tests.store.test_keeper import SetClock
from tests.store.test_keeper_model import in_process

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
T0_MS, WIDE_MS = codes.to_ms(T0), 12 * BUCKET_MS
QUARTER = timedelta(minutes=15)

segment = st.builds(
    lambda first, length, rows, raw, rolled, expired: Segment(
        1, Level.DAY, first, first + length, 1, 3, rows, raw, roll="roll" if rolled or not raw else "", expired=expired
    ),
    st.integers(0, WIDE_MS),
    st.integers(0, WIDE_MS // 3),
    st.integers(1, 3 * AT_ONCE),
    st.sampled_from(["raw", "raw", "raw", ""]),
    st.booleans(),
    st.sampled_from([(), (), (2,), (1, 2)]),
)


@given(
    segments=st.lists(segment, max_size=4),
    within=st.tuples(st.integers(0, WIDE_MS), st.integers(0, WIDE_MS)).filter(lambda pair: pair[0] < pair[1]),
    series=st.sampled_from([None, [1], [2, 3]]),
)
def test_pieces_cover_the_range_once(
    segments: list[Segment], within: tuple[int, int], series: list[int] | None
) -> None:
    view = View(None, tuple(segments), Path())  # type: ignore[arg-type]  # a plan asks nothing
    of = pieces(view, series, within)
    start_ms, end_ms = within
    asked = series or [1, 2, 3]
    gone_ms = max((view.raw_from_ms(each) for each in asked), default=0)
    assert (of.gone_ms, of.expired) == (gone_ms, gone_ms > start_ms)
    covered = sorted([*of.raw, *([of.rolled] if of.rolled else [])])
    began_ms = -(-start_ms // BUCKET_MS) * BUCKET_MS if of.expired else start_ms
    assert began_ms >= end_ms or covered[0][0] == began_ms
    assert all(one[1] == other[0] for one, other in pairwise(covered))
    if of.rolled:
        assert all(edge % BUCKET_MS == 0 for edge in of.rolled)
        assert end_ms <= covered[-1][1] < end_ms + BUCKET_MS
        assert covered[-1][1] == end_ms or of.rolled[1] <= gone_ms + BUCKET_MS - 1
    # No reading is asked for that may be gone, but in the bucket in which the last one went.
    assert all(low >= gone_ms or high <= low or not of.expired for low, high in of.raw)
    few = sum(each.rows for each in segments if each.roll) <= AT_ONCE
    assert of.expired or of.rolled is None or not few


async def dense(store: Store, rows: int, step_ms: int) -> None:
    """Series 1 gets a sealed month with so many readings: a wave with one peak, and every hundredth is uncertain."""
    await store.append([local(reading(0.0, -1))])
    values = f"""(select 1::INTEGER as series_id, make_timestamp_ms({T0_MS} + n * {step_ms})::TIMESTAMP_MS as ts,
        case n when {rows // 3} then 5000.0 else n % 1000 end::DOUBLE as value,
        (case when n % 100 = 0 then 64 else 0 end)::UTINYINT as quality from (select unnest(range({rows})) as n))"""
    draft = Draft(1, Level.MONTH, T0_MS, (Seal(1, 0, 0),), values)
    made = await store.work(lambda view: parquet.write(view.db, view.folder, draft))
    assert made is not None
    assert made.roll
    await store.rearrange(lambda _db: None, add=[made])


@pytest.mark.slow
async def test_a_long_range_of_many_readings_is_answered_from_rollups_and_keeps_its_peak(tmp_path: Path) -> None:
    rows = 1_200_000
    async with Store(tmp_path) as store:
        await dense(store, rows, 1000)
        end = T0 + timedelta(seconds=rows)
        peak = T0 + timedelta(seconds=rows // 3)
        found = await queries.points(store, 1, T0, end, 100)
        assert (found.total, found.bad, len(found.points) <= 100) == (rows, 0, True)
        assert (found.source, found.resolution) == ("raw+rollup", QUARTER)
        assert [p.time for p in found.points if p.value == 5000.0] == [T0 + (peak - T0) // QUARTER * QUARTER]
        near = await queries.points(store, 1, peak - HOUR, peak + HOUR, 100)
        assert (near.total, near.source, near.resolution) == (7200, "raw", timedelta(0))
        assert [p.time for p in near.points if p.value == 5000.0] == [peak]
        start = T0 + timedelta(seconds=450)
        hours = await queries.buckets(store, 1, start, end, HOUR)
        assert (hours.source, hours.resolution) == ("raw+rollup", timedelta(0))
        assert [bucket.n for bucket in hours.buckets[:3]] == [3150, 3600, 3600]
        assert sum(bucket.n for bucket in hours.buckets) == rows - 450
        mean = sum(bucket.n * bucket.mean for bucket in hours.buckets) / (rows - 450)
        assert sum(bucket.uncertain for bucket in hours.buckets) == rows // 100 - 5
        assert max(bucket.max for bucket in hours.buckets) == 5000.0
        figures = await queries.statistics(store, 1, start, end)
        assert (figures.n, figures.percentiles_of, figures.source) == (rows - 450, "readings", "raw")
        assert figures.mean == pytest.approx(mean)
        assert (figures.p05, figures.median, figures.p95) == pytest.approx((50, 500, 949), abs=1)
        odd = await queries.buckets(store, 1, start, end, timedelta(hours=7, seconds=1))
        assert (odd.source, sum(bucket.n for bucket in odd.buckets)) == ("raw", rows - 450)


async def test_what_has_expired_is_told_by_quarters_of_an_hour(tmp_path: Path) -> None:
    keeping = Keeping(retention=(Retention(1, metric="co2"),))
    async with Store(tmp_path) as store:
        keeper = Keeper(store, SetClock(T0 + 9 * DAY), keeping, merge=in_process)
        await store.append([local(reading(float(n), 60 * n)) for n in range(120)])
        await keeper.seal(everything=True)
        before = await queries.statistics(store, 1, T0, T0 + HOUR)
        assert await keeper.expire() == 1
        await store.append([local(reading(float(n), 60 * n + 1)) for n in range(120, 180)])
        end = T0 + 3 * HOUR
        points = await queries.points(store, 1, T0, end, 1000)
        assert (points.total, points.source, points.resolution) == (180, "raw+rollup", QUARTER)
        first = [(0.0, T0), (14.0, T0), (15.0, T0 + QUARTER)]
        assert [(p.value, p.time) for p in points.points[:3]] == first
        assert [p.value for p in points.points[-2:]] == [178.0, 179.0]
        ends = (await queries.points(store, 1, T0 + timedelta(minutes=1), end, 2)).points
        assert [(p.value, p.time) for p in ends] == [
            (15.0, T0 + QUARTER),
            (179.0, T0 + timedelta(minutes=179, seconds=1)),
        ]
        after = await queries.statistics(store, 1, T0, T0 + HOUR)
        assert (after.n, after.min, after.max, after.mean) == (before.n, before.min, before.max, before.mean)
        assert after.stddev == pytest.approx(before.stddev, rel=1e-6)
        assert (before.percentiles_of, after.percentiles_of) == ("readings", "15-minute means")
        assert (before.median, after.median) == (29.5, 29.5)
        assert (before.p95, after.p95) == pytest.approx((56.05, 49.75))
        assert after.first is not None
        assert (after.first.time, after.first.value) == (T0 + timedelta(minutes=14), 14.0)
        late = await queries.statistics(store, 1, T0 + timedelta(minutes=1), T0 + timedelta(minutes=20))
        assert (late.n, late.min, late.max, late.resolution) == (15, 15.0, 29.0, QUARTER)


async def test_the_ends_of_what_rollups_answer_are_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "DENSE_FROM", 1)
    monkeypatch.setattr(figures, "EXACT", 0)
    async with Store(tmp_path) as store:
        doubtful = reading(9.0, 800, quality=Quality.UNCERTAIN, reason=Reason.RATE)
        twice = [reading(value, at) for at in (5, 800) for value in (2.0, 3.0, 1.0)]
        await store.append([local(each) for each in [*twice, doubtful, reading(7.0, 0, quality=Quality.BAD)]])
        await Keeper(store, SetClock(T0 + DAY), merge=in_process).seal(everything=True)
        found = await queries.statistics(store, 1, T0, T0 + QUARTER)
        assert (found.source, found.n, found.resolution) == ("rollup", 7, timedelta(0))
        assert found.first == Point(T0 + timedelta(seconds=5), 1.0, Quality.GOOD, Reason.NONE)
        assert found.last == Point(T0 + timedelta(seconds=800), 9.0, Quality.UNCERTAIN, Reason.RATE)


async def test_peaks_survive_and_a_time_without_anything_usable_is_seen(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        values: list[float | None] = [20.0] * 1000
        values[501], values[702] = 95.0, -40.0
        values[200:300] = [None] * 100
        await store.append([local(reading(value, n)) for n, value in enumerate(values)])
        found = await queries.points(store, 1, T0, T0 + HOUR, 42)
        assert (found.total, found.bad, len(found.points) <= 42) == (1000, 100, True)
        by_value = {p.value: codes.to_ms(p.time) - T0_MS for p in found.points}
        assert (by_value[95.0], by_value[-40.0]) == (501_000, 702_000)
        silent = [codes.to_ms(p.time) - T0_MS for p in found.points if p.value is None]
        assert silent
        assert all(200_000 <= ms < 300_000 for ms in silent)
        assert (found.points[0].time, found.points[-1].time) == (T0, T0 + timedelta(seconds=999))


async def test_two_periods_beside_each_other(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        before = [local(reading(100.0 + n % 10, 60 * n)) for n in range(60)]
        after = [local(reading(200.0 + n % 10, 3600 + 60 * n)) for n in range(60) if n % 4 != 1]
        await store.append([*before, *after])
        found = await queries.compare(store, 1, (T0, T0 + HOUR), (T0 + HOUR, T0 + 2 * HOUR))
        assert (found.first.interval, found.second.interval) == (timedelta(minutes=1), timedelta(minutes=1))
        assert (found.first.coverage, found.second.coverage) == (1.0, 0.75)
        assert (found.change["n"], found.change["min"], found.change["max"]) == (-15, 100.0, 100.0)
        assert found.change["mean"] == pytest.approx(found.second.figures.mean - 104.5)  # type: ignore[operator]
        none = await queries.compare(store, 1, (T0 - DAY, T0), (T0, T0 + HOUR))
        assert (none.first.coverage, none.change["n"], none.change["mean"]) == (None, 60, None)


async def test_silences_are_told_the_longest_first(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        at = [*range(0, 600, 10), *range(700, 1200, 10), *range(1500, 1800, 10)]
        await store.append([local(reading(1.0, second)) for second in at])
        end = T0 + timedelta(seconds=1830)
        found = await queries.silences(store, 1, T0 - HOUR, end)
        seconds = [((each.start - T0).seconds, (each.end - T0).seconds, each.is_over) for each in found.silences]
        assert seconds == [(1190, 1500, True), (590, 700, True), (1790, 1830, False)]
        assert (found.total, found.interval) == (3, timedelta(seconds=10))
        few = await queries.silences(store, 1, T0, end, factor=20, limit=1)
        assert (few.total, len(few.silences)) == (1, 1)
        nothing = await queries.silences(store, 1, T0 - HOUR, T0)
        assert (nothing.silences, nothing.interval) == ((), None)
        with pytest.raises(ValueError, match=r"factor 0\.5 is less than 1"):
            await queries.silences(store, 1, T0, end, factor=0.5)
