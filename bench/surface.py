"""What assistants wait for: every read tool over ten million readings, asked by eight clients at once and by one alone.

The gateway is a process of its own, so is the trivial tool of a bare SDK server beside it. Clients send the very bytes
that the SDK's client sends, over kept-alive connections, each as soon as it has its answer: with eight of them a median
is about eight times what a call costs the server. Missing are get_task (a reader has no task) and what changes other
answers (set_context, clear_query_cache).
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import psutil  # type: ignore[import-untyped,unused-ignore]

from bench.asking import MODERN, asking
from bench.figures import Figure, Goal, percentile
from bench.processes import MB, child, family, free_ports, gateway, listening, memory
from bench.surface_asks import BY_ROWS, OF_ROWS, QUESTIONS, Question
from bench.surface_house import furnish

ENDS_WITHIN_S = 3600.0
PEER = "trivial tool, bare SDK"
IDLE_S, SPARE_S = 300.0, 30.0
"""After so long children end by themselves, and how much later than that is still looked."""
LOOK_S = 0.5
WORKERS = {"query_worker": "the SQL worker", " full ": "the analysis worker", " plain": "the functions' worker"}
"""Children of the gateway by a part of their command line."""
SETTINGS = "[access]\nrequests_per_s = 0\n[discovery]\nmdns = false\n[store]\nwarn_free_mb = 0\nleast_free_mb = 0\n"


@dataclass(frozen=True, slots=True)
class Size:
    """Readings of a year, clients at once, seconds that each tool is asked, how many different calls of each, whether
    to wait until the children have gone."""

    rows: int
    clients: int
    each_s: float
    different: int
    idle: bool


FULL, QUICK = Size(10_000_000, 8, 2.0, 24, True), Size(60_000, 2, 0.02, 1, False)
DAYS = 365


@dataclass(frozen=True, slots=True)
class Server:
    """Where to ask."""

    url: str
    token: str
    pid: int


@dataclass(frozen=True, slots=True)
class Timed:
    """Milliseconds of each call, and calls a second."""

    ms: Sequence[float]
    a_second: float


async def measure(size: Size) -> list[Figure]:
    """Each tool in turn, each beside the trivial one."""
    (port,) = free_ports(1)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        (folder / "gateway.toml").write_text(SETTINGS, encoding="utf-8")
        await furnish(folder / "data", size.rows, DAYS)
        options = ("--config", str(folder / "gateway.toml"))
        running = await stack.enter_async_context(gateway(folder / "data", *options, broker="off"))
        bare = await stack.enter_async_context(child(sys.executable, "-m", "bench.bare", str(port)))
        await listening(port)
        ours = Server(f"{running.url}?toolsets=core,explore", running.token, running.pid)
        floor = Server(f"http://127.0.0.1:{port}/mcp", "", bare.pid)
        before = memory(family(ours.pid)).pss
        figures = await _all(ours, floor, size)
        return [*figures, *await _held(ours, before, size)]


async def _all(ours: Server, floor: Server, size: Size) -> list[Figure]:
    pings = await requests(floor, "ping", [{}])
    figures = []
    for title, question in QUESTIONS.items():
        given = [question.arguments(at) for at in range(size.different)]
        if question.tool in OF_ROWS:
            query_id = await _query(ours, BY_ROWS(0))  # now: only the newest results are kept
            given = [one | {"query_id": query_id} for one in given]
        asked = await requests(ours, question.tool, given)
        await ask(asked, 1, size.each_s / 4)
        crowd = await ask(asked, size.clients, size.each_s), await ask(pings, size.clients, size.each_s / 2)
        alone = await ask(asked, 1, size.each_s / 2), await ask(pings, 1, size.each_s / 4)
        figures += _figures(f"{title}: {size.clients} clients", question, crowd)
        one = [percentile(each.ms, 50) for each in alone]
        figures.append(Figure(f"{title}: one client, p50", one[0], "ms", PEER, one[1], question.alone))
    return figures


def _figures(title: str, question: Question, crowd: tuple[Timed, Timed]) -> list[Figure]:
    goals = {50: question.goal}
    found = []
    for percent in (50, 99):
        ours, floor = (percentile(each.ms, percent) for each in crowd)
        found.append(Figure(f"{title}, p{percent}", ours, "ms", PEER, floor, goals.get(percent)))
    return [*found, Figure(f"{title}, calls a second", crowd[0].a_second, "/s", PEER, crowd[1].a_second)]


async def _query(server: Server, arguments: dict[str, Any]) -> str:
    async with asking(server.url, MODERN, server.token) as client:
        result = await client.call_tool("execute_sql_query", arguments)
    assert result.structured_content is not None
    return str(result.structured_content["query_id"])


# --- clients that cost next to nothing --------------------------------------------------------------------------------


async def requests(server: Server, tool: str, given: Sequence[dict[str, Any]]) -> list[tuple[int, bytes]]:
    """Port and bytes of these calls, as the SDK's client makes them; each was answered once."""
    sent: list[httpx2.Request] = []
    async with asking(server.url, MODERN, server.token, sent.append) as client:
        for arguments in given:
            result = await client.call_tool(tool, arguments)
            assert not result.is_error, (tool, arguments, result.content)
    calls = [each for each in sent if each.headers.get("mcp-method") == "tools/call"]
    return [(each.url.port or 80, _bytes(each)) for each in calls]


