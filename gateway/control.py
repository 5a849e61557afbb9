"""One typed command layer for the command line, MCP and the page, and the socket by which a second process uses it.

A second process cannot open the store while the gateway runs, so `gateway token create` and its like go through
DATA/control.sock: one JSON request a line, one JSON answer a line, for the same user (or root) only.
"""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from drivers.errors import DriverError
from gateway.access.audit import Audit
from gateway.access.policy import allow
from gateway.access.principal import Principal, Scope
from gateway.access.tokens import Tokens
from gateway.calibration.commands import (
    Calibrate,
    CalibrationShow,
    Recalibrate,
    SetAltitude,
    SetPressure,
    SetSelfCalibration,
    SetTemperatureOffset,
    calibrate,
)
from gateway.calibration.service import Calibrations
from gateway.clock import Clock
from gateway.command import Command
from gateway.store.errors import StoreError
from gateway.store.exchange.errands import BeginImport, EndImport, Errands, ImportRows, TakeSnapshot
from gateway.store.types import TokenRow
from gateway.wear import Wear

SOCKET = "control.sock"
LINE_LIMIT = 1 << 20
LOCAL = Principal("local", Scope.ADMIN)
"""Whoever may open the socket or the data folder itself: the owner of the machine."""


class ControlError(Exception):
    """A command was refused; the message says why and what to do."""


class TokenCreate(Command):
    command: Literal["create_token"] = "create_token"
    name: Annotated[str, Field(min_length=1, max_length=64)]
    scope: Literal["read", "control", "admin"]
    expires_days: Annotated[int, Field(ge=1)] | None = None

    @property
    def target(self) -> str:
        return self.name


class TokenList(Command):
    command: Literal["list_tokens"] = "list_tokens"


class TokenRevoke(Command):
    command: Literal["revoke_token"] = "revoke_token"
    name: str

    @property
    def target(self) -> str:
        return self.name


class NodeAdd(Command):
    """Give a node its key, so that it can tell our acknowledgements from a false broker's."""

    command: Literal["add_node"] = "add_node"
    device: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]

    @property
    def target(self) -> str:
        return self.device


class ForgetReadings(Command):
    """Delete every reading and rollup of a device from every file, for good; `confirm` has to say so."""

    command: Literal["forget_readings"] = "forget_readings"
    device: str
    confirm: bool = False

    @property
    def target(self) -> str:
        return self.device


class Status(Command):
    command: Literal["view_status"] = "view_status"


AnyCommand = Annotated[
    TokenCreate
    | TokenList
    | TokenRevoke
    | NodeAdd
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
    | SetPressure,
    Field(discriminator="command"),
]
_COMMAND: TypeAdapter[Command] = TypeAdapter(AnyCommand)


class Created(BaseModel):
    """A new secret, shown this once."""

    name: str
    secret: str


class TokenView(BaseModel):
    name: str
    scope: str
    created: datetime
    expires: datetime | None
    revoked: datetime | None
    last_used: datetime | None

    @classmethod
    def of(cls, row: TokenRow) -> "TokenView":
        return cls(
            name=row.name,
            scope=str(Scope(row.scope)),
            created=row.created,
            expires=row.expires,
            revoked=row.revoked,
            last_used=row.last_used,
        )


class TokenViews(BaseModel):
    tokens: list[TokenView]


class Done(BaseModel):
    done: str


class WearView(BaseModel):
    """What was written to the data's device since the start; estimates are absent until there is something to estimate
    from."""

    counted_by: str
    written_bytes: int
    bytes_a_reading: float | None
    tb_a_year: float | None
    card_years: float | None

    @classmethod
    def of(cls, wear: Wear) -> "WearView":
        return cls(
            counted_by=wear.source,
            written_bytes=wear.written_bytes,
            bytes_a_reading=None if wear.bytes_a_reading is None else round(wear.bytes_a_reading, 1),
            tb_a_year=None if wear.tb_a_year is None else round(wear.tb_a_year, 4),
            card_years=None if wear.years is None else round(wear.years, 1),
        )


class StatusView(BaseModel):
    """What runs here. Sizes in bytes, `uptime_s` in seconds."""

    gateway_id: str
    fingerprint: str
    version: str
    uptime_s: float
    broker: str
    readings: int
    devices: int
    data_bytes: int
    free_bytes: int
    wear: WearView


