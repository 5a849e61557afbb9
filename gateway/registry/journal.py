"""Events noted where nothing can wait for the disk."""

import asyncio
import logging
from typing import Never

from gateway.store import commands
from gateway.store.db import Store
from gateway.store.errors import StoreError
from gateway.store.types import Event

log = logging.getLogger(__name__)

WAITING_LIMIT = 256


class Journal:
    """`note` keeps an event, `run` writes it down; what finds no room is counted in `dropped`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: asyncio.Queue[Event] = asyncio.Queue(WAITING_LIMIT)
        self.dropped = 0

    def note(self, event: Event) -> None:
        """From the event loop; never waits."""
        try:
            self._waiting.put_nowait(event)
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self) -> Never:
        """Write what was noted, for ever; what the store does not take is lost to the log only."""
        while True:
            events = [await self._waiting.get()]
            while not self._waiting.empty():
                events.append(self._waiting.get_nowait())
            try:
                await commands.add_events(self._store, events)
            except StoreError as error:
                self.dropped += len(events)
                for event in events:
                    log.error("event not kept (%s: %s): %s", event.kind, event.message, error)
