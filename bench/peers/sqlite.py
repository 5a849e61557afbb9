"""SQLite as a sensor store: one table that is its own index by series and time, a synced transaction a batch."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from bench.dataset import Source
from bench.peers import (
    ALL,
    BAD_FROM,
    BATCH,
    DAY,
    HOURLY,
    LATEST,
    OUTLIERS,
    QUESTIONS,
    SIGMAS,
    YEAR,
    Ask,
    Digest,
    Found,
    Timed,
    asks,
    tell,
    times,
)

NAME = "SQLite"
CACHE_KIB = 128 * 1024
TABLE = """
    create table reading (series_id integer, ts integer, value real, quality integer, primary key (series_id, ts))
        without rowid
"""
INSERT = "insert into reading values (?, ?, ?, ?)"
USABLE = f"quality < {BAD_FROM} and value is not null"
# The last column is the one that is summed up to compare stores.
SQL = {
    LATEST: """
        select s.id, r.ts, r.quality, r.value from series s
        cross join reading r on r.series_id = s.id and r.ts = (select max(ts) from reading where series_id = s.id)""",
    DAY: "select ts, quality, value from reading where series_id = :series and ts >= :start and ts < :end order by ts",
    YEAR: f"""
        select (ts - :start) / :width as point, min(value), max(value), avg(value) from reading
        where series_id = :series and ts >= :start and ts < :end and {USABLE} group by point order by point""",
    HOURLY: f"""
        select series_id, ts / 3600000 as hour, avg(value) from series cross join reading on series_id = id
        where ts >= :start and ts < :end and {USABLE} group by series_id, hour""",
    OUTLIERS: f"""
        with week as (select series_id, ts, value from series cross join reading on series_id = id
                      where ts >= :start and ts < :end and {USABLE}),
        usual as (select series_id, avg(value) as mean, (sum(value * value) - count(*) * avg(value) * avg(value))
                  / (count(*) - 1) as variance from week group by series_id having count(*) > 1)
        select series_id, ts, value from week join usual using (series_id)
        where (value - mean) * (value - mean) > {SIGMAS * SIGMAS} * variance""",
    ALL: f"select series_id, count(*), min(value), max(value), avg(value) from reading where {USABLE} group by 1",
}


def missing() -> str:
    """Python brings it."""
    return ""


def measure(source: Source, folder: Path, runs: int, most_s: float) -> Found:
    """Load all rows and ask all questions."""
    file = folder / "peer.sqlite"
    rows, load_s = load(file, source)
    size = file.stat().st_size
    with closing(_open(file)) as db:
        timed = {name: _ask(db, asks(source.dataset, name, runs), most_s) for name in QUESTIONS}
    return Found(NAME, rows, load_s, size, timed)


def load(file: Path, source: Source) -> tuple[int, float]:
    """Readings and seconds, without the time that it took to make them."""
    count, took_s = 0, 0.0
    with closing(_open(file)) as db:
        db.execute(TABLE)
        db.execute("create table series (id integer primary key)")
        for day in range(source.dataset.days):
            rows = source.rows(day)
            began_s = time.perf_counter()
            for first in range(0, len(rows), BATCH):
                db.execute("begin")
                db.executemany(INSERT, rows[first : first + BATCH])
                db.execute("commit")
            took_s += time.perf_counter() - began_s
            count += len(rows)
        db.execute("insert into series select distinct series_id from reading")
        began_s = time.perf_counter()
        db.execute("pragma wal_checkpoint(truncate)")
        took_s += time.perf_counter() - began_s
    tell(f"{NAME}: {count:,} readings in {took_s:.0f} s")
    return count, took_s


def _open(file: Path) -> sqlite3.Connection:
    db = sqlite3.connect(file, isolation_level=None)
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = full")
    db.execute(f"pragma cache_size = -{CACHE_KIB}")
    return db


def _ask(db: sqlite3.Connection, given: list[Ask], most_s: float) -> Timed:
    def ask(each: Ask) -> tuple[float, Digest]:
        named = {"series": each.series, "start": each.start_ms, "end": each.end_ms, "width": each.width_ms}
        began_s = time.perf_counter()
        rows = db.execute(SQL[each.name], named).fetchall()
        ms = 1e3 * (time.perf_counter() - began_s)
        return ms, Digest(len(rows), sum(row[-1] or 0.0 for row in rows))

    timed = times(given, ask, most_s)
    tell(f"{NAME}: {given[0].name}: {timed.median_ms:.2f} ms")
    return timed
