"""Our store with a year of readings, in a process that does nothing else: loaded as in life, asked, and worked hard.

`python -m bench.history_ours FOLDER ROWS END_MS DAYS RUNS EVERY_H` takes readings from its standard input (as `send`
makes them) and prints one line of JSON. The clock is that of the readings: the keeper does a round every EVERY_H hours.
"""

import asyncio
import json
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from itertools import groupby, islice
from math import isnan
from pathlib import Path
from statistics import median
from typing import IO

from bench.dataset import Dataset, Row, names
from bench.history_asks import answer, scan, series_ids
from bench.peers import BATCH, QUESTIONS, Ask, Digest, Timed, asks, folder_bytes, tell
from gateway.reading import Message, Reading
from gateway.store import codes
from gateway.store.db import Store
from gateway.store.keeper import SEAL_AFTER_S, Keeper

HOUR_MS = 3_600_000
COLUMNS = "iqdB"
NOTHING = float("nan")
ALONE = 200
LEAST_BESIDE = 200
MORE_ROWS = 1_000 * BATCH
"""What there is for the part that comes after the year."""
SIZES = ("raw_bytes", "roll_bytes")
LEAP_DAYS = 33
"""So much later every month of the year is over, and may be compacted."""


@dataclass(slots=True)
class Ours:
    """What it took: seconds, milliseconds, bytes. `alone` and `beside` are commits of BATCH readings, the latter while
    everything is scanned, `scans` times, and the keeper seals and compacts (`merged` segments become others)."""

    rows: int = 0
    append_s: float = 0.0
    keep_s: float = 0.0
    folder: int = 0
    raw: int = 0
    rollups: int = 0
    segments: int = 0
    timed: dict[str, Timed] = field(default_factory=dict)
    alone_ms: list[float] = field(default_factory=list)
    beside_ms: list[float] = field(default_factory=list)
    scans: int = 0
    merged: int = 0


class Moved:
    """A clock that shows what it is told."""

    def __init__(self, now: datetime) -> None:
        self.time = now

    def now(self) -> datetime:
        return self.time

    def trusted(self) -> bool:
        return True


def send(rows: Sequence[Row]) -> bytes:
    """Readings for `received`; none: that is all for now."""
    parts = [len(rows).to_bytes(8)]
    if rows:
        series, ms, values, qualities = zip(*rows, strict=True)
        numbers = [NOTHING if value is None else value for value in values]
        columns = (series, ms, numbers, qualities)
        parts += [array(kind, column).tobytes() for kind, column in zip(COLUMNS, columns, strict=True)]
    return b"".join(parts)


def received(stream: IO[bytes]) -> Iterator[Row]:
    """What was sent until there was no more for now."""
    while count := int.from_bytes(stream.read(8)):
        columns = []
        for kind in COLUMNS:
            column = array(kind)
            column.frombytes(stream.read(count * column.itemsize))
            columns.append(column)
        for series, ms, value, quality in zip(*columns, strict=True):
            yield Row(series, ms, None if isnan(value) else value, quality)


def messages(rows: Iterator[Row]) -> Iterator[Message]:
    """What a sensor measured at one time, together."""
    known = names()
    whole = {byte: codes.unpack(byte) for byte in range(256)}
    for (device, sensor, ms), group in groupby(rows, lambda row: (known[row.series][0], known[row.series][1], row.ms)):
        at = codes.from_ms(ms)
        readings = tuple(
            Reading(device, sensor, quantity.value, quantity, row.value, at, at, *whole[row.quality])
            for row in group
            for quantity in (known[row.series].quantity,)
        )
        yield Message(device, sensor, readings, timed=True)


def batches(given: Iterator[Message]) -> Iterator[list[Message]]:
    """About BATCH readings each."""
    batch: list[Message] = []
    count = 0
    for message in given:
        batch.append(message)
        count += len(message.readings)
        if count >= BATCH:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


def rounds(given: Iterator[Message], every_ms: int) -> Iterator[tuple[int, Iterator[Message]]]:
    """By the end of the span in which each arrived: what is late arrives with what was measured just before it."""
    end_ms = 0

    def end(message: Message) -> int:
        nonlocal end_ms
        ms = codes.to_ms(message.readings[0].time)
        end_ms = max(end_ms, ms - ms % every_ms + every_ms)
        return end_ms

    return groupby(given, end)


