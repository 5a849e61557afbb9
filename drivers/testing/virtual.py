"""Virtual time: an event loop whose clock jumps to the next timer instead of waiting for it."""

import asyncio
import math
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop for code without threads and sockets: hours of sleeping pass at once, in order, from time 0."""

    def __init__(self) -> None:
        self._virtual_s = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual_s

    def jump(self, by_s: float) -> None:
        """Move the clock ahead, by the smallest step a float can make if `by_s` is smaller than that."""
        self._virtual_s = max(self._virtual_s + by_s, math.nextafter(self._virtual_s, math.inf))


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:  # no timer at all: only another thread can end this
            return super().select(None)
        ready = super().select(0)
        if not ready:  # even at timeout 0: late in time a due timer is only due one step later
            self._loop.jump(max(timeout, 0))
        return ready


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time."""

    async def whole() -> T:
        try:
            return await main
        finally:  # here, because the runner would wait for threads with a timer, which passes at once
            await asyncio.get_running_loop().shutdown_default_executor()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(whole())
