"""Nobody floods the others away: how much a sender may say, how many there may be, and a flood beside a quiet node."""

import asyncio
import json
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiomqtt import Client

from drivers.model import Quantity
from gateway.config import Config, Mqtt
from gateway.core import open_core
from gateway.ingest.flood import (
    BOOTS_LIMIT,
    FORGOTTEN_AFTER_S,
    LASTS_AFTER_S,
    LOOK_EVERY_S,
    NOTES_BURST,
    NOTES_PER_S,
    REPORT_EVERY_S,
    REPORTS_BURST,
    Door,
    Limits,
    Reports,
)
from gateway.ingest.foreign import Foreign
from gateway.ingest.mqtt import MqttIngest
from gateway.ingest.pipeline import Pipeline
from gateway.intake import GAPS_AT_ONCE, GAPS_TOGETHER, committed
from gateway.nodes.fleet import Waits
from gateway.nodes.simulated import SimulatedNode
from gateway.reading import Delivery, Message, Reading
from gateway.registry.registry import SENSORS_LIMIT, Registry
from gateway.store import batch
from gateway.store.db import Store
from gateway.store.types import Commit, Gap
from tests.brokers import WITHIN_S, FixedClock, MemoryStore, a_mosquitto, needs_mosquitto, soon
from tests.ingest.test_mqtt import House, subscribed

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
BOUND_S = 6.0
"""What a node waits for its acknowledgement without a flood; here everybody shares one process with it."""
TOPIC = "devices/rogue/sensors/x/data"


def taken(door: Door, device: str, times: int, now_s: float) -> int:
    return sum(door.message(device, now_s) for _ in range(times))


def test_a_burst_is_taken_and_then_so_many_a_second() -> None:
    door = Door(Limits(messages_per_s=10, burst=100))
    assert taken(door, "a", 150, 0.0) == 100
    assert door.flooded == 50
    assert taken(door, "a", 50, 2.0) == 20
    assert taken(door, "a", 500, 1000.0) == 100  # a rest fills it, and not beyond
    assert taken(door, "b", 100, 1000.0) == 100  # each has its own


def test_without_a_limit_and_of_what_the_broker_kept_everything_is_taken() -> None:
    assert taken(Door(Limits()), "a", 10_000, 0.0) == 10_000
    door = Door(Limits(messages_per_s=1, burst=5))
    assert all(door.message("a", 0.0, kept=True) for _ in range(100))
    assert taken(door, "a", 10, 0.0) == 5  # and it costs nothing of what it may say


def test_a_ring_of_a_day_is_no_flood() -> None:
    """Two sensors at a message in ten seconds each, all sent again at once, with the settings we ship."""
    settings = Mqtt()
    door = Door(Limits(settings.device_messages_per_s, settings.device_burst, settings.max_devices))
    assert taken(door, "a", 2 * 8640, 0.0) == 2 * 8640


def test_what_is_no_reading_and_each_new_boot_come_seldom() -> None:
    door = Door(Limits(messages_per_s=1000, burst=10_000))
    assert door.message("a", 0.0)
    assert sum(door.note("a", 0.0) for _ in range(1000)) == NOTES_BURST
    assert sum(door.note("a", 60.0) for _ in range(1000)) == 60 * NOTES_PER_S
    door = Door(Limits(messages_per_s=1000, burst=10_000))
    assert door.message("a", 0.0)
    assert all(door.boot("a", f"{number % BOOTS_LIMIT}-a", 0.0) for number in range(10_000))
    assert sum(door.boot("a", f"{number}-b", 0.0) for number in range(1000)) == NOTES_BURST - BOOTS_LIMIT
    assert door.flooded > 0


def test_only_so_many_devices_are_heard_and_who_is_known_always_is() -> None:
    known = [f"known-{number}" for number in range(8)]
    door = Door(Limits(devices=10), lambda: known)
    assert [door.message(f"made-up-{number}", 0.0) for number in range(100)].count(True) == 2
    assert door.strangers == 98
    assert all(door.message(each, 0.5) for each in known)
    kind, device, text = door.why("made-up-77")
    assert (kind, device) == ("strangers", "")
    assert "made-up-77" in text
    assert "max_devices" in text


def test_who_never_gave_a_reading_makes_room_again() -> None:
    known: list[str] = []
    door = Door(Limits(messages_per_s=1, burst=10, devices=2), lambda: known)
    assert [door.message(name, 0.0) for name in ("a", "b", "c")] == [True, True, False]
    known.append("a")  # its reading was stored
    assert not door.message("c", LOOK_EVERY_S)
    assert door.message("c", FORGOTTEN_AFTER_S + 2)  # "b" said nothing that counts, and is gone
    assert door.message("a", FORGOTTEN_AFTER_S + 2)
    assert not door.message("b", FORGOTTEN_AFTER_S + 2)


def test_names_that_are_made_up_for_ever_take_no_memory() -> None:
    door = Door(Limits(messages_per_s=1, burst=10, devices=100))
    for number in range(100_000):
        door.message(f"made-up-{number}", number / 1000)
    assert len(door._callers) + len(door._new) + len(door._floods) <= 300


