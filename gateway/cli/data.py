"""Where the data is, and commands sent to whoever holds it."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from gateway import control
from gateway.command import Command, Destructive
from gateway.control import Commands, ControlError, NodeAdd, TokenCreate
from gateway.store.exchange.errands import BeginImport

MAKE_DATA = (TokenCreate, NodeAdd, BeginImport)
"""Commands that may be the first thing that ever happens in a data folder."""

Send = Callable[[Command], Awaitable[dict[str, Any]]]


def folder(given: Path | None, *, demo: bool = False) -> Path:
    """The data folder: as given, $AMBIENT_GATEWAY_DATA, or ./data; the demo keeps its own beside real data."""
    if given is not None:
        return given
    root = Path(os.environ.get("AMBIENT_GATEWAY_DATA", "data"))
    if demo or (not (root / "hot.duckdb").exists() and (root / "demo" / "hot.duckdb").exists()):
        if not demo:
            print(f"using the demo's data in {root / 'demo'}", file=sys.stderr)
        return root / "demo"
    return root


def send(command: Command, data: Path) -> dict[str, Any]:
    """Run a command in the gateway that holds the data, or on the store itself where none runs."""
    return asyncio.run(_send(command, data))


@asynccontextmanager
async def session(data: Path) -> AsyncIterator[Send]:
    """For several commands: the store is opened once where no gateway runs."""
    async with AsyncExitStack() as stack:
        commands: Commands | None = None

        async def send(command: Command) -> dict[str, Any]:
            nonlocal commands
            if commands is None:
                answer = await control.ask(data, command)
                if answer is not None:
                    return answer
                if not isinstance(command, MAKE_DATA) and not (data / "hot.duckdb").exists():
                    raise ControlError(f"{data}: no gateway ever ran here; name its data folder with --data")
                from gateway.app import offline

                commands = await stack.enter_async_context(offline(data))
            try:
                return (await commands.run(command)).model_dump(mode="json")
            except (LookupError, ValueError) as error:
                raise ControlError(str(error.args[0])) from error

        yield send


async def _send(command: Command, data: Path) -> dict[str, Any]:
    async with session(data) as send:
        return await send(command)


def meant(command: Destructive, data: Path) -> dict[str, Any]:
    """Run what cannot be undone; without `confirm` it only says what would be, as a ControlError."""
    if command.confirm or command.dry_run:
        return send(command, data)
    would = send(command.model_copy(update={"dry_run": True}), data)["would"]
    raise ControlError(f"{would}: this cannot be undone; say so with --yes")
