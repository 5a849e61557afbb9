"""Rollouts to fifty simulated nodes: a real gateway, real mosquitto, downloads over real HTTP."""

import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway import control
from gateway.access.commands import NodeAdd, NodeIssued
from gateway.app import offline
from gateway.command import Command
from gateway.nodes.ota.commands import FirmwareAdd, FirmwareTrust
from gateway.nodes.ota.rollout_commands import (
    AbortRollout,
    NodeFirmwareList,
    ResumeRollout,
    RolloutShow,
    Rules,
    UpdateFirmware,
)
from gateway.nodes.simulated import SimulatedNode, room
from gateway.nodes.simulated_update import Fate, SimulatedUpdate
from tests.brokers import needs_mosquitto
from tests.nodes.bundles import PUBLIC, built, manifest, written
from tests.running import Running, command, free_ports, gateway

pytestmark = [pytest.mark.slow, needs_mosquitto]

COUNT = 50
WITHIN_S = 40.0
SETTINGS = """
[discovery]
mdns = false
[ntp]
port = 0
[store]
flush_interval_s = 0.1
[updates]
answer_s = 10
download_s = 30
install_s = 30
test_s = 30
fresh_s = 30
"""


@dataclass
class Fleet:
    """The nodes of a test and their update sides, by id."""

    nodes: dict[str, SimulatedNode]
    updates: dict[str, SimulatedUpdate]

    def fate(self, fate: Fate, *names: str) -> None:
        for name in names:
            self.updates[name].fate = fate

    def versions(self) -> set[str]:
        return {node.firmware_version for node in self.nodes.values()}

    def asked(self) -> list[str]:
        """Who was offered anything yet."""
        return sorted(name for name, update in self.updates.items() if update.phases)


@asynccontextmanager
async def prepared(folder: Path, count: int) -> AsyncIterator[tuple[list[NodeIssued], Path, list[int]]]:
    """A data folder with so many nodes and two bundles, its settings, and ports."""
    settings = folder / "gateway.toml"
    settings.write_text(SETTINGS)
    issued: list[NodeIssued] = []
    async with offline(folder / "data") as commands:
        for number in range(count):
            made = await commands.run(NodeAdd(device=f"n{number:02}"))
            assert isinstance(made, NodeIssued)
            issued.append(made)
        await commands.run(FirmwareTrust(key=PUBLIC, name="anna"))
        for version in ("1.4.0", "1.5.0"):
            file = written(folder, built(manifest(version)), f"{version}.zip")
            await commands.run(FirmwareAdd(file=str(file)))
    yield issued, settings, free_ports(3)


@asynccontextmanager
async def running_fleet(issued: Sequence[NodeIssued], port: int) -> AsyncIterator[Fleet]:
    """The nodes at the broker of that port, until the block ends."""
    made = Fleet({}, {})
    for each in issued:
        key = bytes.fromhex(each.key or "")
        update = SimulatedUpdate(key, "127.0.0.1", retry_s=0.2)
        node = SimulatedNode(
            each.device,
            "127.0.0.1",
            port,
            {"scd30": room(random.Random(1))},
            interval_s=0.2,
            key=key,
            username=each.user,
            password=each.password,
            resend_after_s=2.0,
            parts=(update,),
            firmware_version="1.3.0",
        )
        made.nodes[each.device], made.updates[each.device] = node, update
    tasks = [asyncio.create_task(node.run()) for node in made.nodes.values()]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        with suppress(BaseExceptionGroup):
            await asyncio.gather(*tasks, return_exceptions=True)


async def said(running: Running, what: Command) -> dict[str, Any]:
    answer = await control.ask(running.data, what)
    assert answer is not None
    return answer


async def everybody_is_there(running: Running, count: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        there = 0
        while there < count:
            with suppress(control.ControlError):  # nobody yet
                preview = await said(running, UpdateFirmware(everyone=True, firmware="1.4.0", dry_run=True))
                there = sum(each["online"] for each in preview["updates"])


async def until(running: Running, rollout: str, *states: str) -> dict[str, Any]:
    """The rollout, once it is in one of these states."""
    after, until_s = -1, asyncio.get_running_loop().time() + WITHIN_S
    while True:
        found = await said(running, RolloutShow(rollout=rollout, wait_s=5, after=after))
        if found["state"] in states:
            return found
        assert found["ended"] is None, found
        assert asyncio.get_running_loop().time() < until_s, found
        after = found["revision"]


def who(found: dict[str, Any], *states: str) -> list[str]:
    return sorted(each["device"] for each in found["devices"] if each["state"] in states)


def why(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["device"], each["reason"]) for each in found["devices"] if each["reason"]]


