"""The whole way, from PUBLISH to what a query shows, ours beside what users would pick: `python -m bench.contest`.

Everybody gets the same messages (QoS 1) with a broker, a folder and processes of its own, one after the other. A trial
is `flood`, as fast as the broker takes them; `queue`, taken by the broker while the contestant is held (SIGSTOP); or
`kill`, a flood in which the ingest gets SIGKILL at a third and is started again. `scripts/bench-peers` sets peers up.
"""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.contestants.base import Contestant, playing
from bench.contestants.fleet import DEVICES, Work, loading
from bench.contestants.floors import Floor, Naive
from bench.contestants.groups import Peak
from bench.contestants.hobby import Hobby
from bench.contestants.home_assistant import HomeAssistant
from bench.contestants.node_red import NodeRed
from bench.contestants.ours import Ours, OursMinimal
from bench.contestants.thingsboard import ThingsBoard
from bench.figures import RESULTS, Figure, Goal, circumstances, number, table
from bench.processes import MB

CONTESTANTS: tuple[type[Contestant], ...] = (
    *(Floor, Naive, Ours, OursMinimal),
    *(NodeRed, Hobby, ThingsBoard, HomeAssistant),
)
MESSAGES, RUNS = 100_000, 3
QUICK_MESSAGES = 5_000
LINGER_S = 2.0  # after the last reading: a double may follow
AWAY_S = 1.0
TRIAL_ENDS_WITHIN_S = 900.0
NOTHING = "-"

Measured = dict[str, float]
Trial = Callable[[type[Contestant], Work, Path], Awaitable[Measured]]


COLUMNS = {
    "readings_per_s": "readings/s, flood",
    "queue_readings_per_s": "readings/s, full queue",
    "cpu_s": "CPU s / 1,000 messages, flood",
    "queue_cpu_s": "the same, full queue",
    "peak_mb": "peak PSS, MB",
    "reading_bytes": "bytes a reading",
    "lost": "lost",
    "doubled": "doubled",
    "killed_lost": "lost, kill -9",
    "killed_doubled": "doubled, kill -9",
}
WORST = frozenset({"lost", "doubled", "killed_lost", "killed_doubled", "wrong", "killed_wrong"})
"""Of these several runs count by the worst, of all others by the median."""
PROMISES = (
    ("readings_per_s", "flood", "readings/s", Goal(80_000, at_least=True)),
    ("queue_readings_per_s", "full queue", "readings/s", Goal(80_000, at_least=True)),
    ("cpu_s", "CPU per 1,000 messages, flood", "s", Goal(0.040)),
    ("queue_cpu_s", "CPU per 1,000 messages, full queue", "s", Goal(0.040)),
    ("wrong", "lost or doubled", "readings", Goal(0)),
    ("killed_wrong", "lost or doubled, kill -9", "readings", Goal(0)),
)
"""Of ours: key, what it is, unit, goal."""


@dataclass(slots=True)
class Result:
    """What a contestant did: every run of each trial, or why there is none."""

    kind: type[Contestant]
    messages: int
    runs: dict[str, list[Measured]] = field(default_factory=lambda: defaultdict(list))
    failures: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """One number a column, where it was measured."""
        found: dict[str, list[float]] = defaultdict(list)
        for run in (each for runs in self.runs.values() for each in runs):
            for key, value in run.items():
                found[key].append(value)
        return {key: max(values) if key in WORST else median(values) for key, values in found.items()}


async def flood(kind: type[Contestant], work: Work, folder: Path) -> Measured:
    """Undisturbed, from the first PUBLISH until the last reading is visible."""
    async with playing(kind, folder) as one, loading(work, one.port) as load:
        empty_bytes, had = one.data_bytes(), await one.count()
        peak, cpu_s = Peak(one.group), one.group.cpu_s()
        watching = asyncio.create_task(peak.run(), name="peak")
        load.go()
        ended_s, seen = await visible(one, work.readings, had)
        cpu_s = one.group.cpu_s() - cpu_s
        watching.cancel()
        elapsed_s = ended_s - (await load.sent()).began_s
        await asyncio.sleep(LINGER_S)
        measured = {
            "elapsed_s": elapsed_s,
            "readings_per_s": seen / elapsed_s,
            "cpu_s": 1000 * cpu_s / work.messages,
            "peak_mb": peak.bytes / MB,
        }
        measured |= await judged(one, work, had, "")
        await one.halt()
        if one.at_rest_bytes:
            measured["reading_bytes"] = (one.at_rest_bytes - empty_bytes) / work.readings
    return measured


