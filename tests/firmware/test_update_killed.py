"""The power fails at any step of an update, on a real littlefs: the board comes back on a version that is whole, goes
on with the update, and has lost nothing that was in its flash.

Nothing of a node outlives its power but what its flash holds, so a death at a read of a socket, at a rename or in the
midst of a self-test is one in the write of the flash that would have come next: those are gone through.
"""

import asyncio
import itertools
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiomqtt import Client

from bench.boards import FIRMWARE, HERE, INTERPRETER, RESET, held
from gateway.ingest import wire
from tests.brokers import a_mosquitto, needs_mosquitto
from tests.firmware.house import HOST, settings
from tests.firmware.updating import BOARD, KEY, NEW, OLD, SENSORS, Bundle, Shelf, a_shelf, ended, program

pytestmark = [pytest.mark.slow, needs_mosquitto]
SPEED = 40
AT_ONCE = 4
BLOCKS = 128
WITHIN_S = 60.0
NEVER = 0
SMALL_BLOCKS = 64
LAST, EARLY = 24, 16
"""How many of the last writes before the restart, and how many of those before."""


@dataclass
class Node:
    """A board with a real file system, and what was heard of it."""

    folder: Path
    device: str
    blocks: int = BLOCKS
    heard: asyncio.Queue[tuple[str, dict[str, Any]]] = field(default_factory=asyncio.Queue)
    stored: set[tuple[str, int]] = field(default_factory=set)
    running: set[str] = field(default_factory=set)
    output: list[str] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None

    async def call(self, *arguments: str, **environment: str) -> tuple[int | None, str]:
        """Run tests/firmware/littlefs/flash.py to its end."""
        path = ":".join(map(str, (HERE / "fast", HERE / "stubs", ".frozen")))
        mine = {"FLASH": str(self.folder / "flash.bin"), "BLOCKS": str(self.blocks)}
        self.process = await asyncio.create_subprocess_exec(
            INTERPRETER,
            HERE / "littlefs" / "flash.py",
            *arguments,
            env=os.environ | {"MICROPYPATH": path, "SPEED": str(SPEED)} | mine | environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            out, _ = await self.process.communicate()
        finally:
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()
        return self.process.returncode, out.decode(errors="replace")

    async def files(self) -> dict[str, bytes]:
        """What its flash holds, by path."""
        code, out = await self.call("show")
        assert code == 0, out
        return {path: bytes.fromhex(content) for path, content in json.loads(out).items()}

    def records(self, files: Mapping[str, bytes]) -> set[tuple[str, int]]:
        """The readings among these files of its flash: (boot, number)."""
        ring = self.folder / "ring"
        ring.mkdir(exist_ok=True)
        for path in ring.iterdir():
            path.unlink()
        for name, content in files.items():
            if name.startswith("ring/"):
                (self.folder / name).write_bytes(content)
        return {(boot, seq) for boot, seq, _, value in held(ring) if value}


@dataclass
class Yard:
    """Many such boards, one after the other."""

    folder: Path
    port: int
    client: Client
    shelf: Shelf
    old: Bundle
    new: Bundle
    nodes: dict[str, Node] = field(default_factory=dict)

    async def listen(self) -> None:
        """Acknowledge what is measured, and hand on the rest."""
        async for message in self.client.messages:
            _, device, rest = str(message.topic).split("/", 2)
            node = self.nodes.get(device)
            assert isinstance(message.payload, bytes)
            body = json.loads(message.payload or b"{}")
            if node is None:
                continue
            if rest.endswith("/data"):
                node.stored.add((body["boot"], body["seq"]))
                ack = wire.encode_ack(device, body["boot"], body["seq"], KEY)
                await self.client.publish(f"devices/{device}/ack", ack)
            else:
                node.heard.put_nowait((rest, body))

    async def make(self, device: str, blocks: int = BLOCKS) -> Node:
        """A board with the old version, if there is room in both slots, as if it had come there by an update."""
        told = settings(device, self.port, [{**SENSORS[0], "interval_s": 10}], key=KEY.hex(), board=BOARD, ring_kb=64)
        node = self.nodes[device] = Node(self.folder / device, device, blocks)
        (node.folder / "settings").mkdir(parents=True)
        (node.folder / "settings" / "node.json").write_text(json.dumps(told))
        (node.folder / "flash.bin").write_bytes(b"\xff" * (blocks * 4096))
        code, out = await node.call(
            "make", str(self.folder / ("both" if blocks == BLOCKS else "one")), str(node.folder / "settings")
        )
        assert code == 0, out
        return node

    async def offer(self, node: Node, boot: str) -> None:
        offer = offer_of(node)
        _, content = self.shelf.offers.open(node.device, boot, self.new.manifest, self.shelf.source, offer=offer)
        self.shelf.bundles[offer] = self.new
        await self.client.publish(f"devices/{node.device}/update", content, qos=1)

    async def until_confirmed(self, node: Node) -> None:
        """Offer it to each boot that has not got it, until it is confirmed."""
        while True:
            rest, body = await node.heard.get()
            if rest == "status" and body["status"] == "online":
                node.running.add(body["firmware_version"])
                if body.get("update", {}).get("phase") == "confirmed":
                    return
                if body["firmware_version"] == OLD:
                    await self.offer(node, body["boot"])
            if rest == "update/status":
                assert body["phase"] not in ("refused", "failed", "rolled_back", "cancelled"), (body, node.output)
                if body["phase"] == "confirmed":
                    return


def offer_of(node: Node) -> str:
    return f"{int(node.device[1:]):016x}"


@asynccontextmanager
async def yard(folder: Path) -> AsyncIterator[Yard]:
    old, new = program(folder / "mpy", OLD), program(folder / "mpy")
    for slots in ("one", "both"):
        for slot in "ab" if slots == "both" else "a":
            old.flash(folder / slots / slot)
        shutil.copy(FIRMWARE / "main.py", folder / slots)
    async with a_mosquitto(folder) as broker, Client(HOST, broker.port) as client, a_shelf() as shelf:
        await client.subscribe("devices/#", qos=1)
        found = Yard(folder, broker.port, client, shelf, old, new)
        task = asyncio.create_task(found.listen())
        try:
            yield found
        finally:
            await ended(task)


def in_slot(files: Mapping[str, bytes], slot: str) -> dict[str, bytes]:
    return {path[2:]: content for path, content in files.items() if path.startswith(f"{slot}/node/")}


async def lives(
    yard: Yard, node: Node, kills: Sequence[int], deaths: list[set[tuple[str, int]]], counting: bool
) -> None:
    """Start it again and again; in the n-th start the power fails at the write of that number."""
    for start in itertools.count():
        environment = {"KILL": str(kills[start] if start < len(kills) else 0)}
        if counting:
            environment["COUNT"] = str(node.folder / f"count{start}")
        code, out = await node.call("run", **environment)
        node.output.append(out)
        assert code in (RESET, -signal.SIGKILL), (code, out)
        if code == -signal.SIGKILL:
            files = await node.files()
            deaths.append(node.records(files))
            for slot in "ab":
                assert in_slot(files, slot) in ({}, yard.old.files, yard.new.files), f"{kills}: half a slot {slot}"


async def outcome(yard: Yard, number: int, *kills: int, counting: bool = False) -> int:
    """How often the power failed as told; everything else has to be well."""
    node = await yard.make(f"n{number}")
    deaths: list[set[tuple[str, int]]] = []
    async with asyncio.timeout(WITHIN_S):
        life = asyncio.create_task(lives(yard, node, kills, deaths, counting))
        update = asyncio.create_task(yard.until_confirmed(node))
        await asyncio.wait([life, update], return_when=asyncio.FIRST_COMPLETED)
        life.cancel()
        update.cancel()
        both = await asyncio.gather(life, update, return_exceptions=True)
    assert both[1] is None, (kills, both, node.output)
    files = await node.files()
    assert json.loads(files["slot.json"]) == {"active": "b", "offer": offer_of(node), "version": NEW}, kills
    assert (in_slot(files, "a"), in_slot(files, "b")) == (yard.old.files, yard.new.files), kills
    left = {path for path in files if path.split("/")[0].startswith(("a.", "b.", "update", "slot.json."))}
    assert not left, kills
    held_then, held_now = set().union(*deaths), node.records(files)
    assert held_then <= node.stored | held_now, (kills, held_then - node.stored - held_now)
    del yard.nodes[node.device]
    return len(deaths)


async def test_the_power_fails_at_every_step(tmp_path: Path) -> None:
    """Every write of the installation and of the self-test, and a spread of those before; some fail twice."""
    async with yard(tmp_path) as here:
        assert not await outcome(here, 0, counting=True)
        update, trial = (int((tmp_path / "n0" / f"count{start}").read_text()) for start in (0, 1))
        assert update > 200
        assert trial > 10
        early = range(10, update - LAST, (update - LAST) // EARLY)
        late = range(update - LAST, update + 1)
        points: list[tuple[int, ...]] = [(each,) for each in (*early, *late)]
        points += [(NEVER, each) for each in range(1, trial + 1)]
        points += [(each, each // 2, 3) for each in early[1::8]]
        turn = asyncio.Semaphore(AT_ONCE)

        async def one(number: int, kills: Sequence[int]) -> int:
            async with turn:
                return await outcome(here, number, *kills)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(number, kills)) for number, kills in enumerate(points, 1)]
        assert sum(task.result() > 0 for task in tasks) >= len(points) * 0.9


async def test_a_flash_without_room_keeps_what_it_has(tmp_path: Path) -> None:
    """It says how much is missing, has written nothing but the manifest, and goes on as before."""
    async with yard(tmp_path) as here:
        node = await here.make("n1", SMALL_BLOCKS)
        life = asyncio.create_task(lives(here, node, [], [], counting=False))
        async with asyncio.timeout(WITHIN_S):
            phases = []
            while "refused" not in phases:
                rest, body = await node.heard.get()
                if rest == "status" and body["status"] == "online":
                    await here.offer(node, body["boot"])
                if rest == "update/status":
                    phases.append(body["phase"])
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)
        assert body["error"].startswith("not enough flash: "), body
        assert phases == ["accepted", "downloading", "refused"]
        assert [path for path, _ in here.shelf.asked] == ["manifest.json"]
        files = await node.files()
        assert {path.split("/")[0] for path in files} >= {"a", "update.json"}
        assert not [path for path in files if path.startswith("b") and path != "broker.json"]
