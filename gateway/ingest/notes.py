"""Messages that are no readings, from the broker's thread to their hooks in the loop."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Never

from gateway.ingest.pipeline import Done
from gateway.store.errors import StoreError

log = logging.getLogger(__name__)

LIMIT = 256  # that wait for their hooks
STOP_SEEN_S = 1.0

Handle = Callable[[], Awaitable[None]]


class Notes:
    """Those of one device in their order, those of several side by side: a house that is new comes all at once, and
    its hooks write together. `acknowledged` is called in the loop after each that has a `done`."""

    def __init__(self, acknowledged: Callable[[], None]) -> None:
        self._acknowledged = acknowledged
        self._room = threading.Semaphore(LIMIT)  # the queue's bound: a thread can wait for it
        self._waiting: asyncio.Queue[tuple[str, Handle, Done | None]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def put(self, device: str, handle: Handle, done: Done | None, stop: threading.Event) -> None:
        """From another thread; waits while too much is waiting here, until `stop`."""
        while not self._room.acquire(timeout=STOP_SEEN_S):
            if stop.is_set():
                return
        self._loop.call_soon_threadsafe(self._waiting.put_nowait, (device, handle, done))

    async def run(self) -> Never:
        """Handle them for ever."""
        while True:
            came = [await self._waiting.get()]
            while not self._waiting.empty():
                came.append(self._waiting.get_nowait())
            of: dict[str, list[tuple[Handle, Done | None]]] = {}
            for device, handle, done in came:
                of.setdefault(device, []).append((handle, done))
            async with asyncio.TaskGroup() as group:
                for notes in of.values():
                    group.create_task(self._in_turn(notes), name="ingest.mqtt.note")

    async def _in_turn(self, notes: list[tuple[Handle, Done | None]]) -> None:
        for handle, done in notes:
            try:
                await handle()
            except StoreError as error:
                log.error("not kept: %s", error)
            except Exception:  # supervisor: what a stranger sent must not stop the others
                log.exception("a message that is no reading")
            finally:
                self._room.release()
            if done is not None:
                done()
                self._acknowledged()
