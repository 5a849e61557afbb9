"""Sealed history as Parquet or as read-only DuckDB files: 120 months of the same readings, asked the same questions.

Each answer is given by a process of its own that has attached or listed everything: what an assistant's question gets.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import duckdb

from bench.dataset import SERIES, Dataset
from bench.figures import Figure, Goal
from bench.processes import MB, output_of
from bench.replay import peak_resident
from gateway.store import codes
from gateway.store.schema import migrate
from gateway.store.segments import parquet
from gateway.store.segments.layout import DAY_MS, Level, Segment
from gateway.store.segments.parquet import Draft
from gateway.store.segments.view import View

END = datetime(2026, 11, 1, tzinfo=UTC)
MONTH_DAYS, YEAR_DAYS = 30, 365
PEER = "read-only DuckDB files"
MEMORY_MB, THREADS = 128, 2
POINTS = 500
ONE = 2
"""The series that is asked for: a temperature."""


@dataclass(frozen=True, slots=True)
class Size:
    """Readings a month, and how often each question is asked."""

    months: int
    rows: int
    times: int


FULL, QUICK = Size(120, 200_000, 7), Size(12, 6_000, 2)


class Month(NamedTuple):
    """One stretch of history, as Parquet and as a table of a DuckDB file."""

    first_ms: int
    last_ms: int
    parquet: dict[str, Any]
    duckdb: str


class Answers(NamedTuple):
    """Of one format. Milliseconds; `ready_ms` from the first line of code to being able to ask, `resident` in bytes."""

    ready_ms: float
    first_ms: float
    newest_ms: float
    day_ms: float
    year_ms: float
    scan_ms: float
    ready_resident: int
    resident: int
    told: list[Any]


async def measure(size: Size) -> list[Figure]:
    """Make both, ask both; RuntimeError where they answer differently."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        rows, sizes = make(folder, size)
        answers = [
            Answers(**json.loads(await output_of(sys.executable, "-m", "bench.formats", each, name, str(size.times))))
            for each in FORMATS
        ]
        if answers[0].told != answers[1].told:
            raise RuntimeError(f"the formats answer differently: {answers[0].told} and {answers[1].told}")
    return list(_figures(size, [each / rows for each in sizes], *answers))


def _figures(size: Size, sizes: Sequence[float], ours: Answers, theirs: Answers) -> Iterator[Figure]:
    what = f"{size.months} months of {size.rows:,} readings"
    yield Figure(f"{what}: at rest", sizes[0], "bytes a reading", PEER, sizes[1], Goal(2.5))
    for name, title in (
        ("ready_ms", "a new process can ask all of it"),
        ("first_ms", "its first answer, a day of one series"),
        ("newest_ms", f"newest of {SERIES} series, in the last month"),
        ("day_ms", "a day of one series"),
        ("year_ms", f"a year of one series to {POINTS} points"),
        ("scan_ms", "newest of all series, in everything"),
    ):
        yield Figure(f"{what}: {title}", getattr(ours, name), "ms", PEER, getattr(theirs, name))
    for name, title in (("ready_resident", "RSS when it can ask"), ("resident", "peak RSS after all questions")):
        yield Figure(f"{what}: {title}", getattr(ours, name) / MB, "MB", PEER, getattr(theirs, name) / MB)


def make(folder: Path, size: Size) -> tuple[int, list[int]]:
    """Write both; how many readings each of them has, and their bytes."""
    months: list[Month] = []
    rows = 0
    with closing(duckdb.connect(config={"memory_limit": "512MB", "threads": THREADS})) as db:
        db.execute("set TimeZone = 'UTC'")
        dataset = Dataset(size.rows * size.months, END, size.months * MONTH_DAYS)
        for number in range(size.months):
            months.append(_month(db, folder, dataset, number))
            rows += months[-1].parquet["rows"]
    (folder / "months.json").write_text(json.dumps(months), encoding="utf-8")
    return rows, [sum(file.stat().st_size for file in folder.glob(f"*.{each}")) for each in FORMATS]


