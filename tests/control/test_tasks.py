"""Tasks: progress from any thread, owners apart, bounded, forgotten, ended cleanly."""

import asyncio
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.command import ControlError
from gateway.control.started import explain
from gateway.tasks import KEPT_S, MOST_KEPT, MOST_OF_ONE, MOST_RUNNING, Progress, Tasks, TooBusy, UnknownTask
from tests.virtual import run_virtual

T0 = datetime(2026, 11, 20, 12, tzinfo=UTC)
WITHIN_S = 5.0


def tasks() -> Tasks:
    return Tasks(lambda: T0, explain)


async def at_once(_progress: Progress) -> dict[str, Any]:
    return {"rows": 3}


class Slow:
    """Work that goes on until it is let go, and tells how it ended."""

    def __init__(self) -> None:
        self.go, self.began, self.ended = asyncio.Event(), asyncio.Event(), ""

    async def __call__(self, progress: Progress) -> dict[str, Any]:
        progress(0.25, "a quarter")
        self.began.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.ended = "cleaned up"
            raise
        return {}


async def test_a_result_stays_for_its_owner_alone() -> None:
    async with tasks() as some:
        task_id = some.start("export", "anna", at_once)
        done = await some.wait(task_id, "anna", WITHIN_S)
        assert (done.state, done.progress, done.result, done.ended) == ("done", 1.0, {"rows": 3}, T0)
        assert some.get(task_id, "anna") == done
        with pytest.raises(UnknownTask, match="you have none"):
            some.get(task_id, "bert")
        with pytest.raises(UnknownTask, match=f"yours are {task_id}"):
            some.get("task-1", "anna")
        assert some.list("bert") == []
        with pytest.raises(UnknownTask):
            await some.cancel(task_id, "bert")


async def test_progress_may_come_from_any_thread_and_never_goes_back() -> None:
    async with tasks() as some:

        async def work(progress: Progress) -> dict[str, Any]:
            for fraction in (0.5, 0.25):
                thread = threading.Thread(target=progress, args=(fraction, f"at {fraction}"))
                thread.start()
                await asyncio.to_thread(thread.join)
            return {}

        task_id = some.start("export", "anna", work)
        seen = [(task.progress, task.text, task.state) async for task in some.follow(task_id, "anna", WITHIN_S)]
        assert seen[-1] == (1.0, "at 0.25", "done")
        assert [fraction for fraction, *_ in seen] == sorted(fraction for fraction, *_ in seen)


async def test_what_fails_is_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async with tasks() as some:

        async def known(_progress: Progress) -> dict[str, Any]:
            raise ControlError("no room: delete something")

        async def defect(_progress: Progress) -> dict[str, Any]:
            raise RuntimeError("secret")

        task = await some.wait(some.start("export", "anna", known), "anna", WITHIN_S)
        assert (task.state, task.error) == ("failed", "no room: delete something")
        task = await some.wait(some.start("export", "anna", defect), "anna", WITHIN_S)
        assert (task.state, task.error) == ("failed", "export failed inside the gateway; its log says why")
        assert "secret" in caplog.text


async def test_cancelled_and_bounded() -> None:
    async with tasks() as some:
        slow = [Slow() for _ in range(MOST_RUNNING)]
        ids = [some.start("export", "anna", each) for each in slow[:MOST_OF_ONE]]
        with pytest.raises(TooBusy, match="4 of your tasks are running"):
            some.start("export", "anna", at_once)
        for each in slow[MOST_OF_ONE:]:
            some.start("export", "carl", each)
        await asyncio.gather(*(each.began.wait() for each in slow))
        with pytest.raises(TooBusy, match="8 tasks are running"):
            some.start("export", "bert", at_once)
        task = await some.cancel(ids[0], "anna")
        assert (task.state, slow[0].ended) == ("cancelled", "cleaned up")
        assert (await some.cancel(ids[0], "anna")).state == "cancelled"
        some.start("export", "bert", at_once)
        slow[1].go.set()
        assert (await some.wait(ids[1], "anna", WITHIN_S)).state == "done"
    assert {each.ended for each in slow[2:]} == {"cleaned up"}


def test_ended_ones_are_forgotten_after_an_hour() -> None:
    async def main() -> None:
        async with tasks() as some:
            first = some.start("export", "anna", at_once)
            slow = Slow()
            running = some.start("export", "anna", slow)
            await some.wait(first, "anna", 1)
            await asyncio.sleep(KEPT_S - 1)
            assert some.get(first, "anna").state == "done"
            await asyncio.sleep(2)
            with pytest.raises(UnknownTask):
                some.get(first, "anna")
            assert some.get(running, "anna").state == "running"
            for _ in range(MOST_KEPT + 50):
                await some.wait(some.start("export", "anna", at_once), "anna", 1)
            assert len(some.list("anna")) <= MOST_KEPT + 1

    run_virtual(main())
