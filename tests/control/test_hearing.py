"""Waiting for a device's next reading: it is told as soon as it is committed, to whoever waits for that device."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from drivers.model import Quantity
from gateway.command import ControlError
from gateway.control.base import LOCAL
from gateway.control.hearing import WAITING_MOST, HearingCommands
from gateway.nodes.provision.commands import AwaitReading, HeardReading
from gateway.reading import Reading
from gateway.store.types import Commit

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


class Pipeline:
    """Who commits."""

    def __init__(self) -> None:
        self.hearing: list[Callable[[Commit], Awaitable[None]]] = []

    def listen(self, committed: Callable[[Commit], Awaitable[None]]) -> None:
        self.hearing.append(committed)

    async def commit(self, *devices: str) -> None:
        fresh = tuple(
            Reading(device, "scd30", metric, quantity, 612.5, NOW, NOW)
            for device in devices
            for metric, quantity in (("co2", Quantity.CO2), ("humidity", Quantity.HUMIDITY))
        )
        for each in self.hearing:
            await each(Commit(1, len(fresh), 0, {}, (), fresh))


async def ask(commands: HearingCommands, device: str, within_s: float = 60.0) -> HeardReading:
    answer = await commands.handlers()[AwaitReading](AwaitReading(device=device, within_s=within_s), LOCAL)
    assert isinstance(answer, HeardReading)
    return answer


async def test_the_first_reading_after_the_question_is_the_answer() -> None:
    pipeline = Pipeline()
    commands = HearingCommands(pipeline.listen)
    await pipeline.commit("hall")
    both = asyncio.gather(ask(commands, "hall"), ask(commands, "attic"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await pipeline.commit("cellar", "hall")
    await pipeline.commit("attic")
    hall, attic = await both
    assert (hall.heard, hall.sensor, hall.metric, hall.value) == (True, "scd30", "co2", 612.5)
    assert attic.heard


async def test_nobody_waits_for_ever_and_not_everybody_at_once() -> None:
    commands = HearingCommands(Pipeline().listen)
    assert await ask(commands, "hall", 0) == HeardReading(heard=False)
    waiting = [asyncio.ensure_future(ask(commands, "hall")) for _ in range(WAITING_MOST)]
    await asyncio.sleep(0)
    with pytest.raises(ControlError, match="wait for readings already"):
        await ask(commands, "hall")
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await ask(commands, "hall", 0) == HeardReading(heard=False), "who went away waits no more"
