"""Small changes that are wanted at the same time, in one transaction: each one costs the card as much as a hundred."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Together(Generic[T]):
    """Whoever comes while a write is under way goes with the next one."""

    def __init__(self, write: Callable[[Sequence[T]], Awaitable[object]]) -> None:
        self._write = write
        self._next = _Batch[T]()
        self._turn = asyncio.Lock()

    async def add(self, *items: T) -> None:
        """Return when these are written; what their write raised is raised to each that was part of it."""
        if not items:
            return
        batch = self._next
        batch.items += items
        async with self._turn:
            if not batch.ended:  # also where the one that wrote it was cancelled
                self._next = _Batch[T]()
                try:
                    await self._write(batch.items)
                except Exception as error:
                    batch.ended, batch.error = True, error
                    raise
                batch.ended = True
        if batch.error is not None:
            raise batch.error


class _Batch(Generic[T]):
    def __init__(self) -> None:
        self.items: list[T] = []
        self.ended = False
        self.error: Exception | None = None