class Commands:
    """Runs commands. `add_node` makes and stores a node's key; `status` and `calibrations` are None where no gateway
    runs."""

    def __init__(
        self,
        tokens: Tokens,
        audit: Audit,
        clock: Clock,
        add_node: Callable[[str], Awaitable[str]],
        status: Callable[[], Awaitable[StatusView]] | None = None,
        *,
        errands: Errands | None = None,
        forget: Callable[[str], Awaitable[int]] | None = None,
        calibrations: Calibrations | None = None,
    ) -> None:
        self._tokens, self._audit, self._clock = tokens, audit, clock
        self._add_node, self._status, self._calibrations = add_node, status, calibrations
        self._errands, self._forget = errands, forget

    async def run(self, command: Command, principal: Principal = LOCAL) -> BaseModel:
        """Do it and return its result, audited; ControlError, LookupError or ValueError say what was wrong."""
        decision = allow(principal, command.command, secure=True)
        await self._audit.record(principal, command.command, command.target, decision, command.detail)
        if not decision.allowed:
            raise ControlError(decision.reason)
        match command:
            case TokenCreate():
                lifetime = command.expires_days
                expires = self._clock.now() + timedelta(days=lifetime) if lifetime else None
                token = await self._tokens.create(command.name, Scope[command.scope.upper()], expires)
                return Created(name=command.name, secret=token)
            case TokenList():
                return TokenViews(tokens=[TokenView.of(row) for row in await self._tokens.list()])
            case TokenRevoke():
                await self._tokens.revoke(command.name)
                return Done(done=f"revoked {command.name}")
            case NodeAdd():
                return Created(name=command.device, secret=await self._add_node(command.device))
            case Status() if self._status is not None:
                return await self._status()
        return await self._elsewhere(command, principal)

    async def _elsewhere(self, command: Command, principal: Principal) -> BaseModel:
        """What the store and the sensors do themselves."""
        try:
            match command:
                case ForgetReadings() if self._forget is not None:
                    if not command.confirm:
                        raise ControlError(f"{command.device}: this cannot be undone; say so with --yes")
                    return Done(
                        done=f"{await self._forget(command.device)} series of {command.device} hold nothing now"
                    )
                case TakeSnapshot() | BeginImport() | ImportRows() | EndImport() if self._errands is not None:
                    return await self._errands.run(command)
                case CalibrationShow() | Calibrate() if self._calibrations is not None:
                    return await calibrate(self._calibrations, command, principal.name)
        except StoreError as error:
            raise ControlError(str(error)) from error
        except DriverError as error:
            sensor = f"{command.device}/{command.sensor}: " if isinstance(command, CalibrationShow | Calibrate) else ""
            raise ControlError(f"{sensor}{error}") from error
        raise ControlError(f"{command.command}: no gateway runs on this data; start one with `gateway run`")


@asynccontextmanager
async def serve(folder: Path, commands: Commands) -> AsyncIterator[None]:
    """Answer commands on folder/control.sock (mode 0600) until left; a socket left by a crash is replaced."""
    path = folder / SOCKET
    path.unlink(missing_ok=True)
    with _reachable(path) as address:
        listener = socket.socket(socket.AF_UNIX)
        previous = os.umask(0o177)
        try:
            listener.bind(address)
        finally:
            os.umask(previous)
    server = await asyncio.start_unix_server(lambda r, w: _converse(r, w, commands), sock=listener, limit=LINE_LIMIT)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


async def ask(folder: Path, command: Command) -> dict[str, object] | None:
    """Send a command to the gateway that runs on this data folder; None where none runs, ControlError if refused."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        with _reachable(folder / SOCKET) as address:
            connection.connect(address)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        connection.close()
        return None
    except PermissionError as error:
        connection.close()
        raise ControlError(f"{folder / SOCKET}: the gateway runs as another user; use sudo or that user") from error
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=LINE_LIMIT)
    try:
        writer.write(command.model_dump_json().encode() + b"\n")
        await writer.drain()
        answer = _ANSWER.validate_json(await reader.readline() or b'{"ok": false, "error": "the gateway hung up"}')
    finally:
        writer.close()
    if not answer.ok:
        raise ControlError(answer.error)
    return answer.result


class _Answer(BaseModel):
    ok: bool
    result: dict[str, object] = Field(default_factory=dict)
    error: str = ""


_ANSWER: TypeAdapter[_Answer] = TypeAdapter(_Answer)


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, commands: Commands) -> None:
    try:
        if _peer_uid(writer) not in {os.getuid(), 0}:
            return
        while line := await reader.readline():
            writer.write((await _answer(line, commands)).model_dump_json().encode() + b"\n")
            await writer.drain()
    except (ConnectionError, ValueError):  # the peer left, or sent a line beyond the limit: nothing to tell it
        return
    finally:
        writer.close()


async def _answer(line: bytes, commands: Commands) -> _Answer:
    try:
        result = await commands.run(_COMMAND.validate_json(line))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors())
        return _Answer(ok=False, error=faults)
    except (ControlError, LookupError, ValueError) as error:
        return _Answer(ok=False, error=str(error.args[0]) if error.args else repr(error))
    return _Answer(ok=True, result=result.model_dump(mode="json"))


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    """The user at the other end, from SO_PEERCRED (unix(7)): struct ucred is pid, uid, gid."""
    sock = writer.get_extra_info("socket")
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", credentials)[1]
    return uid


class _reachable:  # noqa: N801 - reads as `with _reachable(path) as address`
    """A name for a socket path that fits sockaddr_un's 108 bytes however deep the data folder lies."""

    def __init__(self, path: Path) -> None:
        self._path, self._folder = path, -1

    def __enter__(self) -> str:
        self._folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._folder}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        os.close(self._folder)
