"""The port that a board hangs on: why it cannot be opened, and what to do about it."""

import errno
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from drivers.errors import BusError, BusUnavailable
from drivers.host.serial_port import BUSY, BY_ID, MISSING, LinuxSerial, stable_name
from gateway.nodes.provision.errors import ProvisionError

BAUD = 115200
PATTERNS = ("ttyUSB*", "ttyACM*")


@asynccontextmanager
async def opened(path: str) -> AsyncIterator[LinuxSerial]:
    """The port for us alone; ProvisionError says why not, or that it went away meanwhile."""
    path = path.removeprefix("serial:")
    try:
        async with LinuxSerial(stable_name(path) or path, BAUD) as port:
            yield port
    except BusUnavailable as error:
        raise ProvisionError(why(path, error.__cause__)) from error
    except BusError as error:
        raise ProvisionError(f"{error} Nothing is broken: plug it in again and repeat the command") from error


def why(path: str, error: BaseException | None) -> str:
    """In one line, with the way out."""
    number = error.args[0] if error is not None and error.args else None
    if isinstance(number, str) and (found := re.search(r"\((\d+),", number)):  # pyserial's words around termios.error
        number = int(found[1])
    if number in (errno.EACCES, errno.EPERM):
        return f"{path}: no permission; `sudo usermod -aG dialout $USER`, then log in again (group dialout)"
    if number in BUSY:
        using = ", ".join(holders(path)) or f"a program of another user (`sudo fuser -v {path}` says which)"
        return f"{path} is in use by {using}: end it first"
    if number in MISSING:
        there = ", ".join(ports())
        return f"{path} is not there: {f'there is {there}' if there else 'no board is plugged in by USB'}"
    if number == errno.ENOTTY:
        return f"{path} is no serial port"
    return f"{path}: {error}"


def ports(devices: Path = Path("/dev")) -> list[str]:
    """Where boards may hang on this machine, by their lasting names where they have some."""
    named = sorted(BY_ID.iterdir()) if BY_ID.is_dir() else []
    plain = sorted(path for pattern in PATTERNS for path in devices.glob(pattern))
    taken = {os.path.realpath(path) for path in named}
    return [str(path) for path in (*named, *(each for each in plain if os.path.realpath(each) not in taken))]


def holders(path: str) -> list[str]:
    """Who has the port open, as "name (process 12)"; only of processes that this user may look at."""
    target = os.path.realpath(path)
    found = []
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda each: int(each.name)):
        try:
            if int(process.name) != os.getpid() and any(
                str(each.readlink()) == target for each in (process / "fd").iterdir()
            ):
                found.append(f"{(process / 'comm').read_text().strip()} (process {process.name})")
        except OSError:  # gone meanwhile, or another's
            continue
    return found[:5]
