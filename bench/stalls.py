"""How long a batch waits for its COMMIT while the store keeps house: sealing an hour, its checkpoint, the good copy, a
merged month. Batches of 500 follow each other without the pause that they have in life."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TypeVar

import duckdb

from bench.figures import Figure, Goal, percentile
from bench.replay import BATCH, BEGAN, Day
from gateway.reading import Message
from gateway.store import codes
from gateway.store.db import Store
from gateway.store.keeper import Keeper
from gateway.store.known import Known
from gateway.store.segments import parquet
from gateway.store.segments.layout import DAY_MS, Level, Segment, month_of
from gateway.store.segments.parquet import Draft
from gateway.store.segments.view import View

T = TypeVar("T")
MONTH_DAYS = 30
HOT_HOURS = 30
"""More than any size asks for: batches without end."""
SERIES = 200


@dataclass(frozen=True, slots=True)
class Size:
    """Batches that are sealed, rows of the month that is merged, commits that are measured without anything else."""

    batches: int
    month: int
    alone: int


FULL, QUICK = Size(720, 4_000_000, 300), Size(20, 60_000, 20)


class Watched(Store):
    """A store that knows what its housekeeping makes it do."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.doing: list[str] = []
        self.done: list[str] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.doing.append(name)
        try:
            yield
        finally:
            self.doing.remove(name)
            self.done.append(name)

    async def work(self, job: Callable[[View], T]) -> T:
        with self.step("the files are written"):
            return await super().work(job)

    async def rearrange(
        self,
        change: Callable[[duckdb.DuckDBPyConnection], T],
        add: Sequence[Segment] = (),
        remove: Sequence[Segment] = (),
        adopt: Callable[[Known], None] | None = None,
    ) -> T:
        with self.step("the rows change places"):
            return await super().rearrange(change, add, remove, adopt)

    async def checkpoint(self) -> None:
        with self.step("the log is folded"):
            await super().checkpoint()


@dataclass(slots=True)
class House:
    """A store, its keeper, a clock, and batches that follow each other."""

    store: Watched
    now_: datetime
    commit_ms: dict[str, list[float]] = field(default_factory=dict)
    batches: Iterator[list[Message]] = field(default_factory=lambda: Day().batches(HOT_HOURS))

    def now(self) -> datetime:
        return self.now_

    def trusted(self) -> bool:
        return True

    async def append(self, step: str) -> None:
        """One batch; it belongs to the step, and to what was done during it."""
        messages = next(self.batches)
        self.store.done.clear()
        during = set(self.store.doing)
        began_s = time.perf_counter()
        await self.store.append(messages)
        took_ms = 1e3 * (time.perf_counter() - began_s)
        during |= {*self.store.doing, *self.store.done}
        for name in (step, *(f"{step}: {each}" for each in sorted(during))):
            self.commit_ms.setdefault(name, []).append(took_ms)

    async def beside(self, step: str, job: Awaitable[object]) -> None:
        """Batches until the job is done."""
        task = asyncio.ensure_future(job)
        while not task.done():
            await self.append(step)
        await task


async def measure(size: Size) -> list[Figure]:
    """Of each step median, 99th percentile and the longest."""
    async with _house() as house:
        keeper = Keeper(house.store, house)
        await _months_of_days(house, size.month)
        for _ in range(size.batches):
            await house.append("filling")
        for _ in range(size.alone):
            await house.append("nothing else")
        hour = BEGAN + timedelta(seconds=5 * size.batches)
        house.now_ = max(hour, BEGAN + timedelta(hours=1)) + timedelta(minutes=2)
        await house.beside("sealing", keeper.seal(everything=True))
        await house.beside("the good copy", keeper.save_copy())
        house.now_ = BEGAN + timedelta(days=62)
        await house.beside("merging a month", keeper.compact())
    return list(_figures(house))


def _figures(house: House) -> Iterator[Figure]:
    for step, took_ms in house.commit_ms.items():
        if step == "filling" or step.startswith("filling:"):
            continue
        what = f"a commit of {BATCH} beside {step}"
        if ":" not in step:
            yield Figure(f"{what}, median", median(took_ms), "ms")
            yield Figure(f"{what}, 99th percentile", percentile(took_ms, 99), "ms", goal=Goal(250))
        yield Figure(f"{what}, longest of {len(took_ms)}", max(took_ms), "ms")


@asynccontextmanager
async def _house() -> AsyncIterator[House]:
    with TemporaryDirectory() as folder:
        async with Watched(Path(folder)) as store:
            yield House(store, BEGAN)


async def _months_of_days(house: House, rows: int) -> None:
    """Days of the month before, sealed long ago."""
    end_ms = month_of(codes.to_ms(BEGAN))
    each = rows // MONTH_DAYS
    for number in range(MONTH_DAYS):
        start_ms = end_ms - (MONTH_DAYS - number) * DAY_MS
        source = f"""(select (i % {SERIES} + 1)::INTEGER as series_id,
            make_timestamp_ms({start_ms} + i * {DAY_MS} // {each})::TIMESTAMP_MS as ts,
            round(20 + 5 * sin(i / {each}.0 * 6) + (hash(i) % 7) / 50.0, 2) as value, 0::UTINYINT as quality
            from range({each}) t(i))"""
        draft = Draft(number + 1, Level.DAY, start_ms, (), source)

        def write(view: View, draft: Draft = draft) -> Segment | None:
            return parquet.write(view.db, view.folder, draft)

        segment = await house.store.work(write)
        await house.store.rearrange(lambda _db: None, [segment] if segment is not None else [])
