"""Assistants' SQL: every known attack gets its verdict, and the store, written meanwhile, notices nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from gateway.jail.query_worker import SPARE_MB
from gateway.jail.questions import Questions
from gateway.store.db import Store
from tests.jail.sql_tools import READINGS, attacks, furnish, memory_mb, state, verdict
from tests.store.builders import local, reading

LIMIT_S = 0.5
WRITE_EVERY_S = 0.05


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(tmp_path) as opened:
        await furnish(opened)
        yield opened


@asynccontextmanager
async def written(store: Store) -> AsyncIterator[list[float]]:
    """The store gets a batch of ten readings twenty times a second; the time that each COMMIT took."""
    took_s: list[float] = []
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    async def write() -> None:
        while not stop.is_set():
            at_s, start_s = 10_000.0 + len(took_s), loop.time()
            commit = await store.append([local(*(reading(1.0, at_s + one / 100, device="d0") for one in range(10)))])
            assert commit.stored == 10
            took_s.append(loop.time() - start_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(WRITE_EVERY_S):
                    await stop.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        yield took_s
        stop.set()


@pytest.mark.slow
async def test_every_attack_gets_its_verdict_and_the_store_notices_nothing(store: Store) -> None:
    before, most_mb = await state(store), 0
    files = sorted(path.name for path in store.folder.rglob("*"))
    async with Questions(store, limit_s=LIMIT_S) as questions:
        await questions.run("select 1", owner="someone")
        fresh_mb = memory_mb(questions.worker.pid or 0)
        async with written(store) as took_s:
            wrong = []
            for sql in attacks("refused"):
                got, said = await verdict(questions, sql)
                wrong += [(sql[:200], said)] * (got != "refused")
                most_mb = max(most_mb, memory_mb(questions.worker.pid)) if questions.worker.pid else most_mb
            assert not wrong
            for sql in attacks("bounded"):
                await verdict(questions, sql)
                most_mb = max(most_mb, memory_mb(questions.worker.pid)) if questions.worker.pid else most_mb
            async with Questions(store) as patient:
                for sql in attacks("allowed"):
                    got, said = await verdict(patient, sql)
                    wrong += [(sql, said)] * (got != "allowed")
            assert not wrong
        assert most_mb <= fresh_mb + SPARE_MB
        ((kept,),) = (await questions.run("select count(*) from measurements", owner="someone")).rows
    assert sorted(took_s)[int(0.99 * len(took_s))] < 0.25
    assert kept == READINGS + 10 * len(took_s), "not every acknowledged reading is there"
    assert await state(store) == before
    assert sorted(path.name for path in store.folder.rglob("*")) == files
