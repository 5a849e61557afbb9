"""Reading and acknowledging in bulk: against a real broker, against bytes in any pieces, and held to paho's names."""

import asyncio
import inspect
import json
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from gateway.ingest.client import READ_AHEAD, BulkClient, Publish, split
from tests.brokers import WITHIN_S, a_mosquitto

COUNT = 1500  # fewer than the broker sends without an acknowledgement
CONNACK, PINGRESP = b"\x20\x02\x00\x00", b"\xd0\x00"

MESSAGES = st.builds(
    Publish,
    st.text(min_size=1, max_size=40).filter(lambda topic: "\0" not in topic),
    st.one_of(st.binary(max_size=200), st.binary(min_size=1, max_size=1).map(lambda byte: byte * 20_000)),
    st.sampled_from([0, 1, 300, 65_535]),
    st.booleans(),
    st.booleans(),
)


def packet(message: Publish) -> bytes:
    """A PUBLISH as MQTT 3.1.1 section 3.3 lays it down."""
    topic = message.topic.encode(errors="surrogatepass")
    body = len(topic).to_bytes(2, "big") + topic + (message.mid.to_bytes(2, "big") if message.mid else b"")
    body += message.payload
    length, left = b"", len(body)
    while left or not length:
        left, digit = divmod(left, 128)
        length += bytes([digit | (0x80 if left else 0)])
    return bytes([0x30 | 8 * message.dup | 2 * bool(message.mid) | message.retain]) + length + body


@given(st.lists(MESSAGES, max_size=8), st.integers(0, 400), st.sampled_from([b"", PINGRESP, CONNACK]))
def test_whole_messages_are_taken_and_nothing_else(given: list[Publish], cut: int, other: bytes) -> None:
    stream = b"".join(map(packet, given)) + other
    assert split(stream, 0) == (given, len(stream) - len(other))
    part = stream[: max(0, len(stream) - cut)]
    found, at = split(part, 0)
    assert found == given[: len(found)]
    assert stream[:at] == b"".join(map(packet, found))
    assert len(part) - at < len(packet(given[len(found)])) if len(found) < len(given) else len(other) + 1


@pytest.mark.parametrize("size", [5, 127, 128, 129, 16_383, 16_384, 16_385, 40_000])
def test_every_length_of_a_length_is_read(size: int) -> None:
    message = Publish("t", b"x" * (size - 5), 7)
    assert split(packet(message), 0) == ([message], len(packet(message)))


class Wire:
    """The client, and a broker's end of its connection; both in one thread."""

    def __init__(self) -> None:
        self.got: list[Publish] = []
        self.client = BulkClient(CallbackAPIVersion.VERSION2, "bulk", manual_ack=True, arrived=self.got.extend)
        self.client.on_socket_register_write = lambda *_: None
        self.connect()

    def connect(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.client.connect("127.0.0.1", server.getsockname()[1])
            self.broker, _ = server.accept()
        assert self.say(CONNACK) == 0
        assert self.client.is_connected()

    def say(self, data: bytes, piece: int = READ_AHEAD // 2) -> int:
        """Send it piece by piece, each read before the next is sent; the first code that is no success."""
        for at in range(0, len(data), piece):
            self.broker.sendall(data[at : at + piece])
            code = self.client.loop(WITHIN_S)
            assert len(self.client._ahead) <= 2 * READ_AHEAD
            assert self.client._owed >= 0, "paho read what is not its own"
            if code:
                return code
        return 0


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.client.disconnect()
    wire.broker.close()


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 100, 1000, READ_AHEAD // 2])
def test_a_stream_in_pieces_is_the_same_stream(wire: Wire, piece: int) -> None:
    heard: list[int] = []
    wire.client.on_subscribe = lambda _c, _u, mid, *_: heard.append(mid)
    large = [Publish("large", b"y" * (READ_AHEAD + size), 4 + size, dup=True) for size in (0, 1, 50_000)]
    given = [
        Publish("t/1", b"{}", 1),
        *(Publish("t/\u00e9", b"x" * n + packet(Publish("in", b"", 1)) * 20, 0, retain=True) for n in range(20)),
        *(large if piece >= 1000 else []),
        Publish("t/2", b"", 65_535, dup=True),
    ]
    between = (b"", PINGRESP, b"\x90\x03\x00\x07\x01", PINGRESP * 3, b"\x90\x03\x00\x08\x01")
    stream = b"".join(packet(message) + between[n % len(between)] for n, message in enumerate(given * 5))
    assert wire.say(stream, piece) == 0
    assert wire.got == given * 5
    assert heard == [7 if n % 5 == 2 else 8 for n in range(len(given) * 5) if n % 5 in {2, 4}]


@pytest.mark.parametrize("more", [b"", packet(Publish("t", b"2", 4))], ids=["last", "followed"])
@pytest.mark.parametrize(
    "malformed",
    [b"\x30\x04\x00\x09ab", b"\x32\x04\x00\x02ab", b"\x30\x01\x00", b"\x30\x00", b"\x30\xff\xff\xff\xff\x01"],
    ids=["topic too long", "no packet id", "half a length", "nothing", "endless length"],
)
def test_what_is_no_packet_ends_the_connection(wire: Wire, malformed: bytes, more: bytes) -> None:
    before = Publish("t", b"1", 3)
    assert wire.say(packet(before) + malformed + more) != 0
    assert wire.got == [before]


def test_an_end_in_the_middle_of_a_packet_is_an_end(wire: Wire) -> None:
    assert wire.say(packet(Publish("t", b"z" * 1000, 9))[:500]) == 0
    wire.broker.shutdown(socket.SHUT_WR)
    assert wire.client.loop(WITHIN_S) != 0
    assert wire.got == []


def test_a_message_of_qos_2_is_left_to_paho(wire: Wire) -> None:
    once = packet(Publish("t", b"1", 3))
    assert wire.say(bytes([0x34]) + once[1:] + once) == 0
    assert [message.mid for message in wire.got] == [3]
    wire.client.loop(0)  # its answer leaves
    assert b"\x50\x02\x00\x03" in wire.broker.recv(1000)


def test_a_new_connection_knows_nothing_of_the_half_packet_of_the_old_one(wire: Wire) -> None:
    message = Publish("t", b"z" * 1000, 9)
    assert wire.say(packet(message)[:500]) == 0
    wire.broker.close()
    assert wire.client.loop(WITHIN_S) != 0
    wire.connect()
    assert wire.say(packet(message)) == 0
    assert wire.got == [message]


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

        def arrived(messages: Sequence[Publish]) -> None:
            numbers.extend(json.loads(message.payload)["n"] for message in messages)
            mids.extend(message.mid for message in messages)

        options: dict[str, Any] = {"clean_session": False, "manual_ack": True, "arrived": arrived}
        client = BulkClient(CallbackAPIVersion.VERSION2, "bulk", **options)
        client.on_socket_register_write = lambda *_: None
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
