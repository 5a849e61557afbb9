"""Is anything lost on the way from a node's flash? `python -m bench.nodes`: real firmware while everything is killed.

Three boards run the firmware's own files under MicroPython, faster than life; gateway, broker and boards are killed
with -9, and the way between is cut, at random. What has to hold afterwards: whatever reached a board's flash is
stored exactly once; what was lost with a board's memory lies in gaps that the gateway knows; the rings are empty.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiomqtt import MqttError

from bench.appliance import HOST, Appliance, Outcome
from bench.boards import INTERPRETER, Board, Wire, orders
from bench.kill import playing
from gateway.cli import data
from gateway.control import NodeAdd
from gateway.nodes.commander import Unreachable
from gateway.nodes.orders import NoAnswer
from gateway.store.db import Store

BOARDS = 3
METRICS = ("count", "energy")
SPEED = 10
INTERVAL_S = 2
WINDOW = 2 * (10 // INTERVAL_S + 1)
"""Readings of a board's two sensors within the ten seconds that its memory may hold."""
DRAIN_WITHIN_S = 90.0
ASK_EVERY_S = 0.3
LONGEST_CUT_S = 3.0

READINGS = """
    select n.device_id, s.metric, r.value from {raw} r join series s using (series_id)
    join sensor n using (sensor_id) where n.device_id like 'board-%'
"""
GAPS = "select b.device_id, b.boot, g.first_seq, g.last_seq from gap g join boot b using (boot_ref)"
HOLES = """
    select b.device_id, b.boot, d.above from boot b join delivery d using (boot_ref)
    qualify row_number() over (partition by b.boot_ref order by d.batch desc) = 1
"""


@dataclass
class Truth:
    """What a board wrote down itself: the readings in its flash at each death, and how far it counted."""

    flashed: set[float] = field(default_factory=set)
    deaths: int = 0

    def look(self, board: Board) -> None:
        """Right after a death."""
        self.deaths += 1
        self.flashed |= {value["count"] for *_, value in board.held() if value}


def settings(number: int, port: int, key: str, most: int) -> dict[str, Any]:
    """A board with two sensors that count together up to `most`."""
    sensors = [
        {"driver": "counting", "name": name, "interval_s": INTERVAL_S, "options": {"most": most}}
        for name in ("meter", "clock")
    ]
    return {
        "device": f"board-{number}",
        "key": key,
        "wifi": {"ssid": "house", "password": "secret"},
        "broker": {"host": HOST, "port": port},
        "ring_kb": 256,
        "sensors": sensors,
    }


async def round_of(
    folder: Path, seed: int, readings: int, kills: int, speed: int = SPEED
) -> tuple[Outcome, dict[str, int]]:
    """One round; the outcome's faults say what was wrong, the numbers what there was."""
    rng = random.Random(seed)
    outcome = Outcome("boards", seed, readings)
    most = readings // BOARDS
    async with playing(outcome, folder, rng, "mosquitto") as (appliance, port), AsyncExitStack() as stack:
        way = await stack.enter_async_context(Wire(port))
        boards = [await _board(number, way.port, folder, most, speed) for number in range(BOARDS)]
        truths = [Truth() for _ in boards]
        appliance.under_way = lambda: any(_count(board) < most for board in boards)
        async with _powered(boards) as tasks:
            killing = asyncio.create_task(_trouble(appliance, way, boards, truths, kills=kills, rng=rng))
            try:
                async with asyncio.timeout(DRAIN_WITHIN_S + readings / BOARDS * INTERVAL_S / speed):
                    await _counted(boards, most)
                    await killing
                    await _drained(boards, port)
            except TimeoutError:
                outcome.faults.append(f"not drained in time: {[board.held()[:2] for board in boards]}")
            killing.cancel()
            outcome.faults += [f"{board.device} ended with {board.crashes}" for board in boards if board.crashes]
            del tasks
        await appliance.stop()
    numbers = await check(folder, outcome, boards, truths, most)
    for board in boards:
        (folder / f"{board.device}.log").write_text("\n".join(board.output))
    return outcome, numbers | {"board kills": sum(board.kills for board in boards)}


async def _board(number: int, port: int, folder: Path, most: int, speed: int) -> Board:
    added = await asyncio.to_thread(data.send, NodeAdd(device=f"board-{number}"), folder / "data")
    return Board(folder / f"board-{number}", settings(number, port, added["key"], most), speed=speed)


