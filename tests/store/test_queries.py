"""Questions and what they refuse; the views for assistants; devices, zones, and how much there is."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.model import Quality, Quantity, Reason
from gateway.store import codes, commands, queries
from gateway.store.db import Store
from gateway.store.keeper import Keeper, Keeping, Retention
from gateway.store.segments import parquet
from gateway.store.types import Device, Sensor, Zone
from tests.store.builders import T0, local, numbered, reading
from tests.store.test_keeper import SetClock
from tests.store.test_keeper_model import in_process

MS = timedelta(milliseconds=1)


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
        with pytest.raises(ValueError, match="more than 100000 buckets: take wider"):
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


async def ask(store: Store, query: str) -> list[tuple[object, ...]]:
    return await store.read(lambda db: db.execute(query).fetchall())


async def look(store: Store) -> list[list[tuple[object, ...]]]:
    """What the views for assistants say."""
    spans = "select bucket, sensor_id, metric_type, n, min, mean, max, round(stddev, 6), last"
    return [
        *[await ask(store, f"{spans} from {view} order by 1, 3") for view in SPANS],
        await ask(store, "select time, metric_type, value, unit, quality from measurements order by all"),
        await ask(store, "select * from scd30_measurements order by all"),
    ]


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in [*folder.glob("hot.*"), *(folder / "segments").iterdir()])


SPANS = ("measurements_15min", "measurements_hourly", "measurements_daily")


async def test_the_views_speak_of_usable_values_in_utc(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        bad = reading(9999.0, 30, quality=Quality.BAD, reason=Reason.OUT_OF_RANGE)
        await store.append([local(reading(400.0)), local(reading(500.0, 60)), local(bad), local(reading(7.0, 86_400))])
        noon = datetime(2026, 11, 20, 12)  # noqa: DTZ001  # the views are naive UTC
        for view in SPANS[:2]:
            found = await ask(store, f"select bucket, n, min, mean, max, last from {view} order by 1 limit 1")
            assert found == [(noon, 2, 400.0, 450.0, 500.0, 500.0)]
        days = await ask(store, "select bucket, n from measurements_daily order by 1")
        assert days == [(datetime(2026, 11, day), n) for day, n in ((20, 2), (21, 1))]  # noqa: DTZ001
        flexible = await ask(store, "select value, unit, quality from measurements order by time limit 2")
        assert flexible == [(400.0, "ppm", "good"), (9999.0, "ppm", "bad")]
        usable = await ask(store, "select co2, temperature from scd30_measurements order by time limit 1")
        assert usable == [(400.0, None)]
        deviation = await ask(store, "select stddev from measurements_hourly order by bucket")
        assert deviation == [(pytest.approx(70.7106781),), (None,)]


@pytest.mark.parametrize("dense_from", [1, 1000], ids=["rollup files", "no rollup files"])
async def test_the_views_see_what_is_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dense_from: int) -> None:
    monkeypatch.setattr(parquet, "DENSE_FROM", dense_from)
    rows = [
        reading(400.0 + n % 7, 450 * n, quantity=quantity, quality=Quality.BAD if n % 11 == 0 else Quality.GOOD)
        for n in range(200)
        for quantity in (Quantity.CO2, Quantity.HUMIDITY)
    ]
    rules = (Retention(1, metric="humidity"),)
    async with Store(tmp_path) as store:
        keeper = Keeper(store, SetClock(T0 + timedelta(days=9)), Keeping(retention=rules), merge=in_process)
        await store.append([local(each) for each in rows[:300]])
        await keeper.seal(everything=True)
        await store.append([local(each) for each in rows[300:]])
        mixed = await look(store)
        assert len(mixed[3]) == 400
        await keeper.seal(everything=True)
        assert await look(store) == mixed
        assert await keeper.expire() > 0
        expired = await look(store)
        assert expired[:3] == mixed[:3]
        assert expired[3] == [row for row in mixed[3] if row[1] != "humidity"]
        names = {table.name for table in await queries.schema(store)}
        assert not {"every_reading", "every_cell"} & names
    async with Store(tmp_path) as store:
        assert await look(store) == expired
        counts = await queries.counts(store)
        assert counts.readings == 200
        assert counts.bytes_on_disk == size(tmp_path)


async def test_zones_now(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await commands.save_device(store, Device("attic", zone_id="up"))
        await commands.save_device(store, Device("loft", zone_id="up"))
        await commands.save_device(store, Device("den", zone_id="up"))
        await store.append(
            [
                local(reading(600.0, device="attic")),
                local(reading(900.0, -20, device="loft")),
                local(reading(5000.0, -700, device="den")),
                local(reading(21.0, quantity=Quantity.TEMPERATURE, device="den", quality=Quality.BAD)),
                local(reading(450.0, device="shed")),
            ]
        )
        now = T0 + timedelta(seconds=5)

        def stale_after(device: str) -> timedelta:
            return timedelta(minutes=20 if device == "shed" else 10)

        nowhere, air, heat = await queries.zone_snapshot(store, now, stale_after)
        assert (nowhere.zone_id, nowhere.metric, nowhere.mean, nowhere.stale) == ("", "co2", 450.0, 0)
        assert (air.zone_id, air.quantity, air.n) == ("up", Quantity.CO2, 2)
        assert (air.min, air.mean, air.max, air.stale) == (600.0, 750.0, 900.0, 1)
        ages = [(each.reading.device, each.age.total_seconds(), each.is_stale) for each in air.newest]
        assert ages == [("attic", 5.0, False), ("den", 705.0, True), ("loft", 25.0, False)]
        assert (heat.metric, heat.n, heat.mean, heat.newest[0].reading.value) == ("temperature", 0, None, 21.0)
        assert await queries.zone_snapshot(store, now, stale_after, "up") == [air, heat]


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


async def test_many_sensors_at_once(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.append([local(reading())])
        old = queries.sensors(store)[0]
        told = [Sensor(0, "loft", "bmp280", "bmp280", metadata={"floor": 2}), replace(old, location="left")]
        told += [Sensor(7, "loft", "bmp280", "bmp390"), Sensor(7, "den", "scd30", "scd30")]
        before = store.version
        kept = await commands.save_sensors(store, told)
        assert await commands.save_sensors(store, []) == []
        assert store.version[1] == before[1] + 1
        assert kept == [
            Sensor(2, "loft", "bmp280", "bmp390"),
            replace(old, location="left"),
            Sensor(3, "den", "scd30", "scd30"),
        ]
        assert all(each in queries.sensors(store) for each in kept)
    async with Store(tmp_path) as store:
        assert sorted(queries.sensors(store), key=lambda each: each.sensor_id) == [kept[1], kept[0], kept[2]]
        assert [each.device_id for each in await queries.devices(store)] == ["attic", "den", "loft"]
        await commands.save_devices(store, [Device("den", "one"), Device("loft"), Device("den", "two")])
        assert [each.device_name for each in await queries.devices(store)] == ["", "two", ""]


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
