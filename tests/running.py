"""A real gateway as a child process, for tests of the whole."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

GATEWAY = str(Path(sys.executable).parent / "gateway")
START_WITHIN_S = 20.0
STOP_WITHIN_S = 10.0
COMMAND_WITHIN_S = 30.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@dataclass
class Running:
    """A gateway that printed its welcome. `took_s` from the start of the process to that; `rest` is what it says from
    then on, known when it has ended."""

    process: asyncio.subprocess.Process
    data: Path
    http: int
    https: int
    mqtt: int
    welcome: str
    took_s: float
    rest: asyncio.Task[bytes]

    @property
    def token(self) -> str:
        found = re.search(r"agw_[\w-]{43}", self.welcome)
        assert found, self.welcome
        return found[0]

    @property
    def fingerprint(self) -> str:
        found = re.search(r"[0-9a-f]{64}", self.welcome)
        assert found, self.welcome
        return found[0]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}/mcp"

    @asynccontextmanager
    async def client(self, mode: str = "2026-07-28", token: str | None = None) -> AsyncIterator[Client]:
        """A real MCP client of one protocol era."""
        headers = {"Authorization": f"Bearer {token or self.token}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(10, read=60)) as http,
            Client(streamable_http_client(self.url, http_client=http), mode=mode) as client,  # type: ignore[arg-type]
        ):
            yield client

    async def status(self) -> dict[str, Any]:
        """What `gateway status` says."""
        code, out, err = await command("status", "--json", "--data", str(self.data))
        assert code == 0, err
        status: dict[str, Any] = json.loads(out)
        return status

    async def stop(self, how: signal.Signals = signal.SIGINT) -> float:
        """End it and return after how many seconds it was gone."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(how)
        async with asyncio.timeout(STOP_WITHIN_S):
            await self.process.wait()
        return loop.time() - began_s


@asynccontextmanager
async def gateway(
    data: Path,
    *arguments: str,
    ports: Sequence[int] | None = None,
    host: str = "127.0.0.1",
    inside: Sequence[str] = (),
    environment: dict[str, str] | None = None,
) -> AsyncIterator[Running]:
    """Start `gateway run` on free ports of `host`, after the words `inside`; it is gone when the block ends."""
    http, https, mqtt = ports or free_ports(3)
    began_s = asyncio.get_running_loop().time()
    process = await asyncio.create_subprocess_exec(
        *inside,
        GATEWAY,
        "run",
        *("--data", str(data), "--http", f"{host}:{http}", "--https", f"{host}:{https}"),
        *("--mqtt", f"127.0.0.1:{mqtt}"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"AMBIENT_GATEWAY_NTP_PORT": "0"} | (environment or {}),  # the machine's port 123 is not ours
    )
    try:
        lines: list[str] = []
        assert process.stdout is not None
        async with asyncio.timeout(START_WITHIN_S):
            while "/mcp   certificate" not in "".join(lines):
                line = (await process.stdout.readline()).decode()
                assert line, f"the gateway ended: {''.join(lines)}"
                lines.append(line)
            while not ("  token " in lines[-1] or "Tokens exist" in lines[-1]):
                lines.append((await process.stdout.readline()).decode())
        took_s = asyncio.get_running_loop().time() - began_s
        drain = asyncio.create_task(process.stdout.read(), name="drain")
        yield Running(process, data, http, https, mqtt, "".join(lines), took_s, drain)
        drain.cancel()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def command(
    *arguments: str, inside: Sequence[str] = (), environment: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Run one `gateway` command to its end: exit code, standard output, standard error."""
    return await program(*inside, GATEWAY, *arguments, environment=environment)


async def program(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run any program to its end without input: exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | (environment or {}),
    )
    async with asyncio.timeout(COMMAND_WITHIN_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
