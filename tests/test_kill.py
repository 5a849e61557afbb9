"""Nothing acknowledged is lost: gateway and broker are killed with -9 while messages flow (bench/kill.py, shorter)."""

import asyncio
import random
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from bench import kill
from bench.kill import CountingNode, Outcome, Row
from gateway.ingest.units import metric
from gateway.reading import Delivery, Message, Reading
from gateway.store.db import Store
from tests.brokers import needs_mosquitto

pytestmark = pytest.mark.slow

MESSAGES = 2000
SEEDS = (1, 2)


@needs_mosquitto
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", kill.ROUNDS)
async def test_kills_lose_nothing(tmp_path: Path, kind: str, seed: int) -> None:
    outcome = await kill.telling_round(kind, tmp_path, seed, MESSAGES)
    assert not outcome.faults, outcome.line()
    assert outcome.told, outcome.line()
    assert min(outcome.kills.values()) >= kill.KILLS, outcome.line()
    assert set(outcome.kills) == ({"gateway", "broker"} if kind == "ring" else {"gateway"})


async def test_the_judge_finds_nothing_where_all_is_well(tmp_path: Path) -> None:
    outcome, node = await judged(tmp_path, "select 1")
    assert node.seq == 20
    assert not outcome.faults


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("delete from dated where value in (select max(value) from dated)", "lost"),
        ("insert into dated select * from dated where ts = (select min(ts) from dated)", "stored twice"),
        ("update dated set value = value + 1000 where ts = (select min(ts) from dated)", "never sent"),
        ("update dated set ts = ts + interval 1 day where ts = (select min(ts) from dated)", "never sent"),
        ("update delivery set mark = 19", "marks are"),
        ("insert into gap values (1, 3, 4)", "gap in boot"),
        ("insert into event values (now(), 'store_loss', '', 'batches', '{}')", "store_loss"),
    ],
)
async def test_the_judge_sees_what_a_kill_could_do(tmp_path: Path, change: str, fault: str) -> None:
    outcome, _ = await judged(tmp_path, change)
    assert any(fault in text for text in outcome.faults), outcome.faults


async def test_a_minimal_reading_may_be_there_twice_only_without_a_time(tmp_path: Path) -> None:
    for timed in (True, False):
        rows: set[Row] = {("sender-0", None, None, "meter", "count", 1_800_000_000_000 if timed else None, 7.0)}
        folder = tmp_path / str(timed)
        await store(folder, rows)
        tamper(folder, "insert into dated select * from dated")
        outcome = Outcome("", 0, 1)
        await kill.check(folder, outcome, [], rows)
        assert (bool(outcome.faults), outcome.doubles) == (timed, 0 if timed else 1)


async def judged(folder: Path, change: str) -> tuple[Outcome, CountingNode]:
    """What the judge says of a store that holds a node's measurements, changed behind its back."""
    node = CountingNode("node-1", 1, "00", random.Random(1))
    for _ in range(10):
        node.measure()
    await store(folder, node.rows())
    tamper(folder, change)
    outcome = Outcome("", 0, node.seq)
    await kill.check(folder, outcome, [node], set())
    return outcome, node


async def store(folder: Path, rows: Iterable[Row]) -> None:
    """Put rows into a store as one batch."""
    now = datetime.now(UTC)
    messages: dict[tuple[str, int | None], Message] = {}
    for device, boot, seq, sensor, name, ms, value in rows:
        time = now if ms is None else datetime.fromtimestamp(ms / 1000, UTC)
        reading = Reading(device, sensor, name, metric(name).quantity, value, time, now)
        before = messages.get((device, seq))
        readings = (*(before.readings if before else ()), reading)
        delivery = Delivery(boot, seq, 1) if boot is not None and seq is not None else None
        messages[device, seq] = Message(device, sensor, readings, delivery, None, ms is not None)
    async with Store(folder / "data") as opened:
        await opened.append(list(messages.values()))


def tamper(folder: Path, change: str) -> None:
    """Change the file as no gateway would."""
    with duckdb.connect(str(folder / "data" / "hot.duckdb")) as db:
        db.execute(change)


async def test_a_level_wakes_those_who_wait_for_it() -> None:
    level = kill.Level()
    waiting = asyncio.create_task(level.reached(2))
    level.rise(1)
    await asyncio.sleep(0)
    assert not waiting.done()
    level.rise(2)
    async with asyncio.timeout(1):
        await waiting
