"""The query worker, a confined child: an engine in memory over what the gateway hands to it, for assistants' SELECTs.

It sees the files of sealed readings as descriptors, and copies of hot rows and small tables; of tokens, keys and audit
it never hears. Three layers, each of which would do: the statement is checked, the engine has no files and no settings
to change, and the system-call filter refuses every open.

Questions: `take` descriptors (they follow the frame), `load` what they hold, `query`, `parquet`.
"""

import contextlib
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import duckdb

from gateway.jail import frames, guard, rows, sql_check
from gateway.jail.handed import PREFIX, Handed
from gateway.jail.seccomp import PYTHON, Profile
from gateway.jail.table import Table

MEMORY_MB = 96
"""What the engine may plan with; a bomb may take SPARE_MB of address space, then it fails."""
SPARE_MB = 320
DESCRIPTORS = 4096
OPEN_FILES_PER_FRAME = 200
QUESTION_BYTES = 32 << 20
TABLES = ("dated", "device", "sensor", "series", "zone", "event")
PROFILE = Profile("sql", PYTHON.free | {"pread64", "recvmsg", "sysinfo"}, PYTHON.checked)
"""No open, no socket, no thread, no process: only the descriptors that are there, and those that the gateway sends."""

_EMPTY = """
create schema base;
create table base.dated (series_id INTEGER, ts TIMESTAMP_MS, value DOUBLE, quality UTINYINT);
create table base.reading (series_id INTEGER, ts TIMESTAMP_MS, value DOUBLE, quality UTINYINT);
"""
SETTINGS = (
    "set global TimeZone = 'UTC'",
    "set global parquet_metadata_cache = true",
    "set global lambda_syntax = 'ENABLE_SINGLE_ARROW'",  # as people wrote it for years
    "set global python_enable_replacements = false",
    "set global allow_community_extensions = false",
    "set global allow_persistent_secrets = false",
    "set global max_temp_directory_size = '0B'",
    f"set global allowed_directories = ['{PREFIX}']",
    "set global enable_external_access = false",
    "set global disabled_filesystems = 'LocalFileSystem'",
    "set global lock_configuration = true",
)
_WORN_OUT = (duckdb.FatalException, duckdb.InternalException)
"""After these the engine is not to be trusted: the process ends, and the next question gets a new one."""

Check = Callable[[duckdb.DuckDBPyConnection, str, Iterable[str]], str]
Answer = tuple[Mapping[str, Any], bytes]


