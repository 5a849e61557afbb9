"""Ten thousand messages that nobody can use, at a real gateway behind a real mosquitto: it lives, it counts them, it
goes on acknowledging what is good, and nothing of them stays."""

import asyncio
import json
import random
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil  # type: ignore[import-untyped,unused-ignore]

from gateway.ingest import wire
from gateway.ingest.wire import Kind, WireError
from gateway.nodes.simulated import SimulatedNode
from gateway.store import queries
from gateway.store.db import Store
from tests.brokers import FixedClock, needs_mosquitto, soon
from tests.ingest.test_flood import packet, text
from tests.running import Running, gateway

pytestmark = needs_mosquitto

SEED = 6
MESSAGES = 10_000
WARM_AFTER = 2000
WITHIN_S = 30.0
FLAT_MB = 12
LARGEST = 130_000
"""Bytes; the broker refuses what is a little larger."""
SETTINGS = {
    "AMBIENT_GATEWAY_MQTT_DEVICE_MESSAGES_PER_S": "0",  # all of them are to be looked at
    "AMBIENT_GATEWAY_STORE_FLUSH_ON_IDLE": "true",
    "AMBIENT_GATEWAY_DISCOVERY_MDNS": "false",
}
GOOD: dict[str, dict[str, Any]] = {
    "sensors/scd30/data": {
        "timestamp": 1795176000,
        "value": {"co2": {"reading": 612.5, "unit": "ppm"}, "temperature": 21.5},
        "boot": "17-9f3a22c1",
        "seq": 17,
        "oldest": 3,
        "uptime_ms": 12345,
        "clock": "ntp",
    },
    "capabilities": {"device_name": "x", "sensors": ["scd30"], "metadata": {"scd30": {"interval_s": 5}}},
    "status": {"status": "online", "boot": "17-9f3a22c1", "uptime_ms": 5},
    "error": {"code": "bus", "message": "no answer"},
    "update/status": {"offer": "0123456789abcdef", "phase": "downloading", "percent": 5, "version": "1.2.3"},
    "commands/0123456789abcdef/result": {"ok": True, "result": {"a": 1}},
}
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 2**53, 2**53 + 1, 2**63, 2**64, -(2**63), 10**400, 1e308, -1e308, 5e-324,
    float("nan"), float("inf"), float("-inf"), "", "x", "\x00", "\ud800", "17\n", "A" * 65, "ä", "../..", "%s%n",
    [], [[]], [1, 2], {}, {"reading": None}, {"reading": {}}, {"": ""}, {"co2": {"reading": "612"}}, {"co2": [1]},
    "1e999", "2026-11-20", "<script>", "' or 1=1 --", {str(n): n for n in range(100)},
)  # fmt: skip
DEPTHS = (5, 100, 900, 5000, 30_000)
TOPICS_BYTES = (
    b"devices/\xff\xfe/status",
    b"devices/\xc0\x80/status",
    b"devices/\xed\xa0\x80/sensors/a/data",
    b"a\0b",
    b"a\tb",
)
"""No UTF-8, or control characters (MQTT 3.1.1 section 1.5.3): whoever sends them is disconnected."""


def mutated(chance: random.Random) -> tuple[str, bytes]:
    """A good message with one field that is another, missing, or wrapped."""
    kind = chance.choice(list(GOOD))
    body = json.loads(json.dumps(GOOD[kind]))
    name = chance.choice(list(body))
    match chance.randrange(4):
        case 0:
            del body[name]
        case 1:
            body[name] = [body[name]]
        case _:
            body[name] = chance.choice(ODD)
    return kind, json.dumps(body).encode("utf-8", "surrogatepass")


def spoiled(chance: random.Random, good: bytes) -> bytes:
    raw = bytearray(good)
    raw[chance.randrange(len(raw))] = chance.randrange(256)
    return bytes(raw)


BROKEN: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    lambda chance, _good: chance.randbytes(chance.randrange(1, 200)),
    lambda chance, good: good[: chance.randrange(1, len(good))],
    lambda chance, _good: b'{"value":' + b"[" * (depth := chance.choice(DEPTHS)) + b"]" * depth + b"}",
    lambda chance, _good: b'{"a":' * chance.choice(DEPTHS[:3]),
    lambda chance, _good: json.dumps(chance.choice(ODD)).encode("utf-8", "surrogatepass"),
    spoiled,
    lambda chance, _good: b'{"value":{"co2":' + b"9" * chance.choice((10, 400, 5000)) + b"e" + b"9" * 20 + b"}",
    lambda _chance, good: good + good,
    lambda chance, good: good[:-1] + b',"x":"' + b"x" * chance.choice((10, 100, 200, 300, 131_000)) + b'"',
)


def broken(chance: random.Random) -> tuple[str, bytes]:
    """What is no JSON object, or one that is deeper or longer than anybody needs."""
    kind = chance.choice(list(GOOD))
    good = json.dumps(GOOD[kind]).encode()
    return kind, chance.choice(BROKEN)(chance, good)[:LARGEST]


def misplaced(chance: random.Random) -> tuple[str, bytes]:
    """A device or sensor whose name breaks the rule."""
    name = chance.choice(("..", "ä", "a b", "A" * 65, "\u2028", "$SYS", "a\u202eb", "'; drop", "", "a" * 2000))
    payload = json.dumps(GOOD["sensors/scd30/data"]).encode()
    return chance.choice((f"//{name}/sensors/a/data", f"//a/sensors/{name}/data", f"//{name}/status")), payload


