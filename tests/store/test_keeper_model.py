"""Any interleaving of writing, housekeeping and restarts gives the answers of a list in memory."""

import asyncio
import json
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from drivers.model import Quality, Reason
from gateway.store import codes, queries
from gateway.store.db import Store
from gateway.store.keeper import Keeper, Keeping, Retention
from gateway.store.segments import merge
from gateway.store.segments.layout import BUCKET_MS
from gateway.store.segments.merge import Job
from tests.store.builders import T0, local, numbered, reading
from tests.store.test_keeper import SetClock, rollups, rows

DEVICES = ("attic", "cellar", "den")
RAW_DAYS = 20
QUALITIES = ((Quality.GOOD, Reason.NONE), (Quality.UNCERTAIN, Reason.UNUSUAL), (Quality.BAD, Reason.SPIKE))

value = st.one_of(st.none(), st.integers(-5, 5).map(float), st.floats(-1e3, 1e3))
given_row = st.tuples(st.sampled_from(DEVICES), st.integers(-90_000, 250), value, st.sampled_from(QUALITIES))
Row = tuple[str, int, float | None, int]


async def in_process(job: Job) -> list[tuple[str, str]]:
    """What the child does, without the child: a process for each of thousands of merges is not what is tested here."""
    return [(each.raw, each.roll) for each in merge.run(json.loads(job.text()))]


def naive_rollups(rows_: list[Row]) -> dict[tuple[str, int], tuple[Any, ...]]:
    found: dict[tuple[str, int], list[Row]] = {}
    for row in rows_:
        found.setdefault((row[0], row[1] - row[1] % BUCKET_MS), []).append(row)
    return {key: _naive_bucket(inside) for key, inside in found.items()}


def _naive_bucket(inside: list[Row]) -> tuple[Any, ...]:
    good = sorted((ms, amount) for _, ms, amount, quality in inside if amount is not None and quality < 128)
    values = [amount for _, amount in good]
    uncertain = sum(1 for _, _, amount, quality in inside if amount is not None and 64 <= quality < 128)
    counts = (len(good), uncertain, len(inside) - len(good))
    if not good:
        return (*counts, None, None, None, None, None)
    return (*counts, min(values), max(values), round(sum(values), 3), good[-1][1], good[-1][0] % BUCKET_MS)


