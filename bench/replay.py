"""A day of 100 readings a second through the store, with its housekeeping beside it, as fast as it goes.

200 series, batches of 500, a clock that follows the readings. Afterwards every answer is compared with running sums.
"""

import asyncio
import json
import math
import random
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import psutil  # type: ignore[import-untyped,unused-ignore]

from bench.figures import Figure, Goal, percentile
from bench.processes import MB, output_of
from drivers.model import Quality, Quantity, Reason
from gateway.reading import Message, Reading
from gateway.store import codes
from gateway.store.db import Store
from gateway.store.keeper import SEAL_AFTER_S, Keeper, Keeping, run_child
from gateway.store.segments import parquet
from gateway.store.segments.layout import HOUR_MS
from gateway.store.segments.merge import Job
from gateway.store.segments.view import View
from gateway.store.types import Event

DEVICES, EVERY_S, BATCH = 100, 2, 500
METRICS = (Quantity.TEMPERATURE, Quantity.HUMIDITY)
BEGAN = datetime(2026, 6, 9, 12, tzinfo=UTC)
"""Noon: so that a day's hours are merged on the way."""
SPIKE_EVERY = 997
NOISE = 1_000_003
DAY_TURNS = 86_400 // EVERY_S
QUARTERS = 4
MOST_OVER = 1.25
LOOK_EVERY = 20
USUAL = Keeping()


@dataclass(frozen=True, slots=True)
class Size:
    """Hours of the day that are replayed."""

    hours: int


FULL, QUICK = Size(24), Size(1)


class Hour(NamedTuple):
    """What an hour of a series comes to; sums are exact, for values are eighths."""

    n: int
    bad: int
    min: float
    max: float
    sum: float


@dataclass(slots=True)
class Outcome:
    """What it took; the most rows that were hot after a batch; resident bytes after each quarter; wrong answers."""

    readings: int = 0
    took_s: float = 0.0
    waited_s: float = 0.0
    commit_ms: list[float] = field(default_factory=list)
    hot_rows: int = 0
    resident: list[int] = field(default_factory=list)
    merge_resident: int = 0
    disk_bytes: int = 0
    wrong: list[str] = field(default_factory=list)


