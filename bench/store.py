"""How fast batches reach the disk, beside SQLite with the same promise; and how soon a full store is open."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import duckdb

from bench.figures import Figure, Goal
from drivers.model import Quantity
from gateway.reading import Message, Reading
from gateway.store.db import Store

SERIES = 198
VALUES = {Quantity.CO2: 640.0, Quantity.TEMPERATURE: 21.25, Quantity.HUMIDITY: 43.5}
LEAST_ROWS_PER_S = 100_000
PEER = "SQLite, synchronous=FULL, keyed by series and time"
SQLITE_TABLE = """
    create table reading (series_id integer, ts integer, value real, quality integer, received integer, batch integer,
        primary key (series_id, ts)) without rowid
"""


@dataclass(frozen=True, slots=True)
class Size:
    """For each number of rows a batch the batches of one round; rows of the store that is opened."""

    batches: dict[int, int]
    rounds: int
    rows: int


FULL = Size({100: 300, 1000: 200}, 3, 1_000_000)
QUICK = Size({100: 50, 1000: 20}, 1, 50_000)


class Appended(NamedTuple):
    """Rows a second, microseconds of CPU a row, milliseconds of each batch."""

    rows_per_s: float
    cpu_us: float
    commit_ms: float


async def measure(size: Size) -> list[Figure]:
    """Medians over the rounds."""
    figures = []
    for rows, count in size.batches.items():
        ours, theirs = [], []
        for _ in range(size.rounds):
            given = list(batches(rows, count))
            with TemporaryDirectory() as folder:
                ours.append(await append(Path(folder), given))
                theirs.append(append_sqlite(Path(folder) / "peer.sqlite", given))
        for name, unit, at in (("rows", "/s", 0), ("CPU a row", "us", 1), ("a commit", "ms", 2)):
            mine, other = median(each[at] for each in ours), median(each[at] for each in theirs)
            goal = Goal(LEAST_ROWS_PER_S, at_least=True) if (rows, name) == (1000, "rows") else None
            figures.append(Figure(f"store, {rows} rows a batch: {name}", mine, unit, PEER, other, goal=goal))
    return [*figures, await _opening(size)]


async def append(folder: Path, given: Sequence[Sequence[Message]]) -> Appended:
    """Append these batches to a new store."""
    async with Store(folder) as store:
        await store.append(given[0])  # names of devices and series, and views
        took_s = []
        cpu_s = time.process_time()
        for messages in given[1:]:
            began_s = time.perf_counter()
            await store.append(messages)
            took_s.append(time.perf_counter() - began_s)
        return _appended(given[1:], took_s, time.process_time() - cpu_s)


def append_sqlite(file: Path, given: Sequence[Sequence[Message]]) -> Appended:
    """The same rows, a synced transaction a batch."""
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = full")
        db.execute(SQLITE_TABLE)
        ids: dict[tuple[str, str], int] = {}
        took_s = []
        cpu_s = time.process_time()
        for number, messages in enumerate(given[1:]):
            began_s = time.perf_counter()
            rows = []
            for message in messages:
                for reading in message.readings:
                    series = ids.setdefault((reading.device, reading.metric), len(ids))
                    ms = int(reading.time.timestamp() * 1000)
                    rows.append((series, ms, reading.value, reading.quality.value, ms, number))
            db.execute("begin")
            db.executemany("insert into reading values (?, ?, ?, ?, ?, ?)", rows)
            db.execute("commit")
            took_s.append(time.perf_counter() - began_s)
        return _appended(given[1:], took_s, time.process_time() - cpu_s)


async def _opening(size: Size) -> Figure:
    opened_ms, bare_ms = [], []
    with TemporaryDirectory() as folder:
        async with Store(Path(folder)) as store:
            for messages in batches(5_000, max(1, size.rows // 5_000)):
                await store.append(messages)
        for _ in range(2 * size.rounds + 1):
            began_s = time.perf_counter()
            async with Store(Path(folder)):
                opened_ms.append(1e3 * (time.perf_counter() - began_s))
            began_s = time.perf_counter()
            with closing(duckdb.connect(str(Path(folder) / "hot.duckdb"))) as db:
                db.execute("select 1").fetchall()
                bare_ms.append(1e3 * (time.perf_counter() - began_s))
    name = f"store: open with {size.rows:,} rows"
    return Figure(name, median(opened_ms), "ms", "bare duckdb.connect", median(bare_ms))


def batches(rows: int, count: int) -> Iterator[list[Message]]:
    """`count` batches of so many readings, in messages of three, from senders in turn at one second's distance."""
    began = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    number = 0
    for _ in range(count):
        messages: list[Message] = []
        left = rows
        while left > 0:
            messages.append(_message(number, began, left))
            left -= len(messages[-1].readings)
            number += 1
        yield messages


def _message(number: int, began: datetime, most: int) -> Message:
    step, at = divmod(number, SERIES // len(VALUES))
    device, moment = f"bench-{at:02}", began + timedelta(seconds=step)
    readings = tuple(
        Reading(device, "scd30", quantity.value, quantity, value + number % 50 / 10, moment, moment)
        for quantity, value in list(VALUES.items())[:most]
    )
    return Message(device, "scd30", readings, timed=True)


def _appended(given: Sequence[Sequence[Message]], took_s: Sequence[float], cpu_s: float) -> Appended:
    rows = sum(len(message.readings) for messages in given for message in messages)
    return Appended(rows / sum(took_s), 1e6 * cpu_s / rows, 1e3 * median(took_s))
