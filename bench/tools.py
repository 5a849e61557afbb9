"""What a tool call costs beside a trivial tool of a bare SDK server, call by call in turn, from one client each.

Measured through the SDK's client in both eras; and, so that the client's own work does not hide the ratio, with the
very bytes that this client sent posted again and again by a plain HTTP client, and in CPU time of the servers.
"""

import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import httpx2
import psutil  # type: ignore[import-untyped,unused-ignore]

from bench.asking import ERAS, MODERN, asking
from bench.figures import Figure, Goal, percentile
from bench.processes import Gateway, child, cpu_s, free_ports, gateway, listening
from drivers.model import Quantity
from gateway.reading import Message, Reading
from gateway.store.db import Store

MOST_RATIO = Goal(2.0, of_ratio=True)
PEER = "trivial tool, bare SDK"
HISTORY = timedelta(hours=24)
HISTORY_STEP = timedelta(seconds=30)
BATCH = 1000
CHIPS = {
    "scd30": {Quantity.CO2: 640.0, Quantity.TEMPERATURE: 21.25, Quantity.HUMIDITY: 43.5},
    "bmp280": {Quantity.PRESSURE: 1003.25, Quantity.TEMPERATURE: 21.5},
}
DEVICES = ("attic", "cellar", "study")
QUESTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "get_latest_readings, 15 series": ("get_latest_readings", {}),
    "get_latest_readings, 1 series": ("get_latest_readings", {"device": "attic", "metric": "co2"}),
    "get_time_series, 24 h, 200 points": (
        "get_time_series",
        {"device": "attic", "sensor": "scd30", "metric": "co2", "start": "-24h"},
    ),
}
SETTINGS = "[mqtt]\nbroker = 'off'\n[access]\nrequests_per_s = 0\n"

Ask = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Size:
    """Calls of each tool in each way; `warm` more before them are not counted."""

    calls: int
    warm: int
    history: timedelta = HISTORY


FULL, QUICK = Size(1000, 100), Size(100, 20)


class Server(NamedTuple):
    """Where to ask and which process answers."""

    url: str
    token: str
    process: psutil.Process


async def measure(size: Size) -> list[Figure]:
    """Each question by each client, in turn with the trivial tool."""
    (port,) = free_ports(1)
    with TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "gateway.toml").write_text(SETTINGS, encoding="utf-8")
        await furnish(folder / "data", size.history)
        async with (
            gateway(folder / "data", "--config", str(folder / "gateway.toml")) as running,
            child(sys.executable, "-m", "bench.bare", str(port)) as bare,
        ):
            await listening(port)
            floor = Server(f"http://127.0.0.1:{port}/mcp", "", psutil.Process(bare.pid))
            return await _ask(_server(running), floor, size)


def _server(running: Gateway) -> Server:
    return Server(running.url, running.token, psutil.Process(running.pid))


async def _ask(gateway_: Server, floor: Server, size: Size) -> list[Figure]:
    figures = []
    for name, (tool, arguments) in QUESTIONS.items():
        for era in ERAS:
            async with asking(gateway_.url, era, gateway_.token) as client, asking(floor.url, era) as trivial:
                ask, ping = partial(client.call_tool, tool, arguments), partial(trivial.call_tool, "ping", {})
                assert not (await ask()).is_error
                figures += _latencies(f"{name}: SDK client, {era}", await in_turn(ask, ping, size))
        figures += await _raw(name, (gateway_, floor), tool, arguments, size)
    return figures


async def _raw(
    name: str, servers: tuple[Server, Server], tool: str, arguments: dict[str, Any], size: Size
) -> list[Figure]:
    """The modern era without the SDK's client; also what the servers burn."""
    requests = (await _sent(servers[0], tool, arguments), await _sent(servers[1], "ping", {}))
    async with httpx2.AsyncClient(timeout=httpx2.Timeout(30)) as http:
        ask, ping = (partial(_post, http, request) for request in requests)
        before = [cpu_s([server.process]) for server in servers]
        times = await in_turn(ask, ping, size)
        after = [cpu_s([server.process]) for server in servers]
    cost_ms = [1e3 * (b - a) / (size.calls + size.warm) for a, b in zip(before, after, strict=True)]
    figures = _latencies(f"{name}: raw POST, {MODERN}", times)
    return [*figures, Figure(f"{name}: CPU of the server a call", cost_ms[0], "ms", PEER, cost_ms[1])]


async def _sent(server: Server, tool: str, arguments: dict[str, Any]) -> httpx2.Request:
    """The request that the SDK's client makes of this call."""
    requests: list[httpx2.Request] = []
    async with asking(server.url, MODERN, server.token, requests.append) as client:
        await client.call_tool(tool, arguments)
    return next(each for each in requests if each.headers.get("mcp-method") == "tools/call")


async def _post(http: httpx2.AsyncClient, request: httpx2.Request) -> None:
    answer = await http.post(request.url, content=request.content, headers=request.headers)
    assert answer.status_code == 200, answer.text


async def in_turn(ask: Ask, ping: Ask, size: Size) -> tuple[list[float], list[float]]:
    """Milliseconds of each call of the one and of the other, called alternately: noise hits both."""
    asked, pinged = [], []
    for number in range(-size.warm, size.calls):
        began_s = time.perf_counter()
        await ask()
        between_s = time.perf_counter()
        await ping()
        if number >= 0:
            asked.append(1e3 * (between_s - began_s))
            pinged.append(1e3 * (time.perf_counter() - between_s))
    return asked, pinged


def _latencies(name: str, times: tuple[Sequence[float], Sequence[float]]) -> list[Figure]:
    asked, pinged = times
    return [
        Figure(
            f"{name}, p{percent}",
            percentile(asked, percent),
            "ms",
            PEER,
            percentile(pinged, percent),
            MOST_RATIO if percent == 50 else None,
        )
        for percent in (50, 99)
    ]


async def furnish(folder: Path, history: timedelta) -> None:
    """A store with the history of three devices, two chips each."""
    now = datetime.now(UTC)
    messages: list[Message] = []
    async with Store(folder) as store:
        for step in range(history // HISTORY_STEP, -1, -1):
            time_ = now - step * HISTORY_STEP
            for device in DEVICES:
                messages += [_message(device, sensor, time_, step) for sensor in CHIPS]
            if len(messages) >= BATCH or step == 0:
                await store.append(messages)
                messages = []


def _message(device: str, sensor: str, moment: datetime, step: int) -> Message:
    readings = tuple(
        Reading(device, sensor, quantity.value, quantity, value + step % 50 / 10, moment, moment)
        for quantity, value in CHIPS[sensor].items()
    )
    return Message(device, sensor, readings, timed=True)
