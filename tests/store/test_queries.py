"""Questions over a range, against a model in plain Python."""

import math
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean, stdev

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.model import Quality, Quantity, Reason
from gateway.store import codes, commands, queries
from gateway.store.db import Store
from gateway.store.types import Bucket, Device, Point, Points, Sensor, Statistics, Zone
from tests.store.builders import T0, local, numbered, reading

MS = timedelta(milliseconds=1)
Row = tuple[int, float | None, Quality]  # ms since T0, value, quality

row = st.tuples(
    st.integers(0, 5000),
    st.one_of(st.none(), st.floats(-1e6, 1e6)),
    st.sampled_from([Quality.GOOD, Quality.GOOD, Quality.UNCERTAIN, Quality.BAD]),
)
span = st.tuples(st.integers(-100, 5100), st.integers(1, 5200))


def usable(rows: list[Row]) -> list[tuple[int, float, Quality]]:
    return [(ms, value, quality) for ms, value, quality in rows if value is not None and quality < Quality.BAD]


def naive_points(rows: list[Row], most: int) -> Points:
    kept = list(rows)
    if len(rows) > most:
        low, high = rows[0][0], rows[-1][0]
        spans: dict[int, Row] = {}
        for each in rows:
            spans.setdefault((each[0] - low) * (most - 1) // max(high - low, 1), each)
        kept = list(spans.values())
        if kept[-1] is not rows[-1]:
            kept.append(rows[-1])
    return Points(tuple(Point(T0 + ms * MS, value, quality, Reason.NONE) for ms, value, quality in kept), len(rows))


def naive_buckets(rows: list[Row], width: int) -> list[Bucket]:
    found: dict[int, list[Row]] = {}
    for each in rows:
        ms = codes.to_ms(T0) + each[0]
        found.setdefault(ms - ms % width, []).append(each)
    answer = []
    for start, inside in sorted(found.items()):
        good = [value for _, value, _ in usable(inside)]
        if good:
            lost = len(inside) - len(good)
            answer.append(Bucket(codes.from_ms(start), len(good), min(good), fmean(good), max(good), good[-1], lost))
    return answer


def quantile(ordered: list[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-6)


def check_statistics(found: Statistics, rows: list[Row]) -> None:
    good = usable(rows)
    values = [value for _, value, _ in good]
    ordered = sorted(values)
    assert found.n == len(good)
    assert found.good == sum(quality is Quality.GOOD for _, _, quality in good)
    assert (found.uncertain, found.bad) == (found.n - found.good, len(rows) - found.n)
    assert (found.min, found.max) == (min(values, default=None), max(values, default=None))
    assert close(found.mean, fmean(values) if values else None)
    assert close(found.stddev, stdev(values) if len(values) > 1 else None)
    for share, got in ((0.05, found.p05), (0.5, found.median), (0.95, found.p95)):
        assert close(got, quantile(ordered, share) if ordered else None)
    ends = [None, None] if not good else [good[0], good[-1]]
    for end, point in zip(ends, (found.first, found.last), strict=True):
        assert (point and (point.time, point.value)) == (end and (T0 + end[0] * MS, end[1]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(row, max_size=60), span=span, most=st.integers(2, 20), width=st.integers(1, 3000))
async def test_ranges_equal_the_model(rows: list[Row], span: tuple[int, int], most: int, width: int) -> None:
    start, end = T0 + span[0] * MS, T0 + (span[0] + span[1]) * MS
    with tempfile.TemporaryDirectory() as folder:
        async with Store(Path(folder)) as store:
            # Two batches and another series between, so that arrival order is not the order of one scan.
            half = len(rows) // 2
            for part in (rows[:half], rows[half:]):
                given_rows = [reading(value, ms / 1000, quality=quality) for ms, value, quality in part]
                await store.append([local(reading(1.0, 2, sensor="other")), *(local(each) for each in given_rows)])
            found = queries.find_series(store, sensor="scd30")
            if not rows:
                assert found == []
                return
            inside = sorted((r for r in rows if span[0] <= r[0] < span[0] + span[1]), key=lambda r: r[0])
            series = found[0].series_id
            assert await queries.points(store, series, start, end, most) == naive_points(inside, most)
            got = await queries.buckets(store, series, start, end, width * MS)
            want = naive_buckets(inside, width)
            assert [(b.start, b.n, b.min, b.max, b.last, b.bad) for b in got] == [
                (b.start, b.n, b.min, b.max, b.last, b.bad) for b in want
            ]
            assert all(close(one.mean, other.mean) for one, other in zip(got, want, strict=True))
            check_statistics(await queries.statistics(store, series, start, end), inside)


async def test_bounds_finer_than_a_millisecond(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.append([local(reading(float(n), n / 1000)) for n in range(3)])
        tick = timedelta(microseconds=1)
        found = await queries.points(store, 1, T0 + tick, T0 + 2 * MS, 9)
        assert [point.value for point in found.points] == [1.0]
        found = await queries.points(store, 1, T0, T0 + 2 * MS + tick, 9)
        assert [point.value for point in found.points] == [0.0, 1.0, 2.0]


async def test_questions_that_make_no_sense(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.append([local(reading())])
        later = T0 + timedelta(hours=1)
        with pytest.raises(ValueError, match=r"start 2026-11-20T13.* is not before end .*: swap"):
            await queries.points(store, 1, later, T0, 10)
        with pytest.raises(ValueError, match="max_points 1 is not within"):
            await queries.points(store, 1, T0, later, 1)
        with pytest.raises(ValueError, match="no time zone"):
            await queries.statistics(store, 1, T0.replace(tzinfo=None), later)
        with pytest.raises(ValueError, match=r"bucket width 0:00:00 is not a positive"):
            await queries.buckets(store, 1, T0, later, timedelta(0))
        with pytest.raises(ValueError, match="more than 100000 buckets"):
            await queries.buckets(store, 1, T0, T0 + timedelta(days=9), timedelta(seconds=1))
        with pytest.raises(LookupError, match="series 99 does not exist"):
            await queries.points(store, 99, T0, later, 10)
        with pytest.raises(ValueError, match="limit 0"):
            await queries.events(store, limit=0)


async def test_a_new_type_gets_its_view_and_a_new_metric_its_column(tmp_path: Path) -> None:
    async def names() -> dict[str, list[str]]:
        return {table.name: [column.name for column in table.columns] for table in await queries.schema(store)}

    async with Store(tmp_path) as store:
        assert (await names())["bmp280_measurements"] == ["time", "sensor_id", "pressure", "temperature", "humidity"]
        odd = "Gas 'n\" Air-9"
        await commands.save_sensor(store, "attic", "air", sensor_type=odd)
        await store.append([local(reading(3.0, sensor="air", metric="time", quantity=Quantity.TVOC))])
        await store.append([local(reading(4.0, sensor="air", quantity=Quantity.PM25))])
        assert (await names())["gas_n_air_9_measurements"] == ["time", "sensor_id", "time_value", "pm25"]
    async with Store(tmp_path) as store:
        query = "select * from gas_n_air_9_measurements"
        rows = await store.read(lambda db: db.execute(query).fetchall())
        assert rows == [(T0.replace(tzinfo=None), 1, 3.0, 4.0)]
        assert not {"token", "audit", "node_key", "reading", "setting"} & set(await names())


async def test_the_views_speak_of_usable_values_in_utc(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        bad = reading(9999.0, 30, quality=Quality.BAD, reason=Reason.OUT_OF_RANGE)
        await store.append([local(reading(400.0)), local(reading(500.0, 60)), local(bad), local(reading(7.0, 86_400))])

        async def ask(query: str) -> list[tuple[object, ...]]:
            return await store.read(lambda db: db.execute(query).fetchall())

        noon = datetime(2026, 11, 20, 12)  # noqa: DTZ001  # the views are naive UTC
        for view in ("measurements_15min", "measurements_hourly"):
            found = await ask(f"select bucket, n, min, mean, max, last from {view} order by 1 limit 1")
            assert found == [(noon, 2, 400.0, 450.0, 500.0, 500.0)]
        days = await ask("select bucket, n from measurements_daily order by 1")
        assert days == [(datetime(2026, 11, day), n) for day, n in ((20, 2), (21, 1))]  # noqa: DTZ001
        flexible = await ask("select value, unit, quality from measurements order by time limit 2")
        assert flexible == [(400.0, "ppm", "good"), (9999.0, "ppm", "bad")]
        assert await ask("select co2, temperature from scd30_measurements order by time limit 1") == [(400.0, None)]


async def test_devices_sensors_zones(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.append([local(reading()), numbered(9, 9)])
        await commands.save_zone(store, Zone("z1", "Attic", area_sqm=12.5))
        await commands.save_device(store, Device("attic", "Attic", zone_id="z1", metadata={"floor": 2}))
        await commands.touch_devices(store, {"attic": ("late", None)})
        attic, node = await queries.devices(store)
        assert attic == Device(
            "attic", "Attic", zone_id="z1", status="late", first_seen=T0, last_seen=T0, metadata={"floor": 2}
        )
        assert (node.device_id, node.last_seen) == ("node", T0 + timedelta(seconds=9))
        assert await queries.zones(store) == [Zone("z1", "Attic", area_sqm=12.5)]
        kept = await commands.save_sensor(store, "attic", "scd30", sensor_type="scd30", location="left")
        assert kept == Sensor(1, "attic", "scd30", "scd30", "left")
        assert queries.sensors(store)[0] == kept
        assert (await queries.counts(store)).readings == 2
    async with Store(tmp_path) as store:
        assert queries.sensors(store)[0] == kept
        assert (await queries.devices(store))[0] == attic


def test_quality_in_a_byte() -> None:
    for quality in Quality:
        for reason in Reason:
            assert codes.unpack(codes.pack(quality, reason)) == (quality, reason)
    assert codes.unpack(0b01_111111) == (Quality.UNCERTAIN, Reason.UNSPECIFIED)


@given(st.datetimes(datetime(1960, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001  # made aware below
def test_times_round_down_and_bounds_up(naive: datetime) -> None:
    time = naive.replace(tzinfo=UTC)
    assert codes.from_ms(codes.to_ms(time)) <= time < codes.from_ms(codes.to_ms(time) + 1)
    assert codes.from_ms(codes.bound_ms(time) - 1) < time <= codes.from_ms(codes.bound_ms(time))
