"""A year of 200 series, in our store and in those that people would take instead: size, speed, memory, side by side.

All get the same rows and the same questions (`bench/dataset.py`, `bench/peers`), one store after the other. The page
cache is warm, as it is where rows were just written; the first question after opening is told apart. What a peer
answers is compared with the others, and with us where we are asked the same.
"""

import asyncio
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import psutil  # type: ignore[import-untyped,unused-ignore]

from bench.dataset import Dataset, Source
from bench.figures import Figure, Goal, percentile
from bench.history_asks import SAME
from bench.history_ours import MORE_ROWS, Ours, send
from bench.peers import (
    ALL,
    BATCH,
    DAY,
    HOURLY,
    LATEST,
    OUTLIERS,
    QUESTIONS,
    YEAR,
    Digest,
    Found,
    Timed,
    disagreements,
    influx,
    postgres,
    sqlite,
)
from bench.processes import MB, child, family, output_of

OPENINGS = 5
LOOK_EVERY_S = 0.05
SLOW_MS, SLOW_TIMES = 10.0, 3.0
GOALS = {
    LATEST: Goal(1),
    DAY: Goal(SLOW_MS, or_best=SLOW_TIMES),
    YEAR: Goal(30),
    HOURLY: Goal(40),
    OUTLIERS: Goal(80),
    ALL: None,
}
ENDS_WITHIN_S = 4 * 3600.0
# A process that imports only the store; what it prints: milliseconds to open, bytes in memory.
OPEN = """
import asyncio, pathlib, sys, time
from gateway.store.db import Store
async def main():
    began = time.perf_counter()
    async with Store(pathlib.Path(sys.argv[1])):
        took = time.perf_counter() - began
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        print(1000 * took, 4096 * pages)
asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class Size:
    """Readings in a year (or so many days); how often each question is asked, and for how long at most (of peers); rows
    that the collector inserts one by one; hours between the rounds of our keeper."""

    rows: int
    runs: int = 20
    most_s: float = 60.0
    singly: int = 20_000
    every_h: int = 1
    days: int = 365


FULL = Size(10_000_000)
QUICK = Size(100_000, 5, 5.0, 500, 24, 40)


async def measure(size: Size) -> list[Figure]:
    """All stores, one after the other; each folder is gone before the next one starts."""
    dataset = Dataset.until_today(size.rows, size.days)
    with Source.of(dataset) as source:
        with TemporaryDirectory() as folder:
            ours, peak = await _ours(source, Path(folder) / "data", size)
            opened = [await _open(Path(folder) / "data") for _ in range(OPENINGS)]
        peers, collector = _peers(source, size)
    for name in QUESTIONS:
        stores = {each.name: each.timed[name] for each in peers}
        for line in disagreements(name, ({"we": ours.timed[name]} if name in SAME else {}) | stores):
            raise AssertionError(line)
    return [
        *_sizes(ours, peers),
        *_rates(ours, peers, collector),
        *_answers(ours, peers),
        *_effort(ours, peak, opened),
    ]


async def _ours(source: Source, folder: Path, size: Size) -> tuple[Ours, int]:
    """What it took, and the most bytes that the process and its children held together."""
    dataset = source.dataset
    options = (str(size.rows), str(dataset.end_ms), str(size.days), str(size.runs), str(size.every_h))
    async with child(sys.executable, "-m", "bench.history_ours", str(folder), *options, keep_input=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with weighed(process.pid) as peak:
            for day in range(dataset.days):
                process.stdin.write(send(source.rows(day)))
                await process.stdin.drain()
            process.stdin.write(send([]))
            with suppress(ConnectionError):  # it takes of the rest what it needs
                await _rest(source, process.stdin)
            found: dict[str, Any] = json.loads(await process.stdout.read())
    timed = {name: _timed(each) for name, each in found.pop("timed").items()}
    return Ours(**found, timed=timed), peak[0]


async def _rest(source: Source, stream: asyncio.StreamWriter) -> None:
    left, day = MORE_ROWS, source.dataset.days
    while left > 0:
        rows = source.rows(day)
        stream.write(send(rows) if rows else b"")
        await stream.drain()
        left, day = left - len(rows), day + 1
    stream.write(send([]))


@contextmanager
def weighed(pid: int) -> Iterator[list[int]]:
    """The most bytes of memory (RSS, shared pages counted in each) that a process and its children had at one time."""
    peak, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(LOOK_EVERY_S):
            with suppress(psutil.Error):
                peak[0] = max(peak[0], sum(each.memory_info().rss for each in family(pid)))

    thread = threading.Thread(target=look, name="weigh")
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


async def _open(folder: Path) -> tuple[float, float]:
    ms, rss = (await output_of(sys.executable, "-c", OPEN, str(folder))).split()
    return float(ms), float(rss)


def _peers(source: Source, size: Size) -> tuple[list[Found], float]:
    """Each peer, and rows a second of the collector."""
    found: list[Found] = []
    collector = 0.0
    for peer in (sqlite, postgres, influx):
        if lacking := peer.missing():
            raise RuntimeError(f"not installed: {lacking}")
    with TemporaryDirectory() as folder:
        found.append(sqlite.measure(source, Path(folder), size.runs, size.most_s))
    with TemporaryDirectory() as folder:
        place = Path(folder) / "postgres"
        place.mkdir()
        each, collector = postgres.measure(source, place, size.runs, size.most_s, size.singly)
        found.append(each)
    with TemporaryDirectory() as folder:
        found.append(influx.measure(source, Path(folder), size.runs, size.most_s))
    return found, collector


def _sizes(ours: Ours, peers: list[Found]) -> list[Figure]:
    at_rest = {each.name: each.size / each.rows for each in peers}
    mine = ours.folder / ours.rows
    return [
        _beside("size at rest, the whole folder", mine, "B/reading", at_rest, Goal(2.5)),
        _beside("size at rest beside SQLite", mine, "B/reading", _only(at_rest, sqlite.NAME), _times_less(8)),
        _beside("size at rest beside PostgreSQL", mine, "B/reading", _only(at_rest, postgres.NAME), _times_less(25)),
        Figure("history: of these raw readings", ours.raw / ours.rows, "B/reading"),
        Figure("history: of these rollups", ours.rollups / ours.rows, "B/reading"),
        Figure("history: segments", ours.segments, "files"),
    ]


def _rates(ours: Ours, peers: list[Found], collector: float) -> list[Figure]:
    loads = {each.name: each.rows / each.load_s for each in peers} | {postgres.COLLECTOR: collector}
    return [
        _beside("readings loaded, keeping included", ours.rows / (ours.append_s + ours.keep_s), "/s", loads),
        _beside("readings loaded, keeping apart", ours.rows / ours.append_s, "/s", loads),
    ]


def _answers(ours: Ours, peers: list[Found]) -> list[Figure]:
    figures, slow = [], 0
    for name in QUESTIONS:
        mine = ours.timed[name]
        medians = {each.name: each.timed[name].median_ms for each in peers}
        firsts = {each.name: each.timed[name].first_ms for each in peers}
        slow += mine.median_ms > SLOW_MS and mine.median_ms > SLOW_TIMES * min(medians.values())
        figures.append(_beside(name, mine.median_ms, "ms", medians, GOALS[name]))
        figures.append(_beside(f"{name}, the first after opening", mine.first_ms, "ms", firsts))
    what = f"history: questions slower than {SLOW_MS:g} ms and {SLOW_TIMES:g} times the best peer"
    return [*figures, Figure(what, slow, "questions", goal=Goal(0))]


def _effort(ours: Ours, peak: int, opened: list[tuple[float, float]]) -> list[Figure]:
    rate = BATCH / (median(ours.alone_ms) / 1e3)
    return [
        Figure(f"history: readings appended in batches of {BATCH:,}", rate, "/s", goal=Goal(100_000, at_least=True)),
        Figure("history: such a commit, median", median(ours.alone_ms), "ms"),
        Figure("history: such a commit beside scans and compaction, median", median(ours.beside_ms), "ms"),
        Figure("history: the same, p99", percentile(ours.beside_ms, 99), "ms", goal=Goal(250)),
        Figure("history: the same, longest", max(ours.beside_ms), "ms"),
        Figure("history: scans of everything meanwhile", ours.scans, "scans"),
        Figure("history: segments compacted meanwhile", ours.merged, "segments", goal=Goal(1, at_least=True)),
        Figure(
            "history: open, a process that imports only the store",
            median(ms for ms, _ in opened),
            "ms",
            goal=Goal(1000),
        ),
        Figure("history: its memory", median(rss for _, rss in opened) / MB, "MB", goal=Goal(120)),
        Figure("history: peak memory of ingest, questions and compaction", peak / MB, "MB", goal=Goal(400)),
    ]


def _beside(what: str, value: float, unit: str, peers: Mapping[str, float], goal: Goal | None = None) -> Figure:
    (peer, beside), *others = peers.items()
    return Figure(f"history: {what}", value, unit, peer, beside, goal, tuple(others))


def _only(peers: Mapping[str, float], name: str) -> dict[str, float]:
    return {name: peers[name]}


def _times_less(times: float) -> Goal:
    return Goal(1 / times, of_ratio=True)


def _timed(found: Mapping[str, Any]) -> Timed:
    digests = tuple(Digest(*each) for each in found["digests"])
    return Timed(found["first_ms"], found["median_ms"], found["runs"], digests)
