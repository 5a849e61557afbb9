"""The registry over a real store, with a clock by hand."""

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Never
from zoneinfo import ZoneInfo

import pytest

from gateway.mcp.tools.base import House
from gateway.registry.described import clean
from gateway.registry.registry import EVENTS_AN_HOUR, Registry
from gateway.store import commands, queries
from gateway.store.db import Store
from gateway.store.errors import StoreFull
from gateway.store.types import Device, Event, Sensor
from tests.store.builders import T0, reading

NAUGHTY = "Att\x00ic\x1b[31m \u202egnirts\n" + "x" * 500


class HandClock:
    def __init__(self) -> None:
        self.time = T0

    def now(self) -> datetime:
        return self.time

    def trusted(self) -> bool:
        return True

    def to(self, at_s: float) -> None:
        self.time = T0 + timedelta(seconds=at_s)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


async def loaded(store: Store, clock: HandClock) -> Registry:
    registry = Registry(store, clock)
    await registry.load()
    return registry


def hear(registry: Registry, clock: HandClock, *at_s: float, device: str = "node") -> None:
    for each in at_s:
        clock.to(each)
        registry.seen([reading(400.0, each, device=device), reading(21.0, each, device=device)])


async def test_what_a_device_says_of_its_interval_counts_before_habit(tmp_path: Path, clock: HandClock) -> None:
    def says(*intervals_s: object) -> dict[str, object]:
        told = {f"s{place}": {"interval_s": each} for place, each in enumerate(intervals_s)}
        return {"sensors": [*told, "other"], "metadata": {**told, "other": {}}}

    async with Store(tmp_path) as store:
        registry = await loaded(store, clock)
        hear(registry, clock, *range(0, 100, 10))
        for told, expected_s in (
            (says(30, 20.5), 20.5),
            (says(30), 30),
            (says(0, -5, True, "x", float("inf"), 10**9, None), 10),
            ({"sensors": "x", "metadata": []}, 10),
            ({}, 10),
        ):
            await registry.capabilities("node", told)
            assert registry.status("node").expected_interval_s == expected_s, told
        await registry.declare(Device("node"), [], 7.0)
        await registry.capabilities("node", says(30))
        assert registry.status("node").expected_interval_s == 7, "the settings win"


async def test_online_late_silent_by_the_learned_interval(tmp_path: Path, clock: HandClock) -> None:
    async with Store(tmp_path) as store:
        registry = await loaded(store, clock)
        hear(registry, clock, *range(0, 100, 10))
        status = registry.status("node")
        assert (status.status, status.expected_interval_s, status.since) == ("online", 10, T0)
        assert status.last_seen == T0 + timedelta(seconds=90)
        clock.to(90 + 29.9)
        assert registry.status("node").status == "online"
        clock.to(90 + 30)
        late = registry.status("node")
        assert (late.status, late.since, late.reason) == ("late", clock.time, "nothing for 30 s, expected every 10 s")
        clock.to(90 + 100)
        assert registry.status("node").status == "silent"
        assert registry.status("node").since == clock.time
        hear(registry, clock, 400)
        assert (registry.status("node").status, registry.status("node").since) == ("online", clock.time)


async def test_values_of_a_fast_device_are_not_old_before_they_can_be_known(tmp_path: Path, clock: HandClock) -> None:
    async with Store(tmp_path) as store:
        registry = Registry(store, clock, 5.0)
        await registry.declare(Device("fast"), [], interval_s=2.0)
        assert registry.late_after("fast") == timedelta(seconds=3 * 2 + 5)
        assert House(store, registry, clock, ZoneInfo("UTC")).stale_after("fast") == timedelta(seconds=11)
        with pytest.raises(LookupError):
            registry.late_after("slow")


async def test_losses_and_a_delivered_backlog_do_not_spoil_the_interval(tmp_path: Path, clock: HandClock) -> None:
    async with Store(tmp_path) as store:
        registry = await loaded(store, clock)
        hear(registry, clock, 0, 10, 20, 30, 90, 100, 130, 140, 150)
        clock.to(1000)
        registry.seen([reading(400.0, at_s, device="node") for at_s in range(160, 1000, 10)])
        assert registry.status("node").expected_interval_s == 10


async def test_a_declared_device_waits_and_its_interval_is_the_configured_one(tmp_path: Path, clock: HandClock) -> None:
    async with Store(tmp_path) as store:
        registry = await loaded(store, clock)
        sensor = Sensor(0, "", "air", "scd30", "shelf")
        await registry.declare(Device("attic", "Attic", source="local"), [sensor], 30.0)
        status = registry.status("attic")
        assert (status.status, status.reason, status.since) == ("silent", "waiting: never heard yet", T0)
        hear(registry, clock, 1, 2, 3, 4, device="attic")
        assert registry.status("attic").expected_interval_s == 30
        assert registry.device("attic").source == "local"
        assert [(each.sensor, each.sensor_type, each.location) for each in queries.sensors(store)] == [
            ("air", "scd30", "shelf")
        ]
        with pytest.raises(ValueError, match="interval 0 s is not positive"):
            await registry.declare(Device("attic"), [], 0)


