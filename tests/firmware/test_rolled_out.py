"""A rollout to the very firmware under real MicroPython: a real gateway, real mosquitto, an update that fails its own
test, and one that is well."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bench.boards import Board
from gateway import control
from gateway.access.commands import NodeAdd, NodeIssued
from gateway.app import offline
from gateway.nodes.ota.bundle import build
from gateway.nodes.ota.commands import FirmwareAdd, FirmwareTrust
from gateway.nodes.ota.manifest import parse
from gateway.nodes.ota.rollout_commands import NodeFirmwareList, RolloutShow, UpdateFirmware
from tests.brokers import needs_mosquitto
from tests.firmware.house import HOST, settings
from tests.firmware.updating import BOARD, DEAD, NEW, OLD, SENSORS, Bundle, program
from tests.nodes.bundles import KEY, PUBLIC, written
from tests.running import Running, free_ports, gateway

pytestmark = [pytest.mark.slow, needs_mosquitto]

WITHIN_S = 60.0
SETTINGS = "[discovery]\nmdns = false\n[ntp]\nport = 0\n[store]\nflush_interval_s = 0.1\n"


async def prepared(folder: Path, *bundles: Bundle) -> NodeIssued:
    """A data folder with a node and bundles; what the node logs in with."""
    (folder / "gateway.toml").write_text(SETTINGS)
    async with offline(folder / "data") as commands:
        issued = await commands.run(NodeAdd(device="n1"))
        assert isinstance(issued, NodeIssued)
        await commands.run(FirmwareTrust(key=PUBLIC, name="anna"))
        for number, each in enumerate(bundles):
            file = written(folder, build(parse(each.manifest), each.files, KEY), f"{number}.zip")
            await commands.run(FirmwareAdd(file=str(file)))
    return issued


async def updated(running: Running, version: str) -> dict[str, Any]:
    """A rollout of this version to the one node, when it has ended."""
    command = UpdateFirmware(devices=("n1",), firmware=version, confirm=True)
    found: dict[str, Any] = await control.ask(running.data, command) or {}
    async with asyncio.timeout(WITHIN_S):
        while not found["ended"]:
            assert found["state"] == "running", found
            again = RolloutShow(rollout=found["rollout"], wait_s=20, after=found["revision"])
            found = await control.ask(running.data, again) or {}
    return found


async def it_is_there(running: Running) -> None:
    """Until the node has told what it is."""
    nodes: object = []
    async with asyncio.timeout(WITHIN_S):
        while not nodes:
            nodes = (await control.ask(running.data, NodeFirmwareList()) or {})["nodes"]


async def test_the_firmware_itself_is_rolled_out(tmp_path: Path) -> None:
    old, new = program(tmp_path / "mpy", OLD), program(tmp_path / "mpy")
    bad = program(tmp_path / "mpy", "1.3.0", {"node/sensors/wallclock.py": DEAD})
    issued = await prepared(tmp_path, bad, new)
    ports = free_ports(3)
    broker = {"host": HOST, "port": ports[2], "user": issued.user, "password": issued.password}
    said = settings("n1", ports[2], SENSORS, key=issued.key, board=BOARD, broker=broker)
    board = Board(tmp_path / "n1", said, speed=100)
    for path in sorted((board.folder / "a").rglob("*.py")):
        path.unlink()
    old.flash(board.folder / "a")
    async with gateway(tmp_path / "data", "--config", str(tmp_path / "gateway.toml"), ports=ports) as running:
        task = asyncio.create_task(board.run())
        try:
            await it_is_there(running)
            failed = await updated(running, "1.3.0")
            (device,) = failed["devices"]
            assert (device["state"], device["runs"]) == ("rolled_back", OLD), device
            assert "sensor wallclock does not answer" in device["reason"]
            done = await updated(running, NEW)
            assert done["counts"] == {"done": 1}, done["devices"]
            answer = await control.ask(running.data, NodeFirmwareList())
            assert answer is not None
            (node,) = list[Any](answer["nodes"])  # type: ignore[call-overload]
            assert (node["version"], node["board"], node["behind"]) == (NEW, BOARD, "")
            assert new.stands_in(board.folder / "b")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
