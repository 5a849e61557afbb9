"""A clock that is wrong for a while: all is stored once, and what it said is not the newest for ever."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from drivers.model import Quantity
from gateway.reading import Delivery, Message, Reading
from gateway.store import queries
from gateway.store.db import Store
from tests.store.builders import T0

BACK, AHEAD = timedelta(days=-2), timedelta(days=3653)


def told(value: float, received: datetime, time: datetime | None = None, seq: int | None = None) -> Message:
    """A wired sensor's message, or (with a seq) a node's."""
    reading = Reading("attic", "scd30", "co2", Quantity.CO2, value, time or received, received)
    numbers = None if seq is None else Delivery("1-aa", seq, 1)
    return Message("attic", "scd30", (reading,), numbers, timed=numbers is None)


def at(seconds: float, error: timedelta = timedelta()) -> datetime:
    return T0 + timedelta(seconds=seconds) + error


def shown(store: Store) -> tuple[float | None, datetime]:
    (newest,) = queries.latest(store)
    return newest.value, newest.time


@pytest.mark.parametrize("error", [BACK, AHEAD])
@pytest.mark.parametrize("saved", [False, True])
async def test_latest_follows_a_clock_that_jumps_and_comes_back(tmp_path: Path, error: timedelta, saved: bool) -> None:
    async with Store(tmp_path) as store:
        await store.append([told(1, at(0))])
        await store.append([told(2, at(5, error)), told(3, at(10, error))])
        assert shown(store) == (3, at(10, error))
        if not saved:
            await store.append([told(4, at(15))])
            assert shown(store) == (4, at(15))
    async with Store(tmp_path) as store:
        await store.append([told(4, at(15)), told(5, at(20))])
        assert shown(store) == (5, at(20))
        await store.append([told(6, at(25), at(12))])  # late, and not newer
        assert shown(store) == (5, at(20))
        rows = await store.ask(lambda view: view.db.execute(f"select value from {view.raw()} order by 1").fetchall())
        assert [value for (value,) in rows] == [1, 2, 3, 4, 5, 6]
    async with Store(tmp_path) as store:
        assert shown(store) == (5, at(20))


@pytest.mark.parametrize("error", [BACK, AHEAD])
async def test_latest_after_a_crash_is_latest_before_it(tmp_path: Path, error: timedelta) -> None:
    """Read back from the rows, not from what a clean stop wrote down."""
    (tmp_path / "live").mkdir()
    async with Store(tmp_path / "live") as store:
        for number, (seconds, wrong) in enumerate([(0, False), (5, True), (10, True), (15, False), (12, False)]):
            await store.append([told(number, at(seconds, error if wrong else timedelta()))])
        before = shown(store)
        assert before == (3, at(15))
        crashed(tmp_path)
    async with Store(tmp_path / "crashed") as store:
        assert shown(store) == before


async def test_what_comes_from_long_ago_is_never_the_newest(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    async with Store(tmp_path / "live") as store:
        await store.append([told(1, at(0), seq=1)])
        await store.append([told(2, at(5), at(5) - timedelta(days=400), seq=2)])
        crashed(tmp_path)
    for folder in ("live", "crashed"):
        async with Store(tmp_path / folder) as store:
            assert shown(store) == (1, at(0))


@pytest.mark.parametrize("error", [BACK, AHEAD])
async def test_what_is_sent_again_is_stored_once(tmp_path: Path, error: timedelta) -> None:
    right, wrong = [told(n, at(n)) for n in range(5)], [told(n, at(n, error)) for n in range(5)]
    numbered = [told(n, at(n, error), seq=n) for n in range(1, 6)]
    async with Store(tmp_path) as store:
        for batch, stored in ((right, 5), (wrong, 5), (right, 0), (numbered, 5), (wrong, 0), (numbered, 0)):
            commit = await store.append(batch)
            assert (commit.stored, commit.duplicates) == (stored, 5 - stored)


def crashed(place: Path) -> None:
    """The files as a process leaves them that dies now."""
    (place / "crashed").mkdir()
    for name in ("hot.duckdb", "hot.duckdb.wal", "hot.lock"):
        (place / "crashed" / name).write_bytes((place / "live" / name).read_bytes())
