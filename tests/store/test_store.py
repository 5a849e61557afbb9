"""The store over a real DuckDB: what is stored once, what is remembered, and what outlives a restart."""

import asyncio
import math
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest

from drivers.model import Quality, Quantity, Reason
from gateway.reading import Message
from gateway.store import codes, delivery, known, queries, writer
from gateway.store.db import Store
from gateway.store.errors import StoreClosed
from gateway.store.types import Gap
from tests.store.builders import T0, local, numbered, reading


async def rows(store: Store) -> list[tuple[object, ...]]:
    return await store.read(lambda db: db.execute("select * from dated order by rowid").fetchall())


async def test_a_batch_is_stored_and_answered(tmp_path: Path) -> None:
    async with Store(tmp_path / "new" / "data") as store:
        warm = reading(None, 1, quantity=Quantity.TEMPERATURE, quality=Quality.BAD, reason=Reason.SENSOR_FAILURE)
        commit = await store.append([local(reading(412.5), warm), numbered(1)])
        assert (commit.batch, commit.stored, commit.duplicates) == (1, 3, 0)
        assert commit.marks == {("node", "1-aa"): 1}
        assert [each.value for each in commit.fresh] == [412.5, None, 401.0]
        naive = T0.replace(tzinfo=None)
        assert (await rows(store))[:2] == [
            (naive, 1, 412.5, 0, 0, 1),
            (naive + timedelta(seconds=1), 2, None, 0b10_100011, 0, 1),
        ]
        assert [each.metric for each in queries.find_series(store, device="attic")] == ["co2", "temperature"]


