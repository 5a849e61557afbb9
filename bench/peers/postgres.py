"""PostgreSQL as a sensor store, as Debian ships it: default settings, fsync on, an index by series and time."""

import os
import pwd
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from bench.dataset import Source
from bench.peers import (
    ALL,
    BAD_FROM,
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
    pause,
    server,
    tell,
    times,
    words,
)

NAME, COLLECTOR = "PostgreSQL", "a collector that inserts row by row into PostgreSQL"
ROOT = 0
USER = "postgres"
START_WITHIN_S = 60.0
TABLE = """
    create table reading (series_id integer not null, ts timestamptz not null, value double precision,
        quality smallint not null);
    create index on reading (series_id, ts);
    create table series (id integer primary key);
"""
COPY_LINE = "concat(series, ',', make_timestamp_ms(ms), '+00,', value, ',', quality)"
INSERT_LINE = """concat('insert into reading values (', series, ',''', make_timestamp_ms(ms), '+00'',',
    coalesce(value::VARCHAR, 'null'), ',', quality, ');')"""
USABLE = f"quality < {BAD_FROM} and value is not null"
IN_RANGE = "ts >= '{start}' and ts < '{end}'"
# The last column is the one that is summed up to compare stores.
SQL = {
    LATEST: """
        select s.id, r.ts, r.quality, r.value from series s cross join lateral
            (select * from reading where series_id = s.id order by ts desc limit 1) r""",
    DAY: f"select ts, quality, value from reading where series_id = {{series}} and {IN_RANGE} order by ts",
    YEAR: f"""
        select floor((extract(epoch from ts) * 1000 - {{start_ms}}) / {{width}}) as point, min(value), max(value),
            avg(value)
        from reading where series_id = {{series}} and {IN_RANGE} and {USABLE} group by point order by point""",
    HOURLY: f"""
        select series_id, date_trunc('hour', ts) as hour, avg(value) from series join reading on series_id = id
        where {IN_RANGE} and {USABLE} group by series_id, hour""",
    OUTLIERS: f"""
        with week as (select series_id, ts, value from series join reading on series_id = id
                      where {IN_RANGE} and {USABLE}),
        usual as (select series_id, avg(value) as mean, stddev_samp(value) as sd from week group by series_id)
        select series_id, ts, value from week join usual using (series_id) where abs(value - mean) > {SIGMAS} * sd""",
    ALL: f"select series_id, count(*), min(value), max(value), avg(value) from reading where {USABLE} group by 1",
}