class Housekeeping(RuleBasedStateMachine):
    """`kept` are raw rows that must be there, `all` those that rollups must tell of."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.clock = SetClock(T0)
        self.kept: list[Row] = []
        self.all: list[Row] = []
        self.seq = 0
        self.opened()

    def opened(self) -> None:
        self.store = Store(Path(self.folder.name))
        self.runner.run(self.store.__aenter__())
        keeping = Keeping(hot_rows=40, retention=(Retention(RAW_DAYS, device="den"),))
        self.keeper = Keeper(self.store, self.clock, keeping, merge=in_process)

    def closed(self) -> None:
        self.runner.run(self.store.__aexit__(None, None, None))

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.closed()
            self.runner.close()
            self.folder.cleanup()

    @rule(found=st.lists(given_row, min_size=1, max_size=12))
    def append(self, found: list[tuple[str, int, float | None, tuple[Quality, Reason]]]) -> None:
        """Some of now (a sender's clock may be minutes ahead), some as late as a day."""
        offset = (self.clock.at - T0).total_seconds()
        messages = [
            local(
                reading(amount, offset + at_s, device=device, quality=quality[0], reason=quality[1])._replace(
                    received=self.clock.at
                )
            )
            for device, at_s, amount, quality in found
        ]
        self.runner.run(self.store.append(messages))
        for message in messages:
            (one,) = message.readings
            self.remember(one.device, one)

    @rule(again=st.booleans())
    def number(self, again: bool) -> None:
        """A node's numbered message; a repeated one changes nothing, sealed or not."""
        if not (again and self.seq):
            self.seq += 1
            self.remember("node", numbered(self.seq).readings[0])
        self.runner.run(self.store.append([numbered(self.seq)]))

    def remember(self, device: str, one: Any) -> None:
        row = (device, codes.to_ms(one.time), one.value, codes.pack(one.quality, one.reason))
        self.kept.append(row)
        self.all.append(row)

    @rule(hours=st.sampled_from([0.3, 1, 7, 30, 24 * 9, 24 * 40]))
    def time_goes_by(self, hours: float) -> None:
        self.clock.at += timedelta(hours=hours)

    @rule()
    def seal(self) -> None:
        self.runner.run(self.keeper.seal())

    @rule()
    def compact(self) -> None:
        """A merge leaves out what has expired by then, as `expire` does."""
        self.runner.run(self.keeper.compact())
        self.let_go()

    @rule()
    def expire(self) -> None:
        self.runner.run(self.keeper.expire())
        self.let_go()

    def let_go(self) -> None:
        """What went is what lay in segments wholly older than its days: the model asks which, and checks the rule."""
        limit_ms = codes.to_ms(self.clock.at) - RAW_DAYS * 86_400_000
        left = {(row[1], row[2]) for row in self.found() if row[0] == "den"}
        gone = [row for row in self.kept if row[0] == "den" and (row[1], row[2]) not in left]
        assert all(row[1] < limit_ms for row in gone)
        self.kept = [row for row in self.kept if row not in gone]

    @rule(device=st.sampled_from(DEVICES))
    def mark(self, device: str) -> None:
        series = [each.series_id for each in queries.find_series(self.store, device=device)]
        end = codes.to_ms(self.clock.at)
        start, doubt = end - 7_200_000, codes.pack(Quality.UNCERTAIN, Reason.WARM_UP)
        expired = [row for row in self.all if row[0] == device and row not in self.kept]
        if not series or any(start <= row[1] < end for row in expired):
            return
        self.runner.run(self.keeper.mark(series, start, end, doubt))

        def marked(row: Row) -> Row:
            return (*row[:3], doubt) if row[0] == device and start <= row[1] < end else row

        self.kept, self.all = [marked(row) for row in self.kept], [marked(row) for row in self.all]

    @precondition(lambda self: any(row[0] == "cellar" for row in self.all))
    @rule()
    def delete(self) -> None:
        series = [each.series_id for each in queries.find_series(self.store, device="cellar")]
        self.runner.run(self.keeper.delete_readings(series))
        self.kept = [row for row in self.kept if row[0] != "cellar"]
        self.all = [row for row in self.all if row[0] != "cellar"]

    @rule()
    def restart(self) -> None:
        self.closed()
        self.opened()

    def found(self) -> list[Row]:
        names = {series_id: each.device for series_id, each in self.store.series().items()}
        return [(names[row[0]], *row[1:]) for row in self.runner.run(rows(self.store))]

    @invariant()
    def every_reading_is_there_once(self) -> None:
        def key(row: Row) -> tuple[Any, ...]:
            return (row[0], row[1], row[2] is not None, row[2] or 0, row[3])

        assert sorted(self.found(), key=key) == sorted(self.kept, key=key)

    @invariant()
    def rollups_tell_of_everything(self) -> None:
        names = {series_id: each.device for series_id, each in self.store.series().items()}
        found = {(names[row[0]], row[1]): row[2:10] for row in self.runner.run(rollups(self.store))}
        want = naive_rollups(self.all)
        assert found.keys() == want.keys()
        for key, told in found.items():
            exact = (*told[:5], *told[6:])
            assert exact == (*want[key][:5], *want[key][6:]), key
            assert told[5] == want[key][5] or abs(told[5] - want[key][5]) <= 2e-3

    @invariant()
    def the_newest_is_the_newest(self) -> None:
        for each in queries.latest(self.store):
            own = [row for row in self.all if row[0] == each.device]
            assert codes.to_ms(each.time) == max(row[1] for row in own)


Housekeeping.TestCase.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
test_housekeeping = Housekeeping.TestCase
