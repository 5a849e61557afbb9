"""Against a real mosquitto: nothing is acknowledged before it is on disk, and nothing is lost when somebody dies."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiomqtt import Client

from drivers.model import Reason
from gateway.broker.supervise import ChildBroker
from gateway.ingest import wire
from gateway.ingest.mqtt import Hooks, MqttIngest
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.wire import DeviceError
from gateway.store.errors import StoreFull
from gateway.store.types import Event
from tests.brokers import (
    WITHIN_S,
    FixedClock,
    MemoryStore,
    a_mosquitto,
    free_port,
    kill_and_wait,
    needs_mosquitto,
)

pytestmark = needs_mosquitto
DATA = "devices/n1/sensors/scd30/data"


class House:
    """What the hooks heard; `heard` is notified after each word."""

    def __init__(self, keys: Mapping[str, bytes] | None = None) -> None:
        self.words: list[tuple[Any, ...]] = []
        self.heard = asyncio.Condition()
        self._keys = keys or {}

    def hooks(self) -> Hooks:
        return Hooks(self._capabilities, self._status, self._error, self._problem, self._keys.get)

    async def until(self, condition: Callable[[list[tuple[Any, ...]]], bool]) -> None:
        async with asyncio.timeout(WITHIN_S), self.heard:
            await self.heard.wait_for(lambda: condition(self.words))

    async def _say(self, *word: Any) -> None:
        async with self.heard:
            self.words.append(word)
            self.heard.notify_all()

    async def _capabilities(self, device: str, told: Mapping[str, Any]) -> None:
        await self._say("capabilities", device, told)

    async def _status(self, device: str, online: bool) -> None:
        await self._say("status", device, online)

    async def _error(self, device: str, error: DeviceError) -> None:
        await self._say("error", device, error)

    async def _problem(self, event: Event) -> None:
        await self._say("problem", event.kind, event.device, event.message)


@asynccontextmanager
async def ingest(port: int, store: MemoryStore, house: House, **more: Any) -> AsyncIterator[MqttIngest]:
    """Pipeline and MQTT, subscribed when entered."""
    clock = more.pop("clock", FixedClock())
    async with (
        Pipeline(store.append, **more) as pipeline,
        MqttIngest("127.0.0.1", port, pipeline, house.hooks(), clock) as mqtt,
    ):
        await subscribed(port, house)
        yield mqtt


async def subscribed(port: int, house: House) -> None:
    """Return when what is published now arrives: a status goes round until it is heard."""
    name = f"probe{len(house.words)}"
    async with asyncio.timeout(WITHIN_S), Client("127.0.0.1", port) as client:
        while ("status", name, True) not in house.words:
            await client.publish(f"devices/{name}/status", b"online", qos=1)
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05), house.heard:
                    await house.heard.wait_for(lambda: ("status", name, True) in house.words)


def numbered(seq: int, oldest: int = 1, boot: str = "1-a", value: float = 700.0, **more: Any) -> bytes:
    body = {"value": {"co2": value}, "boot": boot, "seq": seq, "oldest": oldest, "timestamp": 1795176000 + seq}
    return json.dumps({**body, **more}).encode()


async def publish(port: int, *messages: tuple[str, bytes], retain: bool = False) -> None:
    async with Client("127.0.0.1", port, max_queued_outgoing_messages=0) as client:
        for topic, payload in messages:
            await client.publish(topic, payload, qos=1, retain=retain)


async def caught_up(port: int) -> None:
    """Return when the broker has read what earlier connections sent: it reads one packet of each in turn.

    Without this a new connection of the same client may overtake the acknowledgements of the last one.
    """
    await publish(port, *[("elsewhere", b"")] * 20)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[ChildBroker]:
    async with a_mosquitto(tmp_path) as running:
        yield running


@asynccontextmanager
async def acks(port: int, device: str = "n1") -> AsyncIterator[Callable[[int], Any]]:
    """Listen as a node does; the function returns the first acknowledgement that covers a number."""
    async with Client("127.0.0.1", port) as client:
        await client.subscribe(f"devices/{device}/ack", qos=1)

        async def covering(seq: int) -> dict[str, Any]:
            async with asyncio.timeout(WITHIN_S):
                async for message in client.messages:
                    ack: dict[str, Any] = json.loads(message.payload)  # type: ignore[arg-type]
                    if ack["seq"] >= seq:
                        return ack
            raise AssertionError("no acknowledgement")

        yield covering


async def test_a_reading_is_stored_and_acknowledged_with_the_contiguous_mark(broker: ChildBroker) -> None:
    store, house = MemoryStore(), House()
    async with ingest(broker.port, store, house, flush_interval_s=0.2), acks(broker.port) as acked:
        await publish(broker.port, (DATA, numbered(1)), (DATA, numbered(2)), (DATA, numbered(4)))
        assert await acked(2) == {"boot": "1-a", "seq": 2}
        await publish(broker.port, (DATA, numbered(3)))
        assert await acked(4) == {"boot": "1-a", "seq": 4}
    assert sorted(m.delivery.seq for m in store.messages if m.delivery) == [1, 2, 3, 4]
    assert (store.messages[0].device, store.messages[0].sensor) == ("n1", "scd30")


async def test_a_duplicate_is_acknowledged_again_and_stored_once(broker: ChildBroker) -> None:
    store, house = MemoryStore(), House()
    async with ingest(broker.port, store, house, flush_interval_s=0.2), acks(broker.port) as acked:
        await publish(broker.port, (DATA, numbered(1)))
        await acked(1)
        await publish(broker.port, (DATA, numbered(1)))
        assert (await acked(1))["seq"] == 1
    assert len(store.messages) == 1


async def test_an_acknowledgement_carries_the_mac_of_a_device_with_a_key(broker: ChildBroker) -> None:
    key = b"k" * 32
    store, house = MemoryStore(), House({"n1": key})
    async with ingest(broker.port, store, house), acks(broker.port) as acked:
        await publish(broker.port, (DATA, numbered(1)))
        ack = await acked(1)
    assert wire.verify_ack("devices/n1/ack", json.dumps(ack).encode(), key) == wire.Ack("1-a", 1)


async def test_killed_before_the_commit_it_gets_everything_again(broker: ChildBroker) -> None:
    first, second, house = MemoryStore(), MemoryStore(), House()
    first.failing = StoreFull("no room")
    async with ingest(broker.port, first, house):
        await publish(broker.port, *[(DATA, numbered(seq)) for seq in range(1, 51)])
        await first.until(lambda: first.tries >= 1)
    assert first.messages == []
    async with ingest(broker.port, second, house, flush_interval_s=0.1):
        await second.until(lambda: len(second.messages) == 50)
    await caught_up(broker.port)
    third = MemoryStore()
    async with ingest(broker.port, third, house, flush_interval_s=0.1):  # what was committed is not sent again
        await publish(broker.port, (DATA, numbered(51)))
        await third.until(lambda: len(third.messages) >= 1)
    assert [m.delivery.seq for m in third.messages if m.delivery] == [51]


async def test_what_arrives_while_it_is_away_waits_at_the_broker(broker: ChildBroker) -> None:
    store, house = MemoryStore(), House()
    async with ingest(broker.port, store, house):
        pass
    await publish(
        broker.port, *[(DATA, numbered(seq)) for seq in range(1, 1501)]
    )  # more than mosquitto's default queue
    async with ingest(broker.port, store, house, flush_interval_s=0.2):
        await store.until(lambda: len(store.messages) == 1500)


async def test_a_store_that_fails_for_a_while_loses_nothing(broker: ChildBroker) -> None:
    store, house = MemoryStore(), House()
    store.failing = StoreFull("no room")
    async with ingest(broker.port, store, house, capacity=50, batch_rows=20, flush_interval_s=0.1):
        await publish(broker.port, *[(DATA, numbered(seq)) for seq in range(1, 201)])
        await store.until(lambda: store.tries >= 2)
        assert store.messages == []
        store.failing = None
        await store.until(lambda: len(store.messages) == 200)


async def test_a_poison_message_is_counted_reported_and_forgotten(broker: ChildBroker) -> None:
    store, house = MemoryStore(), House()
    async with ingest(broker.port, store, house, flush_interval_s=0.1) as mqtt:
        await publish(broker.port, (DATA, b"\xff{"), ("devices/n 1/sensors/s/data", b"{}"), (DATA, numbered(1)))
        await store.until(lambda: len(store.messages) == 1)
        await house.until(lambda words: any(word[:3] == ("problem", "refused", "n1") for word in words))
        assert mqtt.counts.refused == 2
    await caught_up(broker.port)
    again = MemoryStore()
    async with ingest(broker.port, again, house, flush_interval_s=0.1) as mqtt:
        await publish(broker.port, (DATA, numbered(2)))
        await again.until(lambda: len(again.messages) == 1)
        assert mqtt.counts.refused == 0  # it was acknowledged to the broker


async def test_a_broken_node_is_reported_once_and_not_with_each_message(broker: ChildBroker) -> None:
    store, house = MemoryStore(), House()
    async with ingest(broker.port, store, house, flush_interval_s=0.1) as mqtt:
        await publish(broker.port, *[(DATA, b"[]")] * 30, (DATA, numbered(1)))
        await store.until(lambda: len(store.messages) == 1)
        assert mqtt.counts.refused == 30
    assert sum(word[0] == "problem" for word in house.words) == 1


async def test_refused_metrics_are_reported_and_the_rest_is_stored(broker: ChildBroker) -> None:
    store, house = MemoryStore(), House()
    async with ingest(broker.port, store, house):
        await publish(broker.port, (DATA, b'{"value": {"co2": 700, "dewpoint": 9}}'))
        await store.until(lambda: len(store.messages) == 1)
        await house.until(lambda words: any(word[0] == "problem" and "dewpoint" in word[3] for word in words))
    assert [r.metric for r in store.messages[0].readings] == ["co2"]


async def test_capabilities_statuses_and_errors_reach_their_hooks(broker: ChildBroker) -> None:
    store, house = MemoryStore(), House()
    async with ingest(broker.port, store, house):
        await publish(
            broker.port,
            ("devices/n1/capabilities", b'{"device_name": "Kitchen", "sensors": ["scd30"]}'),
            ("devices/n1/status", b'{"status": "offline"}'),
            ("devices/n1/error", b'{"code": "i2c", "message": "bus stuck"}'),
            retain=True,
        )
        await house.until(lambda words: {word[0] for word in words} >= {"capabilities", "error"})
    told = [word for word in house.words if word[1] == "n1"]
    assert told == [
        ("capabilities", "n1", {"device_name": "Kitchen", "sensors": ["scd30"], "metadata": {}}),
        ("status", "n1", False),
        ("error", "n1", DeviceError("i2c", "bus stuck")),
    ]


async def test_a_device_that_comes_back_is_told_its_mark(broker: ChildBroker) -> None:
    store, house = MemoryStore(), House()
    async with ingest(broker.port, store, house):
        async with acks(broker.port) as acked:
            await publish(broker.port, (DATA, numbered(1)))
            await acked(1)
        async with acks(broker.port) as acked:
            await publish(broker.port, ("devices/n1/status", b"online"))
            assert await acked(1) == {"boot": "1-a", "seq": 1}


async def test_a_retained_message_without_a_date_is_not_a_new_reading(broker: ChildBroker) -> None:
    store, house = MemoryStore(), House()
    await publish(broker.port, (DATA, b'{"value": {"co2": 700}}'), retain=True)
    async with ingest(broker.port, store, house) as mqtt:
        await publish(broker.port, (DATA, numbered(1)))
        await store.until(lambda: len(store.messages) == 1)
        assert mqtt.counts.stale == 1
    assert store.messages[0].delivery is not None


async def test_what_the_broker_kept_of_a_sender_without_a_clock_is_uncertain(broker: ChildBroker) -> None:
    store, house = MemoryStore(), House()
    async with ingest(broker.port, store, house):
        pass
    await publish(broker.port, (DATA, b'{"value": {"co2": 700}}'))
    async with ingest(broker.port, store, house):
        await store.until(lambda: len(store.messages) == 1)
    assert store.messages[0].readings[0].reason is Reason.TIME_UNKNOWN


async def test_a_node_without_a_clock_is_dated_once_its_pace_was_seen(broker: ChildBroker) -> None:
    store, house, clock = MemoryStore(), House(), FixedClock()

    def kept(seq: int, uptime_ms: int) -> bytes:
        return numbered(seq, timestamp=None, uptime_ms=uptime_ms, clock="none")

    async with ingest(broker.port, store, house, clock=clock, batch_rows=1):
        for seq in (1, 2):
            await publish(broker.port, (DATA, kept(seq, seq * 10_000)))
            await store.until(lambda seq=seq: len(store.messages) == seq)  # type: ignore[misc]
            clock.time = clock.time.replace(second=clock.time.second + 10)
        await publish(broker.port, (DATA, kept(3, 5_000)))
        await store.until(lambda: len(store.messages) == 3)
    first, second, late = (m.readings[0] for m in store.messages)
    assert [first.reason, second.reason, late.reason] == [Reason.TIME_UNKNOWN, Reason.NONE, Reason.NONE]
    assert (first.time - late.time).total_seconds() == pytest.approx(5)


async def test_a_broker_that_dies_is_found_again_and_old_packet_ids_are_never_used(broker: ChildBroker) -> None:
    store, house = MemoryStore(), House()
    async with ingest(broker.port, store, house, flush_interval_s=0.1) as mqtt:
        await publish(broker.port, (DATA, numbered(1)))
        await store.until(lambda: len(store.messages) == 1)
        store.gate.clear()
        tries = store.tries
        await publish(broker.port, (DATA, numbered(2)), (DATA, numbered(3)))
        await store.until(lambda: store.tries > tries)  # both wait for the commit when the connection goes
        assert broker.pid is not None
        before, generation = mqtt.counts.connects, mqtt._generation
        await kill_and_wait(broker)
        store.gate.set()
        await subscribed(broker.port, house)
        assert mqtt.counts.connects == before + 1
        assert mqtt._generation > generation
        await publish(broker.port, (DATA, numbered(2)), (DATA, numbered(3)), (DATA, numbered(4)))
        await store.until(lambda: len(store.messages) == 4)
        sent: list[int] = []
        mqtt._client.acknowledge = sent.extend  # type: ignore[method-assign]
        mqtt._acknowledge(generation, (1,))
        mqtt._send_pubacks()
        assert sent == []
        mqtt._acknowledge(mqtt._generation, (1,))
        mqtt._send_pubacks()
        assert sent == [1]


async def test_a_foreign_brokers_small_window_does_not_slow_it_down(tmp_path: Path) -> None:
    """mosquitto as distributions ship it sends 20 and then waits for us."""
    async with a_mosquitto(tmp_path) as broker:
        conf = tmp_path / "broker" / "mosquitto.conf"
        original = broker._prepare

        def prepare() -> None:
            original()
            conf.write_text(conf.read_text().replace("max_inflight_messages 2000", "max_inflight_messages 20"))

        broker._prepare = prepare
        await kill_and_wait(broker)
        assert "max_inflight_messages 20\n" in conf.read_text()
        store, house = MemoryStore(), House()
        async with ingest(broker.port, store, house):
            loop = asyncio.get_running_loop()
            await publish(broker.port, *[(DATA, numbered(seq)) for seq in range(1, 401)])
            began_s = loop.time()
            await store.until(lambda: len(store.messages) >= 380)
            assert loop.time() - began_s < 4  # 20 each five seconds would be 95 s


async def test_without_a_broker_it_says_so_once_and_leaves_when_asked() -> None:
    store, house, port = MemoryStore(), House(), free_port()
    async with (
        Pipeline(store.append) as pipeline,
        MqttIngest("127.0.0.1", port, pipeline, house.hooks(), FixedClock()) as mqtt,
    ):
        await house.until(lambda words: any(word[:2] == ("problem", "broker") for word in words))
        assert not mqtt.connected
    assert not mqtt._thread.is_alive()
    assert len(house.words) == 1


async def test_leaving_writes_and_acknowledges_what_was_taken(broker: ChildBroker) -> None:
    store, house = MemoryStore(), House()
    async with ingest(broker.port, store, house) as mqtt:
        await publish(broker.port, (DATA, numbered(1)))
        await store.until(lambda: len(store.messages) == 1)
        await publish(broker.port, (DATA, numbered(2)), (DATA, numbered(3)))
        await subscribed(broker.port, house)  # what was published before has arrived by now
    assert len(store.messages) == 3
    assert not mqtt._thread.is_alive()
    await caught_up(broker.port)
    again = MemoryStore()
    async with ingest(broker.port, again, house):
        pass
    assert again.messages == []
