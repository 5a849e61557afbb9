"""InfluxDB 1.x as a sensor store: a measurement a quantity, a tag for the device; line protocol over HTTP."""

import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from bench.dataset import Source, names
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
    folder_bytes,
    pause,
    server,
    tell,
    times,
)
from bench.processes import START_WITHIN_S, free_ports

NAME = "InfluxDB 1.x"
LINES = 5000
HOST = "127.0.0.1"
COLD_S = 5
SETTLE_WITHIN_S = 600.0
QUANTITIES = "co2, temperature, humidity, pressure"
USABLE = f"quality < {BAD_FROM}"
IN_RANGE = "time >= {start}ms and time < {end}ms"
# The last column is the one that is summed up to compare stores.
QUERIES = {
    LATEST: f"select last(quality), value from {QUANTITIES} group by device",
    DAY: f"select quality, value from {{quantity}} where device = '{{device}}' and {IN_RANGE}",
    YEAR: f"""select min(value), max(value), mean(value) from {{quantity}}
        where device = '{{device}}' and {IN_RANGE} and {USABLE} group by time({{width}}ms, {{offset}}ms) fill(none)""",
    HOURLY: f"select mean(value) from {QUANTITIES} where {IN_RANGE} and {USABLE} group by device, time(1h) fill(none)",
    ALL: f"select count(value), min(value), max(value), mean(value) from {QUANTITIES} where {USABLE} group by device",
}
USUAL = f"select mean(value), stddev(value) from {QUANTITIES} where {IN_RANGE} and {USABLE} group by device"
UNUSUAL = f"""select value from {{quantity}} where device = '{{device}}' and {IN_RANGE} and {USABLE}
    and (value < {{low}} or value > {{high}})"""


class Influx:
    """A server that answers over HTTP."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self._connection = http.client.HTTPConnection(HOST, port)

    def close(self) -> None:
        self._connection.close()

    def ask(self, query: str) -> list[Any]:
        """The results of the statements in a query."""
        parameters = urlencode({"db": "bench", "epoch": "ms", "q": query})
        found = json.loads(self._post("/query", parameters, "application/x-www-form-urlencoded"))
        for result in found["results"]:
            if "error" in result:
                raise RuntimeError(f"{NAME}: {result['error']} at: {query[:200]}")
        return list(found["results"])

    def write(self, lines: str) -> None:
        self._post("/write?db=bench&precision=ms", lines, "text/plain")

    def _post(self, path: str, body: str, kind: str) -> bytes:
        self._connection.request("POST", path, body.encode(), {"Content-Type": kind})
        response = self._connection.getresponse()
        answer = response.read()
        if response.status >= 300:
            raise RuntimeError(f"{NAME}: {response.status} {answer[:200]!r}")
        return answer


def missing() -> str:
    """What has to be installed, "" if nothing."""
    return "" if shutil.which("influxd") else "influxdb (scripts/bench-packages)"


def measure(source: Source, folder: Path, runs: int, most_s: float) -> Found:
    """Load all rows and ask all questions."""
    with _running(folder) as influx:
        influx.ask("create database bench")
        rows, load_s = load(influx, source, folder / "lines")
        _settle(influx.process, folder)
    size = folder_bytes(folder / "data") + folder_bytes(folder / "wal")
    with _running(folder) as influx:
        timed = {name: _ask(influx, asks(source.dataset, name, runs), most_s) for name in QUESTIONS}
    return Found(NAME, rows, load_s, size, timed)


def load(influx: Influx, source: Source, file: Path) -> tuple[int, float]:
    """Readings and seconds, without the time that it took to make them."""
    rows, took_s = 0, 0.0
    for day in range(source.dataset.days):
        source.text(day, file, _line())
        lines = file.read_text(encoding="utf-8").splitlines()
        for first in range(0, len(lines), LINES):
            part = "\n".join(lines[first : first + LINES])
            began_s = time.perf_counter()
            influx.write(part)
            took_s += time.perf_counter() - began_s
        rows += len(lines)
    file.unlink()
    tell(f"{NAME}: {rows:,} readings in {took_s:.0f} s")
    return rows, took_s


@contextmanager
def _running(folder: Path) -> Iterator[Influx]:
    """Its defaults, but for places and records of itself; it compacts soon, as a year is over in minutes here."""
    port, other = free_ports(2)
    environment = {
        "INFLUXDB_REPORTING_DISABLED": "true",
        "INFLUXDB_BIND_ADDRESS": f"{HOST}:{other}",
        "INFLUXDB_HTTP_BIND_ADDRESS": f"{HOST}:{port}",
        "INFLUXDB_HTTP_LOG_ENABLED": "false",
        "INFLUXDB_LOGGING_LEVEL": "error",
        "INFLUXDB_MONITOR_STORE_ENABLED": "false",
        "INFLUXDB_META_DIR": str(folder / "meta"),
        "INFLUXDB_DATA_DIR": str(folder / "data"),
        "INFLUXDB_DATA_WAL_DIR": str(folder / "wal"),
        "INFLUXDB_DATA_CACHE_SNAPSHOT_WRITE_COLD_DURATION": f"{COLD_S}s",
        "INFLUXDB_DATA_COMPACT_FULL_WRITE_COLD_DURATION": f"{COLD_S}s",
    }
    command = ("influxd", "run", "-config", "/dev/null")
    with server(*command, environment=environment) as process, closing(_wait(process, port)) as influx:
        yield influx


def _wait(process: subprocess.Popen[bytes], port: int) -> Influx:
    ends_s = time.monotonic() + START_WITHIN_S
    while time.monotonic() < ends_s:
        influx = Influx(process, port)
        with suppress(OSError, http.client.HTTPException):
            influx.ask("show databases")
            return influx
        pause(process, 0.1)
    raise TimeoutError(f"{NAME} does not answer within {START_WITHIN_S:g} s")


def _settle(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Until it has compacted all that it will: its files stay the same for three times the time it waits itself."""
    ends_s = time.monotonic() + SETTLE_WITHIN_S
    seen, same_since_s = -1, time.monotonic()
    while time.monotonic() < min(ends_s, same_since_s + 3 * COLD_S):
        with suppress(OSError):
            now = folder_bytes(folder)
            if now != seen:
                seen, same_since_s = now, time.monotonic()
        pause(process, 1)