async def test_a_last_will_counts_until_the_device_speaks_again(tmp_path: Path, clock: HandClock) -> None:
    async with Store(tmp_path) as store:
        registry = await loaded(store, clock)
        hear(registry, clock, 0, 10, 20)
        clock.to(21)
        await registry.reported_status("node", online=False)
        clock.to(22)
        await registry.reported_status("node", online=False)
        status = registry.status("node")
        assert (status.status, status.since) == ("silent", T0 + timedelta(seconds=21))
        await registry.reported_status("node", online=True)
        assert registry.status("node").status == "online"
        await registry.reported_status("node", online=False)
        hear(registry, clock, 30)
        assert registry.status("node").status == "online"
        await registry.reported_status("stranger", online=False)
        assert registry.device("stranger").status == "silent"


async def test_after_a_restart_the_interval_is_known_and_nobody_is_silent_at_once(
    tmp_path: Path, clock: HandClock
) -> None:
    async with Store(tmp_path) as store:
        registry = await loaded(store, clock)
        hear(registry, clock, 0, 10, 20, 30)
        await registry.flush()
    clock.to(3600)
    async with Store(tmp_path) as store:
        registry = await loaded(store, clock)
        status = registry.status("node")
        assert (status.status, status.expected_interval_s) == ("late", 10)
        assert "the gateway started 0 s ago" in status.reason
        clock.to(3700)
        assert registry.status("node").status == "silent"


async def test_what_is_written_and_how_often(tmp_path: Path, clock: HandClock) -> None:
    async with Store(tmp_path) as store:
        registry = await loaded(store, clock)
        hear(registry, clock, 0, 10, 20, 30)
        await registry.flush()
        row = (await queries.devices(store))[0]
        assert (row.device_id, row.status, row.source, row.first_seen) == ("node", "online", "mqtt", T0)
        saved: list[object] = []
        write = store.write

        async def count(*arguments: object) -> object:
            saved.append(arguments)
            return await write(*arguments)  # type: ignore[arg-type]

        store.write = count  # type: ignore[method-assign,assignment]
        hear(registry, clock, 40, 50)
        await registry.flush()
        assert saved == []
        clock.to(100)
        await registry.flush()
        assert (await queries.devices(store))[0].status == "late"


async def test_capabilities_are_cleaned_and_written_only_when_new(tmp_path: Path, clock: HandClock) -> None:
    payload = {
        "device_name": NAUGHTY,
        "firmware_version": "1.2",
        "device_location": 7,
        "sensors": ["air", {"name": "press\x07ure", "type": "bmp280"}, 5, {"x": 1}, *(f"s{n}" for n in range(500))],
        "metadata": {"air": {"type": "scd30", "location": "shelf", "n": 3, "bad": float("nan"), "deep": {"a": [1]}}},
    }
    async with Store(tmp_path) as store:
        registry = await loaded(store, clock)
        await registry.capabilities("node", payload)
        device = registry.device("node")
        assert device.device_name.startswith("Attic[31m gnirtsxxx")
        assert len(device.device_name) == 128
        assert (device.firmware_version, device.location, device.source) == ("1.2", "", "mqtt")
        sensors = {each.sensor: each for each in queries.sensors(store)}
        assert len(sensors) == 62
        assert (sensors["air"].sensor_type, sensors["air"].location) == ("scd30", "shelf")
        assert sensors["air"].metadata == {
            "type": "scd30",
            "location": "shelf",
            "n": 3,
            "bad": "NaN",
            "deep": '{"a": [1]}',
        }
        assert sensors["pressure"].sensor_type == "bmp280"
        store.write = None  # type: ignore[method-assign,assignment]  # the same again must not write
        await registry.capabilities("node", payload)
        await registry.capabilities("node", {"firmware_version": ""})
        assert registry.device("node").firmware_version == "1.2"
        del store.write
    async with Store(tmp_path) as store:
        assert (await loaded(store, clock)).device("node").device_name == device.device_name


