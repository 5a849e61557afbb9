"""The registry over a real store, with a clock by hand."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from gateway.registry.registry import Registry, clean
from gateway.store import commands, queries
from gateway.store.db import Store
from gateway.store.types import Device, Sensor
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