def _ask(influx: Influx, given: list[Ask], most_s: float) -> Timed:
    def ask(each: Ask) -> tuple[float, Digest]:
        began_s = time.perf_counter()
        results = _outliers(influx, each) if each.name == OUTLIERS else influx.ask(_query(QUERIES[each.name], each))
        ms = 1e3 * (time.perf_counter() - began_s)
        rows = [row for result in results for part in result.get("series", ()) for row in part["values"]]
        return ms, Digest(len(rows), sum(row[-1] or 0.0 for row in rows))

    timed = times(given, ask, most_s)
    tell(f"{NAME}: {given[0].name}: {timed.median_ms:.2f} ms")
    return timed


def _outliers(influx: Influx, each: Ask) -> list[Any]:
    """InfluxQL compares with numbers only: first mean and deviation, then a statement a series, sent together."""
    parts = []
    for part in influx.ask(_query(USUAL, each))[0]["series"]:
        _, mean, deviation = part["values"][0]
        if deviation is not None:
            named = {"quantity": part["name"], "device": part["tags"]["device"], "start": each.start_ms}
            bounds = {"low": mean - SIGMAS * deviation, "high": mean + SIGMAS * deviation}
            parts.append(UNUSUAL.format(**named, **bounds, end=each.end_ms))
    return influx.ask(";".join(parts))


def _query(query: str, each: Ask) -> str:
    name = names()[each.series]
    return query.format(
        quantity=name.quantity.value,
        device=name.device,
        start=each.start_ms,
        end=each.end_ms,
        width=each.width_ms,
        offset=each.start_ms % each.width_ms,
    )


def _line() -> str:
    """SQL of a reading in line protocol."""
    keys = ", ".join(f"'{name.quantity.value},device={name.device}'" for _, name in sorted(names().items()))
    return f"concat([{keys}][series], ' ', 'value=' || value || ',', 'quality=', quality, 'i ', ms)"
