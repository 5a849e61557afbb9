"""kill -9 while the store keeps house: what was acknowledged is there once, in answers, rollups and files."""

import asyncio
import json
import random
import shutil
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from bench import killing
from bench.aftermath import Said, look
from bench.killing import House, cycle, house, let_go
from gateway.store import codes, queries
from gateway.store.db import Store
from gateway.store.errors import StoreError
from gateway.store.keeper import Keeper, Keeping, Retention
from gateway.store.segments import merge
from gateway.store.segments.merge import Job
from gateway.store.segments.view import View
from tests.store.builders import T0
from tests.store.housekeeper import MARKED
from tests.store.test_keeper import SetClock, hours, rollups, rows

CYCLES = 25


@pytest.mark.slow
async def test_kills_at_random_points(tmp_path: Path) -> None:
    chance, said = random.Random(4), Said()
    for number in range(CYCLES):
        assert await cycle(tmp_path, said, chance) == [], f"after kill {number + 1}: {said.hit}"
    assert said.acked > 2 * CYCLES
    assert len(said.hit) > 5, said.hit


def merging(living: House) -> list[psutil.Process]:
    """Wait for a merge; its process."""
    while True:
        assert living.wait(lambda line: line == "> merge")
        while "merge" in living.within:
            if found := living.merges():
                return found
            living.go_on(killing.LOOK_MS)


def stop_merge(living: House) -> list[psutil.Process]:
    (child,) = merging(living)
    child.suspend()
    for _ in range(2):
        assert living.wait(str.isdigit)
    child.resume()
    assert living.wait(lambda line: line == "< merge")
    assert living.wait(lambda line: line == "< rearrange")
    return living.kill()


def stop_merge_and_kill(living: House) -> list[psutil.Process]:
    (child,) = merging(living)
    child.suspend()
    assert living.wait(str.isdigit)
    return living.kill()


def stop_gateway(living: House) -> list[psutil.Process]:
    (child,) = merging(living)
    gateway = psutil.Process(living.child.pid)
    gateway.suspend()
    living.go_on(200)
    assert child.is_running()
    gateway.resume()
    assert living.wait(lambda line: line == "< merge")
    assert living.wait(str.isdigit)
    return living.kill()


@pytest.mark.slow
@pytest.mark.parametrize("happens", [stop_merge, stop_merge_and_kill, stop_gateway])
async def test_standing_still(tmp_path: Path, happens: Callable[[House], list[psutil.Process]]) -> None:
    said = Said()
    with house(tmp_path, said, 0, "compact") as living:
        left = happens(living)
    assert await look(tmp_path, said) == []
    before = sorted(file.name for file in (tmp_path / "segments").iterdir())
    let_go(left)
    assert sorted(file.name for file in (tmp_path / "segments").iterdir()) == before
    assert said.acked > 0


async def test_a_crash_while_a_reader_keeps_what_was_replaced_twice(tmp_path: Path) -> None:
    clock = SetClock(T0 + timedelta(hours=30))
    begun, over = threading.Event(), threading.Event()
    folder, left = tmp_path / "data", tmp_path / "left"

    def slow(_view: View) -> None:
        begun.set()
        over.wait()

    async with Store(folder) as store:
        keeper = Keeper(store, clock)
        for start in (0, 3):
            await store.append(hours(3, start_h=start))
            await keeper.seal(everything=True)
        clock.forward(86_400)
        assert await keeper.compact() == 1
        reader = asyncio.create_task(store.ask(slow))
        await asyncio.to_thread(begun.wait)
        for hour in (0, 1):
            start_ms = codes.to_ms(T0) + hour * 3_600_000
            await keeper.mark([1], start_ms, start_ms + 3_600_000, MARKED)
        before = await rows(store)
        shutil.copytree(folder, left)
        over.set()
        await reader
    assert len(list((left / "segments").iterdir())) == 3
    async with Store(left) as store:
        assert await rows(store) == before
        assert len(store.segments) == 1
        assert await queries.events(store) == []


async def test_late_rows_of_what_has_expired_are_merged_again_and_again(tmp_path: Path) -> None:
    clock = SetClock(T0 + timedelta(days=60))
    async with Store(tmp_path) as store:
        keeper = Keeper(store, clock, Keeping(retention=(Retention(70, device="attic"),)))
        await store.append([*hours(6), *hours(6, device="cellar")])
        await keeper.seal()
        clock.forward(30 * 86_400)
        assert await keeper.expire() == 1
        for turn in range(3):
            await store.append(hours(6, start_h=0.05 * (turn + 1)))
            await keeper.seal()
            before = await rollups(store)
            assert await keeper.compact() == 1
            assert await rollups(store) == before
        assert sum(bucket[2] for bucket in before if bucket[0] == 1) == 4 * 24


async def killed(job: Job) -> list[tuple[str, str]]:
    merge.run(json.loads(job.text()))
    raise StoreError("killed after it had written everything")


async def test_a_merge_that_fails_late(tmp_path: Path) -> None:
    clock = SetClock(T0 + timedelta(hours=30))
    async with Store(tmp_path) as store:
        keeper = Keeper(store, clock, merge=killed)
        for start in (0, 3):
            await store.append(hours(3, start_h=start))
            await keeper.seal(everything=True)
        clock.forward(86_400)
        with pytest.raises(StoreError):
            await keeper.compact()
        await store.append(hours(3, start_h=8))
        await keeper.seal(everything=True)
        before = await rows(store)
        named = {name for each in store.segments for name in each.files}
    async with Store(tmp_path) as store:
        assert await rows(store) == before
        assert [event.message for event in await queries.events(store)] == []
        assert {file.name for file in (tmp_path / "segments").iterdir()} == named


async def test_an_older_hot_file_and_two_generations_of_merges(tmp_path: Path) -> None:
    clock = SetClock(T0 + timedelta(hours=30))
    async with Store(tmp_path) as store:
        keeper = Keeper(store, clock)
        for start in (0, 3):
            await store.append(hours(3, start_h=start))
            await keeper.seal(everything=True)
        await keeper.save_copy()
        clock.forward(86_400)
        assert await keeper.compact() == 1
        start_ms = codes.to_ms(T0)
        await keeper.mark([1], start_ms, start_ms + 3_600_000, MARKED)
        before = await rows(store)
    (tmp_path / "hot.good.duckdb").rename(tmp_path / "hot.duckdb")
    (tmp_path / "hot.duckdb.wal").unlink(missing_ok=True)
    async with Store(tmp_path) as store:
        assert await rows(store) == before
        assert [event.kind for event in await queries.events(store)] == ["store_repaired"]
