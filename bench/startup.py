"""How long it takes from `gateway run --demo` to the welcome, and to the first live reading on disk."""

import asyncio
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.asking import MODERN, asking
from bench.figures import Figure, Goal
from bench.processes import LOOK_EVERY_S, gateway, output_of

IMPORTS = "import mcp.server.mcpserver, uvicorn, duckdb"
PEER = f"python -c '{IMPORTS}'"
WITHIN_S = 10.0
LIVE_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Size:
    """Each round is a fresh start and a second one."""

    rounds: int


FULL, QUICK = Size(7), Size(2)


async def measure(size: Size) -> list[Figure]:
    """Medians over the rounds."""
    imports: list[float] = []
    starts: dict[str, list[tuple[float, float]]] = {"fresh data folder, history seeded": [], "second start": []}
    for _ in range(size.rounds):
        began_s = time.perf_counter()
        await output_of(sys.executable, "-c", IMPORTS)
        imports.append(time.perf_counter() - began_s)
        with TemporaryDirectory() as folder:
            for found in starts.values():
                found.append(await start(Path(folder)))
    figures = []
    for name, found in starts.items():
        for what, each in zip(("welcome", "first live reading stored"), zip(*found, strict=True), strict=True):
            text = f"start to {what}: {name}"
            figures.append(Figure(text, median(each), "s", PEER, median(imports), Goal(WITHIN_S)))
    return figures


async def start(folder: Path) -> tuple[float, float]:
    """Seconds to the welcome, and to the first answer with a reading that was measured after the process began."""
    began = datetime.now(UTC)
    async with (
        gateway(folder, "--demo") as running,
        asking(running.url, MODERN, running.token) as client,
        asyncio.timeout(LIVE_WITHIN_S),
    ):
        while True:
            answer = await client.call_tool("get_latest_readings", {})
            times = [datetime.fromisoformat(each["time"]) for each in answer.structured_content["readings"]]
            if any(each >= began for each in times):
                return running.took_s, time.perf_counter() - running.began_s
            await asyncio.sleep(LOOK_EVERY_S)
