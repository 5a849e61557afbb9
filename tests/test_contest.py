"""The contest's own parts: the work, its publisher, the counting of processes, the table; and that our part runs."""

import asyncio
import json
import sys
from collections import Counter
from contextlib import AbstractAsyncContextManager, nullcontext
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from bench.contest import Result, compete, contest, figures_of, flood, judged, save, table_of
from bench.contestants.base import Contestant
from bench.contestants.fleet import DEVICES, FORMS, METRICS, SHARES, WINDOW, Publisher, Row, Work, encode, values
from bench.contestants.floors import Naive
from bench.contestants.groups import Group, Tree, grouped
from bench.contestants.ours import Ours, OursMinimal
from gateway.ingest.quality import DEFAULTS
from gateway.ingest.units import metric
from tests.brokers import WITHIN_S, needs_mosquitto

BURN = "sum(range(3_000_000)); print(flush=True); input()"


class Absent(Naive):
    """A peer that nobody set up."""

    title = "absent"

    @classmethod
    def missing(cls) -> str:
        return "its package is gone"


class Broken(Absent):
    """A peer that ends at once, on no broker at all."""

    def broker(self) -> AbstractAsyncContextManager[object]:
        return nullcontext()

    async def ingest(self) -> asyncio.subprocess.Process:
        return await self.spawn(sys.executable, "-c", "raise SystemExit('no way in')")


class Holding(Absent):
    """A peer that holds what it is told to."""

    held: Counter[Row]

    async def count(self) -> int:
        return self.held.total()

    async def stored(self) -> Counter[Row]:
        return self.held


def test_every_value_comes_once_and_no_check_doubts_it() -> None:
    work = Work.until_now(3000, "minimal")
    rows = list(work.rows())
    assert len(set(rows)) == len(rows) == work.readings == 3000 * len(METRICS)
    for name in METRICS:
        limits = DEFAULTS[metric(name).quantity]
        course = [values(7, number)[name] for number in range(10_000)]
        assert len(set(course)) == len(course)
        assert min(course) >= (limits.usual_low or limits.low)
        assert max(course) <= (limits.usual_high or limits.high)
        assert max(abs(b - a) for a, b in pairwise(course)) < limits.rate / 2  # steps of ten seconds, rates a minute


@pytest.mark.parametrize("form", FORMS)
def test_the_shares_are_the_whole_work_each_device_in_order(form: str) -> None:
    work = Work.until_now(500, form)
    sent = [(topic.split("/")[1], json.loads(body)) for which in range(SHARES) for topic, body in work.share(which)]
    found = Counter((device, name, each["reading"]) for device, body in sent for name, each in body["value"].items())
    assert found == Counter(work.rows())
    for device in DEVICES:
        own = [body for name, body in sent if name == device]
        assert [body["timestamp"] for body in own] == [work.base_s + 10 * number for number in range(10)]
        assert [body.get("seq") for body in own] == ([*range(1, 11)] if form == "numbered" else [None] * 10)


@pytest.mark.parametrize("messages", [0, 49, 75, 50 * 10_001])
def test_work_that_the_devices_cannot_share_is_refused(messages: int) -> None:
    with pytest.raises(ValueError, match="give a multiple of 50"):
        Work.until_now(messages, "minimal")


