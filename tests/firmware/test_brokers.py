"""Brokers that lie, that stutter, that fall silent, that refuse: a board keeps what it has and goes on."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiomqtt import Client

from bench.boards import Board, Wire, orders
from gateway.ingest import command_wire, wire
from tests.brokers import a_mosquitto, ended, free_port, needs_mosquitto
from tests.firmware.house import HOST, WITHIN_S, Said, ear, key_of, powered, send, settings
from tests.running import gateway

SPEED = 20
SENSORS = [{"driver": "counting", "interval_s": 2}]
KEY = bytes(range(32))
TELLS = {"HEAP": "1"}
"""A board prints a line each minute of its time."""


@asynccontextmanager
async def false_broker(tmp_path: Path) -> AsyncIterator[int]:
    """A mosquitto on which somebody acknowledges everything with a key of his own; its port."""
    async with a_mosquitto(tmp_path) as broker, ear(broker.port) as heard:

        async def lie() -> None:
            done: list[Said] = []
            async with Client(HOST, broker.port) as client:
                while True:
                    await heard.until(lambda said: len(said) > len(done))
                    for topic, body in heard.said[len(done) :]:
                        done.append((topic, body))
                        if topic.endswith("/data"):
                            device = topic.split("/")[1]
                            await client.publish(
                                f"devices/{device}/ack", wire.encode_ack(device, body["boot"], body["seq"], b"f" * 32)
                            )

        task = asyncio.create_task(lie())
        yield broker.port
        await ended(task)


@needs_mosquitto
async def test_a_false_broker_empties_no_ring_and_is_reported(tmp_path: Path) -> None:
    data, quick = tmp_path / "data", {"AMBIENT_GATEWAY_STORE_FLUSH_INTERVAL_S": "0.05"}
    async with (
        gateway(data, environment=quick) as running,
        false_broker(tmp_path) as false_port,
        ear(false_port) as false,
        ear(running.mqtt) as true,
        Wire(false_port) as way,
    ):
        key = await key_of("n1", data)
        board = Board(tmp_path / "board", settings("n1", way.port, SENSORS, key=key), speed=SPEED)
        async with powered(board):
            await false.until(lambda said: sum(topic.endswith("/ack") for topic, _ in said) >= 8)
            ok, error = await orders(HOST, false_port, lambda _device: None).send("n1", "restart", {}, WITHIN_S)
            assert not ok
            assert "signed with this node's key" in error
            sent = {body["seq"] for topic, body in false.said if topic.endswith("/data")}
            kept = {seq for _, seq, _, _ in board.held()}
            assert max(kept, default=0) >= max(sent) - 12, "all but the window in memory is in flash"
            assert set(range(1, max(kept))) <= kept | {1}
            assert not [topic for topic, _ in false.said if topic.endswith("/error")]

            way.to = running.mqtt
            way.reset()
            complaint = await true.message("/error", code="ack_refused")
            assert "wrong mac" in complaint["message"]
            stored = await true.until(
                lambda said: [
                    body["seq"] for topic, body in said if topic.endswith("/ack") and body["seq"] >= max(sent)
                ]
            )
            assert stored
            oldest = [body["oldest"] for topic, body in true.said if topic.endswith("/data")]
            assert oldest[0] == 1, "nothing was let go"
            ok, told = await send(running.mqtt, "n1", "get_diagnostics")
            assert ok
            assert told["refused"] >= 8


class Script:
    """A broker that does what it is told, a byte at a time; `packets` are what it got."""

    def __init__(self, connack: int = 0, mute_after: int = 1 << 30) -> None:
        self.packets: list[tuple[int, bytes]] = []
        self.connections = 0
        self._connack, self._mute_after = connack, mute_after
        self._more, self._line = asyncio.Condition(), asyncio.Lock()
        self.writer: asyncio.StreamWriter | None = None

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20), self._more:
            await self._more.wait_for(condition)

    def count(self, kind: int) -> int:
        return sum(head >> 4 == kind for head, _ in self.packets)

    async def say(self, packet: bytes) -> None:
        assert self.writer is not None
        async with self._line:
            for byte in packet:
                self.writer.write(bytes((byte,)))
                await self.writer.drain()
                await asyncio.sleep(0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.connections += 1
        try:
            while True:
                head = (await reader.readexactly(1))[0]
                body = await reader.readexactly(await self._length(reader))
                async with self._more:
                    self.packets.append((head, body))
                    self._more.notify_all()
                await self._answer(head, body)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(self, head: int, body: bytes) -> None:
        if len(self.packets) > self._mute_after:
            return
        kind = head >> 4
        if kind == 1:
            await self.say(bytes((0x20, 2, 0, self._connack)))
        elif kind == 3:
            at = 2 + struct.unpack(">H", body[:2])[0]
            await self.say(b"\x40\x02" + body[at : at + 2])
        elif kind == 8:
            await self.say(b"\x90\x04" + body[:2] + b"\x01\x01")
        elif kind == 12:
            await self.say(b"\xd0\x00")

    @staticmethod
    async def _length(reader: asyncio.StreamReader) -> int:
        size = shift = 0
        while True:
            byte = (await reader.readexactly(1))[0]
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return size


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[int]:
    server = await asyncio.start_server(script.serve, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def published(topic: str, payload: bytes, packet_id: int) -> bytes:
    """A PUBLISH of QoS 1."""
    body = struct.pack(">H", len(topic)) + topic.encode() + struct.pack(">H", packet_id) + payload
    size, length = len(body), b""
    while size > 0x7F:
        size, length = size >> 7, length + bytes((size & 0x7F | 0x80,))
    return b"\x32" + length + bytes((size,)) + body


async def test_packets_in_single_bytes_and_giants_among_them(tmp_path: Path) -> None:
    script = Script()
    async with scripted(script) as port:
        board = Board(tmp_path / "board", settings("n1", port, SENSORS, key=KEY.hex()), speed=SPEED)
        async with powered(board):
            await script.until(lambda: b"/data" in b"".join(body for _, body in script.packets))
            await script.say(published("devices/n1/commands/giant", b"x" * 20_000, 7))
            await script.until(lambda: (0x40, b"\x00\x07") in script.packets)
            boot = next(json.loads(body[body.index(b"{") :]) for _, body in script.packets if b"/data" in body)["boot"]
            await script.say(published("devices/n1/ack", wire.encode_ack("n1", boot, 1, KEY), 8))
            kept = published("devices/n1/commands/c0", b'{"name":"restart"}', 10)
            await script.say(b"\x33" + kept[1:])  # retained by the broker: who knows from when
            topic = "devices/n1/commands/c1"
            command = command_wire.encode_command(topic, "get_diagnostics", {}, (KEY, boot, 1))
            await script.say(published(topic, command, 9))
            await script.until(lambda: any(b"commands/c1/result" in body for _, body in script.packets))
            (answer,) = [body for _, body in script.packets if b"commands/c1/result" in body]
            assert json.loads(answer[answer.index(b"{") :])["ok"]
            assert not any(b"commands/c0/result" in body for _, body in script.packets)
            assert script.connections == 1
            assert board.resets == 0


async def test_what_nobody_acknowledges_is_sent_again(tmp_path: Path) -> None:
    """The broker has it, the gateway does not: its acknowledgement was lost, or it was away."""
    script = Script()
    async with scripted(script) as port:
        board = Board(tmp_path / "board", settings("n1", port, SENSORS, key=KEY.hex()), speed=SPEED)
        async with powered(board):

            def first() -> list[dict[str, int]]:
                data = [json.loads(body[body.index(b"{") :]) for _, body in script.packets if b"/data" in body]
                return [body for body in data if body["seq"] == 2]

            await script.until(lambda: len(first()) >= 2)
            assert script.connections == 1
            again = first()
            assert again[0] == again[1]


async def test_a_broker_that_falls_silent_is_left_and_comes_back(tmp_path: Path) -> None:
    """The connection stays open and nothing is answered any more: an outage of the way, or a frozen machine."""
    script = Script(mute_after=8)
    async with scripted(script) as port:
        board = Board(tmp_path / "board", settings("n1", port, SENSORS, key=KEY.hex()), speed=SPEED)
        async with powered(board):
            await script.until(lambda: script.connections >= 2)
            script._mute_after = 1 << 30
            before = script.count(3)
            await script.until(lambda: script.count(3) > before + 3)


async def test_a_broker_that_refuses_is_not_hammered(tmp_path: Path) -> None:
    script = Script(connack=5)
    async with scripted(script) as port:
        told = settings("n1", port, SENSORS, key=KEY.hex())
        board = Board(tmp_path / "board", told, speed=SPEED, environment=TELLS)
        async with powered(board):
            await script.until(lambda: script.connections >= 1)
            async with asyncio.timeout(WITHIN_S):
                await board.until(lambda: len(board.held()) >= 20)
            assert script.connections <= 3, "20 readings take 40 s, and it waits 30 to 60 s after a refusal"


async def test_without_a_broker_for_a_quarter_of_an_hour_it_starts_anew_and_keeps_everything(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", settings("n1", free_port(), SENSORS), speed=400, environment=TELLS)
    async with powered(board), asyncio.timeout(WITHIN_S):
        await board.until(lambda: board.resets == 1)
    kept = [(boot, seq) for boot, seq, *_ in board.held() if boot.startswith("1-")]
    assert len(kept) > 300
    assert [seq for _, seq in kept] == list(range(1, len(kept) + 1))


@needs_mosquitto
async def test_the_last_will_and_the_first_word(tmp_path: Path) -> None:
    async with a_mosquitto(tmp_path) as broker, ear(broker.port) as heard:
        board = Board(tmp_path / "board", settings("n1", broker.port, SENSORS), speed=SPEED)
        async with powered(board):
            await heard.message("/status", status="online")
            await board.kill()
            await heard.message("/status", status="offline")
            boots = await heard.until(
                lambda said: (
                    {body["boot"] for topic, body in said if "boot" in body and topic.endswith("/status")}
                    if sum(body.get("status") == "online" for _, body in said) > 1
                    else None
                )
            )
            assert sorted(boot[:2] for boot in boots) == ["1-", "2-"]
