"""One typed command layer for the command line, MCP and the page: decided, audited, then run."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, Field, TypeAdapter

from gateway.access.audit import Audit
from gateway.access.commands import (
    NodeAdd,
    NodeLogins,
    NodeRevoke,
    NodeRotate,
    TokenCreate,
    TokenList,
    TokenRevoke,
    TokenRotate,
    ViewAuthority,
)
from gateway.access.policy import Decision, Plain, allow
from gateway.access.principal import Principal
from gateway.calibration.commands import (
    CalibrateSensor,
    CalibrationShow,
    Recalibrate,
    SetAltitude,
    SetPressure,
    SetSelfCalibration,
    SetTemperatureOffset,
)
from gateway.command import Command, ControlError, Destructive, Unconfirmed, Would, Write
from gateway.control.access import Status
from gateway.control.base import LOCAL, Handler, Kind, Plan
from gateway.control.data import ForgetReadings
from gateway.control.pairing import AppDecide, PairingOpen
from gateway.jail.commands import ApproveTool, DeleteSavedQuery, RegisterTool, RemoveTool, SaveQuery, ToolList
from gateway.nodes.commands import SendCommand
from gateway.nodes.ota.commands import (
    FirmwareAdd,
    FirmwareDistrust,
    FirmwareKeys,
    FirmwareList,
    FirmwareRemove,
    FirmwareTrust,
)
from gateway.nodes.ota.rollout_commands import (
    AbortRollout,
    NodeFirmwareList,
    PauseRollout,
    ResumeRollout,
    RolloutList,
    RolloutShow,
    UpdateFirmware,
)
from gateway.nodes.provision.commands import AwaitReading
from gateway.registry.commands import (
    ClaimDevice,
    DeleteDevice,
    DeleteZone,
    DeviceList,
    SaveZone,
    UpdateDevice,
    ZoneList,
)
from gateway.store.errors import StoreError
from gateway.store.exchange.commands import ExportData
from gateway.store.exchange.errands import BeginImport, EndImport, ImportRows, TakeSnapshot
from gateway.tasks import CancelTask

AnyCommand = Annotated[
    TokenCreate
    | TokenList
    | TokenRevoke
    | TokenRotate
    | PairingOpen
    | AppDecide
    | NodeAdd
    | NodeRotate
    | NodeRevoke
    | NodeLogins
    | ViewAuthority
    | AwaitReading
    | Status
    | ForgetReadings
    | TakeSnapshot
    | BeginImport
    | ImportRows
    | EndImport
    | CalibrationShow
    | Recalibrate
    | SetSelfCalibration
    | SetTemperatureOffset
    | SetAltitude
    | SetPressure
    | DeviceList
    | UpdateDevice
    | ClaimDevice
    | DeleteDevice
    | ZoneList
    | SaveZone
    | DeleteZone
    | CalibrateSensor
    | SendCommand
    | ExportData
    | CancelTask
    | SaveQuery
    | DeleteSavedQuery
    | ToolList
    | RegisterTool
    | ApproveTool
    | RemoveTool
    | FirmwareTrust
    | FirmwareDistrust
    | FirmwareKeys
    | FirmwareAdd
    | FirmwareList
    | FirmwareRemove
    | UpdateFirmware
    | RolloutShow
    | RolloutList
    | NodeFirmwareList
    | PauseRollout
    | ResumeRollout
    | AbortRollout,
    Field(discriminator="command"),
]
COMMAND: TypeAdapter[Command] = TypeAdapter(AnyCommand)


class Commands:
    """Runs the commands of these kinds. A kind that is not given needs a running gateway, and says so."""

    def __init__(self, audit: Audit, kinds: Iterable[Kind], *, plain: Plain = Plain.READ) -> None:
        self._audit, self._plain = audit, plain
        self._handlers: dict[type[Command], Handler] = {}
        for kind in kinds:
            self.add(kind)

    def add(self, kind: Kind) -> None:
        """One more kind, for what opens later."""
        self._handlers |= kind.handlers()

    async def run(self, command: Command, principal: Principal = LOCAL, *, secure: bool = True) -> BaseModel:
        """Do it and return its result, audited; ControlError, LookupError or ValueError say what was wrong.

        Unconfirmed where a destructive one lacks `confirm`; a dry run is checked as the real one, answered by Would
        (or the command's own preview), and changes nothing.
        """
        decision = allow(principal, command.command, secure=secure, plain=self._plain)
        dry = isinstance(command, Write) and command.dry_run
        unsure = isinstance(command, Destructive) and not command.confirm and not dry
        verdict = Decision(False, "not confirmed") if unsure and decision.allowed else decision
        detail = ", ".join(word for word in (command.detail, "dry run" if dry else "") if word)
        await self._audit.record(principal, command.command, command.target, verdict, detail)
        if not decision.allowed:
            raise ControlError(decision.reason)
        handler = self._handlers.get(type(command))
        if handler is None:
            raise ControlError(f"{command.command}: no gateway runs on this data; start one with `gateway run`")
        try:
            found = await handler(command, principal)
            if not isinstance(found, Plan):
                return found
            if dry:
                return found.preview or Would(would=found.would)
            if unsure:
                raise Unconfirmed(found.would)
            return await found.do()
        except StoreError as error:
            raise ControlError(str(error)) from error
