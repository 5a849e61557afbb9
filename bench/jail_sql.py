"""Assistants' SQL: the query worker's start, warm questions, questions over ten million readings, and its memory."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import duckdb

from bench.figures import Figure, Goal
from bench.processes import MB
from drivers.model import Quantity
from gateway.jail.child import pss_bytes
from gateway.jail.questions import Questions
from gateway.reading import Message, Reading
from gateway.store import codes
from gateway.store.db import Store
from gateway.store.segments import parquet
from gateway.store.segments.layout import DAY_MS, Level, Seal, Segment
from gateway.store.segments.parquet import Draft

END = datetime(2026, 11, 1, tzinfo=UTC)
SERIES = 200
BATCH = 100
OWNER = "bench"
IN_PROCESS = "the same in the gateway's process"
DAY = (
    "select device_id, avg(value) from measurements where time >= $1 and metric_type = 'co2' group by all order by all"
)
SCAN = "select metric_type, count(*), avg(value), max(value) from measurements group by all order by all"
HOURS = """select time_bucket(interval 1 day, bucket) as t, max(max) from measurements_hourly
    where bucket >= $1 group by t order by t"""


@dataclass(frozen=True, slots=True)
class Size:
    """Sealed readings in twelve months, readings in the hot file, and how often each question is asked."""

    sealed: int
    hot: int
    times: int


FULL, QUICK = Size(10_000_000, 300_000, 20), Size(60_000, 4_000, 2)


async def measure(size: Size) -> list[Figure]:
    """Fill a store, ask the worker, and ask the store itself the same."""
    with TemporaryDirectory() as name:
        async with Store(Path(name)) as store:
            await _fill(store, size)
            async with Questions(store) as questions:
                return await _asked(store, questions, size)


async def _asked(store: Store, questions: Questions, size: Size) -> list[Figure]:
    async def ask(sql: str, *given: str) -> float:
        return await _ms(lambda: questions.run(sql, list(given), owner=OWNER))

    async def ask_here(sql: str, *given: str) -> float:
        return await _ms(lambda: store.read(lambda db: db.execute(sql, list(given)).fetchall()))

    first_ms = await ask("select 1")
    fresh_bytes = pss_bytes(questions.worker.pid or 0)
    what = f"{size.sealed:,} sealed and {size.hot:,} hot readings"
    figures = [
        Figure(f"SQL: first answer, with {what}: start and everything handed over", first_ms, "ms"),
        Figure("SQL: warm question, nothing new", await _median(size, lambda: ask("select 1")), "ms", goal=Goal(60)),
    ]
    fresh = []
    for number in range(size.times):
        await store.append(_messages(size.hot // BATCH + number))
        fresh.append(await ask("select 1"))
    figures.append(Figure(f"SQL: warm question after {BATCH} new readings", median(fresh), "ms", goal=Goal(60)))
    day, month = (str((END - timedelta(days=days)).replace(tzinfo=None)) for days in (1, 30))
    for title, sql, given in (
        ("mean of a day by device", DAY, (day,)),
        ("daily maxima of a month from measurements_hourly", HOURS, (month,)),
        ("count, mean and maximum of everything by metric", SCAN, ()),
    ):
        ours = await _median(size, lambda sql=sql, given=given: ask(sql, *given))  # type: ignore[misc]
        theirs = await _median(size, lambda sql=sql, given=given: ask_here(sql, *given))  # type: ignore[misc]
        figures.append(Figure(f"SQL: {title}, {what}", ours, "ms", IN_PROCESS, theirs))
    figures += [
        Figure("SQL: memory of the worker, fresh (PSS)", fresh_bytes / MB, "MB"),
        Figure("SQL: memory of the worker after all questions (PSS)", pss_bytes(questions.worker.pid or 0) / MB, "MB"),
    ]
    return figures


async def _median(size: Size, ask: Callable[[], Awaitable[float]]) -> float:
    return median([await ask() for _ in range(size.times)])


async def _ms(ask: Callable[[], Awaitable[object]]) -> float:
    began_s = time.perf_counter()
    await ask()
    return 1000 * (time.perf_counter() - began_s)


async def _fill(store: Store, size: Size) -> None:
    for number in range(size.hot // BATCH):
        await store.append(_messages(number))
    segments = await asyncio.to_thread(_seal, store.segments_folder, size)
    await store.rearrange(lambda _db: None, segments)


def _messages(number: int) -> list[Message]:
    """A batch: half of the series, by turns."""
    at = END + timedelta(seconds=number)
    found = []
    for series in range(number % 2, SERIES, 2):
        quantity = Quantity.CO2 if series % 4 < 2 else Quantity.TEMPERATURE
        value = float(400 + (series * 7 + number) % 300)
        device = f"device-{series // 4}"
        reading = Reading(device, f"sensor-{series % 4}", quantity.value, quantity, value, at, at)
        found.append(Message(reading.device, reading.sensor, (reading,)))
    return found


def _seal(folder: Path, size: Size) -> list[Segment]:
    """A year of months, as the keeper leaves them."""
    each, found = size.sealed // 12, []
    with closing(duckdb.connect(config={"memory_limit": "512MB", "threads": 2})) as db:
        db.execute("set TimeZone = 'UTC'")
        for month in range(12):
            first_ms = codes.to_ms(END) - (12 - month) * 30 * DAY_MS
            raw = f"""(select (1 + i % {SERIES})::INTEGER as series_id, make_timestamp_ms({first_ms}
                + i // {SERIES} * {SERIES} * {30 * DAY_MS} // {each})::TIMESTAMP_MS as ts,
                (400 + (hash(i) % 300) / 10)::DOUBLE as value, 0::UTINYINT as quality from range({each}) r(i))"""
            draft = Draft(month + 1, Level.MONTH, first_ms, (Seal(0, 0, 0),), raw)
            segment = parquet.write(db, folder, draft)
            assert segment is not None
            found.append(segment)
    return found
