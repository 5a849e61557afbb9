"""Who waits for a device's next reading: whoever has just made one ready."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import BaseModel

from gateway.access.principal import Principal
from gateway.command import ControlError
from gateway.control.base import Handler
from gateway.nodes.provision.commands import AwaitReading, HeardReading
from gateway.reading import Reading
from gateway.store.types import Commit

WAITING_MOST = 32

Listen = Callable[[Callable[[Commit], Awaitable[None]]], None]


class HearingCommands:
    """Runs them; `listen` is the pipeline's."""

    def __init__(self, listen: Listen) -> None:
        self._waiting: dict[asyncio.Future[Reading], str] = {}
        listen(self._committed)

    def handlers(self) -> Mapping[type[Any], Handler]:
        return {AwaitReading: self._await}

    async def _await(self, command: AwaitReading, _principal: Principal) -> BaseModel:
        if len(self._waiting) >= WAITING_MOST:
            raise ControlError(f"{WAITING_MOST} wait for readings already: try again when one of them is done")
        heard: asyncio.Future[Reading] = asyncio.get_running_loop().create_future()
        self._waiting[heard] = command.device
        try:
            async with asyncio.timeout(command.within_s):
                reading = await heard
        except TimeoutError:
            return HeardReading(heard=False)
        finally:
            self._waiting.pop(heard, None)
        return HeardReading(
            heard=True, sensor=reading.sensor, metric=reading.metric, value=reading.value, time=reading.time
        )

    async def _committed(self, commit: Commit) -> None:
        if not self._waiting:
            return
        fresh = {reading.device: reading for reading in reversed(commit.fresh)}
        for heard, device in self._waiting.items():
            if device in fresh and not heard.done():
                heard.set_result(fresh[device])
