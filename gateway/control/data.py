"""What is done to stored readings as a whole."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from pydantic import BaseModel

from gateway.access.principal import Principal
from gateway.command import Destructive, Done
from gateway.control.base import Handler, Plan
from gateway.store.exchange.errands import BeginImport, EndImport, Errands, ImportRows, TakeSnapshot

ERRANDS: tuple[type[Any], ...] = (TakeSnapshot, BeginImport, ImportRows, EndImport)


class ForgetReadings(Destructive):
    """Delete every reading and rollup of a device from every file, for good."""

    command: Literal["forget_readings"] = "forget_readings"
    device: str

    @property
    def target(self) -> str:
        return self.device


class DataCommands:
    """Runs them; `forget` deletes the readings of a device and says how many series it had."""

    def __init__(self, errands: Errands, forget: Callable[[str], Awaitable[int]]) -> None:
        self._errands, self._forget = errands, forget

    def handlers(self) -> Mapping[type[Any], Handler]:
        found: dict[type[Any], Handler] = dict.fromkeys(ERRANDS, self._run_errand)
        return found | {ForgetReadings: self._forget_readings}

    async def _run_errand(self, command: Any, _principal: Principal) -> BaseModel:
        return await self._errands.run(command)

    async def _forget_readings(self, command: ForgetReadings, _principal: Principal) -> Plan:
        async def do() -> BaseModel:
            gone = await self._forget(command.device)
            return Done(done=f"{gone} series of {command.device} hold nothing now")

        return Plan(f"would delete every reading of {command.device}", do)
