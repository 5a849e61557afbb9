"""What assistants' Python costs: the start of a zygote, a warm question of each kind, memory, and its end when idle.

The table of the warm questions is a day of one reading a minute. The peer of memory is a process that has only imported
the same libraries. Children are weighed by their share of shared pages (PSS), which needs root or the same user.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.figures import Figure, Goal, percentile
from bench.processes import MB, child
from gateway.jail.analysis import Analysis
from gateway.jail.child import pss_bytes
from gateway.jail.table import Builder, Table

ANALYSIS = """
hourly = df.set_index("time").co2.resample("1h").agg(["mean", "max"])
result = {"hours": hourly, "p95": float(df.co2.quantile(0.95)), "high": int((df.co2 > 1000).sum())}
"""
PLOT = """
plt.figure(figsize=(8, 4))
plt.plot(df["time"], df["co2"], label="co2")
plt.title("CO2 of a day")
plt.ylabel("ppm")
plt.legend()
"""
FUNCTION = (
    "def dew_point(t, h):\n    g = math.log(h / 100) + 17.62 * t / (243.12 + t)\n    return 243.12 * g / (17.62 - g)"
)
IMPORTS = "import matplotlib.pyplot, pandas; print(flush=True); __import__('sys').stdin.read()"
PEER = "a python that imports pandas and matplotlib"
IDLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Size:
    """`starts` of each zygote, warm `questions` of each kind."""

    starts: int
    questions: int


FULL, QUICK = Size(5, 40), Size(2, 8)


def day() -> Table:
    """One reading a minute."""
    builder = Builder([("device_id", "VARCHAR", "text"), ("time", "TIMESTAMP", "ts"), ("co2", "DOUBLE", "f8")])
    first_us, minute_us = 1_767_225_600_000_000, 60_000_000
    builder.extend([("study", first_us + at * minute_us, 600.0 + (at * 37) % 700) for at in range(1440)])
    return builder.table()


async def measure(size: Size) -> list[Figure]:
    """All figures."""
    with TemporaryDirectory() as folder:
        figures = await _starts(size, Path(folder))
        return figures + await _warm(size, Path(folder))


async def _starts(size: Size, folder: Path) -> list[Figure]:
    """Zygotes from nothing to ready, their own attacks on themselves included."""
    full_s, plain_s = [], []
    first_s = 0.0
    for at in range(size.starts + 1):
        async with Analysis(folder / "analysis") as analysis:
            full = await _timed(analysis.warm)
            plain_s.append(await _timed(analysis.check))
        if at == 0:
            first_s = full  # it also makes the list of fonts
        else:
            full_s.append(full)
    return [
        Figure("zygote with pandas: the very first start", first_s, "s"),
        Figure("zygote with pandas: start", median(full_s), "s"),
        Figure("zygote without: start", 1000 * median(plain_s), "ms"),
    ]


async def _warm(size: Size, folder: Path) -> list[Figure]:
    table = day()
    async with Analysis(folder / "analysis") as analysis:
        await analysis.warm()
        await analysis.check()
        weighed = await _weigh(analysis)
        kinds: dict[str, tuple[Callable[[], Awaitable[object]], float]] = {
            "analyze, 1,440 rows": (lambda: analysis.analyze(table, ANALYSIS), 150.0),
            "plot, 1,440 points": (lambda: analysis.plot(table, PLOT), 600.0),
            "call of a function": (lambda: analysis.call(FUNCTION, "dew_point", {"t": 20, "h": 50}), 50.0),
        }
        figures = []
        for name, (ask, most_ms) in kinds.items():
            took_ms = [1000 * await _timed(ask) for _ in range(size.questions)]
            figures.append(Figure(f"{name}: warm, p50", median(took_ms), "ms", goal=Goal(most_ms)))
            figures.append(Figure(f"{name}: warm, p99", percentile(took_ms, 99), "ms"))
        peak_bytes = (await analysis.analyze(table, ANALYSIS)).peak_bytes
        figures.append(
            Figure("resident memory of an analysis' own process, shared pages counted whole", peak_bytes / MB, "MB")
        )
    return figures + weighed + [await _gone(folder)]


async def _gone(folder: Path) -> Figure:
    """From the last answer until the process is no more."""
    async with Analysis(folder / "analysis", idle_s=IDLE_S) as analysis:
        await analysis.analyze(day(), ANALYSIS)
        gone_s = await _timed(lambda: _all_gone(analysis))
        counts = analysis.counts["analysis"]
        assert (counts.started, counts.killed, counts.crashed, counts.retired) == (1, 0, 0, 1), counts
    return Figure(f"zygote gone after its last answer, with {IDLE_S:g} s of patience", gone_s, "s")


async def _weigh(analysis: Analysis) -> list[Figure]:
    """Memory of both zygotes while they wait; the peer stands beside them, so that it shares what they share."""
    async with child(sys.executable, "-c", IMPORTS, environment={"MPLBACKEND": "Agg"}, keep_input=True) as peer:
        assert peer.stdout is not None
        await peer.stdout.readline()
        pids = analysis.pids
        return [
            Figure(
                "zygote with pandas: memory", pss_bytes(pids["analysis"]) / MB, "MB", PEER, pss_bytes(peer.pid) / MB
            ),
            Figure("zygote without: memory", pss_bytes(pids["functions"]) / MB, "MB"),
        ]


async def _all_gone(analysis: Analysis) -> None:
    """Wait for the end of each zygote."""
    for pid in analysis.pids.values():
        descriptor = os.pidfd_open(pid)
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)


async def _timed(ask: Callable[[], Awaitable[object]]) -> float:
    began_s = time.perf_counter()
    await ask()
    return time.perf_counter() - began_s
