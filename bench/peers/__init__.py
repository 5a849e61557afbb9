"""The stores that people would take instead, on the same rows and questions, each in a temporary folder of its own."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.dataset import DAY_MS, SERIES, Dataset

BATCH = 1000
BAD_FROM = 128
"""A quality byte from here on says that the value is not to be used."""
POINTS = 500
SIGMAS = 3
STOP_WITHIN_S = 60.0
LEAST_RUNS = 3

LATEST = "latest of 200 series"
DAY = "24 h of one series"
YEAR = "a year of one series to 500 points"
HOURLY = "all series, one day hourly"
OUTLIERS = "a week's z-score, all series"
ALL = "count, min, mean, max of everything by series"
QUESTIONS = (LATEST, DAY, YEAR, HOURLY, OUTLIERS, ALL)


class Ask(NamedTuple):
    """A question about a range of time, its end excluded; about one series (1 to 200) or all of them."""

    name: str
    series: int
    start_ms: int
    end_ms: int

    @property
    def width_ms(self) -> int:
        """Of one of the points that the range is reduced to."""
        return (self.end_ms - self.start_ms) // POINTS


class Digest(NamedTuple):
    """What must be the same in every store: how many rows an answer has, and the sum of one of its columns."""

    rows: int
    total: float

    def agrees(self, other: "Digest") -> bool:
        return self.rows == other.rows and math.isclose(self.total, other.total, rel_tol=1e-6, abs_tol=1e-3)


@dataclass(frozen=True, slots=True)
class Timed:
    """How long a question takes: the first after opening, and the median of the `runs` that followed."""

    first_ms: float
    median_ms: float
    runs: int
    digests: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What a peer needed for all rows; `size` in bytes, of rows and index where the store can tell them apart."""

    name: str
    rows: int
    load_s: float
    size: int
    timed: Mapping[str, Timed]


def asks(dataset: Dataset, name: str, runs: int) -> list[Ask]:
    """As often as it is asked, and once before: each time about another series, or another day."""
    found = []
    for run in range(runs + 1):
        series, end_ms = 1 + 37 * run % SERIES, dataset.end_ms - run * DAY_MS
        if name in {DAY, HOURLY, OUTLIERS}:
            days = 7 if name == OUTLIERS else 1
            found.append(Ask(name, series, end_ms - days * DAY_MS, end_ms))
        elif name == YEAR:
            found.append(Ask(name, series, dataset.began_ms, dataset.end_ms))
        else:
            found.append(Ask(name, series, dataset.began_ms - DAY_MS, dataset.end_ms + DAY_MS))
    return found


def times(given: Sequence[Ask], ask: Callable[[Ask], tuple[float, Digest]], most_s: float) -> Timed:
    """Ask one after the other (ask returns milliseconds and what came), after `most_s` only as often as needed."""
    took_ms, digests = [], []
    began_s = time.perf_counter()
    for each in given:
        ms, digest = ask(each)
        took_ms.append(ms)
        digests.append(digest)
        if time.perf_counter() - began_s > most_s and len(took_ms) > LEAST_RUNS:
            break
    return Timed(took_ms[0], median(took_ms[1:]), len(took_ms) - 1, tuple(digests))


def disagreements(name: str, found: Mapping[str, Timed]) -> list[str]:
    """Which stores answered this question differently from the first one, in words."""
    (first, reference), *others = found.items()
    return [
        f"{name}: {store} answers {digest} where {first} answers {expected} (run {run})"
        for store, timed in others
        for run, (digest, expected) in enumerate(zip(timed.digests, reference.digests, strict=False))
        if not digest.agrees(expected)
    ]


def folder_bytes(folder: Path) -> int:
    """What all files below take of the medium."""
    return sum(each.stat().st_blocks * 512 for each in folder.rglob("*") if each.is_file())


@contextmanager
def server(
    *command: str, user: str = "", environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server as a child (of another user, if one is named) that dies with us; interrupted when the block ends, killed
    if that does not end it."""
    ids = ("--reuid", user, "--regid", user, "--clear-groups") if user else ()
    with subprocess.Popen(
        ("setpriv", *ids, "--pdeathsig", "INT", *command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=os.environ | (environment or {}),
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()


def pause(process: subprocess.Popen[bytes], most_s: float) -> None:
    """Give a server some time; RuntimeError where it ended meanwhile."""
    with suppress(subprocess.TimeoutExpired):
        raise RuntimeError(f"{process.args!r} ended with {process.wait(most_s)}")


def tell(text: str) -> None:
    """Progress, to standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def words(sql: str) -> str:
    """A query on one line."""
    return re.sub(r"\s+", " ", sql).strip()
