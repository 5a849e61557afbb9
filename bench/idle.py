"""What a gateway holds and burns while nothing much happens: an appliance with two chips and one node, and the demo.

The appliance runs in a network of its own (a namespace, which needs root): there it announces itself by mDNS, and
nobody hears it. Without root it runs on loopback, where nothing is announced.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psutil  # type: ignore[import-untyped,unused-ignore]

from bench.figures import Figure, Goal
from bench.processes import MB, Memory, child, cpu_s, family, gateway, memory, switches
from tests.netns import possible, two_machines

MOST_MB = 150.0
MOST_CPU_PERCENT = 2.0
WEIGH_EVERY_S = 10.0
SENDS_EVERY_S = 10.0
SETTINGS = """\
[discovery]
mdns = true
[[device]]
id = "appliance"
[[device.sensor]]
driver = "scd30"
bus = "replay:living-room"
interval_s = 5
[[device.sensor]]
driver = "bmp280"
bus = "replay:living-room"
interval_s = 5
"""


@dataclass(frozen=True, slots=True)
class Size:
    """For each kind of gateway, one by one: seconds until it has settled, and seconds that are measured after that."""

    kinds: dict[str, tuple[float, float]]


APPLIANCE, DEMO, EMBEDDED = "appliance", "demo", "demo, embedded broker"
SHORT = (20.0, 40.0)
FULL = Size({APPLIANCE: (120.0, 180.0), DEMO: (120.0, 180.0), EMBEDDED: SHORT})
QUICK = Size(dict.fromkeys((APPLIANCE, DEMO, EMBEDDED), SHORT))
IMPORTS = "import mcp.server.mcpserver, uvicorn, duckdb; print(flush=True); input()"
PEER = "a python that imports mcp.server.mcpserver, uvicorn, duckdb"


@dataclass(frozen=True, slots=True)
class Idle:
    """What one process used: bytes (medians), CPU in percent of a core, sleeps that ended a second."""

    name: str
    pss: float
    alone: float
    cpu_percent: float
    wakes_per_s: float


async def measure(size: Size) -> list[Figure]:
    """The gateway with its broker, and the broker apart."""
    figures = []
    peer = await _imports()
    for kind, times in size.kinds.items():
        with TemporaryDirectory() as folder:
            if kind == APPLIANCE:
                found = await _appliance(Path(folder), *times)
            else:
                found = await _demo(Path(folder), "embedded" if kind == EMBEDDED else "auto", *times)
        figures += _figures(kind, found, peer)
    return figures


async def _imports() -> Memory:
    """What the libraries alone weigh; gone before any gateway starts, or they would share pages."""
    async with child(sys.executable, "-c", IMPORTS, keep_input=True) as process:
        assert process.stdout is not None
        await process.stdout.readline()
        return memory([psutil.Process(process.pid)])


def _figures(kind: str, found: Sequence[Idle], peer: Memory) -> list[Figure]:
    def total(name: str) -> float:
        return float(sum(getattr(each, name) for each in found))

    def mb(what: str, size: float, beside: int, goal: Goal | None = None) -> Figure:
        return Figure(f"idle, {kind}: {what}", size / MB, "MB", PEER, beside / MB, goal)

    figures = [
        mb("PSS of gateway and broker", total("pss"), peer.pss, Goal(MOST_MB)),
        mb("the same, if nobody else mapped the libraries", total("alone"), peer.alone, Goal(MOST_MB)),
        Figure(f"idle, {kind}: CPU of one core", total("cpu_percent"), "%", goal=Goal(MOST_CPU_PERCENT)),
    ]
    for each in found:
        figures += [
            Figure(f"idle, {kind}: PSS of {each.name}", each.pss / MB, "MB"),
            Figure(f"idle, {kind}: CPU of {each.name}", each.cpu_percent, "%"),
            Figure(f"idle, {kind}: wake-ups of {each.name}", each.wakes_per_s, "/s"),
        ]
    return figures


async def _appliance(folder: Path, settle_s: float, measure_s: float) -> list[Idle]:
    settings = folder / "gateway.toml"
    settings.write_text(SETTINGS, encoding="utf-8")
    with _network() as (inside, host):
        async with (
            gateway(folder / "data", "--config", str(settings), inside=inside, http=host) as running,
            _sender(inside, running.mqtt),
        ):
            return await _watch(running.pid, settle_s, measure_s)


async def _demo(folder: Path, broker: str, settle_s: float, measure_s: float) -> list[Idle]:
    async with gateway(folder, "--demo", broker=broker) as running:
        return await _watch(running.pid, settle_s, measure_s)


@contextmanager
def _network() -> Iterator[tuple[Sequence[str], str]]:
    """What to put before a command that shall run in it, and the address to serve on."""
    if not possible():
        yield (), "127.0.0.1"
        return
    with two_machines() as (machine, _):
        yield machine.inside, machine.address


@asynccontextmanager
async def _sender(inside: Sequence[str], port: int) -> AsyncIterator[None]:
    """A sender of the minimal form."""
    command = (sys.executable, "-m", "bench.sender", str(port), str(SENDS_EVERY_S))
    async with child(*inside, *command):
        yield


async def _watch(pid: int, settle_s: float, measure_s: float) -> list[Idle]:
    """The gateway first, then its children."""
    await asyncio.sleep(settle_s)
    processes = family(pid)
    loop = asyncio.get_running_loop()
    began_s, ends_s = loop.time(), loop.time() + measure_s
    used = [(cpu_s([each]), switches(each)) for each in processes]
    weights = [[memory([each]) for each in processes]]
    while (left_s := ends_s - loop.time()) > 0:
        await asyncio.sleep(min(WEIGH_EVERY_S, left_s))
        weights.append([memory([each]) for each in processes])
    took_s = loop.time() - began_s
    found = []
    for process, (cpu_before_s, slept), weighed in zip(processes, used, zip(*weights, strict=True), strict=True):
        found.append(
            Idle(
                "the gateway" if process.pid == pid else _name(process),
                median(each.pss for each in weighed),
                median(each.alone for each in weighed),
                100 * (cpu_s([process]) - cpu_before_s) / took_s,
                (switches(process) - slept) / took_s,
            )
        )
    return found


def _name(process: psutil.Process) -> str:
    return "the embedded broker" if "gateway.broker.embedded" in process.cmdline() else process.name()