def test_a_flood_that_lasts_is_a_trouble_until_it_ends() -> None:
    door = Door(Limits(messages_per_s=1, burst=2))
    for second in range(int(LASTS_AFTER_S) + 10):
        taken(door, "loud", 5, second)
        door.message("quiet", second)
        assert ("loud" in door.trouble(second)) == (second >= LASTS_AFTER_S)
    assert "quiet" not in door.trouble(second)
    assert door.trouble(second + LASTS_AFTER_S + 1) == ""


def test_reports_come_once_a_minute_and_not_for_thousands_at_once() -> None:
    reports = Reports()
    assert [reports.due("refused", "a", at) for at in (0, 1, REPORT_EVERY_S - 1, REPORT_EVERY_S)] == [
        True,
        False,
        False,
        True,
    ]
    assert sum(reports.due("refused", f"made-up-{number}", REPORT_EVERY_S) for number in range(10_000)) < REPORTS_BURST
    assert reports.held_back > 9000
    assert sum(reports.due("gap", "a", 1000.0, 5) for _ in range(100)) == 5


async def test_a_device_that_makes_up_sensors_fills_neither_memory_nor_store(tmp_path: Path) -> None:
    def of(names: range, seq: int) -> Message:
        readings = [Reading("a", f"s{n // 10}", f"co2_{n}", Quantity.CO2, 400.0, NOW, NOW) for n in names]
        return Message("a", "s", tuple(readings), Delivery("1-a", seq, 1))

    most = batch.MAX_SERIES_OF_DEVICE
    async with Store(tmp_path) as store:
        await store.append([of(range(most - 5), 1)])
        commit = await store.append([of(range(most - 10, most + 100), 2), of(range(most - 10, most), 3)])
        assert (commit.stored, commit.refused, commit.crowded) == (20, 100, frozenset({"a"}))
        assert commit.marks == {("a", "1-a"): 3}  # its numbers count all the same
        other = Reading("b", "s", "co2", Quantity.CO2, 400.0, NOW, NOW)
        assert (await store.append([Message("b", "s", (other,))])).refused == 0
    async with Store(tmp_path) as store:
        assert len(store.known.series) == most + 1
        assert (await store.append([of(range(most, most + 5), 4)])).refused == 5