def unusable(topic: str, payload: bytes) -> bool | None:
    """Whether the gateway has to refuse it; None where it says something after all."""
    now = FixedClock().now()
    try:
        match wire.route(topic).kind:
            case Kind.DATA:
                return None if wire.decode_data(topic, payload, now).message.readings else False
            case Kind.CAPABILITIES:
                wire.decode_capabilities(topic, payload)
            case Kind.STATUS:
                wire.decode_status(topic, payload)
            case Kind.ERROR:
                wire.decode_error(topic, payload)
            case Kind.UPDATE:
                wire.decode_update(topic, payload)
            case _:
                return False  # nobody listens there
    except WireError:
        return True
    return None


def rubbish(chance: random.Random) -> Iterator[tuple[str, bytes, bool]]:
    """(topic, payload, whether it is counted as refused), for ever."""
    made = (mutated, broken, broken, misplaced)
    while True:
        kind, payload = chance.choice(made)(chance)
        topic = f"devices/{kind[2:]}" if kind.startswith("//") else f"devices/rogue-{chance.randrange(50)}/{kind}"
        if (verdict := unusable(topic, payload)) is not None and payload:
            yield topic, payload, verdict


async def connected(port: int, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(packet(0x10, text("MQTT") + b"\x04\x02\x00\x3c" + text(name)))
    assert await reader.readexactly(4) == b"\x20\x02\x00\x00"
    return reader, writer


async def say(port: int, messages: list[tuple[str, bytes, bool]]) -> None:
    """All of them with QoS 1; returns when the broker has taken them."""
    reader, writer = await connected(port, "rogue")

    async def send() -> None:
        for number, (topic, payload, _) in enumerate(messages, 1):
            writer.write(packet(0x32, text(topic) + struct.pack("!H", number) + payload))
            await writer.drain()

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        for _ in messages:
            assert (await reader.readexactly(4))[0] == 0x40
    writer.close()


async def say_what_no_broker_takes(port: int) -> None:
    """Topics that are no UTF-8, and more bytes than a message may have: the sender is shown the door, or ignored."""
    beyond = packet(0x30, text("devices/rogue/status") + b"x" * 140_000)
    for number, raw in enumerate(TOPICS_BYTES):
        reader, writer = await connected(port, f"rogue-{number}")
        writer.write(packet(0x30, struct.pack("!H", len(raw)) + raw + b"online"))
        with suppress(ConnectionError):
            assert await reader.read(1) == b""
        writer.close()
    reader, writer = await connected(port, "rogue-large")
    writer.write(beyond + packet(0xC0, b""))
    with suppress(ConnectionError):
        assert await reader.read(2) in {b"", b"\xd0\x00"}
    writer.close()


async def metric(running: Running, name: str) -> float:
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {running.token}"}) as http:
        said = (await http.get(f"http://127.0.0.1:{running.http}/metrics")).text
    found = re.search(rf"^{name} (\S+)$", said, re.MULTILINE)
    assert found, name
    return float(found[1])


async def counted(running: Running, refused: int) -> None:
    """Until the gateway has seen them all."""
    async with asyncio.timeout(WITHIN_S):
        while await metric(running, "gateway_mqtt_refused_total") < refused:
            pass


async def test_ten_thousand_messages_that_nobody_can_use_leave_no_trace(tmp_path: Path) -> None:
    made = rubbish(random.Random(SEED))
    messages = [next(made) for _ in range(MESSAGES)]
    refused = [sum(verdict for *_, verdict in messages[:upto]) for upto in (WARM_AFTER, MESSAGES)]
    assert refused[1] > 0.75 * MESSAGES
    assert max(len(payload) for _, payload, _ in messages) > 64 * 1024
    assert {topic.split("/", 2)[2] for topic, *_ in messages} >= set(GOOD)
    value = iter(range(1, 1 << 30))
    async with gateway(tmp_path / "data", environment=SETTINGS) as running:
        process = psutil.Process(running.process.pid)
        source = {"meter": lambda: {"count": float(next(value))}}
        node = SimulatedNode("good", "127.0.0.1", running.mqtt, source, interval_s=0.05)
        task = asyncio.create_task(node.run())
        await soon(node.connected)
        await say(running.mqtt, messages[:WARM_AFTER])
        await counted(running, refused[0])
        acked, held_mb = node.acked, process.memory_info().rss / 1e6
        await say_what_no_broker_takes(running.mqtt)
        await say(running.mqtt, messages[WARM_AFTER:])
        await counted(running, refused[1])
        async with asyncio.timeout(WITHIN_S):
            await node.acked_upto(max(node.seq, acked + 2))
        assert process.memory_info().rss / 1e6 - held_mb < FLAT_MB
        assert await metric(running, "gateway_mqtt_refused_total") == refused[1]
        assert await metric(running, "gateway_mqtt_connected") == 1
        node.rest()
        async with asyncio.timeout(WITHIN_S):
            await node.acked_upto(node.seq)
        task.cancel()
        await asyncio.wait([task])
        await running.stop()
        said = (await running.rest).decode()
    assert "Traceback" not in said
    assert "ERROR" not in said
    async with Store(tmp_path / "data") as store:
        assert {series.device for series in store.known.series.values()} == {"good"}
        assert [device.device_id for device in await queries.devices(store)] == ["good"]
        assert store.known.hot_rows == node.seq