async def test_everything_continues_after_a_restart(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.append([numbered(1), numbered(3), local(reading())])
        newest, series, sensors = dict(store.newest()), dict(store.series()), queries.sensors(store)
    async with Store(tmp_path) as store:
        assert store.batch == 1
        assert (dict(store.newest()), dict(store.series()), queries.sensors(store)) == (newest, series, sensors)
        commit = await store.append([numbered(3), numbered(2), local(reading(1.0, 9, device="cellar"))])
        assert (commit.batch, commit.stored, commit.duplicates) == (2, 2, 1)
        assert commit.marks == {("node", "1-aa"): 3}
        assert sorted(store.series()) == [1, 2, 3]
        assert store.lost_batches is None


async def test_duplicates_alone_write_nothing_and_still_name_the_mark(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.append([numbered(1), numbered(2)])
        again = await store.append([numbered(2), numbered(1)])
        assert (again.batch, again.stored, again.duplicates, again.fresh) == (1, 0, 2, ())
        assert again.marks == {("node", "1-aa"): 2}
        nothing = await store.append([])
        assert (nothing.batch, nothing.marks) == (1, {})


async def test_gaps_are_reported_once_shrink_and_outlive_a_restart(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.append([numbered(1)])
        commit = await store.append([numbered(7, 6), numbered(3)])
        assert commit.gaps == (Gap("node", "1-aa", 2, 2), Gap("node", "1-aa", 4, 5))
        assert commit.marks == {("node", "1-aa"): 5}
    async with Store(tmp_path) as store:
        assert await queries.gaps(store, "node") == list(commit.gaps)
        late = await store.append([numbered(4)])
        assert (late.stored, late.gaps) == (1, ())
        assert (await store.append([numbered(4)])).stored == 0
        assert await queries.gaps(store) == [Gap("node", "1-aa", 2, 2), Gap("node", "1-aa", 5, 5)]
        assert await queries.gaps(store, "other") == []


async def test_holes_of_an_earlier_boot_are_gaps(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.append([numbered(1), numbered(4)])
        assert await queries.gaps(store) == []
        await store.append([numbered(1, boot="2-bb")])
        assert await queries.gaps(store) == [Gap("node", "1-aa", 2, 3)]


async def test_a_message_without_readings_moves_the_mark(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        empty = Message("node", "scd30", (), numbered(1).delivery)
        assert (await store.append([empty])).marks == {("node", "1-aa"): 1}
    async with Store(tmp_path) as store:
        assert store.batch == 1
        assert (await store.append([numbered(1)])).stored == 0


async def test_a_bad_message_leaves_no_trace_of_its_batch(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        with pytest.raises(ValueError, match="oldest 9"):
            await store.append([numbered(1), local(reading()), numbered(2, 9)])
        naive = reading()._replace(time=T0.replace(tzinfo=None))
        with pytest.raises(ValueError, match="no time zone"):
            await store.append([numbered(1), local(naive)])
        assert (store.batch, dict(store.series()), dict(store.newest())) == (0, {}, {})
        assert await rows(store) == []
        assert (await store.append([numbered(1)])).stored == 1


async def test_dated_readings_are_stored_once(tmp_path: Path) -> None:
    def dated(value: float | None, at_s: float) -> Message:
        return local(reading(value, at_s), timed=True)

    async with Store(tmp_path) as store:
        first = await store.append([dated(1.0, 5), dated(1.0, 5), dated(2.0, 5), dated(None, 6), dated(1.0, 7)])
        assert (first.stored, first.duplicates) == (4, 1)
        again = await store.append([dated(1.0, 5), dated(None, 6), dated(1.0, 7), dated(3.0, 7), dated(1.0, 8)])
        assert (again.stored, again.duplicates) == (2, 3)
    async with Store(tmp_path) as store:
        last = await store.append([dated(1.0, 8), dated(2.0, 5), dated(4.0, 1)])
        assert (last.stored, last.duplicates) == (1, 2)
        untimed = await store.append([local(reading(1.0, 8)), local(reading(1.0, 8))])
        assert untimed.stored == 2


async def test_newest_is_the_greatest_time_and_among_equals_the_last(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.append([local(reading(1.0, 5)), local(reading(2.0, 5)), local(reading(3.0, 4))])
        assert queries.latest(store)[0].value == 2.0
        await store.append([local(reading(4.0, 5))])
        await store.append([local(reading(5.0, 1))])
        assert [each.value for each in queries.latest(store, device="attic", metric="co2")] == [4.0]
        assert queries.latest(store, sensor="other") == []
        before = dict(store.newest())
        store._writer._remember = lambda: None  # type: ignore[method-assign]  # as after a kill: nothing written down
    async with Store(tmp_path) as again:
        assert dict(again.newest()) == before


async def test_newest_values_are_written_down_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SAVE_EVERY_BATCHES", 3)
    async with Store(tmp_path) as store:
        for number in range(1, 6):
            await store.append([numbered(number)])
        kept = await store.read(lambda db: db.execute("select epoch_ms(ts) from newest").fetchall())
        assert kept == [(codes.to_ms(T0) + 3000,)]
        journal = await store.read(lambda db: db.execute("select mark, batch from delivery order by batch").fetchall())
        assert journal == [(3, 3), (4, 4), (5, 5)]
        store._writer._remember = lambda: None  # type: ignore[method-assign]  # as after a kill: 4 and 5 are scanned for
    async with Store(tmp_path) as store:
        assert (store.batch, queries.latest(store)[0].value) == (5, 405.0)
        await store.append([numbered(6)])
    async with Store(tmp_path) as store:
        assert (store.batch, queries.latest(store)[0].value) == (6, 406.0)


async def test_only_the_batch_after_the_values_written_down_is_scanned_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SAVE_EVERY_BATCHES", 3)
    async with Store(tmp_path) as store:
        for number in range(1, 5):
            await store.append([numbered(number)])
        store._writer._remember = lambda: None  # type: ignore[method-assign]
    async with Store(tmp_path) as store:
        assert (store.batch, queries.latest(store)[0].value) == (4, 404.0)


async def test_more_gaps_than_are_kept_open(tmp_path: Path) -> None:
    pieces = delivery.MAX_RANGES + 6
    async with Store(tmp_path) as store:
        commit = await store.append([numbered(2 * n, 2 * n) for n in range(1, pieces + 1)])
        assert len(commit.gaps) == pieces
    async with Store(tmp_path) as store:
        assert len(await queries.gaps(store)) == pieces
        late = await store.append([numbered(11), numbered(13), numbered(13)])
        assert (late.stored, late.duplicates) == (1, 2)
        left = await queries.gaps(store)
        assert len(left) == pieces - 1
        assert Gap("node", "1-aa", 11, 11) in left
        assert Gap("node", "1-aa", 13, 13) not in left


async def test_forgotten_boots_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "MAX_BOOTS", 2)
    async with Store(tmp_path) as store:
        boots = [f"{number}-b" for number in range(5)]
        await store.append([numbered(2, boot=boot) for boot in boots])
        for boot in boots:
            commit = await store.append([numbered(2, boot=boot), numbered(1, boot=boot)])
            assert (commit.stored, commit.marks) == (1, {("node", boot): 2})
        assert await store.read(lambda db: db.execute("select count(*) from boot").fetchall()) == [(5,)]


async def test_what_is_not_a_number_is_bad(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        commit = await store.append([local(reading(math.inf)), local(reading(math.nan, 1))])
        assert {(each.value, each.quality, each.reason) for each in commit.fresh} == {
            (None, Quality.BAD, Reason.NOT_A_NUMBER)
        }


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StoreClosed, match="async with"):
        await store.append([])
    with pytest.raises(StoreClosed, match="async with"):
        await queries.counts(store)


async def test_a_cancelled_question_is_interrupted(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        started = asyncio.Event()
        loop = asyncio.get_running_loop()
        endless = "select count(*) from range(100000) a, range(100000) b where a.range + b.range = 7"

        def ask(db: duckdb.DuckDBPyConnection) -> object:
            loop.call_soon_threadsafe(started.set)
            return db.execute(endless).fetchall()

        tasks = [asyncio.create_task(store.read(ask), name=f"endless-{number}") for number in range(2)]
        await started.wait()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        # Both readers are free again, or this would never be answered.
        assert (await asyncio.wait_for(queries.counts(store), 20)).readings == 0
