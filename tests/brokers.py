"""Real brokers for tests: each on a port of its own, in a folder of its own, ended with its test."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.broker.config import Doors
from gateway.broker.mosquitto import find, mosquitto
from gateway.broker.supervise import ChildBroker
from gateway.reading import Message
from gateway.store.errors import StoreError
from gateway.store.types import Commit

needs_mosquitto = pytest.mark.skipif(find() is None, reason="mosquitto is not installed: scripts/system-packages")

WITHIN_S = 15.0
"""A test that waits longer than this for an event has failed."""


async def ended(task: asyncio.Task[None]) -> None:
    """Cancel it until it is: a publication that has just come through swallows that (asyncio.wait_for of 3.11)."""
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(task, return_exceptions=True)


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def a_mosquitto(folder: Path, port: int | None = None, on_problem: Callable[[str], None] = print) -> ChildBroker:
    """A mosquitto on loopback, for `async with`; its `port` says where."""
    doors = Doors("127.0.0.1", port or free_port())
    return mosquitto(lambda: doors, folder / "broker", on_problem=on_problem)


class FixedClock:
    """A wall clock that stands still until it is moved."""

    def __init__(self, now: datetime = datetime(2026, 11, 20, 12, tzinfo=UTC), trusted: bool = True) -> None:
        self.time, self.is_trusted = now, trusted

    def now(self) -> datetime:
        return self.time

    def trusted(self) -> bool:
        return self.is_trusted


class MemoryStore:
    """An `append` that keeps messages in memory the way the store does on disk: numbered ones once, with a mark.

    While `failing` is set it raises; `gate` closed makes it wait; `grew` is notified after each commit.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.batches: list[int] = []
        self.failing: StoreError | None = None
        self.tries = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.grew = asyncio.Condition()
        self._seen: dict[tuple[str, str], set[int]] = {}
        self.thread = threading.get_ident()

    async def append(self, messages: Sequence[Message]) -> Commit:
        assert threading.get_ident() == self.thread, "append belongs to the loop"
        async with self.grew:
            self.tries += 1
            self.grew.notify_all()
        await self.gate.wait()
        if self.failing is not None:
            raise self.failing
        fresh, marks = [], {}
        for message in messages:
            if message.delivery is not None:
                key = (message.device, message.delivery.boot)
                seen = self._seen.setdefault(key, set())
                duplicate = message.delivery.seq in seen
                seen.add(message.delivery.seq)
                mark = 0
                while mark + 1 in seen:
                    mark += 1
                marks[key] = mark
                if duplicate:
                    continue
            fresh.append(message)
        self.messages += fresh
        self.batches.append(len(messages))
        readings = tuple(reading for message in fresh for reading in message.readings)
        async with self.grew:
            self.grew.notify_all()
        return Commit(len(self.batches), len(readings), len(messages) - len(fresh), marks, (), readings)

    async def until(self, condition: Callable[[], bool], within_s: float = WITHIN_S) -> None:
        """Return when the condition holds; it is looked at after each try and each commit."""
        async with asyncio.timeout(within_s), self.grew:
            await self.grew.wait_for(condition)


async def soon(event: asyncio.Event) -> None:
    """Wait for an event with the common deadline."""
    async with asyncio.timeout(WITHIN_S):
        await event.wait()


async def kill_and_wait(broker: ChildBroker) -> None:
    """kill -9, and until its supervisor has started another that accepts connections."""
    assert broker.pid is not None
    broker.ready.clear()
    os.kill(broker.pid, signal.SIGKILL)
    await soon(broker.ready)