async def test_fifty_nodes_of_which_three_fail(tmp_path: Path) -> None:
    """The canary fails, and nobody else is asked; then the share does, and the rest is left alone; people go on."""
    async with prepared(tmp_path, COUNT) as (issued, settings, ports):
        arguments = ("--config", str(settings))
        async with (
            gateway(tmp_path / "data", *arguments, ports=ports) as running,
            running_fleet(issued, ports[2]) as fleet,
        ):
            await everybody_is_there(running, COUNT)
            fleet.fate(Fate.FAILS_VERIFYING, "n00")
            order = tuple(sorted(fleet.nodes))
            canary = await said(running, UpdateFirmware(devices=order, firmware="1.4.0", confirm=True))
            found = await until(running, canary["rollout"], "paused")
            assert found["reason"] == "in the canary: n00 failed: a file does not stand in the flash as it came"
            assert who(found, "waiting") == list(order[1:])
            assert fleet.asked() == ["n00"]
            assert fleet.versions() == {"1.3.0"}
            code, _, err = await command("firmware", "abort", canary["rollout"], "--data", str(running.data))
            assert (code, err) == (0, f"rollout {canary['rollout']} is aborted: 1 failed, 49 cancelled\n")

            fleet.fate(Fate.WELL, "n00")
            fleet.fate(Fate.ROLLS_BACK, "n05", "n06")
            fleet.fate(Fate.REFUSES, "n11")
            rules = Rules(at_once=10, pause_at=0.1, canary=2)
            begun = await said(running, UpdateFirmware(devices=order, firmware="1.4.0", confirm=True, rules=rules))
            paused = await until(running, begun["rollout"], "paused")
            assert paused["reason"].endswith("failed")
            async with asyncio.timeout(WITHIN_S):  # what was under way goes to its end
                while who(paused, "offered", "downloading", "installing", "testing", "confirmed"):
                    again = RolloutShow(rollout=begun["rollout"], wait_s=20, after=paused["revision"])
                    paused = await said(running, again)
            untouched = who(paused, "waiting")
            assert who(paused, "rolled_back", "refused")
            assert len(untouched) > COUNT / 2
            assert {fleet.nodes[name].firmware_version for name in untouched} == {"1.3.0"}
            assert not set(fleet.asked()) & set(untouched)
            await said(running, ResumeRollout(rollout=begun["rollout"]))
            found = await until(running, begun["rollout"], "paused", "done")
            while found["state"] == "paused":
                await said(running, ResumeRollout(rollout=begun["rollout"]))
                found = await until(running, begun["rollout"], "paused", "done")
            assert found["counts"] == {"done": 47, "rolled_back": 2, "refused": 1}, why(found)
            assert who(found, "rolled_back") == ["n05", "n06"]
            runs = {each["device"]: each for each in (await said(running, NodeFirmwareList()))["nodes"]}
            assert (runs["n07"]["version"], runs["n07"]["behind"]) == ("1.4.0", "1.5.0")
            assert (runs["n05"]["version"], runs["n05"]["last_update"]["state"]) == ("1.3.0", "rolled_back")
            assert runs["n05"]["last_update"]["reason"] == "the self-test: sensor scd30 does not answer"
            assert await running.stop() < 5
        code, out, _ = await command("firmware", "rollouts", "--json", "--data", str(tmp_path / "data"))
        history = [(each["state"], each["counts"]) for each in json.loads(out)]
        assert history == [("done", found["counts"]), ("aborted", {"failed": 1, "cancelled": 49})]


async def test_a_gateway_that_is_killed_goes_on_and_ends(tmp_path: Path) -> None:
    async with prepared(tmp_path, 12) as (issued, settings, ports):
        arguments = ("--config", str(settings))
        async with running_fleet(issued, ports[2]) as fleet:
            async with gateway(tmp_path / "data", *arguments, ports=ports) as running:
                await everybody_is_there(running, 12)
                begun = await said(
                    running, UpdateFirmware(everyone=True, firmware="1.4.0", confirm=True, rules=Rules(at_once=4))
                )
                rollout = begun["rollout"]
                async with asyncio.timeout(WITHIN_S):
                    while begun["counts"].get("done", 0) < 2:
                        again = RolloutShow(rollout=rollout, wait_s=20, after=begun["revision"])
                        begun = await said(running, again)
                        assert begun["state"] == "running", begun
                await running.stop(signal.SIGKILL)
            async with gateway(tmp_path / "data", *arguments, ports=ports) as running:
                found = await until(running, rollout, "done", "paused")
                assert (found["state"], found["counts"]) == ("done", {"done": 12}), why(found)
                assert fleet.versions() == {"1.4.0"}
                for update in fleet.updates.values():
                    assert update.phases.count("confirmed") == 1, "nobody was updated twice"
                nodes = (await said(running, NodeFirmwareList()))["nodes"]
                assert {each["version"] for each in nodes} == {"1.4.0"}
                with pytest.raises(control.ControlError, match="has ended: it is done"):
                    await said(running, AbortRollout(rollout=rollout))
                await from_the_command_line(running, fleet)


async def from_the_command_line(running: Running, fleet: Fleet) -> None:
    """Who would be updated; then all the way, with a line a change where there is no terminal."""
    words = ("firmware", "update", "--all", "--data", str(running.data))
    code, out, err = await command(*words)
    assert (code, out) == (1, "")
    assert "  n03                      1.4.0 -> 1.5.0\n" in err
    assert err.endswith("gateway: this restarts nodes with another program: say so with --yes\n")
    fleet.fate(Fate.REFUSES, "n03")
    code, out, err = await command(*words, "--at-once", "12", "--pause-at", "1", "--yes", "--wait")
    assert code == 1, err
    assert "  n03                      refused" in out
    assert out.endswith("11 done, 1 refused\n")
    assert len(err.splitlines()) > 10
    assert all("%" in line for line in err.splitlines())