async def test_a_device_that_tells_of_other_sensors_each_time_fills_no_table(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        registry = Registry(store, FixedClock())
        for number in range(6):
            names = [f"sensor-{number}-{at}" for at in range(64)]
            await registry.capabilities("rogue", {"sensors": names})
            await registry.capabilities("rogue", {"sensors": names[:1]})  # what is known may be told again
        await registry.capabilities("other", {"sensors": ["scd30"]})
        assert len([device for device, _ in store.known.sensors if device == "rogue"]) == SENSORS_LIMIT
        assert ("other", "scd30") in store.known.sensors


async def test_gaps_and_series_without_end_become_few_events(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        core = await open_core(Config(), tmp_path, FixedClock(), stack)
        reports = Reports(GAPS_TOGETHER)
        for number in range(200):
            gaps: tuple[Gap, ...] = (Gap("rogue", "1-a", 10 * number + 1, 10 * number + 9),)
            if not number % 10:
                gaps += (Gap(f"node-{number}", "1-a", 1, 9),)
            await committed(core, reports, Commit(number, 0, 0, {}, gaps, (), 64, frozenset({"rogue"})))
        told = [core.journal._waiting.get_nowait() for _ in range(core.journal._waiting.qsize())]
    counts = Counter((event.kind, event.device) for event in told)
    assert counts.pop(("gap", "rogue")) == GAPS_AT_ONCE
    assert counts.pop(("crowded", "rogue")) == 1
    assert counts == {("gap", f"node-{number}"): 1 for number in range(0, 200, 10)}


# Against a real broker.


@asynccontextmanager
async def behind(door: Door, port: int, house: House, **more: Any) -> AsyncIterator[tuple[MqttIngest, MemoryStore]]:
    store, foreign = MemoryStore(), Foreign({"zigbee2mqtt": ""})
    async with (
        Pipeline(store.append, **more) as pipeline,
        MqttIngest("127.0.0.1", port, pipeline, house.hooks(), FixedClock(), door=door, foreign=foreign) as mqtt,
    ):
        await subscribed(port, house)
        yield mqtt, store


def packet(head: int, body: bytes) -> bytes:
    """MQTT 3.1.1 section 2.2."""
    length, digits = len(body), b""
    while True:
        length, digit = divmod(length, 128)
        digits += bytes((digit | (0x80 if length else 0),))
        if not length:
            return bytes((head,)) + digits + body


def text(said: str) -> bytes:
    return struct.pack("!H", len(said.encode())) + said.encode()


@asynccontextmanager
async def rogue(port: int, messages: Callable[[int], bytes]) -> AsyncIterator[Callable[[], int]]:
    """Says `messages(number)` with QoS 1 as fast as the broker reads, and never listens; how many it said."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(packet(0x10, text("MQTT") + b"\x04\x02\x00\x3c" + text("rogue")))
    assert await reader.readexactly(4) == b"\x20\x02\x00\x00"
    said = 0

    async def shout() -> None:
        nonlocal said
        while True:
            for _ in range(50):
                said += 1
                mid = struct.pack("!H", said % 0xFFFF + 1)
                writer.write(packet(0x32, text(TOPIC) + mid + messages(said)))
            await writer.drain()

    async def ignore() -> None:
        while await reader.read(1 << 16):
            pass

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(shout()), group.create_task(ignore())]
        yield lambda: said
        for task in tasks:
            task.cancel()
    writer.close()


def numbered(seq: int) -> bytes:
    return json.dumps({"value": {"co2": 700}, "boot": "1-a", "seq": seq, "oldest": 1, "timestamp": 1795176000}).encode()


@needs_mosquitto
async def test_a_flood_from_one_node_leaves_the_others_their_acknowledgements(tmp_path: Path) -> None:
    door, house, waits = Door(Limits(messages_per_s=100, burst=500)), House(), Waits()
    async with (
        a_mosquitto(tmp_path) as broker,
        behind(door, broker.port, house, idle_commits_per_s=10) as (mqtt, store),
    ):
        node = SimulatedNode(
            "quiet", "127.0.0.1", broker.port, {"s": lambda: {"co2": 700.0}}, interval_s=0.02, on_acked=waits.add
        )
        async with rogue(broker.port, numbered) as said:
            running = asyncio.create_task(node.run())
            await soon(node.connected)
            await store.until(lambda: node.counts.acked >= 50)
            running.cancel()
            await asyncio.wait([running])
        assert waits.within_s(0.99) < BOUND_S
        assert node.counts.repeated == 0
        assert said() > 5000
        assert door.flooded > 1000
        kept = [message for message in store.messages if message.device == "rogue"]
        assert len(kept) < 500 + 100 * 10
        await house.until(lambda words: any(word[:3] == ("problem", "flooded", "rogue") for word in words))
        assert len([word for word in house.words if word[:2] == ("problem", "flooded")]) == 1  # one a minute
        assert mqtt.counts.refused == 0


@needs_mosquitto
async def test_a_numbered_message_that_was_not_taken_is_not_acknowledged_and_comes_again(tmp_path: Path) -> None:
    door, house = Door(Limits(messages_per_s=20, burst=10)), House()
    async with (
        a_mosquitto(tmp_path) as broker,
        behind(door, broker.port, house, flush_interval_s=0.05) as (_, store),
        Client("127.0.0.1", broker.port) as client,
    ):
        node = SimulatedNode(
            "hasty", "127.0.0.1", broker.port, {"s": lambda: {"co2": 1.0}}, interval_s=3600, resend_after_s=0.1
        )
        for _ in range(29):
            node._uptime_ms()
            node.measure()
        running = asyncio.create_task(node.run())
        async with asyncio.timeout(WITHIN_S):
            await node.acked_upto(30)
        running.cancel()
        await asyncio.wait([running])
        assert door.flooded > 0
        assert sorted(m.delivery.seq for m in store.messages if m.delivery) == list(range(1, 31))
        flooded = door.flooded
        for number in range(100):  # minimal ones are gone, and counted
            body = json.dumps({"value": {"co2": number}, "timestamp": 1795176000 + number})
            await client.publish("devices/minimal/sensors/s/data", body, qos=1)
        await client.publish("devices/last/sensors/s/data", b'{"value": {"co2": 1}}', qos=1)
        await store.until(lambda: any(message.device == "last" for message in store.messages))
        kept = sum(message.device == "minimal" for message in store.messages)
        assert kept + door.flooded - flooded == 100
        assert 10 <= kept < 60


@needs_mosquitto
async def test_devices_of_other_makers_have_the_same_limits(tmp_path: Path) -> None:
    door, house = Door(Limits(messages_per_s=1, burst=20, devices=3)), House()
    async with (
        a_mosquitto(tmp_path) as broker,
        behind(door, broker.port, house, flush_interval_s=0.05) as (_, store),
        Client("127.0.0.1", broker.port) as client,
    ):
        for number in range(100):
            await client.publish("zigbee2mqtt/loud", json.dumps({"temperature": 20 + number / 10}), qos=1)
        await client.publish("zigbee2mqtt/quiet", json.dumps({"temperature": 20}), qos=1)
        for number in range(10):  # the device that asked whether we listen is the third
            await client.publish(f"zigbee2mqtt/made-up-{number}", json.dumps({"temperature": 20}), qos=1)
        await client.publish("zigbee2mqtt/quiet", json.dumps({"temperature": 21}), qos=1)
        await store.until(lambda: sum(message.device == "zigbee2mqtt-quiet" for message in store.messages) == 2)
    counts = Counter(message.device for message in store.messages)
    assert 15 <= counts.pop("zigbee2mqtt-loud") < 60
    assert counts == {"zigbee2mqtt-quiet": 2}
    assert door.strangers >= 10  # what it is like is not taken either
    assert door.flooded >= 40
