"""A house of a year for the surface's benchmark: ten million readings in monthly files, and the last hours unsealed.

What is sealed is built once and kept in .cache/bench; each run works on a copy, with readings up to now.
"""

import asyncio
import shutil
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from bench.dataset import DAY_MS, DEVICES, MEMORY_MB, THREADS, Dataset, Row, Source, device, names
from bench.history_ours import batches, messages
from bench.processes import ROOT
from gateway.clock import SystemClock
from gateway.reading import Message, Reading
from gateway.registry.registry import Registry
from gateway.store import codes
from gateway.store.db import Store
from gateway.store.segments import parquet
from gateway.store.segments.layout import Level, Seal, Segment
from gateway.store.segments.parquet import Draft
from gateway.store.types import Device

END = datetime(2026, 11, 1, tzinfo=UTC)
"""The end of what is sealed, which are whole months."""
HOT = timedelta(hours=6)
ROOMS_A_ZONE = 6
ZONES = DEVICES // ROOMS_A_ZONE
COLUMNS = "series_id integer, ts timestamp_ms, value double, quality utinyint"
CACHE = ROOT / ".cache" / "bench"


def zone(at: int) -> str:
    """The zone of a room."""
    return f"wing-{at // ROOMS_A_ZONE:02}"


async def furnish(folder: Path, rows: int, days: int) -> None:
    """A data folder with about so many readings of so many days before END, and some hours up to now."""
    dataset = Dataset(rows, END, days)
    kept = CACHE / f"surface-{rows}-{days}"
    if not (kept / "done").exists():
        shutil.rmtree(kept, ignore_errors=True)
        await _build(kept / "data", dataset)
        (kept / "done").touch()
    await asyncio.to_thread(shutil.copytree, kept / "data", folder)
    async with Store(folder) as store:
        for batch in batches(messages(iter(_fresh(dataset)))):
            await store.append(batch)


async def _build(folder: Path, dataset: Dataset) -> None:
    async with Store(folder) as store:
        await store.append([_first(number) for number in names()])  # so that series have the numbers of the dataset
        known = {series.series_id: (series.device, series.metric) for series in store.series().values()}
        assert known == {number: (name.device, name.quantity.value) for number, name in names().items()}
        registry = Registry(store, SystemClock())
        await registry.load()
        for at in range(DEVICES):
            home = Device(device(at), f"Room {at}", zone_id=zone(at), device_type="room", source="local")
            await registry.declare(home, [], dataset.interval_ms / 1000)
        segments = await asyncio.to_thread(_seal, store.segments_folder, dataset)
        await store.rearrange(lambda _db: None, segments)


def _first(number: int) -> Message:
    name = names()[number]
    reading = Reading(name.device, name.sensor, name.quantity.value, name.quantity, 500.0, END, END)
    return Message(name.device, name.sensor, (reading,), timed=True)


def _fresh(dataset: Dataset) -> list[Row]:
    """The dataset goes on after its end: the hours up to now."""
    now_ms = codes.to_ms(datetime.now(UTC))
    first_ms = now_ms - HOT // timedelta(milliseconds=1)
    with Source.of(dataset) as source:
        days = range((first_ms - dataset.began_ms) // DAY_MS, (now_ms - dataset.began_ms) // DAY_MS + 1)
        return [row for day in days for row in source.rows(day) if first_ms <= row.ms < now_ms]


def _seal(folder: Path, dataset: Dataset) -> list[Segment]:
    """A file a month, as the keeper leaves them."""
    found = []
    with closing(duckdb.connect(config={"memory_limit": f"{MEMORY_MB}MB", "threads": THREADS})) as db:
        db.execute("set TimeZone = 'UTC'")
        for number, days in enumerate(_months(dataset), 1):
            db.execute(f"create or replace temp table month ({COLUMNS})")
            behind_ms = dataset.began_ms + days.stop * DAY_MS
            for day in days:  # without those that are late by some milliseconds: they would be of the next month
                behind_ms = (
                    dataset.began_ms + (days.stop) * DAY_MS
                )  # who is late by some milliseconds would be of the next
                select = "select series, make_timestamp_ms(ms)::timestamp_ms, value, quality"
                db.execute(f"insert into month {select} from ({dataset.day(day)}) where ms < {behind_ms}")
            segment = parquet.write(db, folder, Draft(number, Level.MONTH, behind_ms, (Seal(0, 0, 0),), "month"))
            assert segment is not None
            found.append(segment)
    return found


def _months(dataset: Dataset) -> list[range]:
    """The dataset's days by the month that they are in."""
    found: dict[tuple[int, int], list[int]] = {}
    for day in range(dataset.days):
        at = codes.from_ms(dataset.began_ms + day * DAY_MS)
        found.setdefault((at.year, at.month), []).append(day)
    return [range(days[0], days[-1] + 1) for days in found.values()]
