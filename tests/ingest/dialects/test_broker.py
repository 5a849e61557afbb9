"""Against a real mosquitto: other projects' messages reach the store, and Home Assistant is told what it should be."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from aiomqtt import Client

from drivers.model import Quantity, Reason
from gateway.broker.supervise import ChildBroker
from gateway.ingest.dialects.home_assistant import Channel, Exported, Origin
from gateway.ingest.foreign import Foreign
from gateway.ingest.homeassistant import HomeAssistantOut
from gateway.ingest.mqtt import MqttIngest
from gateway.ingest.pipeline import Pipeline
from gateway.reading import Reading
from gateway.store.errors import StoreFull
from gateway.store.types import Commit, Device
from tests.brokers import WITHIN_S, FixedClock, MemoryStore, a_mosquitto, kill_and_wait, needs_mosquitto, soon
from tests.ingest.dialects.discovery_rules import check_discovery
from tests.ingest.test_mqtt import House, caught_up, publish, subscribed

pytestmark = needs_mosquitto
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
ALL = {"tasmota": "", "esphome": "", "zigbee2mqtt": "", "theengs": ""}
SAID = {
    "tasmota": ("tele/plug/SENSOR", b'{"Time":"2026-11-20T13:00:00","SHT3X":{"Humidity":41},"TempUnit":"C"}'),
    "esphome": ("shed/sensor/air_temperature/state", b"20.5"),
    "zigbee2mqtt": ("zigbee2mqtt/bath", b'{"temperature":27.34,"humidity":44.72}'),
    "theengs": ("home/gw/BTtoMQTT/A4C138AABBCC", b'{"tempc":26.3,"hum":49}'),
}


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[ChildBroker]:
    async with a_mosquitto(tmp_path) as running:
        yield running


@asynccontextmanager
async def ingest(port: int, store: MemoryStore, house: House, enabled: dict[str, str]) -> AsyncIterator[MqttIngest]:
    foreign = Foreign(enabled, ZoneInfo("Europe/Berlin"))
    async with (
        Pipeline(store.append, flush_interval_s=0.1) as pipeline,
        MqttIngest("127.0.0.1", port, pipeline, house.hooks(), FixedClock(NOON), foreign=foreign) as mqtt,
    ):
        await subscribed(port, house)
        yield mqtt


def devices(store: MemoryStore) -> list[str]:
    return sorted(message.device for message in store.messages)


async def test_every_dialect_reaches_the_store(broker: ChildBroker) -> None:
    store, house = MemoryStore(), House()
    async with ingest(broker.port, store, house, ALL):
        await publish(broker.port, *SAID.values())
        await store.until(lambda: len(store.messages) == 4)
        await house.until(lambda words: sum(word[0] == "capabilities" for word in words) == 4)
        await publish(broker.port, ("tele/plug/LWT", b"Offline"), ("zigbee2mqtt/bridge/state", b"offline"))
        await house.until(lambda words: ("status", "zigbee2mqtt-bath", False) in words)
    assert devices(store) == ["esphome-shed", "tasmota-plug", "theengs-A4C138AABBCC", "zigbee2mqtt-bath"]
    assert ("status", "tasmota-plug", False) in house.words
    assert not [word for word in house.words if word[0] == "problem"]


async def test_most_devices_publish_without_acknowledgement(broker: ChildBroker) -> None:
    store, house = MemoryStore(), House()
    async with ingest(broker.port, store, house, ALL), Client("127.0.0.1", broker.port) as client:
        for topic, payload in SAID.values():
            await client.publish(topic, payload, qos=0)
        await store.until(lambda: len(store.messages) == 4)
    dated = [message for message in store.messages if message.timed]
    assert [message.device for message in dated] == ["tasmota-plug"]
    assert dated[0].readings[0].time == NOON


async def test_nothing_is_acknowledged_before_it_is_on_disk(broker: ChildBroker) -> None:
    store, house = MemoryStore(), House()
    several = b'{"SHT3X":{"Humidity":41},"DS18B20":{"Temperature":20},"TempUnit":"C"}'
    store.failing = StoreFull("no room")
    async with ingest(broker.port, store, house, ALL):
        await publish(broker.port, ("tele/plug/SENSOR", several))
        await store.until(lambda: store.tries >= 1)
    assert store.messages == []
    await caught_up(broker.port)
    again = MemoryStore()
    async with ingest(broker.port, again, house, ALL):
        await again.until(lambda: len(again.messages) == 2)
    assert {m.sensor for m in again.messages} == {"sht3x", "ds18b20"}
    assert {m.readings[0].reason for m in again.messages} == {Reason.TIME_UNKNOWN}  # untimed, and not straight away
    await caught_up(broker.port)
    third = MemoryStore()
    async with ingest(broker.port, third, house, ALL):
        await publish(broker.port, SAID["theengs"])
        await third.until(lambda: bool(third.messages))
    assert devices(third) == ["theengs-A4C138AABBCC"]


async def test_a_retained_state_is_no_new_reading_and_a_retained_config_is_of_use(broker: ChildBroker) -> None:
    config = {
        "unit_of_meas": "°F",
        "dev_cla": "temperature",
        "stat_t": "shed/sensor/outside/state",
        "dev": {"ids": "1"},
    }
    await publish(
        broker.port,
        ("shed/sensor/outside/state", b"59"),
        ("homeassistant/sensor/shed/outside/config", json.dumps(config).encode()),
        retain=True,
    )
    store, house = MemoryStore(), House()
    async with ingest(broker.port, store, house, ALL) as mqtt:
        await publish(broker.port, ("shed/sensor/outside/state", b"50"))
        await store.until(lambda: bool(store.messages))
        assert mqtt.counts.stale == 1
    assert [message.readings[0].value for message in store.messages] == [10.0]


async def test_what_cannot_be_used_is_reported_and_forgotten(broker: ChildBroker) -> None:
    store, house = MemoryStore(), House()
    async with ingest(broker.port, store, house, ALL) as mqtt:
        await publish(broker.port, ("tele/plug/SENSOR", b"\xff"), ("shed/sensor/wetness/state", b"3"), SAID["esphome"])
        await store.until(lambda: bool(store.messages))
        await house.until(lambda words: sum(word[0] == "problem" for word in words) == 2)
        assert mqtt.counts.refused == 1
    assert any(word[0] == "problem" and word[2] == "esphome-shed" and "wetness" in word[3] for word in house.words)


async def test_what_measures_nothing_is_acknowledged_at_once(broker: ChildBroker) -> None:
    store, house = MemoryStore(), House()
    async with ingest(broker.port, store, house, ALL) as mqtt:
        acknowledge, loop, mids, three = mqtt._client.acknowledge, asyncio.get_running_loop(), [], asyncio.Event()

        def heard(due: list[int]) -> None:
            acknowledge(due)
            mids.extend(due)
            if len(mids) == 3:
                loop.call_soon_threadsafe(three.set)

        mqtt._client.acknowledge = heard  # type: ignore[method-assign, assignment]
        await publish(broker.port, *[("zigbee2mqtt/lamp", b'{"state":"ON"}')] * 3)
        await soon(three)
    assert store.messages == []


async def test_a_dialect_that_is_switched_off_is_unsubscribed(broker: ChildBroker) -> None:
    store, house = MemoryStore(), House()
    async with ingest(broker.port, store, house, ALL):
        pass
    store = MemoryStore()
    async with ingest(broker.port, store, house, {"theengs": ""}) as mqtt:
        await publish(broker.port, SAID["zigbee2mqtt"], SAID["esphome"], SAID["theengs"])
        await store.until(lambda: bool(store.messages))
        assert mqtt.counts.refused == 0
    assert devices(store) == ["theengs-A4C138AABBCC"]


# Home Assistant.

ORIGIN = Origin("agw-0a1b2c3d", "0.1.0")


@dataclass
class Home:
    """The devices of a registry, and a Home Assistant that keeps what it hears."""

    devices: dict[str, Exported] = field(default_factory=dict)
    heard: list[tuple[str, bytes, bool]] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    def add(self, name: str) -> None:
        self.devices[name] = Exported(Device(name, name), (Channel("scd30", "co2", Quantity.CO2),), 5.0)

    @asynccontextmanager
    async def listening(self, port: int, *topics: str) -> AsyncIterator[None]:
        async with Client("127.0.0.1", port) as client, asyncio.TaskGroup() as group:
            await client.subscribe([(topic, 1) for topic in topics])
            task = group.create_task(self._hear(client), name="test.home")
            yield
            task.cancel()

    async def _hear(self, client: Client) -> None:
        async for message in client.messages:
            async with self.news:
                self.heard.append((str(message.topic), bytes(message.payload), message.retain))
                self.news.notify_all()

    async def until(self, condition: Callable[[list[tuple[str, bytes, bool]]], bool]) -> None:
        async with asyncio.timeout(WITHIN_S), self.news:
            await self.news.wait_for(lambda: condition(self.heard))

    def out(self, port: int, **more: Any) -> HomeAssistantOut:
        return HomeAssistantOut(
            "127.0.0.1", port, ORIGIN, lambda: list(self.devices), self.devices.get, spread_s=0.0, **more
        )


def commit(*names: str, value: float = 600.0) -> Commit:
    fresh = tuple(Reading(name, "scd30", "co2", Quantity.CO2, value, NOON, NOON) for name in names)
    return Commit(1, len(fresh), 0, {}, (), fresh)


async def retained(port: int) -> dict[str, bytes]:
    """What the broker keeps for Home Assistant: everything that comes before a message published after subscribing."""
    found: dict[str, bytes] = {}
    async with asyncio.timeout(WITHIN_S), Client("127.0.0.1", port) as client:
        await client.subscribe([("homeassistant/#", 1), ("gateway/#", 1), ("end", 1)])
        await client.publish("end", b"", qos=1)
        async for message in client.messages:
            if str(message.topic) == "end":
                return found
            found[str(message.topic)] = bytes(message.payload)
    raise AssertionError("no end")


CONFIG = ORIGIN.config_topic("office")


async def test_a_commit_makes_a_device_appear_with_its_values(broker: ChildBroker) -> None:
    home = Home()
    home.add("office")
    async with home.listening(broker.port, "homeassistant/#", "devices/#", "gateway/#"), home.out(broker.port) as out:
        await out.committed(commit("office", value=678.0))
        await home.until(lambda heard: any(topic.endswith("/state") for topic, _, _ in heard))
        kept = await retained(broker.port)
        assert kept.keys() == {CONFIG, "gateway/agw-0a1b2c3d/status"}
        assert json.loads(kept["gateway/agw-0a1b2c3d/status"]) == {"status": "online"}
        assert list(check_discovery(CONFIG, kept[CONFIG])) == ["ambient_agw-0a1b2c3d_office_scd30_co2"]
        await out.committed(commit("office", value=679.0))
        await home.until(lambda heard: sum(topic.endswith("/state") for topic, _, _ in heard) == 2)
        assert out.counts.configs == 1  # no news
    await home.until(lambda heard: heard[-1][:2] == ("gateway/agw-0a1b2c3d/status", b'{"status":"offline"}'))
    states = [json.loads(payload)["value"] for topic, payload, _ in home.heard if topic.endswith("/state")]
    assert states == [{"co2": {"reading": 678.0}}, {"co2": {"reading": 679.0}}]
    assert all(not retain for _, _, retain in home.heard)  # heard live, in this order: config before state
    assert [topic for topic, _, _ in home.heard].index(CONFIG) < [topic for topic, _, _ in home.heard].index(
        "devices/office/sensors/scd30/state"
    )


async def test_a_deleted_device_leaves_nothing_retained(broker: ChildBroker) -> None:
    home = Home()
    home.add("office")
    home.add("attic")
    async with home.listening(broker.port, "homeassistant/#"), home.out(broker.port) as out:
        await home.until(lambda heard: len(heard) == 2)
        del home.devices["office"]
        out.changed("office")
        await home.until(lambda heard: (CONFIG, b"", False) in heard)
        assert CONFIG not in await retained(broker.port)
        assert ORIGIN.config_topic("attic") in await retained(broker.port)


async def test_what_was_deleted_while_nobody_was_connected_leaves_no_ghost(broker: ChildBroker) -> None:
    home = Home()
    home.add("office")
    async with home.listening(broker.port, "homeassistant/#"):
        async with home.out(broker.port):
            await home.until(lambda heard: len(heard) == 1)
        strangers = "homeassistant/device/ambient_agw-ffffffff_office/config"
        await publish(broker.port, (strangers, b'{"dev":{}}'), retain=True)
        home.devices.clear()
        async with home.out(broker.port):
            await home.until(lambda heard: (CONFIG, b"", False) in heard)
        kept = await retained(broker.port)
    assert CONFIG not in kept
    assert strangers in kept  # another gateway's devices are none of ours


async def test_at_home_assistants_birth_everything_is_told_again(broker: ChildBroker) -> None:
    home = Home()
    home.add("office")
    async with home.listening(broker.port, "homeassistant/device/#", "devices/#"), home.out(broker.port) as out:
        await out.committed(commit("office"))
        await home.until(lambda heard: len(heard) == 2)
        await publish(broker.port, ("homeassistant/status", b"offline"), ("homeassistant/status", b"online"))
        await home.until(lambda heard: len(heard) == 4)
        assert out.counts.births == 1
    assert home.heard[:2] == home.heard[2:]


async def test_a_killed_broker_is_told_everything_when_it_is_back(broker: ChildBroker) -> None:
    home = Home()
    home.add("office")
    async with home.out(broker.port) as out:
        async with home.listening(broker.port, "homeassistant/#"):
            await home.until(lambda heard: len(heard) == 1)
        await kill_and_wait(broker)
        async with home.listening(broker.port, "homeassistant/#"):
            await home.until(lambda heard: len(heard) >= 2 and out.counts.connects == 2)
    assert {topic for topic, _, _ in home.heard} == {CONFIG}
