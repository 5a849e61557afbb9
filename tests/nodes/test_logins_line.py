"""A node with a login at a whole gateway: let in, heard, kept over a restart, sent away, found by mDNS."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiomqtt import Client, MqttError

from bench.boards import FIRMWARE, HERE, INTERPRETER
from gateway.cli import data
from gateway.command import Command
from gateway.control import NodeAdd, NodeLogins, NodeRevoke
from gateway.nodes.simulated import SimulatedNode
from gateway.store import queries
from gateway.store.db import Store
from tests import netns
from tests.brokers import WITHIN_S, needs_mosquitto
from tests.running import free_ports, gateway

pytestmark = [needs_mosquitto, pytest.mark.slow]

ENVIRONMENT = {"AMBIENT_GATEWAY_STORE_FLUSH_INTERVAL_S": "0.1", "AMBIENT_GATEWAY_NTP_PORT": "0"}
QUIET = ENVIRONMENT | {"AMBIENT_GATEWAY_DISCOVERY_MDNS": "false"}
FIND = 'import asyncio\nfrom node import mdns\nprint(asyncio.run(mdns.find("Ambient")))'


async def told(data_folder: Path, command: Command) -> dict[str, Any]:
    """What the running gateway answers, as the command line asks it."""
    return await asyncio.to_thread(data.send, command, data_folder)


@asynccontextmanager
async def at_work(issued: dict[str, str], port: int) -> AsyncIterator[SimulatedNode]:
    login = {"username": issued["user"], "password": issued["password"]}
    sensors = {"scd30": lambda: {"co2": 612.0}}
    node = SimulatedNode(
        issued["device"], "127.0.0.1", port, sensors, interval_s=3600, key=bytes.fromhex(issued["key"]), **login
    )
    task = asyncio.create_task(node.run())
    try:
        yield node
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def acked(node: SimulatedNode) -> None:
    node.measure()
    async with asyncio.timeout(WITHIN_S):
        await node.acked_upto(node.seq)


async def is_refused(port: int, user: str | None = None, password: str | None = None) -> bool:
    try:
        async with Client("127.0.0.1", port, username=user, password=password):
            return False
    except MqttError as error:
        return "Not authorized" in str(error)


async def test_from_the_first_login_to_the_last(tmp_path: Path) -> None:
    ports = free_ports(3)
    auto = ("--mqtt", f"auto:{ports[2]}")
    async with gateway(tmp_path, *auto, ports=ports, environment=QUIET) as running:
        assert f"mosquitto at 127.0.0.1:{running.mqtt} " in running.welcome
        assert not await is_refused(running.mqtt)
        issued = await told(tmp_path, NodeAdd(device="n1"))
        assert await is_refused(running.mqtt)
        assert f"port {running.mqtt} of every address, for logins only" in issued["note"]
        async with at_work(issued, running.mqtt) as node:
            await acked(node)
            (row,) = (await told(tmp_path, NodeLogins()))["logins"]
            assert row["connected_since"] is not None
        await running.stop()
    async with gateway(tmp_path, *auto, ports=ports, environment=QUIET) as running:
        async with at_work(issued, running.mqtt) as node:
            await acked(node)
            await told(tmp_path, NodeRevoke(device="n1", confirm=True))
            (row,) = (await told(tmp_path, NodeLogins()))["logins"]
            assert (row["connected_since"], row["has_key"]) == (None, False)
        assert await is_refused(running.mqtt, issued["user"], issued["password"])
        assert await is_refused(running.mqtt)
        await running.stop()
    async with Store(tmp_path) as store:
        words = [event.message for event in await queries.events(store) if event.kind == "broker"]
    assert len([each for each in words if "devices that came without a login need one" in each]) == 1


@pytest.mark.system
async def test_it_is_announced_as_soon_as_others_reach_it(tmp_path: Path) -> None:
    """Asked by the firmware's own reader from another machine, before the first login and after it."""
    assert netns.possible(), "network namespaces need root and iproute2"
    path = ":".join(map(str, (FIRMWARE, HERE / "stubs", ".frozen")))

    async def found(machine: netns.Machine) -> str:
        process = await asyncio.create_subprocess_exec(
            *machine.inside,
            *(INTERPRETER, "-c", FIND),
            env={"MICROPYPATH": path, "PATH": os.environ["PATH"]},
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(WITHIN_S):
            out, _ = await process.communicate()
        return out.decode().strip()

    with netns.two_machines() as (here, there):
        options = {"host": "0.0.0.0", "inside": here.inside, "environment": ENVIRONMENT}
        async with gateway(tmp_path, "--mqtt", "auto:1883", **options):
            assert await found(there) == "[]"
            await told(tmp_path, NodeAdd(device="n1"))
            async with asyncio.timeout(WITHIN_S):
                while (places := await found(there)) == "[]":  # the name is probed for before it is told
                    pass
            assert places == f"[('{here.address}', 1883)]"
