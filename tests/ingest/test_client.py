"""Reading and acknowledging in bulk: against a real broker, and held to the names that paho keeps to itself."""

import asyncio
import inspect
import json
from pathlib import Path

import aiomqtt
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from gateway.ingest.client import BulkClient
from tests.brokers import WITHIN_S, a_mosquitto

COUNT = 1500  # fewer than the broker sends without an acknowledgement


def test_paho_has_what_is_overridden() -> None:
    assert list(inspect.signature(Client._sock_recv).parameters) == ["self", "bufsize"]
    assert list(inspect.signature(Client._packet_queue).parameters)[:5] == ["self", "command", "packet", "mid", "qos"]
    source = inspect.getsource(Client._packet_read)
    assert source.count("._sock_recv(") == source.count("recv("), "paho reads by another way too"


async def test_a_queue_is_read_whole_and_acknowledged_whole(tmp_path: Path) -> None:
    """Messages that were queued for a session come once; none comes again after one write of acknowledgements."""
    async with a_mosquitto(tmp_path) as broker:
        options = {"identifier": "bulk", "clean_session": False}
        async with aiomqtt.Client("127.0.0.1", broker.port, **options) as session:  # type: ignore[arg-type]
            await session.subscribe("t", qos=1)
        async with aiomqtt.Client("127.0.0.1", broker.port) as sender:
            for number in range(COUNT):
                await sender.publish("t", json.dumps({"n": number, "pad": "x" * (number % 200)}), qos=1)
        assert await drained(broker.port, acknowledge=False) == list(range(COUNT))
        assert await drained(broker.port, acknowledge=True) == list(range(COUNT))
        async with aiomqtt.Client("127.0.0.1", broker.port) as sender:
            await sender.publish("t", json.dumps({"n": -1}), qos=1)
        assert await drained(broker.port, acknowledge=True, count=1) == [-1]


async def drained(port: int, *, acknowledge: bool, count: int = COUNT) -> list[int]:
    """What the session gets until `count` messages have come, acknowledged at the end or not at all."""

    def drain() -> list[int]:
        numbers: list[int] = []
        mids: list[int] = []
        client = BulkClient(CallbackAPIVersion.VERSION2, "bulk", clean_session=False, manual_ack=True)
        client.on_socket_register_write = lambda *_: None
        client.on_message = lambda _c, _u, m: (numbers.append(json.loads(m.payload)["n"]), mids.append(m.mid))
        client.connect("127.0.0.1", port)
        while len(numbers) < count:
            assert client.loop(5) == 0
        if acknowledge:
            client.acknowledge(mids)
            heard: list[int] = []
            client.on_subscribe = lambda *_: heard.append(1)
            client.subscribe("t", 1)  # its answer comes after the broker has handled what was sent before
            while not heard:
                assert client.loop(5) == 0
        client.disconnect()
        while client.loop(1) == 0:
            pass
        return numbers

    async with asyncio.timeout(WITHIN_S):
        return await asyncio.to_thread(drain)
