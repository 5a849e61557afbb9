"""Sealing, compacting, expiring: whatever happens in whatever order, the readings stay the same."""

import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from drivers.model import Quality, Reason
from gateway.store import codes, queries
from gateway.store.db import Store
from gateway.store.keeper import Keeper, Keeping, Retention
from gateway.store.segments import parquet
from gateway.store.segments.layout import Level
from gateway.store.segments.view import View
from gateway.store.types import Event
from tests.store.builders import T0, local, numbered, reading

HOUR, DAY = 3600.0, 86_400.0
Raw = list[tuple[int, int, float | None, int]]


@dataclass
class SetClock:
    """A clock that stands where it was put."""

    at: datetime = T0
    trust: bool = True
    told: list[Event] = field(default_factory=list)

    def now(self) -> datetime:
        return self.at

    def trusted(self) -> bool:
        return self.trust

    def forward(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


async def rows(store: Store, seal: Callable[[View], str] = lambda view: view.raw()) -> Raw:
    """Every reading, as (series, ms, value, quality)."""
    return await store.ask(
        lambda view: view.db.execute(
            f"select series_id, epoch_ms(ts), value, quality from {seal(view)} order by all"
        ).fetchall()
    )


async def rollups(store: Store) -> list[tuple[Any, ...]]:
    """Every bucket, merged, with figures rounded to what a FLOAT keeps."""
    return await store.ask(
        lambda view: view.db.execute(
            f"""select series_id, epoch_ms(bucket), n, uncertain, bad, min, max, round(sum, 3), last, last_ms,
                    round(m2, 1) from {parquet.merged(view.rollup())} order by 1, 2"""
        ).fetchall()
    )


def hours(count: int, *, start_h: float = 0, each: int = 4, device: str = "attic") -> Sequence[Any]:
    """Messages with `each` readings an hour."""
    step = HOUR / each
    return [local(reading(400.0 + n, (start_h * HOUR) + n * step, device=device)) for n in range(count * each)]


async def test_closed_hours_leave_the_hot_file(tmp_path: Path) -> None:
    clock = SetClock(T0 + timedelta(hours=3, minutes=10))
    async with Store(tmp_path) as store:
        keeper = Keeper(store, clock)
        await store.append(hours(4))
        before = await rows(store)
        assert await keeper.seal() == 12
        assert store.known.hot_rows == 4
        assert [(each.rows, each.level) for each in store.segments] == [(12, Level.HOUR)]
        assert await rows(store) == before
        assert await keeper.seal() == 0
    async with Store(tmp_path) as store:
        assert await rows(store) == before
        assert (store.known.hot_rows, store.batch) == (4, 1)
        assert queries.latest(store)[0].value == 415.0


async def test_days_then_months(tmp_path: Path) -> None:
    clock = SetClock(T0)
    async with Store(tmp_path) as store:
        keeper = Keeper(store, clock)
        for day in range(9):
            for part in range(2):
                await store.append(hours(12, start_h=24 * day + 12 * part))
                clock.at = T0 + timedelta(days=day, hours=12 * (part + 1), minutes=2)
                await keeper.seal()
        before, rolled = await rows(store), await rollups(store)
        clock.forward(2 * HOUR)
        assert await keeper.compact() == 8  # whole days, and a half one at each end
        assert {each.level for each in store.segments} == {Level.DAY, Level.HOUR}
        assert (await rows(store), await rollups(store)) == (before, rolled)
        clock.at = datetime(2026, 12, 3, tzinfo=UTC)
        while await keeper.compact():
            pass
        assert [each.level for each in store.segments] == [Level.MONTH]
        assert (await rows(store), await rollups(store)) == (before, rolled)
        named = {name for each in store.segments for name in each.files}
        assert {file.name for file in (tmp_path / "segments").iterdir()} == named


async def test_late_readings_join_their_month(tmp_path: Path) -> None:
    clock = SetClock(T0 + timedelta(days=60))
    async with Store(tmp_path) as store:
        keeper = Keeper(store, clock)
        await store.append(hours(48))
        await keeper.seal()
        await keeper.compact()
        await store.append([local(reading(1.0, 7200), reading(2.0, 7200, device="cellar"))])
        await keeper.seal()
        before, rolled = await rows(store), await rollups(store)
        assert [each.rows for each in store.segments] == [192, 2]
        assert await keeper.compact() == 0  # two rows are not worth writing a month anew
        await store.append(hours(6, start_h=0.1))
        await keeper.seal()
        assert await keeper.compact() == 2  # the late ones among themselves, then with their month
        assert [each.rows for each in store.segments] == [218]
        assert (await rows(store))[: len(before)] != before
        assert len(await rows(store)) == 218
        assert sum(bucket[2] for bucket in await rollups(store)) == 218
        assert len(rolled) <= len(await rollups(store))


async def test_dense_segments_have_a_rollup_file_and_sparse_ones_need_none(tmp_path: Path) -> None:
    clock = SetClock(T0 + timedelta(hours=2))
    async with Store(tmp_path) as store:
        keeper = Keeper(store, clock)
        await store.append([local(*(reading(n / 7, n * 10.0) for n in range(360)))])
        before = await rollups(store)
        await keeper.seal()
        assert store.segments[0].roll
        assert await rollups(store) == before
        await store.append([local(reading(5.0, HOUR + 1, device="cellar"))])
        await keeper.seal()
        assert not store.segments[1].roll
        assert sum(bucket[2] for bucket in await rollups(store)) == 361


async def test_raw_expires_by_rule_and_rollups_stay(tmp_path: Path) -> None:
    clock = SetClock(T0 + timedelta(hours=30))
    settings = Keeping(retention=(Retention(10, device="attic"),))
    async with Store(tmp_path) as store:
        keeper = Keeper(store, clock, settings)
        await store.append([*hours(6), *hours(6, device="cellar")])
        await keeper.seal()
        rolled = await rollups(store)
        assert await keeper.expire() == 0
        clock.forward(11 * DAY)
        assert await keeper.expire() == 1
        assert {series for series, *_ in await rows(store)} == {2}
        assert await rollups(store) == rolled
        assert await store.ask(lambda view: (view.raw_from_ms(1) > codes.to_ms(T0), view.raw_from_ms(2))) == (True, 0)
        assert await keeper.expire() == 0
        # Late rows of an expired series come in beside its rollups, and merging loses neither.
        await store.append([local(reading(7.0, 60.0)), local(reading(8.0, 60.0, device="cellar"))])
        await keeper.seal()
        clock.forward(60 * DAY)
        rolled = await rollups(store)
        await store.append(hours(3, start_h=2.05, device="cellar"))
        await keeper.seal()
        assert await keeper.compact() == 1
        found = await rollups(store)
        assert sum(bucket[2] for bucket in found) == sum(bucket[2] for bucket in rolled) + 12
        assert [each for each in found if each[0] == 1] == [each for each in rolled if each[0] == 1]


async def test_a_full_medium_takes_the_oldest_raw_readings_first(tmp_path: Path) -> None:
    clock = SetClock(T0 + timedelta(days=9))
    plenty, none = Keeping(), Keeping(least_free_mb=1 << 40, warn_free_mb=1 << 40)
    async with Store(tmp_path) as store:
        for start in (0, 48, 9 * 24 - 3):
            await store.append(hours(2, start_h=start))
            await Keeper(store, clock, plenty).seal()
        rolled = await rollups(store)
        keeper = Keeper(store, clock, none, clock.told.append)
        assert await keeper.make_room() == 2  # never the last day
        assert [bool(each.raw) for each in store.segments] == [True, False, False]
        assert await rollups(store) == rolled
        assert [event.kind for event in clock.told] == ["disk", "disk", "disk"]
        assert "2026-11-20 12:00" in clock.told[1].message


def holding(folder: Path, needle: bytes) -> list[Path]:
    """The files that contain these bytes."""
    return [file for file in folder.rglob("*") if file.is_file() and needle in file.read_bytes()]


async def test_deleted_is_gone_from_every_file(tmp_path: Path) -> None:
    clock = SetClock(T0 + timedelta(hours=5, minutes=1))
    secret = 1234.56789012345
    async with Store(tmp_path) as store:
        keeper = Keeper(store, clock)
        await store.append([*hours(3), *(local(reading(secret, n * 600.0, device="cellar")) for n in range(31))])
        await keeper.keep()
        shutil.copy2(tmp_path / "hot.duckdb", tmp_path / "hot.duckdb.damaged-1")
        await keeper.delete_readings([2])
        assert {series for series, *_ in await rows(store)} == {1}
        assert {bucket[0] for bucket in await rollups(store)} == {1}
        assert [each.device for each in queries.latest(store)] == ["attic"]
        assert holding(tmp_path, struct.pack("<d", secret)) == []
        before = await rows(store)
    async with Store(tmp_path) as store:
        assert await rows(store) == before


async def test_a_correction_reaches_rows_rollups_and_newest(tmp_path: Path) -> None:
    clock = SetClock(T0 + timedelta(hours=2, minutes=1))
    async with Store(tmp_path) as store:
        keeper = Keeper(store, clock)
        await store.append(hours(3))
        await keeper.seal()
        bad = codes.pack(Quality.BAD, Reason.UNSPECIFIED)
        start_ms = codes.to_ms(T0) + 3_600_000
        await keeper.mark([1], start_ms, start_ms + 2 * 3_600_000, bad)
        assert [row[3] for row in await rows(store)] == [0] * 4 + [bad] * 8
        assert sum(bucket[2] for bucket in await rollups(store)) == 4
        assert sum(bucket[4] for bucket in await rollups(store)) == 8
        assert queries.latest(store)[0].quality is Quality.BAD


async def test_undated_readings_wait_for_their_time(tmp_path: Path) -> None:
    clock = SetClock(T0 + timedelta(hours=2))
    unsure = reading(1.0, 0, quality=Quality.UNCERTAIN, reason=Reason.TIME_UNKNOWN)
    async with Store(tmp_path) as store:
        keeper = Keeper(store, clock)
        await store.append([local(unsure), local(reading(2.0, 1))])
        assert await keeper.seal() == 1
        assert store.known.hot_rows == 1
        clock.forward(8 * DAY)
        assert await keeper.seal() == 1
        assert store.known.hot_rows == 0


async def test_a_crowded_hot_file_is_sealed_before_its_hour_ends(tmp_path: Path) -> None:
    clock = SetClock(T0 + timedelta(minutes=59))
    async with Store(tmp_path) as store:
        keeper = Keeper(store, clock, Keeping(hot_rows=100))
        await store.append([local(*(reading(float(n), n) for n in range(99)))])
        assert await keeper.seal() == 0
        await store.append([numbered(1), numbered(2)])
        assert await keeper.seal() == 101
        assert (await store.append([numbered(1), numbered(3)])).duplicates == 1


@pytest.mark.parametrize("listed", [False, True])
async def test_a_crash_beside_the_transaction(tmp_path: Path, listed: bool) -> None:
    """Before it: the files are there and the rows too. After it: files of the merged ones are still there."""
    clock = SetClock(T0 + timedelta(hours=50))
    folder, kept = tmp_path / "data", tmp_path / "kept"
    async with Store(folder) as store:
        keeper = Keeper(store, clock)
        await store.append(hours(2))
        await keeper.seal()
        await store.append(hours(2, start_h=3))
        if listed:
            await keeper.seal()
        before = await rows(store)
        shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("hot.lock"))
        await (keeper.compact() if listed else keeper.seal())
        after = {file.name: file for file in (folder / "segments").iterdir()}
    for name, file in after.items():  # what the crash left beside the older hot file, or the older files beside the new
        if not (kept / "segments" / name).exists():
            shutil.copy2(file, kept / "segments" / name)
    if listed:
        shutil.copy2(folder / "hot.duckdb", kept / "hot.duckdb")
        (kept / "hot.duckdb.wal").unlink(missing_ok=True)
    async with Store(kept) as store:
        assert await rows(store) == before
        named = {name for each in store.segments for name in each.files}
        assert {file.name for file in (kept / "segments").iterdir()} == named
        assert await queries.events(store) == []


