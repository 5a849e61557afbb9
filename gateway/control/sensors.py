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
from gateway.nodes.commander import NoAnswer, Unreachable
from gateway.nodes.commands import CommandResult, SendCommand
from gateway.registry.registry import Registry

CALIBRATE = (CalibrationShow, Recalibrate, SetSelfCalibration, SetTemperatureOffset, SetAltitude, SetPressure)

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
    """Runs commands to nodes; `send` knows the way to them."""

    def __init__(self, registry: Registry, send: Send) -> None:
        self._registry, self._send = registry, send

    def handlers(self) -> Mapping[type[Any], Handler]:
        return {SendCommand: self._send_command}

    async def _send_command(self, command: SendCommand, _principal: Principal) -> Plan:
        device = self._registry.device(command.device)
        if device.source != "mqtt" or is_foreign(command.device):
            raise ControlError(f"{command.device} is no node of ours: only those take commands")

        async def do() -> BaseModel:
            began_s = monotonic()
            try:
                ok, said = await self._send(command.device, command.name, command.args, command.timeout_s)
            except NoAnswer as error:
                heard = f"{device.last_seen:%Y-%m-%d %H:%M:%S} UTC" if device.last_seen else "never"
                raise ControlError(
                    f"{error}: it was last heard {heard}; whether it did anything is not known"
                ) from error
            except (Unreachable, WireError, DriverError) as error:
                raise ControlError(str(error)) from error
            took_ms = round((monotonic() - began_s) * 1000)
            answer = {"result": said} if ok else {"error": str(said)}
            return CommandResult(device=command.device, name=command.name, ok=ok, took_ms=took_ms, **answer)

        return Plan(f"this sends {command.name!r} to {command.device} and waits {command.timeout_s:g} s", do)
