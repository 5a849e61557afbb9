"""Gateways and helpers as children of a benchmark, and what they cost. Every child is gone when its block ends."""

import asyncio
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

GATEWAY = str(Path(sys.executable).parent / "gateway")
ROOT = Path(__file__).parent.parent
START_WITHIN_S = 60.0
STOP_WITHIN_S = 15.0
LOOK_EVERY_S = 0.02
MB = 1_000_000


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@asynccontextmanager
async def child(
    *command: str, environment: Mapping[str, str] | None = None, keep_input: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process with its standard output to be read; interrupted, then killed, when the block ends.

    With `keep_input` it is not interrupted, but its standard input ends.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE if keep_input else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | (environment or {}),
    )
    try:
        yield process
    finally:
        if not keep_input:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(STOP_WITHIN_S):
                await process.communicate(b"" if keep_input else None)
        except TimeoutError:
            process.kill()
            await process.communicate(b"" if keep_input else None)


async def output_of(*command: str) -> str:
    """What a helper that ends by itself prints; RuntimeError where it fails."""
    async with child(*command) as process:
        out = (await process.communicate())[0].decode()
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return out


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that printed its welcome. `began_s` is time.perf_counter() at the start of its process."""

    pid: int
    http: int
    mqtt: int
    token: str
    began_s: float
    took_s: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}/mcp"


@asynccontextmanager
async def gateway(
    data: Path, *arguments: str, inside: Sequence[str] = (), http: str = "127.0.0.1", broker: str = "auto"
) -> AsyncIterator[Gateway]:
    """`gateway run` on free ports of loopback, or of `http` where that is a network of our own (`inside` enters it)."""
    plain, secure, mqtt = free_ports(3)
    began_s = time.perf_counter()
    places = ("--http", f"{http}:{plain}", "--https", f"{http}:{secure}", "--mqtt", f"127.0.0.1:{mqtt}")
    command = (*inside, GATEWAY, "run", "--data", str(data), *places, *arguments)
    async with child(*command, environment={"AMBIENT_GATEWAY_MQTT_BROKER": broker}) as process:
        token, took_s = await _welcome(process, began_s)
        assert process.stdout is not None
        rest = asyncio.create_task(process.stdout.read(), name="drain")
        try:
            yield Gateway(process.pid, plain, mqtt, token, began_s, took_s)
        finally:
            rest.cancel()
            await asyncio.wait([rest])


async def _welcome(process: asyncio.subprocess.Process, began_s: float) -> tuple[str, float]:
    """The token in the welcome ("" where none was made) and after how many seconds it came."""
    assert process.stdout is not None
    async with asyncio.timeout(START_WITHIN_S):
        while line := (await process.stdout.readline()).decode():
            took_s = time.perf_counter() - began_s
            if "Tokens exist already" in line:
                return "", took_s
            if line.startswith("  token ") and (found := re.search(r"agw_[\w-]{43}", line)):
                return found[0], took_s
    raise RuntimeError("the gateway ended before its welcome")


async def listening(port: int) -> None:
    """Return when somebody accepts connections there."""
    async with asyncio.timeout(START_WITHIN_S):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                await writer.wait_closed()
                return
            await asyncio.sleep(LOOK_EVERY_S)


def family(pid: int) -> list[psutil.Process]:
    """A process and all its descendants, itself first."""
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes. `pss` shares file pages with whoever else maps them now; `alone` counts them as if nobody did."""

    pss: int
    alone: int


def memory(processes: Iterable[psutil.Process]) -> Memory:
    """What these processes hold (proc_pid_smaps(5), smaps_rollup)."""
    pss = alone = 0
    for process in processes:
        folder = Path("/proc") / str(process.pid)
        rollup = _kilobytes((folder / "smaps_rollup").read_text(encoding="ascii"))
        file = _kilobytes((folder / "status").read_text(encoding="ascii"))["RssFile"]
        pss += rollup["Pss"] * 1024
        alone += (rollup["Pss_Anon"] + rollup["Pss_Shmem"] + file) * 1024
    return Memory(pss, alone)


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """CPU time that these processes used since their start."""
    times = [process.cpu_times() for process in processes]
    return float(sum(each.user + each.system for each in times))


def switches(process: psutil.Process) -> int:
    """How often the threads of a process went to sleep since their start."""
    found = 0
    for task in (Path("/proc") / str(process.pid) / "task").iterdir():
        with suppress(OSError):
            text = (task / "status").read_text(encoding="ascii")
            found += int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return found


def _kilobytes(text: str) -> dict[str, int]:
    return {name: int(count) for name, count in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