async def queue(kind: type[Contestant], work: Work, folder: Path) -> Measured:
    """From a full queue: the contestant is held until the broker has everything, and then let go."""
    async with playing(kind, folder) as one, loading(work, one.port) as load:
        had = await one.count()
        one.signal(signal.SIGSTOP)
        try:
            load.go()
            await load.sent()
            cpu_s, began_s = one.group.cpu_s(), time.monotonic()
        finally:
            one.signal(signal.SIGCONT)
        ended_s, seen = await visible(one, work.readings, had)
        cpu_s = one.group.cpu_s() - cpu_s
    return {"queue_readings_per_s": seen / (ended_s - began_s), "queue_cpu_s": 1000 * cpu_s / work.messages}


async def kill(kind: type[Contestant], work: Work, folder: Path, *, at_latest_s: float) -> Measured:
    """Killed when a third is visible, or after `at_latest_s` where it shows nothing for so long; started again."""
    async with playing(kind, folder) as one, loading(work, one.port) as load:
        had = await one.count()
        load.go()
        seen, ends_s = 0, time.monotonic() + at_latest_s
        while seen < work.readings / 3 and time.monotonic() < ends_s:
            await asyncio.sleep(one.look_every_s / 2)
            seen = await one.count() - had
        if seen >= work.readings:
            raise RuntimeError("everything was visible before the kill: give more messages with --n")
        await one.kill()
        await asyncio.sleep(AWAY_S)
        await one.start()
        await visible(one, None, had)
        await load.sent()
        return {"killed_at": seen, **await judged(one, work, had, "killed_")}


async def visible(one: Contestant, wanted: int | None, had: int) -> tuple[float, int]:
    """When the last reading became visible (time.monotonic()) and how many are, `had` not counted.

    It ends when `wanted` are there, or when none was added for as long as the contestant may take.
    """
    most, grown_s = 0, time.monotonic()
    while True:
        seen = await one.count() - had
        now_s = time.monotonic()
        if seen > most:
            most, grown_s = seen, now_s
        if (wanted is not None and most >= wanted) or now_s - grown_s > one.settles_after_s:
            return grown_s, most
        await asyncio.sleep(one.look_every_s)


async def judged(one: Contestant, work: Work, had: int, prefix: str) -> Measured:
    """What is lost and what is there twice; RuntimeError for readings that nobody sent."""
    counted = await one.count() - had
    stored = await one.stored()
    if stored is None:
        lost, doubled = max(0, work.readings - counted), max(0, counted - work.readings)
    else:
        expected = Counter(work.rows())
        if strange := stored.keys() - expected.keys():
            raise RuntimeError(f"{len(strange)} readings that nobody sent, such as {sorted(strange)[:3]}")
        lost, doubled = (expected - stored).total(), (stored - expected).total()
        for what, rows in (("lost", expected - stored), ("doubled", stored - expected)):
            if rows:
                print(
                    f"{one.name} {what}: {sorted(rows)[:3]} and so on; {one.last_words()}", file=sys.stderr, flush=True
                )
    return {f"{prefix}lost": lost, f"{prefix}doubled": doubled, f"{prefix}wrong": lost + doubled}


async def compete(result: Result) -> None:
    """One run of each trial. One that fails is named, and the others go on."""
    kind = result.kind
    await _play(result, "flood", flood)
    if kind.persistent:
        await _play(result, "queue", queue)
    if kind.stores and result.runs["flood"]:
        half_s = median(run["elapsed_s"] for run in result.runs["flood"]) / 2
        await _play(result, "kill", partial(kill, at_latest_s=half_s))


async def _play(result: Result, name: str, trial: Trial) -> None:
    kind = result.kind
    with TemporaryDirectory(prefix=f"contest-{kind.name}-") as text:
        try:
            async with asyncio.timeout(TRIAL_ENDS_WITHIN_S):
                measured = await trial(kind, Work.until_now(result.messages, kind.form), Path(text))
        except Exception as error:  # noqa: BLE001 - one that fails must not hide what the others found
            result.failures.append(f"{name}: {error or type(error).__name__}")
            print(f"{kind.name} {result.failures[-1]}", file=sys.stderr, flush=True)
            return
    result.runs[name].append(measured)
    shown = ", ".join(f"{key} {number(value)}" for key, value in measured.items())
    print(f"{kind.name} {name}: {shown}", file=sys.stderr, flush=True)


