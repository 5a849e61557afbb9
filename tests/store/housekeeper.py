"""A gateway to be killed: it appends and keeps house at once, and says before and after every step what it does.

`python -m tests.store.housekeeper FOLDER FIRST_BATCH RAW_DAYS FIRST_STEP` prints a batch's number once it is durable,
`> step` and `< step` around what housekeeping does. A batch is half a day of its own clock, so that months go by.
"""

import asyncio
import random
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple, TypeVar

import duckdb

from drivers.model import Quality, Quantity, Reason
from gateway.reading import Delivery, Message, Reading
from gateway.store import codes, engine
from gateway.store.db import Store
from gateway.store.keeper import Keeper, Keeping, Retention, run_child
from gateway.store.known import Known
from gateway.store.segments.layout import Segment
from gateway.store.segments.merge import Job
from gateway.store.segments.view import View
from tests.store.builders import T0

T = TypeVar("T")
BATCH_S = 43_200
DENSE, STEP_MS = 20, 30_000
"""Readings a batch of `dated` and `brief`, and their distance: enough in a quarter of an hour for a rollup file."""
NODE = 10
LATE_EVERY, LATE_MS = 5, 3 * 86_400_000
MARKED = codes.pack(Quality.BAD, Reason.SPIKE)
A_ROUND, AHEAD, AHEAD_BY_MERGE, MERGE_MORE_S = 4, 6, 4, 0.5
"""Batches a round of housekeeping; so many may be ahead of it. A merge lets some more in, and again and again while it
lasts, so that it is never alone."""
STEPS = ("seal", "compact", "expire", "mark", "save_copy")
MARKS_BEGIN_AT = 10
BESIDE_A_READER = 0.5


class Row(NamedTuple):
    """What has to be stored of one reading; the device tells the series."""

    device: str
    ms: int
    value: float


def batch_ms(number: int) -> int:
    """When batch `number` (from 1) begins."""
    return codes.to_ms(T0) + (number - 1) * BATCH_S * 1000


def rows(number: int) -> Iterator[Row]:
    """What a batch stores that no earlier one did."""
    for seq in range(NODE * number + 1 if number > 1 else 1, NODE * (number + 1) + 1):
        yield _numbered(seq)
    for device in ("dated", "brief"):
        for at in range(DENSE):
            yield Row(device, batch_ms(number) + at * STEP_MS, float(number + at * at % 7))
    if number % LATE_EVERY == 0:
        yield Row("late", batch_ms(number) - LATE_MS, float(number))


def batch(number: int) -> list[Message]:
    """The messages of a batch; half of the numbered ones were in the batch before."""
    first, own = NODE * (number - 1) + 1, list(rows(number))
    messages = [
        Message("node", "scd30", (_reading(_numbered(seq), number),), Delivery("1-aa", seq, first))
        for seq in range(first, first + 2 * NODE)
    ]
    for device in ("dated", "brief", "late"):
        readings = tuple(_reading(row, number) for row in own if row.device == device)
        messages += [Message(device, "scd30", readings, timed=True)] if readings else []
    return messages