async def test_a_house_that_is_new_is_written_in_a_few_transactions(tmp_path: Path, clock: HandClock) -> None:
    async with Store(tmp_path) as store:
        registry, before = await loaded(store, clock), store.version[1]
        told = {"firmware_version": "1.2", "sensors": ["scd30", "bmp280"]}
        names = [f"node-{number:03}" for number in range(200)]
        await asyncio.gather(*(registry.capabilities(name, told) for name in names))
        assert store.version[1] - before <= 10
    async with Store(tmp_path) as store:
        assert [(each.device_id, each.firmware_version) for each in (await loaded(store, clock)).devices()] == [
            (name, "1.2") for name in names
        ]
        assert {(each.device_id, each.sensor) for each in queries.sensors(store)} == {
            (name, sensor) for name in names for sensor in ("scd30", "bmp280")
        }


async def test_a_wrong_id_names_the_nearest(tmp_path: Path, clock: HandClock) -> None:
    async with Store(tmp_path) as store:
        await commands.save_device(store, Device("living-room"))
        registry = await loaded(store, clock)
        assert [device.device_id for device in registry.devices()] == ["living-room"]
        with pytest.raises(LookupError, match="no device 'livingroom': did you mean 'living-room'"):
            registry.device("livingroom")
        with pytest.raises(LookupError, match="list of devices"):
            registry.status("zzz")


def test_clean() -> None:
    assert clean("  K\u00fcche \u2028 1\t") == "K\u00fcche  1"
    assert clean(None) == clean(5) == ""


async def first_events(store: Store) -> list[Event]:
    """The events as soon as there are any; each look passes through the store's threads."""
    while True:
        if events := await queries.events(store):
            return events


def statuses(events: list[Event]) -> list[str]:
    """The changes of status, oldest first."""
    return [event.message.partition(":")[0] for event in reversed(events) if event.kind == "status"]


async def wired(store: Store, clock: HandClock, *sensors: str, interval_s: float = 10) -> Registry:
    registry = await loaded(store, clock)
    chips = [Sensor(0, "attic", sensor, sensor) for sensor in sensors]
    await registry.declare(Device("attic", source="local"), chips, interval_s)
    return registry


async def test_a_wired_sensor_that_fails_makes_its_device_faulty_at_once(tmp_path: Path, clock: HandClock) -> None:
    async with Store(tmp_path) as store:
        registry = await wired(store, clock, "scd30")
        hear(registry, clock, 0, 10, device="attic")
        clock.to(12)
        registry.sensor_status("attic", "scd30", "0x61: nothing acknowledges")
        clock.to(500)
        status = registry.status("attic")
        assert (status.status, status.reason) == ("faulty", "scd30: 0x61: nothing acknowledges")
        assert status.since == T0 + timedelta(seconds=12)
        registry.sensor_status("attic", "scd30", "the line hangs")
        assert (registry.status("attic").since, registry.status("attic").reason) == (
            status.since,
            "scd30: the line hangs",
        )
        registry.sensor_status("attic", "scd30", None)
        assert (registry.status("attic").status, registry.status("attic").since) == ("online", clock.time)
        with pytest.raises(LookupError):
            registry.sensor_status("nobody", "scd30", None)


async def test_one_of_several_sensors_makes_it_degraded(tmp_path: Path, clock: HandClock) -> None:
    async with Store(tmp_path) as store:
        registry = await wired(store, clock, "scd30", "bmp280")
        hear(registry, clock, 0, device="attic")
        registry.sensor_status("attic", "bmp280", "gone")
        clock.to(5)
        status = registry.status("attic")
        assert (status.status, status.reason, status.since) == ("degraded", "bmp280: gone", T0)
        registry.sensor_status("attic", "scd30", "gone too")
        status = registry.status("attic")
        assert (status.status, status.reason, status.since) == ("faulty", "bmp280: gone; scd30: gone too", clock.time)
        clock.to(400)
        registry.sensor_status("attic", "bmp280", None)
        assert registry.status("attic").status == "degraded"
        registry.sensor_status("attic", "scd30", None)
        assert registry.status("attic").status == "online"


async def test_each_change_is_one_event_however_often_it_is_tried(tmp_path: Path, clock: HandClock) -> None:
    async with Store(tmp_path) as store:
        registry = await wired(store, clock, "scd30", "bmp280")
        hear(registry, clock, 1, device="attic")
        await registry.announce()
        for retry in range(5):
            registry.sensor_status("attic", "scd30", f"try {retry}")
            await registry.announce()
        registry.sensor_status("attic", "bmp280", "gone")
        await registry.announce()
        clock.to(300)
        registry.sensor_status("attic", "bmp280", None)
        registry.sensor_status("attic", "scd30", None)
        await registry.announce()
        await registry.announce()
        events = await queries.events(store)
        assert statuses(events) == ["new -> online", "online -> degraded", "degraded -> faulty", "faulty -> online"]
        assert events[2].detail == {
            "from": "online",
            "to": "degraded",
            "reason": "scd30: try 0",
            "since": (T0 + timedelta(seconds=1)).isoformat(),
        }


