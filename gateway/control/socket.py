"""The socket by which a second process uses the commands of the gateway that holds the store.

A second process cannot open the store while the gateway runs, so `gateway token create` and its like go through
DATA/control.sock: one JSON request a line, one JSON answer a line, for the same user (or root) only.
"""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from gateway.command import Command, ControlError
from gateway.control.run import COMMAND, Commands

SOCKET = "control.sock"
LINE_LIMIT = 1 << 20


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
        result = await commands.run(COMMAND.validate_json(line))
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
