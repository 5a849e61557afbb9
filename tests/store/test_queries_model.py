"""Every question about a series, against a list in memory: whatever was sealed, expired, late, doubled or bad."""

import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.model import Quality
from gateway.store import codes, queries
from gateway.store.db import Store
from gateway.store.keeper import Keeper, Keeping, Retention
from gateway.store.queries import few, figures, pieces
from gateway.store.queries.history import COARSE
from gateway.store.queries.pieces import Pieces
from gateway.store.segments import parquet
from gateway.store.segments.layout import BUCKET_MS
from gateway.store.types import Bucket, Point, Points, Statistics
from tests.store import naive
from tests.store.builders import T0, local, reading
from tests.store.naive import Cell, Row
from tests.store.test_keeper import SetClock
from tests.store.test_keeper_model import in_process

MS, HOUR, DAY = timedelta(milliseconds=1), timedelta(hours=1), timedelta(days=1)
BEGAN = datetime(2026, 10, 24, 12, tzinfo=UTC)  # the next morning clocks go back in Berlin
BEGAN_MS, LONG_MS = codes.to_ms(BEGAN), 2 * 86_400_000
ZONES = [ZoneInfo(name) for name in ("Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe")]

aligned = st.integers(0, 200).map(lambda n: n * BUCKET_MS)
moment = st.one_of(st.integers(0, LONG_MS), st.integers(0, LONG_MS), aligned)
value = st.one_of(st.none(), st.integers(-3, 3).map(float), st.floats(-1e6, 1e6))
quality = st.sampled_from([Quality.GOOD, Quality.GOOD, Quality.UNCERTAIN, Quality.BAD])
row = st.builds(Row, moment.map(lambda ms: BEGAN_MS + ms), value, quality)
step = st.tuples(st.lists(row, max_size=40), st.sampled_from(["", "seal", "seal", "expire"]))
span = st.tuples(moment, moment).filter(lambda pair: pair[0] < pair[1])