async def test_what_a_broken_connection_left_unacknowledged_is_sent_again() -> None:
    """A scripted broker acknowledges 250 of 500 and half of one more, and hangs up when the window is full."""
    packets = [encode(number, "devices/a/sensors/b/data", f"{number:04}") for number in range(500)]
    heard: list[list[bytes]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(14 + len("tester"))
        writer.write(b"\x20\x02\x00\x00")
        heard.append([])
        takes, answers = (250 + WINDOW, 250) if len(heard) == 1 else (250, 250)
        for number in range(takes):
            heard[-1].append(await reader.readexactly(len(packets[0])))
            if number < answers:
                writer.write(b"\x40\x02" + heard[-1][-1][-6:-4])
        writer.write(b"\x40\x02")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, asyncio.timeout(WITHIN_S):
        publisher = Publisher(server.sockets[0].getsockname()[1], "tester", packets)
        await asyncio.to_thread(lambda: publisher.run(publisher.connect()))
    assert heard == [packets[: 250 + WINDOW], packets[250:]]


@pytest.mark.parametrize("kind", ["tree", "best"])
async def test_a_group_counts_its_processes_and_those_they_start(kind: str) -> None:
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}])"
    with grouped("test") as best:
        group: Group = Tree() if kind == "tree" else best
        process = await asyncio.create_subprocess_exec(
            *group.inside((sys.executable, "-c", nested)), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        group.started(process.pid)
        assert process.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            await process.stdout.readline()
        inner = psutil.Process(process.pid).children()[0]
        assert {each.pid for each in group.processes()} == {process.pid, inner.pid}
        spent_s = inner.cpu_times().user
        assert group.cpu_s() >= spent_s > 0
        group.leave(inner.pid)
        assert {each.pid for each in group.processes()} == {process.pid}
        await process.communicate(b"\n")
        assert not group.processes()


async def test_a_peer_that_is_not_set_up_is_listed_with_the_reason(tmp_path: Path) -> None:
    (result,) = await contest([Absent], 1000, 3)
    assert "| absent | 1,000 |" in table_of([result])
    assert "absent: not run, it is not set up here: its package is gone" in table_of([result])
    saved = json.loads(save([result], [], tmp_path).read_text())
    assert saved["contestants"]["naive"]["failures"]


async def test_a_trial_that_fails_is_named_with_the_last_words_and_the_next_goes_on() -> None:
    result = Result(Broken, 50)
    await compete(result)
    said = "did not subscribe and ended with 1: no way in"
    assert result.failures == [f"flood: {said}", f"queue: {said}"]
    assert not result.figures()


async def test_what_is_lost_and_what_is_there_twice_is_counted_apart_and_inventions_are_refused(tmp_path: Path) -> None:
    work, one = Work.until_now(50, "minimal"), Holding(tmp_path, 0, Tree())
    one.held = Counter(work.rows())
    assert await judged(one, work, 0, "") == {"lost": 0, "doubled": 0, "wrong": 0}
    first, second, *_ = work.rows()
    one.held -= Counter({first: 1})
    one.held += Counter({second: 2})
    assert await judged(one, work, 0, "killed_") == {"killed_lost": 1, "killed_doubled": 2, "killed_wrong": 3}
    one.held += Counter({(*first[:2], -1.0): 1})
    with pytest.raises(RuntimeError, match="1 readings that nobody sent"):
        await judged(one, work, 0, "")


def test_losses_count_by_the_worst_run_and_rates_by_the_median() -> None:
    ours, theirs = Result(Ours, 50), Result(Naive, 50)
    ours.runs["flood"] = [{"readings_per_s": rate, "wrong": wrong} for rate, wrong in ((1e5, 0), (9e4, 3), (1e4, 0))]
    theirs.runs["flood"] = [{"readings_per_s": 45_000.0, "wrong": 1}]
    rate, wrong = figures_of([theirs, ours])
    assert (rate.value, rate.peer, rate.ratio, rate.met) == (90_000, Naive.title, 2.0, True)
    assert (wrong.value, wrong.met) == (3, False)


@needs_mosquitto
@pytest.mark.slow
@pytest.mark.parametrize("kind", [Ours, OursMinimal])
async def test_our_part(kind: type[Contestant], tmp_path: Path) -> None:
    measured = await flood(kind, Work.until_now(500, kind.form), tmp_path)
    assert measured["lost"] == measured["doubled"] == 0
    assert measured["readings_per_s"] > 0
    assert measured["cpu_s"] > 0
    assert 30 < measured["peak_mb"] < 1000