def _bytes(request: httpx2.Request) -> bytes:
    line = b"%b %b HTTP/1.1\r\n" % (request.method.encode(), request.url.raw_path)
    return line + b"".join(b"%b: %b\r\n" % pair for pair in request.headers.raw) + b"\r\n" + request.content


async def ask(asked: Sequence[tuple[int, bytes]], clients: int, for_s: float) -> Timed:
    """All calls in turn by so many clients, for so long, at least one a client."""
    until_s, ms, turn = time.perf_counter() + for_s, list[float](), cycle(asked)

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", asked[0][0])
        while True:
            request = next(turn)[1]
            began_s = time.perf_counter()
            writer.write(request)
            await _answered(reader)
            now_s = time.perf_counter()
            ms.append(1e3 * (now_s - began_s))
            if now_s >= until_s:
                break
        writer.close()
        await writer.wait_closed()

    began_s = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    return Timed(ms, len(ms) / (time.perf_counter() - began_s))


async def _answered(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert head.startswith(b"http/1.1 200 "), head
    if b"transfer-encoding: chunked" in head:
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
        return
    body = await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
    assert b'"isError":true' not in body, body[:500]


# --- memory -----------------------------------------------------------------------------------------------------------


async def _held(server: Server, before: int, size: Size) -> list[Figure]:
    """What each process holds now that everything was asked, and whether the children go."""
    processes = family(server.pid)
    found = [Figure("surface: memory before anybody asked, all processes (PSS)", before / MB, "MB")]
    names: dict[str, float] = {}
    for process in processes:
        name = "the gateway" if process.pid == server.pid else _name(process)
        names[name] = names.get(name, 0.0) + memory([process]).pss / MB
    for name, held in names.items():
        found.append(Figure(f"surface: memory of {name} after everything was asked (PSS)", held, "MB"))
    if size.idle:
        gone_s = await _gone(server.pid)
        after = memory(family(server.pid)).pss
        found.append(Figure("surface: children gone after the last question", gone_s, "s", goal=Goal(IDLE_S + SPARE_S)))
        found.append(Figure("surface: memory when they had gone, all processes (PSS)", after / MB, "MB"))
    return found


def _name(process: psutil.Process) -> str:
    words = " ".join(process.cmdline())
    return next((name for part, name in WORKERS.items() if part in words), words[-60:])


async def _gone(pid: int) -> float:
    """Seconds until no child is left; RuntimeError where they stay."""
    began_s = time.perf_counter()
    while len(family(pid)) > 1:
        if time.perf_counter() - began_s > IDLE_S + 2 * SPARE_S:
            raise RuntimeError(f"children stay: {[each.cmdline() for each in family(pid)[1:]]}")
        await asyncio.sleep(LOOK_S)
    return time.perf_counter() - began_s