class Worker:
    """Answers what the gateway asks; one thread, one question at a time."""

    def __init__(self, check: Check = sql_check.check, settings: Sequence[str] = SETTINGS) -> None:
        self._check, self._settings = check, settings
        self._files = Handed()
        self._tables: dict[str, str] = {}
        self._taken = 0
        self._views: frozenset[str] = frozenset()
        self._state: str | None = None
        self._wire: socket.socket | None = None
        self._watch = Watch()

    def open(self) -> None:
        """Everything that needs a file, a thread or a new library happens here, before the locks close."""
        self._wire = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=0)
        config: dict[str, Any] = {
            "memory_limit": f"{MEMORY_MB}MB",
            "threads": 2,
            "async_threads": 1,
            "temp_directory": "",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        self._db = duckdb.connect(":memory:", config=config)
        self._db.execute(_EMPTY)
        self._maker = self._db.cursor()
        self._maker.execute("set schema = 'base'")
        self._files.register(self._db)
        for setting in self._settings:
            self._db.execute(setting)
        self._rehearse()
        self._watch.start()

    def answer(self, header: frames.Header, body: bytes) -> Answer:
        """Errors are answers, except those after which nothing can be trusted."""
        try:
            return self._dispatch(header, body)
        except sql_check.Refused as error:
            return {"refused": str(error)}, b""
        except _WORN_OUT:
            raise
        except (duckdb.Error, ValueError, OverflowError) as error:
            late = isinstance(error, duckdb.InterruptException)
            return {"failed": "late" if late else _plain(str(error))}, b""
        except MemoryError:
            return {"failed": "memory"}, b""

    def _dispatch(self, header: frames.Header, body: bytes) -> Answer:
        match header["do"]:
            case "take":
                return self._take(header["names"])
            case "load":
                return self._load(header)
            case "parquet":
                return {}, self._parquet(Table.decode(body), header["limit_s"])
            case _ if header["state"] != self._state:
                return {"stale": True}, b""
            case _:
                return self._query(header["sql"], header["parameters"], header["limit_s"])

    def _take(self, names: Sequence[str]) -> Answer:
        assert self._wire is not None
        _, descriptors, _, _ = socket.recv_fds(self._wire, 1, OPEN_FILES_PER_FRAME)
        if len(descriptors) != len(names):
            raise ValueError(f"{len(descriptors)} descriptors came, {len(names)} were named")
        for name, descriptor in zip(names, descriptors, strict=True):
            self._files.add(self._fresh(name) if name in TABLES else name, descriptor)
        return {}, b""

    def _fresh(self, table: str) -> str:
        """Another name each time: the engine remembers of a name what it has read there."""
        self._taken += 1
        self._files.drop(self._tables.get(table, ""))
        self._tables[table] = f"{table}-{self._taken}"
        return self._tables[table]

    def _load(self, header: frames.Header) -> Answer:
        """Take over what was handed: whole tables, more hot rows, other segments, other views. What is given on top of
        another state than this worker's is `stale`."""
        before, self._state = self._state, None
        if header["after"] not in {None, before} or not self._files.names >= set(header["segments"]):
            return {"stale": True}, b""
        for table, name in self._tables.items():
            append = table == "dated" and header["after"] is not None
            into = f"insert into base.{table}" if append else f"create or replace table base.{table} as"
            self._db.execute(f"{into} from read_parquet('{PREFIX}{name}')")
            self._files.drop(name)
        self._tables.clear()
        for name in self._files.names - set(header["segments"]):
            self._files.drop(name)
        for name, query in header["views"]:
            self._maker.execute(f'create or replace view base."{name}" as {query}')
            if name in header["public"]:
                self._db.execute(f'create or replace view main."{name}" as select * from base."{name}"')  # noqa: S608
        if header["views"]:
            self._views = frozenset(header["public"])
        self._state = header["state"]
        return {}, b""

    def _query(self, sql: str, parameters: Any, limit_s: float) -> Answer:
        started = time.monotonic()
        text = self._check(self._db, sql, self._views)
        with self._cursor(limit_s) as cursor:
            cursor.execute("begin transaction read only")
            found = (
                rows.explained(cursor, text, parameters)
                if text.startswith("EXPLAIN ")
                else rows.run(cursor, text, parameters)
            )
        told = {"total": found.total, "truncated": found.total > found.table.rows, "counted": found.counted}
        return told | {"took_us": round(1e6 * (time.monotonic() - started))}, found.table.encode()

    def _parquet(self, table: Table, limit_s: float) -> bytes:
        """The table as a Parquet file, written to memory."""
        names = [f'"{name}"' for name in _distinct([each.name.replace('"', "'") for each in table.columns])]
        values = [each.raw_cells() for each in table.columns]
        made = {"f8": "DOUBLE", "i8": "BIGINT", "bool": "BOOLEAN", "ts": "BIGINT", "text": "VARCHAR"}
        lists = [f"unnest(${at}::{made[each.kind]}[]) as c{at}" for at, each in enumerate(table.columns, 1)]
        picked = [
            f"make_timestamp(c{at}) as {name}" if each.kind == "ts" else f"c{at} as {name}"
            for at, (each, name) in enumerate(zip(table.columns, names, strict=True), 1)
        ]
        with self._cursor(limit_s) as cursor:
            sink = self._files.catch("result")
            try:
                cursor.execute(
                    f"copy (select {', '.join(picked)} from (select {', '.join(lists)})) "  # noqa: S608
                    f"to '{PREFIX}result' (format parquet, compression zstd, use_tmp_file false)",
                    values,
                )
            finally:
                self._files.release()
            return sink.getvalue()

    @contextlib.contextmanager
    def _cursor(self, limit_s: float) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of its own, so that nothing of one caller is left for the next; interrupted when time is up."""
        cursor = self._db.cursor()
        try:
            with self._watch.over(cursor, limit_s):
                yield cursor
        finally:
            with contextlib.suppress(duckdb.Error):
                cursor.execute("rollback")
            cursor.close()

    def _rehearse(self) -> None:
        """Start the engine's threads and load what Python loads late."""
        self._db.execute("select sum(i) from range(1000000) t(i)").fetchall()
        with self._cursor(10) as cursor:
            rows.run(
                cursor, "select now() as t, 1 as i, 'a' as s, true as b, [1] as l, {'a': 1} as o, 1::HUGEINT as h", []
            )
        with contextlib.suppress(duckdb.Error, sql_check.Refused):
            sql_check.check(self._db, "select nothing from nowhere", ())


class Watch:
    """One thread that interrupts what takes too long."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watched: tuple[duckdb.DuckDBPyConnection, float] | None = None

    def start(self) -> None:
        """For as long as the process lives."""
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    @contextlib.contextmanager
    def over(self, cursor: duckdb.DuckDBPyConnection, limit_s: float) -> Iterator[None]:
        """Interrupt the body's question again and again once its time is up."""
        with self._changed:
            self._watched = (cursor, time.monotonic() + limit_s)
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._watched = None

    def _run(self) -> None:
        with self._changed:
            while True:
                if self._watched is None:
                    self._changed.wait()
                    continue
                cursor, until = self._watched
                left = until - time.monotonic()
                if left <= 0:
                    cursor.interrupt()
                self._changed.wait(max(left, 0.02))


def _distinct(names: Sequence[str]) -> list[str]:
    """The same names, each of them once (SQL does not tell upper from lower case)."""
    given: list[str] = []
    for name in names:
        fresh, count = name, 1
        while fresh.lower() in (each.lower() for each in given):
            fresh, count = f"{name}_{count}", count + 1
        given.append(fresh)
    return given


def _plain(text: str) -> str:
    """The engine's words without what it draws below them."""
    text = text.partition("\n\nLINE ")[0].strip()
    if text.startswith("Traceback"):  # of the file system, which is Python
        text = text.splitlines()[-1]
    return " ".join(text.split())[:400]


def main(worker: Worker, profile: Profile | None = PROFILE) -> None:
    """Open, lock, serve. `profile` None is for tests of what the other layers hold."""
    layers: tuple[str, ...] = ()
    try:
        worker.open()
        if profile is not None:
            pages = int(_first("/proc/self/statm").split()[0])
            memory = pages * resource.getpagesize() + (SPARE_MB << 20)
            limits = guard.Limits(memory, descriptors=DESCRIPTORS, processes=None)
            layers = guard.confine(profile, limits, (0, 1, 2), parent=int(sys.argv[1]))
    except (duckdb.Error, OSError, RuntimeError) as error:
        frames.write(0, frames.pack({"ready": False, "error": _plain(str(error))}))
        os._exit(1)
    frames.write(0, frames.pack({"ready": True, "layers": layers}))
    while (asked := frames.read(0, QUESTION_BYTES)) is not None:
        frames.write(0, frames.pack(*worker.answer(*asked)))
    os._exit(0)  # the interpreter's own way out asks for more than the filter gives


def _first(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.readline()


if __name__ == "__main__":
    main(Worker())