class Psql:
    """psql at work on a server: its own clock says how long the server needed, the transfer included."""

    def __init__(self, sockets: Path, answers: Path) -> None:
        self._command = (_program("psql"), "-X", "-q", "-A", "-t", "-F", ",", "-v", "ON_ERROR_STOP=1")
        self._place = ("-h", str(sockets), "-U", USER, "postgres")
        self._answers = answers
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            (*self._command, *self._place), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.communicate("\\q\n")

    def run(self, *commands: str) -> None:
        """Each by itself; CalledProcessError where one fails."""
        for command in commands:
            subprocess.run((*self._command, *self._place, "-c", command), check=True, stdout=subprocess.DEVNULL)

    def file(self, commands: Path) -> None:
        """A file of statements, each a transaction of its own."""
        subprocess.run((*self._command, *self._place, "-f", str(commands)), check=True, stdout=subprocess.DEVNULL)

    def ask(self, sql: str) -> tuple[float, list[list[str]]]:
        """Milliseconds by psql's clock, and the answer."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"\\o {self._answers}\n\\timing on\n{words(sql)};\n\\timing off\n\\o\n\\echo ready\n")
        self._process.stdin.flush()
        ms = -1.0
        while (line := self._process.stdout.readline().strip()) != "ready":
            if found := re.match(r"Time: ([\d.]+) ms", line):
                ms = float(found[1])
            elif not line:
                raise RuntimeError(f"psql ended at: {words(sql)}")
        rows = [each.split(",") for each in self._answers.read_text(encoding="utf-8").splitlines()]
        return ms, rows


def missing() -> str:
    """What has to be installed, "" if nothing."""
    return "" if list(_folders()) and shutil.which("psql") else "postgresql (scripts/bench-packages)"


def measure(source: Source, folder: Path, runs: int, most_s: float, singly: int) -> tuple[Found, float]:
    """Load all rows and ask all questions; and rows a second of a collector that commits each of `singly` rows."""
    files = Files(folder)
    with files.running(), Psql(files.sockets, files.scratch) as psql:
        psql.run(TABLE)
        rows, load_s = load(psql, source, files.scratch)
        rate = collect(psql, source, files.scratch, singly)
    with files.running(), Psql(files.sockets, files.scratch) as psql:  # anew: what comes first is asked of cold caches
        size = int(psql.ask("select pg_total_relation_size('reading')")[1][0][0])
        timed = {name: _ask(psql, asks(source.dataset, name, runs), most_s) for name in QUESTIONS}
    return Found(NAME, rows, load_s, size, timed), rate


def load(psql: Psql, source: Source, file: Path) -> tuple[int, float]:
    """Readings and seconds of the COPY of each day, without the time that it took to make them."""
    took_s = 0.0
    for day in range(source.dataset.days):
        source.text(day, file, COPY_LINE)
        began_s = time.perf_counter()
        psql.run(f"\\copy reading from '{file}' with (format csv)")
        took_s += time.perf_counter() - began_s
    psql.run("insert into series select distinct series_id from reading", "vacuum analyze", "checkpoint")
    rows = int(psql.ask("select count(*) from reading")[1][0][0])
    tell(f"{NAME}: {rows:,} readings in {took_s:.0f} s")
    return rows, took_s


def collect(psql: Psql, source: Source, file: Path, rows: int) -> float:
    """Rows a second, each a statement and a commit, into the table that holds everything; they are taken out again."""
    source.text(source.dataset.days - 1, file, INSERT_LINE)
    lines = file.read_text(encoding="utf-8").splitlines()[:rows]
    psql.run("create table sample (like reading including all)")
    file.write_text("\n".join(lines).replace("into reading", "into sample"), encoding="utf-8")
    began_s = time.perf_counter()
    psql.file(file)
    rate = len(lines) / (time.perf_counter() - began_s)
    psql.run("drop table sample")
    tell(f"{COLLECTOR}: {rate:,.0f}/s")
    return rate


class Files:
    """A cluster in a folder, reached by a socket in it only. As root the server runs as the package's own user."""

    def __init__(self, folder: Path) -> None:
        self.sockets, self._data, self.scratch = folder, folder / "data", folder / "scratch"
        self._user = ""
        if os.geteuid() == ROOT:
            owner = pwd.getpwnam(USER)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            folder.parent.chmod(0o711)
            self._user = USER
        initdb = (_program("initdb"), "-A", "trust", "-U", USER, "-E", "UTF8", "--locale=C", "-D", str(self._data))
        with server(*initdb, user=self._user) as process:
            if process.wait() != 0:
                raise RuntimeError(f"initdb in {self._data} ended with {process.returncode}")

    @contextmanager
    def running(self) -> Iterator[None]:
        quiet = ("-c", "log_min_messages=panic")
        place = ("-D", str(self._data), "-k", str(self.sockets), "-c", "listen_addresses=")
        with server(_program("postgres"), *place, *quiet, user=self._user) as process:
            self._wait(process)
            yield

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        ends_s = time.monotonic() + START_WITHIN_S
        ready = (_program("pg_isready"), "-q", "-h", str(self.sockets))
        while subprocess.run(ready, check=False).returncode != 0:
            pause(process, 0.1)
            if time.monotonic() > ends_s:
                raise TimeoutError(f"PostgreSQL does not answer within {START_WITHIN_S:g} s")


def _ask(psql: Psql, given: list[Ask], most_s: float) -> Timed:
    def ask(each: Ask) -> tuple[float, Digest]:
        ms, rows = psql.ask(
            SQL[each.name].format(
                series=each.series,
                start=_time(each.start_ms),
                end=_time(each.end_ms),
                start_ms=each.start_ms,
                width=each.width_ms,
            )
        )
        return ms, Digest(len(rows), sum(float(row[-1] or 0) for row in rows))

    timed = times(given, ask, most_s)
    tell(f"{NAME}: {given[0].name}: {timed.median_ms:.2f} ms")
    return timed


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat()


def _folders() -> Iterator[Path]:
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def _program(name: str) -> str:
    return str(next(_folders()) / name)