class Life:
    """The store's year, and the work after it."""

    def __init__(self, store: Store, dataset: Dataset, found: Ours) -> None:
        self._clock = Moved(dataset.end)
        self._store, self._found = store, found
        self._keeper = Keeper(store, self._clock)

    async def load(self, given: Iterator[Message], every_h: int) -> None:
        """Append all of it, with a round of the keeper every so many hours."""
        for end_ms, arrived in rounds(given, every_h * HOUR_MS):
            for batch in batches(arrived):
                began_s = time.perf_counter()
                commit = await self._store.append(batch)
                self._found.append_s += time.perf_counter() - began_s
                self._found.rows += commit.stored
            self._clock.time = codes.from_ms(end_ms) + timedelta(seconds=SEAL_AFTER_S)
            began_s = time.perf_counter()
            await self._keeper.keep()
            self._found.keep_s += time.perf_counter() - began_s

    async def work_hard(self, given: Iterator[Message], alone: int = ALONE, least_beside: int = LEAST_BESIDE) -> None:
        """Commits by themselves, then beside scans of everything while the keeper seals, compacts and copies."""
        every = batches(given)
        before = {each.segment_id for each in self._store.segments}
        self._found.alone_ms = [await self._commit(batch) for batch in islice(every, alone)]
        self._clock.time += timedelta(days=LEAP_DAYS)
        keeping = asyncio.create_task(self._keeper.keep(), name="keep")
        done = asyncio.Event()
        scanning = asyncio.create_task(self._scan(done), name="scan")
        while not keeping.done() or len(self._found.beside_ms) < least_beside:
            batch = next(every, None)
            if batch is None:
                break
            self._found.beside_ms.append(await self._commit(batch))
        done.set()
        await asyncio.gather(keeping, scanning)
        self._found.merged = len(before - {each.segment_id for each in self._store.segments})
        await self._keeper.keep()

    async def _scan(self, done: asyncio.Event) -> None:
        while not done.is_set():
            await scan(self._store)
            self._found.scans += 1

    async def _commit(self, batch: Sequence[Message]) -> float:
        began_s = time.perf_counter()
        await self._store.append(batch)
        return 1e3 * (time.perf_counter() - began_s)


async def main(folder: Path, dataset: Dataset, runs: int, every_h: int) -> Ours:
    """All of it, in a folder that is empty before."""
    found = Ours()
    async with Store(folder) as store:
        await Life(store, dataset, found).load(messages(received(sys.stdin.buffer)), every_h)
    tell(f"ours: {found.rows:,} readings in {found.append_s:.0f} s, {found.keep_s:.0f} s of keeping")
    async with Store(folder) as store:
        found.folder = folder_bytes(folder)
        found.raw, found.rollups = (sum(getattr(each, kind) for each in store.segments) for kind in SIZES)
        found.segments = len(store.segments)
        for name in QUESTIONS:
            found.timed[name] = await _ask(store, asks(dataset, name, runs))
        await Life(store, dataset, found).work_hard(messages(received(sys.stdin.buffer)))
    return found


async def _ask(store: Store, given: list[Ask]) -> Timed:
    ids = series_ids(store)
    took_ms: list[float] = []
    digests: list[Digest] = []
    for each in given:
        began_s = time.perf_counter()
        found = await answer(store, ids[each.series], each)
        took_ms.append(1e3 * (time.perf_counter() - began_s))
        digests.append(found())
    timed = Timed(took_ms[0], median(took_ms[1:]), len(took_ms) - 1, tuple(digests))
    tell(f"ours: {given[0].name}: {timed.median_ms:.2f} ms")
    return timed


if __name__ == "__main__":
    place, rows, last_ms, days, *options = sys.argv[1:]
    dataset = Dataset(int(rows), codes.from_ms(int(last_ms)), int(days))
    done = asyncio.run(main(Path(place), dataset, *map(int, options)))
    print(json.dumps(asdict(done)))
