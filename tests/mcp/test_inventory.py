"""Devices, sensors and zones as assistants see them: filters, pages, one device whole, and words that find them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drivers.model import Quantity
from gateway.mcp.fitting import COPY_BYTES
from gateway.store import commands
from gateway.store.types import Device, Sensor, Zone
from tests.mcp.asking import answer, refusal
from tests.web.house import ERAS, NOW, House, furnish, house, in_a_task, reading

pytestmark = pytest.mark.parametrize("era", ERAS)

ROOMS = {"bedroom": ("Main", "1"), "kitchen": ("Main", "0"), "lab": ("Annex", "0")}


@pytest.fixture
async def rooms(tmp_path: Path) -> AsyncIterator[House]:
    """Seven nodes in three rooms beside the attic and the cellar; one room is described, and one that is empty."""
    async with in_a_task(house(tmp_path)) as built:
        await furnish(built)
        await commands.save_zone(built.store, Zone("bedroom", "Bedroom", "Main", "1", 14.5, "faces\nsouth"))
        await commands.save_zone(built.store, Zone("hall", "Hall"))
        for number in range(7):
            zone = sorted(ROOMS)[number % 3]
            building, floor = ROOMS[zone]
            known = Device(
                f"node-{number}",
                f"Node {number}",
                "esp32" if number else "pico",
                zone,
                building,
                floor,
                mac_address="02:00:00:00:00:07",
                metadata={"room": "x" * 500, "deep": {"a": [1]}, "port": 3},
                first_seen=NOW,
            )
            await built.registry.declare(known, [Sensor(0, known.device_id, "scd30", "scd30")], 60)
            await built.add(reading(known.device_id, Quantity.CO2, 500.0 + number))
        yield built


FILTERS: list[tuple[dict[str, str], list[str]]] = [
    ({"zone": "bedroom"}, ["node-0", "node-3", "node-6"]),
    ({"zone": "BEDROOM", "type": "esp32"}, ["node-3", "node-6"]),
    ({"building": "Annex"}, ["node-2", "node-5"]),
    ({"floor": "0", "building": "Main"}, ["node-1", "node-4"]),
    ({"status": "faulty"}, []),
    ({"status": "online", "zone": "lab"}, ["node-2", "node-5"]),
    ({"device": "attic", "zone": "roof"}, ["attic"]),
    ({"device": "attic", "zone": "lab"}, []),
]


async def test_filters_of_devices(rooms: House, era: str) -> None:
    async with rooms.client(era) as client:
        for filters, found in FILTERS:
            said = await answer(client, "list_devices", **filters)
            assert [one["device"] for one in said["devices"]] == found, filters
            assert said["total"] == len(found)


async def test_pages_of_devices_are_whole_and_in_order(rooms: House, era: str) -> None:
    pages, cursor = [], None
    async with rooms.client(era) as client:
        while True:
            said = await answer(client, "list_devices", limit=4, cursor=cursor)
            assert said["total"] == 9
            pages.append([one["device"] for one in said["devices"]])
            if (cursor := said.get("next_cursor")) is None:
                break
        assert (await answer(client, "list_devices", cursor="zzz"))["devices"] == []
    assert [len(page) for page in pages] == [4, 4, 1]
    assert [one for page in pages for one in page] == ["attic", "cellar", *(f"node-{n}" for n in range(7))]


async def test_a_page_that_is_cut_by_its_size_goes_on_where_it_ended(rooms: House, era: str) -> None:
    names = [f"a-device-with-quite-a-long-name-{n:03}" for n in range(150)]
    await rooms.add(*(reading(name, Quantity.HUMIDITY, 40.0) for name in names))
    seen, cursor = [], None
    async with rooms.client(era) as client:
        while True:
            said = await answer(client, "list_devices", limit=200, cursor=cursor)
            assert len(str(said)) < COPY_BYTES * 1.2
            seen += [one["device"] for one in said["devices"]]
            if (cursor := said.get("next_cursor")) is None:
                break
    assert seen == sorted([*names, "attic", "cellar", *(f"node-{n}" for n in range(7))])


async def test_one_device_whole(rooms: House, era: str) -> None:
    async with rooms.client(era) as client:
        said = await answer(client, "get_device", device="node-0")
        attic = await answer(client, "get_device", device="attic")
        assert (await refusal(client, "get_device")).startswith(
            "device: one is meant; give one of attic, cellar, node-0"
        )
        assert "did you mean 'node-0'" in await refusal(client, "get_device", device="nod-0")
    place = {key: said[key] for key in ("zone", "building", "floor", "type", "mac", "status", "age_s")}
    assert place == {
        "zone": "bedroom",
        "building": "Main",
        "floor": "1",
        "type": "pico",
        "mac": "02:00:00:00:00:07",
        "status": "online",
        "age_s": 0.0,
    }
    assert said["metadata"] == {"room": "x" * 200, "deep": "{'a': [1]}", "port": 3}
    assert [(one["metric"], one["value"], one["unit"], one["quality"]) for one in said["readings"]] == [
        ("co2", 500.0, "ppm", "good")
    ]
    assert attic["total"] == 3


async def test_zones_described_or_not(rooms: House, era: str) -> None:
    async with rooms.client(era) as client:
        zones = {one["zone"]: one for one in (await answer(client, "list_zones"))["zones"]}
    assert list(zones) == ["bedroom", "hall", "kitchen", "lab", "roof"]
    assert zones["bedroom"] == {
        "zone": "bedroom",
        "devices": 3,
        "name": "Bedroom",
        "building": "Main",
        "floor": "1",
        "area_sqm": 14.5,
        "description": "faces south",
    }
    assert (zones["hall"]["devices"], zones["kitchen"]) == (0, {"zone": "kitchen", "devices": 2})


async def test_sensors_and_newest_values_of_a_zone(rooms: House, era: str) -> None:
    async with rooms.client(era) as client:
        sensors = await answer(client, "list_sensors", zone="lab")
        newest = await answer(client, "get_latest_readings", zone="lab", metric="co2")
        snapshot = await answer(client, "get_zone_snapshot", zone="lab")
        every = await answer(client, "get_zone_snapshot")
        assert "did you mean 'lab'" in await refusal(client, "get_latest_readings", zone="labb")
        assert "did you mean 'lab'" in await refusal(client, "get_zone_snapshot", zone="labb")
    assert [(one["device"], one["type"]) for one in sensors["sensors"]] == [("node-2", "scd30"), ("node-5", "scd30")]
    assert sensors["sensors"][0]["metrics"] == [{"metric": "co2", "unit": "ppm"}]
    assert {one["device"]: one["value"] for one in newest["readings"]} == {"node-2": 502.0, "node-5": 505.0}
    (co2,) = snapshot["metrics"]
    assert (co2["zone"], co2["metric"], co2["unit"], co2["n"], co2["stale"]) == ("lab", "co2", "ppm", 2, 0)
    assert (co2["min"], co2["mean"], co2["max"]) == (502.0, 503.5, 505.0)
    assert {one["quality"] for one in co2["readings"]} == {"good"}
    by_zone = {(one["zone"], one["metric"]): one for one in every["metrics"]}
    assert by_zone["", "pressure"]["stale"] == 1
    assert by_zone["", "pressure"]["mean"] is None


async def test_words_find_series_with_their_newest_value(rooms: House, era: str) -> None:
    async with rooms.client(era) as client:
        said = await answer(client, "find", query="the bedroom co2 thing", limit=4)
        nothing = await answer(client, "find", query="xylophone")
    best = said["found"][0]
    assert (best["kind"], best["metric"]) == ("series", "co2")
    assert best["device"] in {"node-0", "node-3", "node-6"}
    assert (best["reading"]["unit"], best["reading"]["quality"], best["reading"]["age_s"]) == ("ppm", "good", 0.0)
    assert "'bedroom' is its zone" in best["why"]
    assert len(said["found"]) == 4 < said["total"]
    assert (nothing["found"], nothing["total"]) == ([], 0)