def table_of(results: Sequence[Result]) -> str:
    """A Markdown table, a contestant a line; and below it why one is missing, and what to know of each."""
    heads = " | ".join(COLUMNS.values())
    lines = [f"| contestant | messages | {heads} |", "|---|---:|" + "---:|" * len(COLUMNS)]
    for result in results:
        found = result.figures()
        cells = (number(found[key]) if key in found else NOTHING for key in COLUMNS)
        lines.append(f"| {result.kind.title} | {result.messages:,} | {' | '.join(cells)} |")
    lines += ["", *(f"- {result.kind.title}: {result.kind.notes}" for result in results)]
    lines += [f"- **{result.kind.title}: {failure}**" for result in results for failure in result.failures]
    return "\n".join(lines)


def figures_of(results: Sequence[Result]) -> list[Figure]:
    """What we promise, beside the best of the peers that store something."""
    figures = []
    others = [each for each in results if each.kind.stores and not issubclass(each.kind, Ours)]
    peers = {each.kind.title: each.figures() for each in others}
    for result in (each for each in results if issubclass(each.kind, Ours)):
        found = result.figures()
        for key, what, unit, goal in PROMISES:
            if key not in found:
                continue
            able = {title: figures[key] for title, figures in peers.items() if key in figures}
            best = (max if goal.at_least else min)(able, key=lambda title: able[title], default="")
            figures.append(Figure(f"{result.kind.title}: {what}", found[key], unit, best, able.get(best), goal))
    return figures


def save(results: Sequence[Result], figures: Sequence[Figure], folder: Path = RESULTS) -> Path:
    """Write contest.json: every run, and the circumstances."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "contest.json"
    document = {
        **circumstances(),
        "contestants": {
            each.kind.name: {
                "title": each.kind.title,
                "notes": each.kind.notes,
                "messages": each.messages,
                "figures": each.figures(),
                "runs": each.runs,
                "failures": each.failures,
            }
            for each in results
        },
        "goals": [
            {"what": each.what, "value": each.value, "goal": str(each.goal), "met": each.met} for each in figures
        ],
    }
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return file


async def contest(kinds: Sequence[type[Contestant]], messages: int, runs: int) -> list[Result]:
    """Run after run, each of all contestants, so that a noisy hour hits everybody; SIGTERM ends what was started."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    results = [Result(kind, min(messages, kind.most_messages)) for kind in kinds]
    for result in results:
        if missing := result.kind.missing():
            result.failures.append(f"not run, it is not set up here: {missing}")
    able = [result for result in results if not result.failures]
    for _ in range(runs):
        for result in able:
            await compete(result)
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if a trial failed. A goal that is missed or a peer that is not set up is no failure."""
    parser = argparse.ArgumentParser(prog="python -m bench.contest", description=__doc__)
    names = [kind.name for kind in CONTESTANTS]
    parser.add_argument("--only", default=",".join(names), help=f"of {', '.join(names)}")
    parser.add_argument("--n", type=int, help=f"messages, a multiple of {len(DEVICES)} (default {MESSAGES})")
    parser.add_argument("--runs", type=int, help=f"of each trial (default {RUNS})")
    parser.add_argument("--quick", action="store_true", help="small numbers: whether it runs, not how fast it is")
    options = parser.parse_args(arguments)
    if unknown := set(options.only.split(",")) - set(names):
        parser.error(f"no contestant is named {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    messages = options.n or (QUICK_MESSAGES if options.quick else MESSAGES)
    runs = options.runs or (1 if options.quick else RUNS)
    try:
        Work.until_now(messages, "minimal")
    except ValueError as error:
        parser.error(str(error))
    kinds = [kind for kind in CONTESTANTS if kind.name in options.only.split(",")]
    with suppress(asyncio.CancelledError, KeyboardInterrupt):
        results = asyncio.run(contest(kinds, messages, runs))
        figures = figures_of(results)
        print(f"{table_of(results)}\n\n{table(figures)}")
        print(save(results, figures), file=sys.stderr)
        return int(any(result.failures and result.runs for result in results))
    return 1


if __name__ == "__main__":
    sys.exit(main())