class Day:
    """Makes the readings and remembers what the store has to answer."""

    def __init__(self, began: datetime = BEGAN) -> None:
        self.began_ms = codes.to_ms(began)
        self._noise = random.Random(8).randbytes(NOISE)
        self.kept: array[float] = array("d")
        self._values: list[array[float]] = [array("d") for _ in range(DEVICES * len(METRICS))]
        self._bad = [0] * len(self._values)
        self.hours: dict[tuple[str, str, int], Hour] = {}

    def batches(self, hours: int) -> Iterator[list[Message]]:
        """Each of them is five seconds long."""
        messages: list[Message] = []
        turns_an_hour = HOUR_MS // 1000 // EVERY_S
        for turn in range(hours * turns_an_hour):
            for device in range(DEVICES):
                messages.append(self._message(turn, device))
                if len(messages) * len(METRICS) == BATCH:
                    yield messages
                    messages = []
            if (turn + 1) % turns_an_hour == 0:
                self._sum_up(turn // turns_an_hour)
        if messages:
            yield messages

    def _message(self, turn: int, device: int) -> Message:
        moment = codes.from_ms(self.began_ms + turn * EVERY_S * 1000 + device * EVERY_S * 1000 // DEVICES)
        name = f"room-{device:02}"
        readings = []
        for at, quantity in enumerate(METRICS):
            series = device * len(METRICS) + at
            noise = self._noise[(turn * 211 + series) % len(self._noise)] % 7
            value = (160 * (at + 1) + series % 24 + noise + _swing(turn)) / 8
            if (turn + series) % SPIKE_EVERY:
                self._values[series].append(value)
                readings.append(Reading(name, "bme280", quantity.value, quantity, value, moment, moment))
            else:
                self._bad[series] += 1
                bad = (Quality.BAD, Reason.SPIKE)
                readings.append(Reading(name, "bme280", quantity.value, quantity, 9_999.0, moment, moment, *bad))
        return Message(name, "bme280", tuple(readings), timed=True)

    def _sum_up(self, hour: int) -> None:
        self.kept.extend(self._values[0])
        for series, values in enumerate(self._values):
            device, at = divmod(series, len(METRICS))
            key = (f"room-{device:02}", METRICS[at].value, self.began_ms + hour * HOUR_MS)
            self.hours[key] = Hour(len(values), self._bad[series], min(values), max(values), sum(values))
            self._values[series] = array("d")
            self._bad[series] = 0


def _swing(turn: int) -> int:
    """The day's rhythm, in eighths."""
    return round(24 * math.sin(2 * math.pi * turn / DAY_TURNS))


class Beside:
    """Housekeeping at the moments of life: after each full hour of the readings' clock, and when it is crowded. Where
    hours go by so fast that it cannot keep up, the readings wait."""

    def __init__(self, store: Store, began: datetime, settings: Keeping) -> None:
        self._at = began
        self._due = self._next_due()
        self._store, self._most_rows = store, MOST_OVER * settings.hot_rows
        self.told: list[Event] = []
        self.merging = 0
        self._keeper = Keeper(store, self, settings, self.told.append, self._merge)
        self._working: asyncio.Task[None] | None = None
        store.when_crowded(settings.hot_rows, self._crowd)
        self._crowded = False

    def now(self) -> datetime:
        return self._at

    def trusted(self) -> bool:
        return True

    def _crowd(self) -> None:
        self._crowded = True

    async def reach(self, moment: datetime) -> None:
        """It is that late now."""
        self._at = moment
        due = moment >= self._due
        if due or self._store.known.hot_rows > self._most_rows:
            await self.finish()
        if due:
            self._due = self._next_due()
        if due or (self._crowded and (self._working is None or self._working.done())):
            self._crowded = False
            self._working = asyncio.create_task(self._keeper.keep(), name="housekeeping")

    async def _merge(self, job: Job) -> list[tuple[str, str]]:
        self.merging += 1
        try:
            return await run_child(job)
        finally:
            self.merging -= 1

    async def finish(self) -> None:
        """Until what was begun is done."""
        if self._working is not None:
            await self._working

    def _next_due(self) -> datetime:
        hour = self._at.replace(minute=0, second=0, microsecond=0)
        due = hour + timedelta(seconds=SEAL_AFTER_S)
        return due if due > self._at else due + timedelta(hours=1)


async def play(folder: Path, hours: int, began: datetime = BEGAN, settings: Keeping = USUAL) -> Outcome:
    """Replay so many hours into a new store, and ask."""
    day, outcome, own = Day(began), Outcome(), psutil.Process()
    async with Store(folder) as store:
        beside = Beside(store, began, settings)
        expected = hours * 3600 // EVERY_S * DEVICES * len(METRICS)
        for messages in day.batches(hours):
            began_s = time.perf_counter()
            await beside.reach(messages[0].readings[0].time)
            waited_s = time.perf_counter()
            await store.append(messages)
            done_s = time.perf_counter()
            outcome.waited_s += waited_s - began_s
            outcome.took_s += done_s - waited_s
            outcome.commit_ms.append(1e3 * (done_s - waited_s))
            outcome.readings += sum(len(message.readings) for message in messages)
            outcome.hot_rows = max(outcome.hot_rows, store.known.hot_rows)
            if beside.merging and len(outcome.commit_ms) % LOOK_EVERY == 0:
                outcome.merge_resident = max(outcome.merge_resident, _children(own))
            if outcome.readings * QUARTERS // expected > len(outcome.resident):
                outcome.resident.append(own.memory_info().rss)
        await beside.finish()
        outcome.wrong = [event.message for event in beside.told]
        outcome.wrong += await store.ask(lambda view: wrong_answers(view, day))
    outcome.disk_bytes = sum(file.stat().st_size for file in (folder / "segments").iterdir())
    return outcome


def _children(own: psutil.Process) -> int:
    """Resident bytes of the processes that this one has started."""
    found = 0
    with suppress(psutil.NoSuchProcess):
        found = sum(each.memory_info().rss for each in own.children())
    return found


def wrong_answers(view: View, day: Day) -> list[str]:
    """What the store says otherwise than the sums."""
    named = "(select series_id, device_id, metric from series join sensor using (sensor_id))"
    sums = f"""select device_id, metric, epoch_ms(ts) // {HOUR_MS} * {HOUR_MS} as hour,
        count(*) filter (where quality < 128)::INTEGER, count(*) filter (where quality >= 128)::INTEGER,
        min(value) filter (where quality < 128), max(value) filter (where quality < 128),
        sum(value) filter (where quality < 128)
        from {view.raw()} join {named} using (series_id) group by all"""
    rolled = f"""select device_id, metric, epoch_ms(bucket) // {HOUR_MS} * {HOUR_MS} as hour, sum(n)::INTEGER,
        sum(bad)::INTEGER, min(min), max(max), sum(sum)
        from {parquet.merged(view.rollup())} join {named} using (series_id) group by all"""
    wrong = []
    for what, query in (("raw readings", sums), ("rollups", rolled)):
        told = {(row[0], row[1], row[2]): Hour(*row[3:]) for row in view.db.execute(query).fetchall()}
        wrong += [
            f"{what} of {key}: {told.get(key)}, should be {day.hours.get(key)}"
            for key in sorted(told.keys() | day.hours.keys())
            if told.get(key) != day.hours.get(key)
        ]
    (first,) = view.db.execute(
        f"select series_id from {named} where device_id = 'room-00' and metric = '{METRICS[0].value}'"
    ).fetchall()[0]
    query = f"select value from {view.raw([first])} where quality < 128 order by ts"
    if [value for (value,) in view.db.execute(query).fetchall()] != list(day.kept):
        wrong.append("the readings of one series over the whole time are others")
    return wrong


async def measure(size: Size) -> list[Figure]:
    """In a process of its own, so that its memory is that of nothing else."""
    outcome = Outcome(**json.loads(await output_of(sys.executable, "-m", "bench.replay", str(size.hours))))
    peak_mb, *quarters_mb = (each / MB for each in outcome.resident)
    what = f"replay of {size.hours} h at 100 readings/s"
    for each in outcome.wrong[:5]:
        print(f"{what}: {each}", file=sys.stderr, flush=True)
    figures = [
        Figure(f"{what}: readings", outcome.readings / outcome.took_s, "/s"),
        Figure(f"{what}: answers that differ from the sums", len(outcome.wrong), "", goal=Goal(0)),
        Figure(f"{what}: most hot rows", outcome.hot_rows, "", goal=Goal(750_000)),
        Figure(f"{what}: a commit of {BATCH}, median", median(outcome.commit_ms), "ms"),
        Figure(
            f"{what}: a commit of {BATCH}, 99th percentile", percentile(outcome.commit_ms, 99), "ms", goal=Goal(250)
        ),
        Figure(f"{what}: a commit of {BATCH}, longest", max(outcome.commit_ms), "ms"),
        Figure(f"{what}: waited for housekeeping", outcome.waited_s, "s"),
        Figure(f"{what}: segments", outcome.disk_bytes / outcome.readings, "bytes a reading"),
        Figure(f"{what}: peak RSS", peak_mb, "MB", goal=Goal(400)),
        Figure(f"{what}: most RSS of a merge beside it", outcome.merge_resident / MB, "MB"),
    ]
    figures += [Figure(f"{what}: RSS after quarter {at + 1}", mb, "MB") for at, mb in enumerate(quarters_mb)]
    return figures


def report(outcome: Outcome) -> str:
    """As JSON; peak resident bytes of this process stand before those of the quarters."""
    return json.dumps(asdict(outcome) | {"resident": [peak_resident(), *outcome.resident]})


def peak_resident() -> int:
    """Most bytes that this process ever held; getrusage would tell of its parent, where that was larger."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main(arguments: Sequence[str]) -> None:
    with TemporaryDirectory() as folder:
        print(report(asyncio.run(play(Path(folder), int(arguments[0])))))


if __name__ == "__main__":
    main(sys.argv[1:])
