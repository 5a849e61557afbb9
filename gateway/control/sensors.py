"""What is done to a sensor or a node: calibration, and commands over the broker."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import monotonic
from typing import Any

from pydantic import BaseModel

from drivers.errors import DriverError
from gateway.access.principal import Principal
from gateway.calibration.commands import (
    CalibrateSensor,
    CalibrationOutcome,
    CalibrationShow,
    Recalibrate,
    SetAltitude,
    SetPressure,
    SetSelfCalibration,
    SetTemperatureOffset,
    calibrate,
)
from gateway.calibration.service import Calibrations
from gateway.command import ControlError
from gateway.control.base import Handler, Plan
from gateway.ingest.dialects import is_foreign
from gateway.ingest.wire import WireError
from gateway.nodes.catalogue import check
from gateway.nodes.commander import Unreachable
from gateway.nodes.commands import CommandResult, SendCommand
from gateway.nodes.orders import NoAnswer
from gateway.registry.registry import Registry
from gateway.store import queries
from gateway.store.db import Store
from gateway.tasks import Progress, Tasks, TaskView

CALIBRATE = (CalibrationShow, Recalibrate, SetSelfCalibration, SetTemperatureOffset, SetAltitude, SetPressure)

FIRMWARE, NOTHING = "esp32", "node"
"""What our firmware calls its devices, and the sensor of its messages without a reading."""

Send = Callable[[str, str, Mapping[str, Any], float], Awaitable[tuple[bool, Any]]]
"""(device, name, arguments, seconds to wait) -> (ok, result or error text)."""


class SensorCommands:
    """Runs them on the sensors that this gateway holds."""

    def __init__(self, calibrations: Calibrations) -> None:
        self._calibrations = calibrations

    def handlers(self) -> Mapping[type[Any], Handler]:
        found: dict[type[Any], Handler] = dict.fromkeys(CALIBRATE, self._calibrate)
        return found | {CalibrateSensor: self._calibrate_sensor}

    async def _calibrate(self, command: Any, principal: Principal) -> BaseModel:
        try:
            return await calibrate(self._calibrations, command, principal.name)
        except DriverError as error:
            raise ControlError(f"{command.device}/{command.sensor}: {error}") from error

    async def _calibrate_sensor(self, command: CalibrateSensor, principal: Principal) -> Plan:
        change = command.change(dry_run=False)
        preview = None
        if command.dry_run or not command.confirm:  # what it would do is asked of the sensor itself
            found = await self._calibrate(command.change(dry_run=True), principal)
            assert isinstance(found, CalibrationOutcome)
            preview = found
        would = f"this is a change of {command.device}/{command.sensor}: {change.change}"
        return Plan(would, partial(self._calibrate, change, principal), preview)


class NodeCommands:
    """Runs commands to nodes; `send` knows the way to them, `key` which of them are ours."""

    def __init__(
        self, store: Store, registry: Registry, tasks: Tasks, key: Callable[[str], bytes | None], send: Send
    ) -> None:
        self._store, self._registry, self._tasks, self._key, self._send = store, registry, tasks, key, send

    def handlers(self) -> Mapping[type[Any], Handler]:
        return {SendCommand: self._send_command}

    async def _send_command(self, command: SendCommand, principal: Principal) -> Plan:
        device = self._registry.device(command.device)
        if device.source != "mqtt" or is_foreign(command.device):
            raise ControlError(f"{command.device} is no node of ours: only those take commands")
        if device.device_type == FIRMWARE and self._key(command.device) is not None:
            check(command.device, command.name, command.args, self._sensors(command.device))

        async def in_background() -> BaseModel:
            def work(progress: Progress) -> Awaitable[dict[str, Any]]:
                progress(0.0, f"{command.name!r} was sent; called off now, {command.device} may still obey it")
                return self._answer(command)

            task_id = self._tasks.start("send_command", principal.key, work)
            return TaskView.of(self._tasks.get(task_id, principal.key))

        async def do() -> BaseModel:
            return CommandResult.model_validate(await self._answer(command))

        would = f"this sends {command.name!r} to {command.device} and waits {command.timeout_s:g} s"
        return Plan(would, in_background if command.background else do)

    async def _answer(self, command: SendCommand) -> dict[str, Any]:
        began_s = monotonic()
        try:
            ok, said = await self._send(command.device, command.name, command.args, command.timeout_s)
        except NoAnswer as error:
            last_seen = self._registry.device(command.device).last_seen
            heard = f"{last_seen:%Y-%m-%d %H:%M:%S} UTC" if last_seen else "never"
            raise ControlError(f"{error}: it was last heard {heard}; whether it did anything is not known") from error
        except (Unreachable, WireError, DriverError) as error:
            raise ControlError(str(error)) from error
        took_ms = round((monotonic() - began_s) * 1000)
        answer = {"result": said} if ok else {"error": str(said)}
        return {"device": command.device, "name": command.name, "ok": ok, "took_ms": took_ms, **answer}

    def _sensors(self, device: str) -> dict[str, list[str] | None]:
        """A node's sensors, with the commands of their own that they told."""
        found: dict[str, list[str] | None] = {}
        for each in queries.sensors(self._store):
            if each.device_id == device and each.sensor != NOTHING:
                told = each.metadata.get("commands")
                found[each.sensor] = told.split() if isinstance(told, str) else None
        return found