@asynccontextmanager
async def _powered(boards: list[Board]) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(board.run(), name=board.device) for board in boards]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _trouble(
    appliance: Appliance, way: Wire, boards: list[Board], truths: list[Truth], *, kills: int, rng: random.Random
) -> None:
    """So many kills of each party and as many cuts of the way, in any order."""
    parties = ["gateway", "broker", "board", "full board", "silence", "reset"] * kills
    rng.shuffle(parties)
    for party in parties:
        await asyncio.sleep(rng.uniform(0.1, 1.0))
        if party == "gateway":
            await appliance.kill()
        elif party == "broker":
            await appliance.kill_broker()
        elif party == "board":
            victim = rng.randrange(len(boards))
            await boards[victim].kill()
            truths[victim].look(boards[victim])
        elif party == "full board":
            victim = rng.randrange(len(boards))
            way.silence()
            await _holds(boards[victim])
            await boards[victim].kill()
            truths[victim].look(boards[victim])
            way.mend()
        elif party == "silence":
            way.silence()
            await asyncio.sleep(rng.uniform(0.1, LONGEST_CUT_S))
            way.mend()
        else:
            way.reset()


async def _holds(board: Board) -> None:
    """Until something lies in its flash, or it measures no more."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LONGEST_CUT_S):
            while not board.held():  # noqa: ASYNC110 - nor has a folder
                await asyncio.sleep(ASK_EVERY_S / 10)


async def _counted(boards: list[Board], most: int) -> None:
    """Until each board has measured all that it shall."""
    while any(_count(board) < most for board in boards):  # noqa: ASYNC110 - a file has no event
        await asyncio.sleep(ASK_EVERY_S)


def _count(board: Board) -> int:
    try:
        words = (board.folder / "counted.txt").read_text().split()
    except FileNotFoundError:
        return 0
    return int(words[-1]) if words else 0


async def _drained(boards: list[Board], port: int) -> None:
    """Until each board says that it holds nothing."""
    keys = {each.device: bytes.fromhex(each.key) for each in boards}
    ways = orders(HOST, port, keys.get)
    for board in boards:
        while True:
            await asyncio.sleep(ASK_EVERY_S)
            try:
                ok, told = await ways.send(board.device, "get_diagnostics", {}, 2.0)
            except (NoAnswer, Unreachable, MqttError):
                continue
            if ok and told["ring"]["memory"] == told["ring"]["flash_bytes"] == 0:
                break


async def check(folder: Path, outcome: Outcome, boards: list[Board], truths: list[Truth], most: int) -> dict[str, int]:
    """Compare what is stored with what the boards wrote down; what was lost with their memory is counted."""
    async with Store(folder / "data") as store:
        rows = await store.ask(lambda view: view.db.execute(READINGS.format(raw=view.raw())).fetchall())
        gaps = await store.read(lambda db: db.execute(GAPS).fetchall())
        holes = await store.read(lambda db: db.execute(HOLES).fetchall())
    outcome.faults += [f"{device} {boot}: open holes before {above}" for device, boot, above in holes if above]
    lost = 0
    for board, truth in zip(boards, truths, strict=True):
        found = {metric: [row[2] for row in rows if row[:2] == (board.device, metric)] for metric in METRICS}
        counts = set(found["count"])
        missing = set(range(1, most + 1)) - counts
        faults: dict[str, list[Any]] = {
            "stored twice": [value for values in found.values() for value in values if values.count(value) > 1],
            "never measured": sorted(counts - set(range(1, most + 1))),
            "without the other half": sorted(counts ^ {value * 8 for value in found["energy"]}),
            "lost from flash": sorted(truth.flashed - counts),
            "lost without a death": sorted(missing) if len(missing) > board.kills * WINDOW else [],
        }
        given_up = sum(last - first + 1 for device, _, first, last in gaps if device == board.device)
        if given_up < len(missing):
            faults["lost and in no gap"] = sorted(missing)
        outcome.faults += [f"{board.device}: {len(each)} {what}: {each[:3]}" for what, each in faults.items() if each]
        lost += len(missing)
    flashed = sum(len(truth.flashed) for truth in truths)
    return {"stored": len(rows) // 2, "in flash at a death": flashed, "lost with memory": lost}


def main() -> int:
    parser = argparse.ArgumentParser(description="Is anything lost between a node's flash and the store?")
    parser.add_argument("--readings", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20, help="of gateway and of broker; twice as many of boards")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    options = parser.parse_args()
    if not INTERPRETER.exists():
        sys.exit("MicroPython is not there: scripts/micropython fetches it")
    folder = Path(tempfile.mkdtemp(prefix="nodes-"))
    outcome, numbers = asyncio.run(round_of(folder, options.seed, options.readings, options.kills))
    print(outcome.line())
    print(", ".join(f"{count} {what}" for what, count in numbers.items()))
    if outcome.faults:
        print("".join(f"    {fault}\n" for fault in outcome.faults), f"    kept in {folder}", sep="")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