def _numbered(seq: int) -> Row:
    return Row("node", codes.to_ms(T0) + seq * BATCH_S * 1000 // NODE, 400.0 + seq)


def _reading(row: Row, number: int) -> Reading:
    time, received = codes.from_ms(row.ms), codes.from_ms(batch_ms(number + 2))
    return Reading(row.device, "scd30", "co2", Quantity.CO2, row.value, time, received)


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - it is what the parent waits for


@contextmanager
def told(step: str) -> Iterator[None]:
    """Say that it begins and, unless it fails, that it is done."""
    say(f"> {step}")
    yield
    say(f"< {step}")


class ToldStore(Store):
    """A store that says what housekeeping makes it do."""

    async def work(self, job: Callable[[View], T]) -> T:
        with told("work"):
            return await super().work(job)

    async def rearrange(
        self,
        change: Callable[[duckdb.DuckDBPyConnection], T],
        add: Sequence[Segment] = (),
        remove: Sequence[Segment] = (),
        adopt: Callable[[Known], None] | None = None,
    ) -> T:
        with told("rearrange"):
            return await super().rearrange(change, add, remove, adopt)

    async def checkpoint(self) -> None:
        with told("checkpoint"):
            await super().checkpoint()

    async def save_copy(self) -> None:
        with told("copy"):
            await super().save_copy()


class House:
    """Appends from one batch on, and keeps house beside that, until it is killed. It is also its clock."""

    def __init__(self, store: Store, number: int, raw_days: int, first_step: str) -> None:
        self._store, self._number, self._first_step = store, number, first_step
        self._acked = number - 1
        self._allowed = self._acked + AHEAD
        self._moved = asyncio.Condition()
        retention = (Retention(raw_days, device="brief"),) if raw_days else ()
        self._keeper = Keeper(store, self, Keeping(hot_rows=1_000, retention=retention), merge=self._merge)

    def now(self) -> datetime:
        return codes.from_ms(batch_ms(self._acked + 1)) + timedelta(minutes=1)

    def trusted(self) -> bool:
        return True

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._append())
            group.create_task(self._keep())

    async def _append(self) -> None:
        number = self._number
        while True:
            async with self._moved:
                while number > self._allowed:
                    await self._moved.wait()
            await self._store.append(batch(number))
            say(str(number))
            async with self._moved:
                self._acked = number
                self._moved.notify_all()
            number += 1

    async def _keep(self) -> None:
        done, chance = self._acked, random.Random(self._number)
        while True:
            done += A_ROUND
            await self._let_in(A_ROUND)
            async with self._moved:
                while self._acked < done:
                    await self._moved.wait()
            steps = chance.sample(STEPS, len(STEPS))
            if done == self._number - 1 + A_ROUND:
                steps.sort(key=lambda step: step != self._first_step)
            await (self._beside_a_reader(steps) if chance.random() < BESIDE_A_READER else self._take(steps))

    async def _take(self, steps: Sequence[str]) -> None:
        keeper = self._keeper
        jobs: dict[str, Callable[[], Awaitable[object]]] = {
            "seal": keeper.seal,
            "compact": keeper.compact,
            "expire": keeper.expire,
            "mark": self._mark,
            "save_copy": keeper.save_copy,
        }
        for step in steps:
            with told(step):
                await jobs[step]()

    async def _mark(self) -> None:
        if self._acked < MARKS_BEGIN_AT:
            return
        first = self._acked - MARKS_BEGIN_AT + 1
        with told(f"marks {first} {first + 2}"):
            series = [one for one, each in self._store.series().items() if each.device == "dated"]
            await self._keeper.mark(series, batch_ms(first), batch_ms(first + 2), MARKED)

    async def _beside_a_reader(self, steps: Sequence[str]) -> None:
        """A question that lasts for a whole round, so that replaced files have to wait for it."""
        begun, over = threading.Event(), threading.Event()

        def slow(view: View) -> None:
            query = f"select count(*), sum(value), sum(quality) from {view.raw()}"
            before = view.db.execute(query).fetchall()
            begun.set()
            over.wait()
            if view.db.execute(query).fetchall() != before:
                say("! a reader saw two states")

        reader = asyncio.create_task(self._store.ask(slow))
        try:
            await asyncio.to_thread(begun.wait)
            await self._take(steps)
        finally:
            over.set()
        await reader

    async def _merge(self, job: Job) -> list[tuple[str, str]]:
        with told("merge"):
            merging = asyncio.create_task(run_child(job))
            while not merging.done():
                await self._let_in(AHEAD_BY_MERGE)
                await asyncio.wait([merging], timeout=MERGE_MORE_S)
            return await merging

    async def _let_in(self, batches: int) -> None:
        async with self._moved:
            self._allowed += batches
            self._moved.notify_all()


async def run(folder: Path, number: int, raw_days: int, first_step: str) -> None:
    """Until killed."""
    engine.CHECKPOINT_AT_MB = 0.02  # so that kills fall into checkpoints too
    async with ToldStore(folder) as store:
        say("open")
        await House(store, number, raw_days, first_step).run()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
