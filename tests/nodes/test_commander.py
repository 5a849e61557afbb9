"""Commands over a real broker to a node that speaks the wire: results, silence, nonsense, and what is retained."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiomqtt import Client

from gateway.broker.supervise import ChildBroker
from gateway.ingest import wire
from gateway.nodes.commander import Commander, NoAnswer, Unreachable
from tests.brokers import WITHIN_S, a_mosquitto, free_port, needs_mosquitto, soon

pytestmark = needs_mosquitto


def commander(port: int) -> Commander:
    return Commander("127.0.0.1", port, wire.encode_command, wire.decode_result)


@asynccontextmanager
async def a_node(broker: ChildBroker, device: str, **answers: bytes) -> AsyncIterator[list[tuple[str, Any]]]:
    """A node that answers these commands with these payloads, and no others."""
    heard: list[tuple[str, Any]] = []
    listening = asyncio.Event()

    async def run() -> None:
        async with Client("127.0.0.1", broker.port) as client:
            await client.subscribe(f"devices/{device}/commands/+", qos=1)
            listening.set()
            async for message in client.messages:
                topic = str(message.topic)
                name, args = wire.decode_command(topic, bytes(message.payload))
                heard.append((name, args))
                if name in answers:
                    await client.publish(f"{topic}/result", answers[name], qos=1)

    task = asyncio.create_task(run(), name="node")
    try:
        await soon(listening)
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_a_node_answers_and_what_it_does_not(tmp_path: Path) -> None:
    async with a_mosquitto(tmp_path) as broker:
        say = commander(broker.port)
        answers = {
            "info": wire.encode_result({"free": 1024}),
            "reset": wire.encode_result(error="not now"),
            "odd": b"{}",
        }
        async with a_node(broker, "node-1", **answers) as heard:
            assert await say.send("node-1", "info", {"all": True}, WITHIN_S) == (True, {"free": 1024})
            assert await say.send("node-1", "reset", {}, WITHIN_S) == (False, "not now")
            with pytest.raises(wire.WireError, match="ok is true or false"):
                await say.send("node-1", "odd", {}, WITHIN_S)
            with pytest.raises(NoAnswer, match=r"node-1 did not answer 'sleep' within 0\.2 s"):
                await say.send("node-1", "sleep", {}, 0.2)
            many = await asyncio.gather(*(say.send("node-1", "info", {}, WITHIN_S) for _ in range(20)))
            assert many == [(True, {"free": 1024})] * 20
        assert heard[0] == ("info", {"all": True})
        assert len(heard) == 24
        with pytest.raises(NoAnswer):
            await say.send("node-2", "info", {}, 0.1)


async def test_without_a_broker_nothing_was_sent() -> None:
    port = free_port()
    with pytest.raises(Unreachable, match=f"the broker at 127.0.0.1:{port} was not reached"):
        await commander(port).send("node-1", "info", {}, 1)
    with pytest.raises(Unreachable):
        await commander(port).clear("node-1")


async def test_what_the_broker_keeps_of_a_node_is_cleared(tmp_path: Path) -> None:
    async with a_mosquitto(tmp_path) as broker, Client("127.0.0.1", broker.port) as client:
        for device in ("node-1", "node-2"):
            for kind in ("capabilities", "status"):
                await client.publish(f"devices/{device}/{kind}", json.dumps({"x": 1}), qos=1, retain=True)
        await commander(broker.port).clear("node-1")
        await client.subscribe("devices/#", qos=1)
        async with asyncio.timeout(WITHIN_S):
            kept = {str((await anext(aiter(client.messages))).topic) for _ in range(2)}
        assert kept == {"devices/node-2/capabilities", "devices/node-2/status"}
