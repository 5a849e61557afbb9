"""Nodes on a cable: a pseudo-terminal carries what MQTT would, noise and unplugging included, and nothing is lost."""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drivers.host.open import open_bus
from drivers.model import Quality, Reason
from gateway.ingest import command_wire, wire
from gateway.ingest.acks import Acks
from gateway.ingest.mqtt import Hooks
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.serial_nodes import LINE_LIMIT, SerialNodes, decode_line, encode_line
from gateway.ingest.wire import WireError
from gateway.store.errors import StoreFull
from gateway.store.types import Commit, Event
from tests.brokers import WITHIN_S, FixedClock, MemoryStore, soon
from tests.ptys import Cable, cable

KEY = b"k" * 32


class Node:
    """A node's side of the cable: numbers, keeps until acknowledged, repeats; shares no code with the gateway."""

    def __init__(self, plugged: Cable, device: str = "n1", boot: str = "1-a") -> None:
        self.cable, self.device, self.boot = plugged, device, boot
        self.seq = 0
        self.ring: dict[int, bytes] = {}
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self._input = b""

    def measure(self, value: float = 700.0) -> None:
        self.seq += 1
        body = {"value": {"co2": value}, "boot": self.boot, "seq": self.seq, "oldest": min([*self.ring, self.seq])}
        self.ring[self.seq] = self.line("sensors/scd30/data", {**body, "timestamp": 1795176000 + self.seq})

    def line(self, topic: str, payload: dict[str, Any], *, checked: bool = True) -> bytes:
        text = json.dumps({"topic": f"devices/{self.device}/{topic}", "payload": payload}).encode()
        if not checked:
            return text + b"\r\n"
        return text[:-1] + f',"crc":"{zlib.crc32(text[:-1]):08x}"}}\r\n'.encode()

    def send(self) -> None:
        for line in self.ring.values():
            self.cable.write(line)

    def say(self, topic: str, payload: dict[str, Any], *, checked: bool = True) -> None:
        self.cable.write(self.line(topic, payload, checked=checked))

    async def hear(self, condition: Callable[[list[tuple[str, dict[str, Any]]]], bool]) -> None:
        """Listen until it holds for all that was heard; each acknowledgement empties the ring up to its mark."""
        while not condition(self.heard):
            self._input += await self.cable.read()
            *lines, self._input = self._input.split(b"\n")
            for line in lines:
                start, _, crc = line.rpartition(b',"crc":')
                assert json.loads(crc[:-1]) == f"{zlib.crc32(start):08x}"
                message = json.loads(line)
                self.heard.append((message["topic"], message["payload"]))
                if message["topic"].endswith("/ack") and message["payload"]["boot"] == self.boot:
                    self.ring = {s: m for s, m in self.ring.items() if s > message["payload"]["seq"]}

    async def acked(self, seq: int) -> dict[str, Any]:
        def told(heard: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
            return [p for t, p in heard if t == f"devices/{self.device}/ack" and p["seq"] >= seq]

        await self.hear(lambda heard: bool(told(heard)))
        return told(self.heard)[0]


class House:
    """What the hooks heard."""

    def __init__(self, keys: dict[str, bytes] | None = None) -> None:
        self.words: list[tuple[Any, ...]] = []
        self._heard = asyncio.Condition()
        self._keys = keys or {}

    def hooks(self) -> Hooks:
        async def capabilities(device: str, told: Any) -> None:
            await self._say("capabilities", device, told)

        async def status(device: str, online: bool) -> None:
            await self._say("status", device, online)

        async def error(device: str, told: wire.DeviceError) -> None:
            await self._say("error", device, told.code)

        async def problem(event: Event) -> None:
            await self._say("problem", event.kind, event.device, event.message)

        return Hooks(capabilities, status, error, problem, self._keys.get)

    async def _say(self, *word: Any) -> None:
        async with self._heard:
            self.words.append(word)
            self._heard.notify_all()

    async def until(self, *word: Any) -> tuple[Any, ...]:
        """The first word that begins so."""
        async with asyncio.timeout(WITHIN_S), self._heard:
            await self._heard.wait_for(lambda: any(w[: len(word)] == word for w in self.words))
        return next(w for w in self.words if w[: len(word)] == word)


@asynccontextmanager
async def serving(
    path: Path, store: MemoryStore, house: House, *, wait: bool = True, **more: Any
) -> AsyncIterator[SerialNodes]:
    clock = more.pop("clock", FixedClock())
    async with (
        Pipeline(store.append, flush_interval_s=more.pop("flush_interval_s", 0.05), **more) as pipeline,
        SerialNodes("desk", lambda: open_bus(f"serial:{path}"), pipeline, house.hooks(), clock) as nodes,
    ):
        if wait:
            await soon(nodes.connected)
        yield nodes


@pytest.fixture
def plugged(tmp_path: Path) -> Iterator[Cable]:
    with cable(tmp_path) as made:
        yield made


# ---- delivery


async def test_a_reading_is_acknowledged_only_when_it_is_on_disk(plugged: Cable) -> None:
    store, node = MemoryStore(), Node(plugged)
    store.gate.clear()
    async with serving(plugged.path, store, House()) as nodes:
        for _ in range(3):
            node.measure()
        node.send()
        await store.until(lambda: store.tries >= 1)
        assert nodes.counts.acks == 0
        store.gate.set()
        assert (await node.acked(3)) == {"boot": "1-a", "seq": 3}
    assert [m.delivery.seq for m in store.messages if m.delivery] == [1, 2, 3]
    assert (store.messages[0].device, store.messages[0].sensor) == ("n1", "scd30")
    assert node.ring == {}


async def test_nothing_is_acknowledged_while_the_store_is_full(plugged: Cable) -> None:
    store, node = MemoryStore(), Node(plugged)
    store.failing = StoreFull("no room")
    async with serving(plugged.path, store, House()) as nodes:
        node.measure()
        node.send()
        await store.until(lambda: store.tries >= 2)
        assert nodes.counts.acks == 0
        store.failing = None
        await node.acked(1)
    assert len(store.messages) == 1


async def test_a_repetition_is_acknowledged_again_and_stored_once(plugged: Cable) -> None:
    store, node = MemoryStore(), Node(plugged)
    async with serving(plugged.path, store, House()):
        node.measure()
        line = node.ring[1]
        node.send()
        await node.acked(1)
        node.heard.clear()
        plugged.write(line)
        await node.acked(1)
    assert len(store.messages) == 1


async def test_an_acknowledgement_is_signed_where_the_node_has_a_key(plugged: Cable) -> None:
    node = Node(plugged)
    async with serving(plugged.path, MemoryStore(), House({"n1": KEY})):
        node.measure()
        node.send()
        ack = await node.acked(1)
    assert wire.verify_ack("devices/n1/ack", json.dumps(ack).encode(), KEY).seq == 1


async def test_a_node_that_comes_back_hears_its_mark_again(plugged: Cable) -> None:
    node, house = Node(plugged), House()
    async with serving(plugged.path, MemoryStore(), house):
        node.measure()
        node.send()
        await node.acked(1)
        node.heard.clear()
        node.say("status", {"status": "online", "boot": "1-a", "uptime_ms": 5})
        await node.acked(1)
        await house.until("status", "n1", True)


async def test_a_node_without_a_clock_is_dated_by_its_uptime(plugged: Cable) -> None:
    store, node, clock = MemoryStore(), Node(plugged), FixedClock()
    async with serving(plugged.path, store, House(), clock=clock):
        body = {"value": {"co2": 500}, "boot": "1-a", "seq": 1, "oldest": 1, "uptime_ms": 60_000, "clock": "none"}
        node.say("sensors/scd30/data", body)
        await node.acked(1)
    reading = store.messages[0].readings[0]
    assert (reading.quality, reading.reason) == (Quality.UNCERTAIN, Reason.TIME_UNKNOWN)
    assert reading.time <= clock.now()


async def test_everything_arrives_once_though_the_cable_is_pulled_again_and_again(plugged: Cable) -> None:
    store, house, node = MemoryStore(), House(), Node(plugged)
    async with serving(plugged.path, store, house) as nodes:
        for turn in range(3):
            for _ in range(5):
                node.measure()
            node.send()
            plugged.write(b'{"topic":"devices/n1/sens')  # cut off in the middle
            await store.until(lambda: bool(store.messages))
            plugged.unplug()
            await house.until("status", "n1", False)
            house.words.clear()
            assert not nodes.connected.is_set()
            plugged.plug()
            await soon(nodes.connected)
            node.heard.clear()
            node._input = b""
            node.send()
            await node.acked(5 * (turn + 1))
    assert sorted(m.delivery.seq for m in store.messages if m.delivery) == list(range(1, 16))


async def test_a_port_that_is_missing_at_the_start_is_waited_for(tmp_path: Path) -> None:
    late, house = Cable(tmp_path), House()
    try:
        async with serving(late.path, MemoryStore(), house, wait=False) as nodes:
            word = await house.until("problem", "port")
            assert "does not exist" in word[3]
            late.plug()
            await soon(nodes.connected)
            node = Node(late)
            node.measure()
            node.send()
            await node.acked(1)
    finally:
        late.close()


async def test_others_are_not_told_of_devices_elsewhere(plugged: Cable) -> None:
    node = Node(plugged)
    async with serving(plugged.path, MemoryStore(), House()) as nodes:
        await nodes._committed(Commit(1, 1, 0, {("elsewhere", "1-b"): 9}, (), ()))
        node.measure()
        node.send()
        await node.acked(1)
    assert {topic for topic, _ in node.heard} == {"devices/n1/ack"}


async def test_leaving_does_not_wait_for_a_store_that_takes_nothing(plugged: Cable) -> None:
    store, node = MemoryStore(), Node(plugged)
    store.gate.clear()
    async with AsyncExitStack() as stack:
        pipeline = await stack.enter_async_context(Pipeline(store.append, capacity=1, flush_interval_s=0.01))
        nodes = SerialNodes("desk", lambda: open_bus(f"serial:{plugged.path}"), pipeline, House().hooks(), FixedClock())
        async with nodes:
            await soon(nodes.connected)
            for _ in range(6):
                node.measure()
            node.send()
            await store.until(lambda: store.tries >= 1)
            async with asyncio.timeout(WITHIN_S):
                while pipeline.pending < 2 or nodes.counts.received < 2:  # one is written, one waits, one finds no room
                    await asyncio.to_thread(lambda: None)
        store.gate.set()
        await pipeline.flush()
    assert [m.delivery.seq for m in store.messages if m.delivery] == [1, 2]


# ---- what else comes over a cable


async def test_noise_half_lines_and_damage_are_passed_over(plugged: Cable) -> None:
    store, house, node = MemoryStore(), House(), Node(plugged)
    async with serving(plugged.path, store, house) as nodes:
        node.measure()
        good = node.ring[1]
        plugged.write(b'7,"oldest":1}}\r\n')
        plugged.write(b"ets Jun  8 2016 00:22:57\r\n\r\nrst:0x1 (POWERON_RESET)\r\n\xff\xfe\x00\r\n")
        plugged.write(good.replace(b"700.0", b"70.0"))  # a lost digit: only the checksum sees it
        await house.until("problem", "refused")
        await plugged.feed(b'{"x":"' + b"a" * 2 * LINE_LIMIT + b"\n")
        await plugged.feed(b'{"topic": \n[1]\n{"topic":"devices/n1/ack","payload":{}}\n{"topic":"x","payload":{}}\n')
        await plugged.feed(good)
        await node.acked(1)
        assert (nodes.counts.received, nodes.counts.noise, nodes.counts.refused) == (1, 5, 5)
    assert [r.value for m in store.messages for r in m.readings] == [700.0]


async def test_a_node_says_who_it_is_and_what_is_wrong(plugged: Cable) -> None:
    house, node = House(), Node(plugged)
    async with serving(plugged.path, MemoryStore(), house):
        node.say("capabilities", {"device_name": "Desk", "sensors": ["scd30"]}, checked=False)
        node.say("error", {"code": "E7", "message": "no sensor"})
        node.say("status", {"status": "offline"})
        assert (await house.until("capabilities", "n1"))[2]["device_name"] == "Desk"
        assert await house.until("error", "n1") == ("error", "n1", "E7")
        await house.until("status", "n1", False)


async def test_a_metric_that_is_refused_is_reported_and_the_others_kept(plugged: Cable) -> None:
    store, house, node = MemoryStore(), House(), Node(plugged)
    async with serving(plugged.path, store, house):
        node.say("sensors/scd30/data", {"value": {"co2": 500, "temperature": "warm"}, "boot": "1-a", "seq": 1})
        assert "temperature" in (await house.until("problem", "refused", "n1"))[3]
        await node.acked(1)
    assert [r.metric for m in store.messages for r in m.readings] == ["co2"]


# ---- commands


def is_json(payload: bytes) -> bool:
    return payload.startswith(b"{") and b"forged" not in payload


async def test_a_command_comes_back_with_its_result(plugged: Cable) -> None:
    house, node = House(), Node(plugged)
    async with serving(plugged.path, MemoryStore(), house) as nodes:
        node.say("status", {"status": "online"})
        await house.until("status", "n1", True)
        topic, payload = "devices/n1/commands/c1", b'{"name":"interval","args":{"interval_s":5}}'
        sent = asyncio.create_task(nodes.exchange(topic, payload, is_json), name="command")
        await node.hear(bool)
        assert node.heard == [("devices/n1/commands/c1", {"name": "interval", "args": {"interval_s": 5}})]
        with pytest.raises(ValueError, match="still running"):
            await nodes.exchange(topic, payload, is_json)
        node.say("commands/other/result", {"ok": True, "result": 1})
        node.say("commands/c1/result", {"ok": True, "result": "forged"})
        node.say("commands/c1/result", {"ok": False, "error": "too fast"})
        assert command_wire.decode_result(f"{topic}/result", await sent) == (False, "too fast")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await nodes.exchange("devices/n1/commands/c2", payload, is_json)
        with pytest.raises(LookupError, match="n2/commands/c3: its device is not connected to desk"):
            await nodes.exchange("devices/n2/commands/c3", payload, is_json)


# ---- lines


def test_a_line_is_what_the_document_says() -> None:
    line = encode_line("devices/n1/ack", b'{"boot":"1-a","seq":3}')
    assert line == b'{"topic":"devices/n1/ack","payload":{"boot":"1-a","seq":3},"crc":"%08x"}\n' % zlib.crc32(
        b'{"topic":"devices/n1/ack","payload":{"boot":"1-a","seq":3}'
    )
    assert decode_line(line[:-1]) == ("devices/n1/ack", b'{"boot":"1-a","seq":3}')
    assert len(line) < LINE_LIMIT


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
lines = (
    st.binary(max_size=200)
    | st.builds(lambda body: json.dumps(body).encode(), anything)
    | st.builds(
        lambda topic, payload, tail: json.dumps({"topic": topic, "payload": payload}).encode()[:-1] + tail,
        st.text(max_size=20) | st.just("devices/n1/sensors/scd30/data"),
        anything,
        st.sampled_from([b"}", b',"crc":"00000000"}', b',"crc":"zz"}', b"", b"}}"]),
    )
)


@settings(deadline=None, max_examples=5000)
@given(lines)
@example(b"[" * 100_000)
@example(b'{"topic":"x","payload":' + b'{"a":' * 900 + b"1" + b"}" * 901)
@example(b'{"topic":"x","payload":{"a":' + b"9" * 5000 + b"}}")
@example(b'{"topic":"x","payload":{"a":"\\ud800"}}')
@example(b"{\x00}\x00")
def test_any_bytes_are_a_message_or_a_refusal(line: bytes) -> None:
    try:
        topic, payload = decode_line(line)
        decoded = wire.decode_data(topic, payload, FixedClock().now())
    except WireError:
        return
    assert decoded.message.device


@given(st.binary(min_size=1, max_size=60), st.integers(0, 479))
def test_no_flipped_bit_passes_a_checksum(text: bytes, bit: int) -> None:
    payload = json.dumps({"value": text.hex()}).encode()
    line = bytearray(encode_line("devices/n1/ack", payload)[:-1])
    line[bit // 8 % len(line)] ^= 1 << bit % 8
    try:
        decoded = decode_line(bytes(line))
    except WireError:
        return
    topic, kept = decoded  # the flip hit the name of the checksum, which is then not known as one
    assert (topic, json.loads(kept)) == ("devices/n1/ack", json.loads(payload))


# ---- acknowledgements


@pytest.mark.parametrize("crc", ['"0A1B2C3D"', "5", '"0a1b2c3"', ' "0a1b2c3d"'])
def test_a_checksum_in_another_form_is_refused_and_not_passed_over(crc: str) -> None:
    with pytest.raises(WireError, match="eight hexadecimal digits"):
        decode_line(f'{{"topic":"devices/n1/status","payload":{{}},"crc":{crc}}}'.encode())


def test_only_what_is_contiguous_is_acknowledged_and_the_longest_silent_forgotten() -> None:
    acks = Acks({"b": KEY}.get, limit=2)
    commit = Commit(1, 0, 0, {("a", "1-x"): 3, ("b", "1-y"): 0}, (), ())
    assert list(acks.committed(commit)) == [("devices/a/ack", b'{"boot":"1-x","seq":3}')]
    assert acks.again("b") is None
    assert acks.again("a") == ("devices/a/ack", b'{"boot":"1-x","seq":3}')
    list(acks.committed(Commit(2, 0, 0, {("b", "1-y"): 1, ("c", "1-z"): 1}, (), ())))
    assert acks.again("a") is None
    signed = acks.again("b")
    assert signed is not None
    assert wire.verify_ack(*signed, KEY).seq == 1
