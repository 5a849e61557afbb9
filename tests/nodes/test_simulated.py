"""A node that numbers, keeps and repeats, against real brokers and the real way in."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiomqtt import Client

from gateway.broker.embedded import embedded
from gateway.broker.supervise import ChildBroker
from gateway.clock import SystemClock
from gateway.ingest.mqtt import Hooks, MqttIngest
from gateway.ingest.pipeline import Pipeline
from gateway.nodes.fleet import fleet, made_up
from gateway.nodes.simulated import SimulatedNode, room
from tests.brokers import WITHIN_S, MemoryStore, a_mosquitto, free_port, kill_and_wait, needs_mosquitto, soon

HOST = "127.0.0.1"
KEY = b"k" * 32
MOSQUITTO = pytest.param("mosquitto", marks=needs_mosquitto)


@pytest.fixture(params=[MOSQUITTO, "embedded"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ChildBroker]:
    made = a_mosquitto(tmp_path) if request.param == "mosquitto" else embedded(HOST, free_port())
    async with made as running:
        yield running


@asynccontextmanager
async def gateway(port: int, store: MemoryStore, key: bytes | None = None) -> AsyncIterator[MqttIngest]:
    async def ignore(*_: Any) -> None:
        pass

    hooks = Hooks(ignore, ignore, ignore, ignore, lambda _device: key)
    async with (
        Pipeline(store.append, flush_interval_s=0.1) as pipeline,
        MqttIngest(HOST, port, pipeline, hooks, SystemClock()) as mqtt,
    ):
        yield mqtt


@asynccontextmanager
async def running(node: SimulatedNode) -> AsyncIterator[None]:
    """The node at work; it does not measure by itself within a test (its interval is an hour) but once at the start."""
    task = asyncio.create_task(node.run())
    try:
        await soon(node.connected)
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def a_node(port: int, **more: Any) -> SimulatedNode:
    rng = random.Random(1)
    return SimulatedNode(
        "n1", HOST, port, {"scd30": room(rng)}, **{"interval_s": 3600.0, "resend_after_s": 0.5, "rng": rng, **more}
    )


async def covered(node: SimulatedNode, seq: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        await node.acked_upto(seq)


def numbers(store: MemoryStore) -> list[int]:
    return sorted(m.delivery.seq for m in store.messages if m.delivery)


async def test_each_measurement_is_stored_once_and_let_go(broker: ChildBroker) -> None:
    store = MemoryStore()
    node = a_node(broker.port, key=KEY)
    async with gateway(broker.port, store, KEY), running(node):
        for _ in range(20):
            node.measure()
        await covered(node, 21)
    assert node.held == ()
    assert numbers(store) == list(range(1, 22))
    assert {m.delivery.boot for m in store.messages if m.delivery} == {node.boot}
    assert [r.metric for r in store.messages[0].readings] == ["co2", "temperature", "humidity"]


async def test_what_was_measured_while_nobody_listened_is_sent_again(broker: ChildBroker) -> None:
    store = MemoryStore()
    node = a_node(broker.port)
    async with running(node):
        for _ in range(30):
            node.measure()
        assert len(node.held) == 31
        async with gateway(broker.port, store):  # the embedded broker kept nothing for it
            await covered(node, 31)
    assert numbers(store) == list(range(1, 32))


async def test_a_broker_that_is_killed_loses_nothing_of_a_node_that_numbers(broker: ChildBroker) -> None:
    store = MemoryStore()
    node = a_node(broker.port, resend_after_s=2.0)
    async with gateway(broker.port, store), running(node):
        await covered(node, 1)
        store.gate.clear()
        for _ in range(10):
            node.measure()
        await kill_and_wait(broker)
        store.gate.set()
        node.measure()
        await covered(node, 12)
    assert numbers(store) == list(range(1, 13))
    assert node.counts.connects >= 2


async def test_acknowledgements_of_a_false_broker_do_not_empty_the_ring(broker: ChildBroker) -> None:
    node = a_node(broker.port, key=KEY)
    async with running(node), Client(HOST, broker.port) as client:
        forged: list[Any] = [
            {"boot": node.boot, "seq": 1},
            {"boot": node.boot, "seq": 1, "mac": "0" * 32},
            {"boot": "0-00000000", "seq": 1},
            [],
            "x",
        ]
        for payload in forged:
            await client.publish("devices/n1/ack", json.dumps(payload), qos=1)
        await client.publish("devices/n1/ack", b"\xff", qos=1)
        async with asyncio.timeout(WITHIN_S):
            while node.counts.refused < 6:
                await client.publish("elsewhere", b"", qos=1)  # a round trip, until all have arrived
        assert node.held == (1,)
        store = MemoryStore()
        async with gateway(broker.port, store, KEY):
            await covered(node, 1)


async def test_a_full_ring_discards_the_oldest_and_says_so_in_every_message(broker: ChildBroker) -> None:
    node = a_node(broker.port, ring=5)
    bodies: list[Mapping[str, Any]] = []
    async with Client(HOST, broker.port) as client:
        await client.subscribe("devices/n1/sensors/scd30/data", qos=1)
        for _ in range(8):
            node._uptime_ms()
            node.measure()
        async with running(node), asyncio.timeout(WITHIN_S):
            async for message in client.messages:
                bodies.append(json.loads(message.payload))  # type: ignore[arg-type]
                if bodies[-1]["seq"] == 9:
                    break
    assert node.held == (5, 6, 7, 8, 9)
    assert node.counts.discarded == 4
    assert {body["oldest"] for body in bodies if body["seq"] >= 5} == {5}


async def test_it_says_who_it_is_and_when_it_goes(broker: ChildBroker) -> None:
    node = a_node(broker.port)
    async with Client(HOST, broker.port) as client:
        await client.subscribe("devices/n1/#", qos=1)
        async with running(node):
            pass
        said: dict[str, list[Any]] = {}
        async with asyncio.timeout(WITHIN_S):
            async for message in client.messages:
                said.setdefault(message.topic.value, []).append(json.loads(message.payload))  # type: ignore[arg-type]
                if {"status": "offline"} in said.get("devices/n1/status", []):
                    break
    assert said["devices/n1/capabilities"][0]["sensors"] == ["scd30"]
    online = said["devices/n1/status"][0]
    assert (online["status"], online["boot"]) == ("online", node.boot)


async def test_a_node_without_a_clock_sends_uptimes_only(broker: ChildBroker) -> None:
    node = a_node(broker.port, clock="none")
    async with Client(HOST, broker.port) as client:
        await client.subscribe("devices/n1/sensors/scd30/data", qos=1)
        async with running(node), asyncio.timeout(WITHIN_S):
            body = json.loads((await anext(aiter(client.messages))).payload)  # type: ignore[arg-type]
    assert body["clock"] == "none"
    assert "timestamp" not in body
    assert body["uptime_ms"] >= 0


async def test_a_fleet_has_its_own_names_and_boots(broker: ChildBroker) -> None:
    store = MemoryStore()
    async with gateway(broker.port, store):
        task = asyncio.create_task(fleet(made_up(5), HOST, broker.port, 0.2).run())
        await store.until(lambda: len({m.device for m in store.messages}) == 5)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert {m.device for m in store.messages} == {f"sim-000{n}" for n in range(1, 6)}
    assert len({m.delivery.boot for m in store.messages if m.delivery}) == 5


def test_a_boot_is_a_counter_and_thirty_two_random_bits() -> None:
    async def main() -> None:
        boots = {a_node(1, boot_count=17, rng=random.Random(n)).boot for n in range(100)}
        assert len(boots) == 100
        assert all(len(boot) == len("17-9f3a22c1") and boot.startswith("17-") for boot in boots)

    asyncio.run(main())