@pytest.fixture(autouse=True)
def rollups(request: pytest.FixtureRequest) -> Iterator[None]:
    """Rollup files for the few rows that a test can afford, and where a test is told so their use wherever possible."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "DENSE_FROM", 1)
        if getattr(request, "param", False):
            patch.setattr(pieces, "AT_ONCE", 0)
            patch.setattr(figures, "EXACT", 0)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("rollups", [False, True], ids=["readings", "rollups"], indirect=True)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(step, min_size=1, max_size=4),
    spans=st.lists(span, min_size=1, max_size=3),
    most=st.integers(2, 24),
    zone=st.sampled_from(ZONES),
    fetched=st.sampled_from([few.FEW, -1]),  # figures of few readings are made in Python, or all by SQL
)
async def test_answers_equal_the_model(
    rollups: None,
    steps: list[tuple[list[Row], str]],
    spans: list[tuple[int, int]],
    *,
    most: int,
    zone: ZoneInfo,
    fetched: int,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with Store(Path(folder)) as store:
            stored = await fill(store, steps)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(few, "FEW", fetched)
                for low, high in spans if stored else ():
                    await check(store, stored, (BEGAN_MS + low, BEGAN_MS + high), most, zone)


async def fill(store: Store, steps: Sequence[tuple[Sequence[Row], str]]) -> list[Row]:
    """Store, seal and expire; all rows of series 1 that were ever there. Another series lies between them."""
    keeping = Keeping(retention=(Retention(1, metric="co2"),))
    keeper = Keeper(store, SetClock(BEGAN + 60 * DAY), keeping, merge=in_process)
    stored: list[Row] = []
    for rows, then in steps:
        given_rows = [reading(r.value, (r.ms - codes.to_ms(T0)) / 1000, quality=r.quality) for r in rows]
        other = reading(1e9, (BEGAN - T0).total_seconds(), device="other")
        await store.append([*(local(each) for each in given_rows), local(other)] if rows else [])
        stored += rows
        if then:
            await keeper.seal(everything=True)
        if then == "expire":
            await keeper.expire()
    return stored


async def check(store: Store, stored: Sequence[Row], within: tuple[int, int], most: int, zone: ZoneInfo) -> None:
    """All questions of one range."""

    async def cells(at_once: float | None = None) -> tuple[Pieces, list[Cell]]:
        of = await store.ask(lambda view: pieces.pieces(view, [1], within, at_once))
        return of, naive.cells(stored, of)

    start, end = codes.from_ms(within[0]), codes.from_ms(within[1])
    series = queries.find_series(store, device="attic")[0].series_id
    assert series == 1
    of, seen = await cells(None if within[1] - within[0] >= COARSE * BUCKET_MS * most / 2 else inf)
    check_points(await queries.points(store, 1, start, end, most), seen, of, most)
    of, seen = await cells(figures.EXACT)
    check_statistics(await queries.statistics(store, 1, start, end), seen, of)
    compared = await queries.compare(store, 1, (start, end), (start, end + DAY))
    check_statistics(compared.first.figures, seen, of)
    of, seen = await cells()
    total = (await queries.totals(store, [1], start, end)).totals.get(1)
    rows = naive.seen(seen)
    if good := naive.values(rows):
        assert total is not None
        assert (total.n, total.bad, total.min, total.max) == (len(good), len(rows) - len(good), min(good), max(good))
        assert close(total.mean, math.fsum(good) / len(good))
    else:
        assert total is None
    assert compared.first.interval == naive.interval(seen)
    for width, began in ((HOUR, naive.hour_of(zone)), (DAY, naive.day_of(zone))):
        found = await queries.buckets(store, 1, start, end, width, zone=zone)
        check_buckets(found.buckets, naive.grouped(seen, began))
        assert (found.source, found.resolution) == (of.source, of.resolution)
    silent = await queries.silences(store, 1, start, end, factor=2)
    want = naive.silences(seen, within[1], 2)
    assert Counter((codes.to_ms(each.start), codes.to_ms(each.end)) for each in silent.silences) == want
    assert (silent.total, silent.interval) == (want.total(), naive.interval(seen))
    of, seen = await cells(inf)
    width_ms = 7 * 60_000
    found = await queries.buckets(store, 1, start, end, width_ms * MS)
    check_buckets(found.buckets, naive.grouped(seen, lambda ms: ms - ms % width_ms))


def check_points(found: Points, seen: Sequence[Cell], of: Pieces, most: int) -> None:
    rows = naive.seen(seen)
    assert (found.total, found.bad) == (len(rows), len(rows) - len(naive.values(rows)))
    assert (found.source, found.resolution) == (of.source, of.of_times)
    if of.rolled is None and len(rows) <= most:
        assert [(p.time, p.value, p.quality) for p in found.points] == [(codes.from_ms(r.ms), *r[1:]) for r in rows]
        return
    assert len(found.points) <= most
    assert [p.time for p in found.points] == sorted(p.time for p in found.points)
    if not rows:
        return
    points = [(codes.to_ms(p.time), p.value, p.quality) for p in found.points]
    first, last = seen[0], seen[-1]
    ends = {(row.ms, row.value) for row in last.rows} | {(last.ms, None)}
    if first.is_rolled:
        ends.add((first.ms, min(naive.values(first.rows), default=None)))
    else:
        ends.add((first.ms, next(row.value for row in rows if row.ms == first.ms)))
        assert points[0][0] == first.ms
    if not last.is_rolled:
        assert points[-1][:2] == (last.ms, last.rows[0].value)
    assert {point[:2] for point in points} & ends
    parts = (most - 2) // 2
    spans: dict[int, list[Cell]] = {}
    for cell in seen if parts else ():
        spans.setdefault(min((cell.ms - first.ms) * parts // max(last.ms - first.ms, 1), parts - 1), []).append(cell)
    allowed = ends
    for inside in spans.values():
        usable = naive.values(naive.seen(inside))
        extremes = {min(usable), max(usable)} if usable else {None}
        peaks = {(c.ms, r.value) for c in inside for r in c.rows if (r.usable if usable else None) in extremes}
        peaks |= {(c.ms, None) for c in inside if not usable}
        assert not usable or extremes <= {p[1] for p in points if p[:2] in peaks}
        assert usable or {p[:2] for p in points} & peaks
        allowed |= peaks
    assert {p[:2] for p in points} <= allowed


def check_buckets(found: Sequence[Bucket], want: dict[int, list[Row]]) -> None:
    assert [codes.to_ms(bucket.start) for bucket in found] == list(want)
    for bucket, rows in zip(found, want.values(), strict=True):
        good = naive.values(rows)
        uncertain = sum(r.usable is not None and r.quality is Quality.UNCERTAIN for r in rows)
        assert (bucket.n, bucket.uncertain, bucket.bad) == (len(good), uncertain, len(rows) - len(good))
        assert (bucket.min, bucket.max, bucket.last) == (min(good), max(good), good[-1])
        assert close(bucket.mean, math.fsum(good) / len(good))


def check_statistics(found: Statistics, seen: Sequence[Cell], of: Pieces) -> None:
    rows = naive.seen(seen)
    usable = [r for r in rows if r.usable is not None]
    good = naive.values(rows)
    uncertain = sum(r.quality is Quality.UNCERTAIN for r in usable)
    assert (found.n, found.good, found.uncertain) == (len(good), len(good) - uncertain, uncertain)
    assert found.bad == len(rows) - len(good)
    assert (found.min, found.max) == (min(good, default=None), max(good, default=None))
    assert close(found.mean, math.fsum(good) / len(good) if good else None)
    assert close(found.stddev, naive.spread(good), 1e-5)
    assert found.percentiles_of == ("readings" if of.rolled is None else "15-minute means")
    ranked = good if of.rolled is None else naive.means(seen)
    for share, got in ((0.05, found.p05), (0.5, found.median), (0.95, found.p95)):
        assert close(got, naive.quantile(ranked, share))
    assert (found.source, found.resolution) == (of.source, of.resolution)
    check_end(found.last, usable[-1:])
    first = usable[:1]
    if first and of.rolled is not None:
        quarter_ms = first[0].ms - first[0].ms % BUCKET_MS
        if of.rolled[0] <= quarter_ms < min(of.rolled[1], of.gone_ms):
            first = [each for each in usable if quarter_ms <= each.ms < quarter_ms + BUCKET_MS][-1:]
    check_end(found.first, first)


def check_end(found: Point | None, want: Sequence[Row]) -> None:
    assert (found and (codes.to_ms(found.time), found.value)) == (want[0][:2] if want else None)


def close(one: float | None, other: float | None, rel: float = 1e-9) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=rel, abs_tol=1e-6)
