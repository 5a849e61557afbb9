"""Work that takes longer than a caller waits: a job id with progress, bounded, ended cleanly."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import BaseModel

from gateway.command import Write

log = logging.getLogger(__name__)

MOST_RUNNING = 8
MOST_OF_ONE = 4
MOST_KEPT = 200
KEPT_S = 3600.0
CANCELLED_WITHIN_S = 10.0

State = Literal["running", "done", "failed", "cancelled"]
Progress = Callable[[float, str], None]
"""Told how much is done, from 0 to 1, and what is being done; from any thread."""
Work = Callable[[Progress], Awaitable[dict[str, Any]]]
"""What to do; its result is JSON."""


class TooBusy(ValueError):
    """No room for another task now; the message says when there is."""


class UnknownTask(LookupError):
    """There is no such task for this caller; the message says what there is."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task as its owner sees it; `result` once it is done, `error` where it failed."""

    task_id: str
    kind: str
    state: State
    progress: float
    text: str
    started: datetime
    ended: datetime | None
    result: dict[str, Any] | None
    error: str


class CancelTask(Write):
    """End a task of one's own."""

    command: Literal["cancel_task"] = "cancel_task"
    task_id: str

    @property
    def target(self) -> str:
        return self.task_id[:64]


class TaskView(BaseModel):
    """A task as it is told; `progress` from 0 to 1. While it runs ask again with its id."""

    task_id: str
    kind: str
    state: State
    progress: float
    text: str
    started: datetime
    ended: datetime | None
    result: dict[str, Any] | None
    error: str

    @classmethod
    def of(cls, task: Task) -> "TaskView":
        return cls(**{name: getattr(task, name) for name in Task.__dataclass_fields__})


class TaskViews(BaseModel):
    tasks: list[TaskView]


@dataclass(slots=True)
class _Job:
    task_id: str
    kind: str
    owner: str
    started: datetime
    state: State = "running"
    progress: float = 0.0
    text: str = ""
    ended: datetime | None = None
    ended_s: float = 0.0
    result: dict[str, Any] | None = None
    error: str = ""
    running: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Tasks:
    """`async with` around whatever starts tasks; leaving cancels those that run. `explain` says in one line why a task
    failed, or None for a defect of ours, which the log tells of."""

    def __init__(self, now: Callable[[], datetime], explain: Callable[[BaseException], str | None]) -> None:
        self._now, self._explain = now, explain
        self._jobs: dict[str, _Job] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel what runs and wait until it has cleaned up."""
        running = [job.running for job in self._jobs.values() if job.running is not None and not job.running.done()]
        for each in running:
            each.cancel()
        if running:
            await asyncio.wait(running, timeout=CANCELLED_WITHIN_S)
        self._loop = None

    @property
    def running(self) -> int:
        """How many run now."""
        return sum(job.state == "running" for job in self._jobs.values())

    def start(self, kind: str, owner: str, work: Work) -> str:
        """Begin at once, and return the id; TooBusy where too many run."""
        assert self._loop is not None, "tasks are started inside the `async with`"
        self._sweep()
        if self.running >= MOST_RUNNING:
            raise TooBusy(f"{MOST_RUNNING} tasks are running: wait for one of them, or cancel it")
        own = sum(job.state == "running" and job.owner == owner for job in self._jobs.values())
        if own >= MOST_OF_ONE:
            raise TooBusy(f"{own} of your tasks are running: wait for one of them, or cancel it")
        job = _Job(f"task-{secrets.token_hex(6)}", kind, owner, self._now())
        self._jobs[job.task_id] = job
        job.running = self._loop.create_task(self._run(job, work), name=f"task {kind}")
        return job.task_id

    def get(self, task_id: str, owner: str) -> Task:
        """One task of this owner; UnknownTask for others."""
        return _seen(self._job(task_id, owner))

    def list(self, owner: str) -> list[Task]:
        """This owner's tasks, newest first."""
        self._sweep()
        return [_seen(job) for job in reversed(self._jobs.values()) if job.owner == owner]

    async def wait(self, task_id: str, owner: str, within_s: float) -> Task:
        """The task when it has ended, or as it is after so many seconds."""
        job = self._job(task_id, owner)
        if job.running is not None:
            await asyncio.wait([job.running], timeout=within_s)
        return _seen(job)

    async def follow(self, task_id: str, owner: str, within_s: float) -> AsyncIterator[Task]:
        """The task as it is, and each time it has come further, until it has ended or so many seconds are over."""
        job = self._job(task_id, owner)
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while True:
                    job.changed.clear()
                    yield _seen(job)
                    if job.state != "running":
                        return
                    await job.changed.wait()
        yield _seen(job)

    async def cancel(self, task_id: str, owner: str) -> Task:
        """End it, and return it when it has cleaned up; one that has ended already stays as it is."""
        job = self._job(task_id, owner)
        if job.running is not None and not job.running.done():
            job.running.cancel()
            await asyncio.wait([job.running], timeout=CANCELLED_WITHIN_S)
        return _seen(job)

    async def _run(self, job: _Job, work: Work) -> None:
        loop = asyncio.get_running_loop()

        def report(fraction: float, text: str = "") -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody asks any more
                loop.call_soon_threadsafe(_told, job, fraction, text)

        try:
            job.result = await work(report)
        except asyncio.CancelledError:
            job.state = "cancelled"
        except Exception as error:  # supervisor: whatever it was is the task's own
            job.state = "failed"
            line = self._explain(error)
            if line is None:
                log.exception("task %s (%s)", job.task_id, job.kind)
            job.error = line or f"{job.kind} failed inside the gateway; its log says why"
        else:
            job.state, job.progress = "done", 1.0
        job.ended, job.ended_s = self._now(), loop.time()
        job.changed.set()

    def _job(self, task_id: str, owner: str) -> _Job:
        self._sweep()
        job = self._jobs.get(task_id)
        if job is None or job.owner != owner:
            own = [each.task_id for each in reversed(self._jobs.values()) if each.owner == owner]
            there = f"yours are {', '.join(own[:5])}" if own else "you have none; they are forgotten after an hour"
            raise UnknownTask(f"task_id: there is no {task_id[:64]!r}; {there}")
        return job

    def _sweep(self) -> None:
        """Forget what ended long ago, and the oldest of too many."""
        now_s = self._loop.time() if self._loop is not None else 0.0
        ended = [job for job in self._jobs.values() if job.state != "running"]
        stale = [job for job in ended if now_s - job.ended_s >= KEPT_S]
        for job in stale or ended[: max(0, len(self._jobs) - MOST_KEPT)]:
            del self._jobs[job.task_id]


def _told(job: _Job, fraction: float, text: str) -> None:
    if job.state == "running":
        job.progress = min(max(fraction, job.progress), 1.0)
        job.text = text or job.text
        job.changed.set()


def _seen(job: _Job) -> Task:
    return Task(job.task_id, job.kind, job.state, job.progress, job.text, job.started, job.ended, job.result, job.error)