async def test_another_failing_sensor_is_an_event_of_its_own(tmp_path: Path, clock: HandClock) -> None:
    async with Store(tmp_path) as store:
        registry = await wired(store, clock, "a", "b", "c")
        registry.sensor_status("attic", "a", "gone")
        await registry.announce()
        registry.sensor_status("attic", "b", "gone")
        await registry.announce()
        assert statuses(await queries.events(store)) == ["new -> degraded", "degraded -> degraded"]


async def test_late_and_silent_are_events_when_their_time_comes(tmp_path: Path, clock: HandClock) -> None:
    async with Store(tmp_path) as store:
        registry = await loaded(store, clock)
        for at_s in range(220):
            if at_s <= 50 and at_s % 10 == 0:
                hear(registry, clock, at_s)
            clock.to(at_s)
            await registry.announce()
        hear(registry, clock, 220)
        await registry.announce()
        events = await queries.events(store)
        assert statuses(events) == ["new -> online", "online -> late", "late -> silent", "silent -> online"]
        times = [(event.time - T0).total_seconds() for event in reversed(events)]
        assert times == [0, 80, 150, 220]


async def test_a_restart_of_the_gateway_is_no_change_of_a_device(tmp_path: Path, clock: HandClock) -> None:
    async with Store(tmp_path) as store:
        registry = await loaded(store, clock)
        hear(registry, clock, 0, 10, 20, 30, device="heard")
        hear(registry, clock, 0, 10, 20, 30, device="gone")
        await registry.announce()
        await registry.flush()
    clock.to(3600)
    async with Store(tmp_path) as store:
        registry = await loaded(store, clock)
        await registry.announce()
        clock.to(3605)
        registry.seen([reading(400.0, 3605, device="heard")])
        await registry.announce()
        clock.to(3690)
        await registry.announce()
        assert statuses(await queries.events(store, device="heard"))[1:] == ["online -> late"]
        assert statuses(await queries.events(store, device="gone"))[1:] == []
        clock.to(3701)
        await registry.announce()
        assert statuses(await queries.events(store, device="gone"))[1:] == ["online -> silent"]


async def test_a_declared_device_that_never_speaks_is_told_once(tmp_path: Path, clock: HandClock) -> None:
    async with Store(tmp_path) as store:
        registry = await wired(store, clock, "scd30")
        for at_s in (0, 50, 99):
            clock.to(at_s)
            await registry.announce()
        assert await queries.events(store) == []
        for at_s in (100, 200, 1000):
            clock.to(at_s)
            await registry.announce()
        assert statuses(await queries.events(store)) == ["new -> silent"]


async def test_what_comes_and_goes_all_the_time_fills_no_card(tmp_path: Path, clock: HandClock) -> None:
    async with Store(tmp_path) as store:
        registry = await wired(store, clock, "scd30")
        for at_s in range(1, 3601):
            clock.to(at_s)
            registry.sensor_status("attic", "scd30", "loose" if at_s % 2 else None)
            await registry.announce()
        assert len(await queries.events(store)) == EVENTS_AN_HOUR
        assert registry.status("attic").status == "online"
        clock.to(3700)
        registry.sensor_status("attic", "scd30", "loose")
        await registry.announce()
        newest = (await queries.events(store))[0]
        assert newest.detail["to"] == "faulty"
        assert int(newest.detail["held_back"]) > 1000


async def test_events_that_cannot_be_written_are_written_later(tmp_path: Path, clock: HandClock) -> None:
    """A full disk must end neither the registry nor the gateway."""
    async with Store(tmp_path) as store:
        registry = await wired(store, clock, "scd30")
        write, tried = store.write, asyncio.Event()

        async def full(*_arguments: object) -> Never:
            tried.set()
            raise StoreFull("no room on the medium")

        store.write = full  # type: ignore[method-assign,assignment]
        registry.sensor_status("attic", "scd30", "gone")
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            running = group.create_task(registry.run(every_s=0.01), name="registry")
            await tried.wait()
            store.write = write  # type: ignore[method-assign]
            events = await first_events(store)
            assert not running.done()
            running.cancel()
        assert statuses(events) == ["new -> faulty"]


async def test_the_running_registry_tells_of_a_change_at_once(tmp_path: Path, clock: HandClock) -> None:
    async with Store(tmp_path) as store:
        registry = await wired(store, clock, "scd30")
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            running = group.create_task(registry.run(), name="registry")
            await asyncio.sleep(0)
            registry.sensor_status("attic", "scd30", "gone")
            events = await first_events(store)
            running.cancel()
        assert statuses(events) == ["new -> faulty"]
