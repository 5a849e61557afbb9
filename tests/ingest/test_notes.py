"""Messages that are no readings: of one device in their order, of several side by side."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from gateway.ingest.notes import LIMIT, Notes
from gateway.store.errors import StoreError

WITHIN_S = 10.0


class House:
    def __init__(self) -> None:
        self.heard: list[str] = []
        self.done: list[str] = []
        self.acknowledged = 0
        self.free = asyncio.Event()
        self._more = asyncio.Condition()

    async def hear(self, what: str, *, waits: bool = False, error: Exception | None = None) -> None:
        if waits:
            await self.free.wait()
        async with self._more:
            self.heard.append(what)
            self._more.notify_all()
        if error is not None:
            raise error

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S), self._more:
            await self._more.wait_for(condition)

    def acknowledge(self) -> None:
        self.acknowledged += 1


@asynccontextmanager
async def at_work(notes: Notes) -> AsyncIterator[None]:
    task = asyncio.create_task(notes.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_device_that_waits_keeps_its_order_and_holds_up_no_other() -> None:
    house, stop = House(), threading.Event()
    notes = Notes(house.acknowledge)
    for device, what, waits in (("a", "a1", True), ("a", "a2", False), ("b", "b1", False), ("b", "b2", False)):
        done = partial(house.done.append, what)
        await asyncio.to_thread(notes.put, device, partial(house.hear, what, waits=waits), done, stop)
    async with at_work(notes):
        await house.until(lambda: house.heard == ["b1", "b2"])
        house.free.set()
        await house.until(lambda: len(house.heard) == 4)
    assert house.heard == ["b1", "b2", "a1", "a2"]
    assert house.done == house.heard[: len(house.done)]
    assert house.acknowledged == len(house.done) >= 3


async def test_one_that_fails_stops_no_other_and_is_let_go_of() -> None:
    house, stop = House(), threading.Event()
    notes = Notes(house.acknowledge)
    async with at_work(notes):
        for number, error in enumerate((StoreError("full"), ValueError("a bug"), None)):
            handle = partial(house.hear, str(number), error=error)
            await asyncio.to_thread(notes.put, "a", handle, partial(house.done.append, str(number)), stop)
        await house.until(lambda: len(house.heard) == 3)
        await asyncio.to_thread(notes.put, "b", partial(house.hear, "last"), None, stop)
        await house.until(lambda: len(house.heard) == 4)
    assert house.done == ["0", "1", "2"]


async def test_the_thread_waits_while_too_much_is_waiting_until_it_is_to_stop() -> None:
    house, stop = House(), threading.Event()
    notes = Notes(house.acknowledge)
    for number in range(LIMIT):
        notes.put("a", partial(house.hear, str(number), waits=True), None, stop)
    more = asyncio.create_task(asyncio.to_thread(notes.put, "b", partial(house.hear, "more"), None, stop))
    done, _ = await asyncio.wait([more], timeout=0.05)
    assert not done
    async with at_work(notes):
        house.free.set()
        await house.until(lambda: "more" in house.heard)
    await more
    assert house.heard[:LIMIT] == [str(number) for number in range(LIMIT)]
    for number in range(LIMIT):
        notes.put("a", partial(house.hear, str(number)), None, stop)
    stop.set()
    async with asyncio.timeout(WITHIN_S):
        await asyncio.to_thread(notes.put, "b", partial(house.hear, "never"), None, stop)
    assert "never" not in house.heard
