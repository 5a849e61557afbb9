"""Where the data is, and commands sent to whoever holds it."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from gateway import control
from gateway.command import Command
from gateway.control import ControlError, NodeAdd, TokenCreate


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


async def _send(command: Command, data: Path) -> dict[str, Any]:
    answer = await control.ask(data, command)
    if answer is not None:
        return answer
    if not isinstance(command, TokenCreate | NodeAdd) and not (data / "hot.duckdb").exists():
        raise ControlError(f"{data}: no gateway ever ran here; name its data folder with --data")
    from gateway.app import offline

    async with offline(data) as commands:
        try:
            return (await commands.run(command)).model_dump(mode="json")
        except (LookupError, ValueError) as error:
            raise ControlError(str(error.args[0])) from error