async def test_an_older_hot_file_finds_what_was_sealed_since(tmp_path: Path) -> None:
    clock = SetClock(T0 + timedelta(hours=3))
    async with Store(tmp_path) as store:
        keeper = Keeper(store, clock)
        await store.append(hours(2))
        await store.append(hours(1, start_h=4))
        await keeper.save_copy()
        await store.append(hours(1, start_h=2, device="cellar"))
        await keeper.seal()
        before = await rows(store)
    (tmp_path / "hot.good.duckdb").rename(tmp_path / "hot.duckdb")
    async with Store(tmp_path) as store:
        assert await rows(store) == before
        assert [event.kind for event in await queries.events(store)] == ["store_repaired"]
        await store.append(hours(1, start_h=5, device="cellar"))
        assert len({row[0] for row in await rows(store)}) == 3  # the forgotten series keeps its number to itself


async def test_a_missing_or_damaged_segment_is_named(tmp_path: Path) -> None:
    clock = SetClock(T0 + timedelta(hours=50))
    async with Store(tmp_path) as store:
        for start in (0, 24):
            await store.append(hours(2, start_h=start))
            await Keeper(store, clock).seal()
        gone, cut = (tmp_path / "segments" / each.raw for each in store.segments)
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-9])
    async with Store(tmp_path) as store:
        assert await rows(store) == []
        told = await queries.events(store)
        assert sorted(event.kind for event in told) == ["store_loss"] * 3
        assert any(
            "2026-11-20 12:00:00 to 2026-11-20 13:45:00 UTC: 8 sealed readings" in event.message for event in told
        )
    assert cut.with_name(f"{cut.name}.damaged").exists()