def _month(db: duckdb.DuckDBPyConnection, folder: Path, dataset: Dataset, number: int) -> Month:
    db.execute("create or replace table month (series_id INTEGER, ts TIMESTAMP_MS, value DOUBLE, quality UTINYINT)")
    for day in range(number * MONTH_DAYS, (number + 1) * MONTH_DAYS):
        columns = "series, make_timestamp_ms(ms)::TIMESTAMP_MS, value, quality"
        db.execute(f"insert into month select {columns} from ({dataset.day(day)})")
    segment = parquet.write(db, folder, Draft(number + 1, Level.MONTH, 0, (), "month"))
    if segment is None:
        raise ValueError(f"month {number} of {dataset.rows} readings a year is empty: ask for more")
    name = f"m{number:03}"
    db.execute(f"attach '{folder / name}.duckdb' as {name}")
    db.execute(f"create table {name}.reading as select * from month order by series_id, ts")
    db.execute(f"checkpoint {name}")
    db.execute(f"detach {name}")
    told = asdict(segment) | {"seals": [], "replaces": [], "expired": []}
    return Month(segment.first_ms, segment.last_ms, told, name)


Rows = Callable[[Sequence[int] | None, int | None, int | None], str]
"""SQL of the readings of these series and this range, as `View.raw`."""


def as_parquet(db: duckdb.DuckDBPyConnection, folder: Path, months: Sequence[Month]) -> Rows:
    """The way of the store: the list of segments tells which files are opened at all."""
    segments = tuple(Segment(**month.parquet | {"level": Level.MONTH}) for month in months)
    migrate(db, "memory")
    return View(db, segments, folder).raw


def as_duckdb(db: duckdb.DuckDBPyConnection, folder: Path, months: Sequence[Month]) -> Rows:
    """Each month attached; the same list tells which tables are read."""
    for month in months:
        db.execute(f"attach '{folder / month.duckdb}.duckdb' as {month.duckdb} (read_only)")

    def rows(series: Sequence[int] | None, start_ms: int | None, end_ms: int | None) -> str:
        terms = [f"series_id in ({', '.join(map(str, series))})"] if series is not None else []
        terms += [f"ts >= make_timestamp_ms({start_ms})::TIMESTAMP_MS"] if start_ms is not None else []
        terms += [f"ts < make_timestamp_ms({end_ms})::TIMESTAMP_MS"] if end_ms is not None else []
        where = f"where {' and '.join(terms)}" if terms else ""
        found = [
            month.duckdb
            for month in months
            if (start_ms is None or month.last_ms >= start_ms) and (end_ms is None or month.first_ms < end_ms)
        ]
        return parquet.union([f"(select * from {name}.reading {where})" for name in found])

    return rows


FORMATS = {"parquet": as_parquet, "duckdb": as_duckdb}


def ask(name: str, folder: Path, times: int) -> Answers:
    """In a process that has just begun."""
    months = [Month(*month) for month in json.loads((folder / "months.json").read_text(encoding="utf-8"))]
    began_s = time.perf_counter()
    with closing(duckdb.connect(config={"memory_limit": f"{MEMORY_MB}MB", "threads": THREADS})) as db:
        db.execute("set TimeZone = 'UTC'")
        rows = FORMATS[name](db, folder, months)
        ready_ms, ready_resident = 1e3 * (time.perf_counter() - began_s), peak_resident()
        end_ms = codes.to_ms(END)
        middle_ms = months[len(months) // 2].first_ms + DAY_MS
        newest = "select series_id, max(ts), arg_max(value, ts) from {} group by series_id order by series_id"
        width_ms = YEAR_DAYS * DAY_MS // POINTS
        year = f"""select epoch_ms(ts) // {width_ms} as span, min(value), max(value), avg(value), count(*)
            from {rows([ONE], end_ms - YEAR_DAYS * DAY_MS, end_ms)} where quality < 128 group by span order by span"""
        questions = {
            "day": f"select ts, value, quality from {rows([ONE], middle_ms, middle_ms + DAY_MS)} order by ts",
            "newest": newest.format(rows(None, months[-1].first_ms, None)),
            "year": year,
            "scan": newest.format(rows(None, None, None)),
        }
        first_ms, _ = _timed(db, questions["day"])
        took_ms, told = {}, []
        for key, query in questions.items():
            found = [_timed(db, query) for _ in range(times)]
            took_ms[key] = median(each for each, _ in found)
            told.append([len(found[0][1]), str(found[0][1][:2]), str(found[0][1][-2:])])
    return Answers(
        ready_ms,
        first_ms,
        took_ms["newest"],
        took_ms["day"],
        took_ms["year"],
        took_ms["scan"],
        ready_resident,
        peak_resident(),
        told,
    )


def _timed(db: duckdb.DuckDBPyConnection, query: str) -> tuple[float, list[Any]]:
    began_s = time.perf_counter()
    found = db.execute(query).fetchall()
    return 1e3 * (time.perf_counter() - began_s), found


if __name__ == "__main__":
    print(json.dumps(ask(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))._asdict()))
