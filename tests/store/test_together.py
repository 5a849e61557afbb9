"""Small changes that are wanted at the same time go into one transaction, and none is forgotten."""

import asyncio
from collections.abc import Sequence

import pytest

from gateway.store.errors import StoreError
from gateway.store.together import Together


class Disk:
    """Each write needs a `turn`; `failing` is raised instead of the write number `fails_at`."""

    def __init__(self, fails_at: int = -1) -> None:
        self.written: list[list[int]] = []
        self.turn = asyncio.Semaphore(0)
        self.begun = asyncio.Semaphore(0)
        self._fails_at, self._number = fails_at, 0

    async def write(self, items: Sequence[int]) -> None:
        number, self._number = self._number, self._number + 1
        self.begun.release()
        await self.turn.acquire()
        if number == self._fails_at:
            raise StoreError("full")
        self.written.append(list(items))


async def together_with(disk: Disk, *numbers: int) -> tuple[Together[int], list[asyncio.Task[None]]]:
    """The first is being written, the others wait to go with the next write."""
    together = Together[int](disk.write)
    tasks = [asyncio.create_task(together.add(0))]
    await disk.begun.acquire()
    tasks += [asyncio.create_task(together.add(number, -number)) for number in numbers]
    await asyncio.sleep(0)
    return together, tasks


async def test_who_comes_while_a_write_is_under_way_goes_with_the_next() -> None:
    disk = Disk()
    together, tasks = await together_with(disk, *range(1, 50))
    disk.turn.release()
    disk.turn.release()
    await asyncio.gather(*tasks)
    await together.add()
    assert disk.written == [[0], [each for number in range(1, 50) for each in (number, -number)]]


async def test_a_failure_is_told_to_all_of_it_and_to_nobody_else() -> None:
    disk = Disk(fails_at=1)
    together, tasks = await together_with(disk, 1, 2)
    disk.turn.release()
    await disk.begun.acquire()
    tasks.append(asyncio.create_task(together.add(3)))
    disk.turn.release()
    disk.turn.release()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert list(map(str, found)) == ["None", "full", "full", "None"]
    assert disk.written == [[0], [3]]


async def test_what_is_not_written_because_its_writer_was_cancelled_is_written_by_the_next() -> None:
    disk = Disk()
    _, (first, writer, follower) = await together_with(disk, 1, 2)
    disk.turn.release()
    await disk.begun.acquire()
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writer
    disk.turn.release()
    await asyncio.gather(first, follower)
    assert disk.written == [[0], [1, -1, 2, -2]]
