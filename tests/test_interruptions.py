"""A gateway whose clock jumps, and that stands still for a while: what it acknowledged is stored, each of it once."""

import asyncio
import random
import signal
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bench.appliance import low_ports
from bench.kill import CountingNode
from gateway.cli import data
from gateway.control import NodeAdd
from gateway.store import queries
from gateway.store.db import Store
from tests.brokers import needs_mosquitto
from tests.running import gateway

PRELOADED = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
STOPPED_S = 2.0
"""Nothing in the way of a message waits for anything between this and the broker's patience (a minute and a half)."""

pytestmark = [
    needs_mosquitto,
    pytest.mark.slow,
    pytest.mark.system,
    pytest.mark.skipif(PRELOADED is None, reason="needs faketime"),
]


async def acked(node: CountingNode, messages: int) -> None:
    for _ in range(messages):
        node.measure()
    async with asyncio.timeout(60):
        await node.acked_upto(node.seq)


async def test_clock_jumps_and_a_standstill(tmp_path: Path) -> None:
    folder, error = tmp_path / "data", tmp_path / "clock"
    error.write_text("+0\n")
    environment = {
        "LD_PRELOAD": str(PRELOADED),
        "FAKETIME_TIMESTAMP_FILE": str(error),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "AMBIENT_GATEWAY_STORE_FLUSH_INTERVAL_S": "0.1",
        "AMBIENT_GATEWAY_DISCOVERY_MDNS": "false",
    }
    async with gateway(folder, ports=low_ports(3), environment=environment) as running, asyncio.TaskGroup() as group:
        added = await asyncio.to_thread(data.send, NodeAdd(device="attic"), folder)
        node = CountingNode("attic", running.mqtt, added["key"], random.Random(1), has_clock=False)
        sending = group.create_task(node.run())
        for jump in ("+0", "-2d", "+3653d", "+0"):
            error.write_text(f"{jump}\n")
            await acked(node, 20)
        running.process.send_signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(STOPPED_S):
                await acked(node, 20)
        running.process.send_signal(signal.SIGCONT)
        await acked(node, 20)
        assert await running.stop() < 10
        sending.cancel()
    async with Store(folder) as store:
        stored = await store.ask(lambda view: view.db.execute(EVERYTHING.format(view.raw())).fetchall())
        assert Counter(stored) == Counter((metric, value) for *_, metric, _, value in node.rows())
        assert node.seq == 240
        now = datetime.now(UTC)
        for newest in queries.latest(store, device="attic"):
            assert abs(newest.time - now) < timedelta(minutes=5)


EVERYTHING = "select s.metric, r.value from {} r join series s using (series_id) where s.metric in ('count', 'energy')"
