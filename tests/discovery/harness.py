"""Processes that discovery tests start: each is waited for by its words and ended with the test."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp.client.stdio import StdioServerParameters

from tests.certificates import Certificate

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TOKEN = "a-token-for-tests"
DEADLINE_S = 15.0


@dataclass
class Child:
    """A running child and what it says on standard output."""

    process: asyncio.subprocess.Process

    async def line(self, start: str) -> str:
        """The rest of the next line that begins so."""
        assert self.process.stdout
        async with asyncio.timeout(DEADLINE_S):
            while line := await self.process.stdout.readline():
                if line.startswith(start.encode()):
                    return line.decode().removeprefix(start).strip()
        raise AssertionError(f"ended without saying {start!r}")

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()


@asynccontextmanager
async def child(*command: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> AsyncIterator[Child]:
    """Start it; it is killed at the end if it has not ended by itself."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=env, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    started = Child(process)
    try:
        yield started
    finally:
        await started.kill()


def script(name: str, *arguments: str) -> list[str]:
    """The command that runs a script beside this file."""
    return [sys.executable, "-m", f"tests.discovery.{name}", *arguments]


@asynccontextmanager
async def mcp_server(
    certificate: Certificate,
    port: int,
    *,
    host: str = "127.0.0.1",
    token: str = TOKEN,
    gateway_id: str = "",
    inside: Sequence[str] = (),
) -> AsyncIterator[Child]:
    """A real MCP server that listens."""
    files = str(certificate.certificate), str(certificate.key)
    async with child(*inside, *script("mcp_server", host, str(port), *files, token, gateway_id)) as server:
        await server.line("ready")
        yield server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def connect_command(config: Path, inside: Sequence[str] = (), **options: Any) -> StdioServerParameters:
    """The bridge as an assistant's app starts it; `config` is where the pins go."""
    command = [*inside, *script("run_connect", json.dumps(options))]
    return StdioServerParameters(
        command=command[0], args=command[1:], cwd=str(ROOT), env={"XDG_CONFIG_HOME": str(config)}
    )
