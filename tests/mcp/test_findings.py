"""What stands out, two periods beside each other, what is wrong now, and what happened."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from drivers.model import Quality, Quantity, Reason
from gateway.mcp.server import More
from gateway.mcp.tools.base import Condition
from gateway.mcp.troubles import Troubles, disk_low
from gateway.store import commands
from gateway.store.types import Device, Event, Sensor
from tests.mcp.asking import answer, asking_for, refusal
from tests.web.house import ERAS, NOW, HandClock, House, furnish, house, in_a_task, reading

pytestmark = pytest.mark.parametrize("era", ERAS)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[House]:
    """A day of temperature with one good and one doubtful peak, and a shed whose sensor does not answer."""
    trouble = Condition(
        "store", "critical", "nothing can be written:\x1b[2J the disk is full", NOW - timedelta(minutes=5)
    )
    async with in_a_task(house(tmp_path, more=More(troubles=lambda: (trouble,)))) as built:
        await furnish(built)
        steady = [
            reading("lab", Quantity.TEMPERATURE, 20.0 + minute % 5 / 10, timedelta(minutes=minute), sensor="bmp280")
            for minute in range(1, 1440)
        ]
        peak = reading("lab", Quantity.TEMPERATURE, 35.5, timedelta(minutes=30, seconds=30), sensor="bmp280")
        doubted = peak._replace(value=45.0, quality=Quality.UNCERTAIN, reason=Reason.SPIKE)
        doubted = doubted._replace(time=NOW - timedelta(minutes=90), received=NOW - timedelta(minutes=90))
        await built.add(*[one for one in steady if one.time != doubted.time], peak, doubted)
        await built.registry.declare(Device("shed", source="local"), [Sensor(0, "shed", "scd30", "scd30")], 60)
        built.registry.sensor_status("shed", "scd30", "no answer on\nthe bus")
        yield built


async def test_anomalies_are_explained_with_value_unit_time_and_quality(lab: House, era: str) -> None:
    async with lab.client(era) as client:
        said = await answer(client, "detect_anomalies", device="lab")
    assert (said["total"], said["source"]) == (2, "raw")
    doubted, peak = said["anomalies"]
    assert {key: doubted[key] for key in ("device", "sensor", "metric", "value", "unit", "time", "age_s")} == {
        "device": "lab",
        "sensor": "bmp280",
        "metric": "temperature",
        "value": 45.0,
        "unit": "degC",
        "time": "2026-11-20T11:30:00+01:00",
        "age_s": 5400.0,
    }
    assert (doubted["quality"], doubted["reason"]) == ("uncertain", "spike")
    assert doubted["explanation"].startswith("temperature of 45 degC at 2026-11-20T11:30:00+01:00 is ")
    assert "robust deviations above the median of 20.2 degC" in doubted["explanation"]
    assert doubted["explanation"].endswith("; its quality is uncertain (spike)")
    assert (peak["value"], peak["quality"]) == (35.5, "good")
    assert "reason" not in peak


async def test_limits_alone_and_with_deviations(lab: House, era: str) -> None:
    async with lab.client(era) as client:
        both = await answer(client, "detect_anomalies", device="lab", above=40)
        limits = await answer(client, "detect_anomalies", metric="co2", deviations=None, above=1835, below=405)
        none = await answer(client, "detect_anomalies", metric="co2", deviations=None, above=9000)
        few = await answer(client, "detect_anomalies", metric="co2", deviations=None, above=1000, limit=3)
        assert "metric: limits are in one unit; give one of co2" in await refusal(client, "detect_anomalies", above=1)
        assert (await refusal(client, "detect_anomalies", metric="co2", deviations=None)).startswith(
            "nothing to look for"
        )
        assert (await refusal(client, "detect_anomalies", deviations=0)).startswith("deviations: ")
        assert (await refusal(client, "detect_anomalies", zone="rof")).startswith("zone: no device is in 'rof'")
    assert "above the limit of 40 degC, and" in both["anomalies"][0]["explanation"]
    values = sorted(one["value"] for one in limits["anomalies"])
    assert values == [401, 402, 403, 404, 1836, 1837, 1838, 1839]
    assert (none["anomalies"], none["total"]) == ([], 0)
    assert (len(few["anomalies"]), few["total"]) == (3, 839)


async def test_two_periods_beside_each_other(lab: House, era: str) -> None:
    async with lab.client(era) as client:
        said = await answer(
            client,
            "compare_periods",
            device="attic",
            metric="co2",
            first_start="-4h",
            first_end="-2h",
            second_start="-2h",
            second_end="now",
        )
        wrong = await refusal(client, "compare_periods", metric="co2", second_start="now", second_end="-1h")
        later = await refusal(client, "compare_periods", metric="co2", first_start="last week")
    assert (said["device"], said["metric"], said["unit"]) == ("attic", "co2", "ppm")
    assert (said["first"]["n"], said["first"]["mean"], said["first"]["interval_s"]) == (120, 1659.5, 60.0)
    assert (said["second"]["mean"], said["second"]["coverage"], said["second"]["source"]) == (1779.5, 1.0, "raw")
    assert (said["change"]["mean"], said["change"]["n"], said["change"]["stddev"]) == (120.0, 0.0, 0.0)
    assert said["second"]["last"]["quality"] == "good"
    assert wrong == "second_start: 'now' is not before second_end '-1h'; swap them or widen the range"
    assert later.startswith("first_start: 'last week' is no time")


async def test_open_conditions_the_worst_first(lab: House, era: str) -> None:
    lab.clock.is_trusted = False
    async with lab.client(era) as client:
        said = await answer(client, "list_active_alerts")
        shed = (await answer(client, "list_active_alerts", device="shed"))["alerts"]
        assert "did you mean 'shed'" in await refusal(client, "list_active_alerts", device="shet")
    alerts = {(one["kind"], one.get("device", "")): one for one in said["alerts"]}
    assert [one["severity"] for one in said["alerts"][:2]] == ["critical", "critical"]
    assert alerts["store", ""] == {
        "kind": "store",
        "severity": "critical",
        "reason": "nothing can be written: [2J the disk is full",
        "since": "2026-11-20T12:55:00+01:00",
        "age_s": 300.0,
    }
    assert alerts["device", "shed"]["reason"] == "scd30: no answer on the bus"
    assert alerts["device", "shed"]["status"] == "faulty"
    assert shed == [alerts["device", "shed"]]
    assert alerts["clock", ""]["severity"] == "warning"
    assert alerts["device", "cellar"]["severity"] in {"info", "warning"}
    assert said["total"] == len(said["alerts"])
    assert ("device", "attic") not in alerts


async def test_events_newest_first(lab: House, era: str) -> None:
    events = [
        Event(NOW - timedelta(hours=2), "status", "shed", "new -> faulty\r\n\u202e", {"from": "new\x00", "n": 3}),
        Event(NOW - timedelta(hours=1), "disk", "", "almost full"),
    ]
    await commands.add_events(lab.store, events)
    async with lab.client(era) as client:
        said = await answer(client, "list_events", limit=2)
        shed = await answer(client, "list_events", device="shed", limit=1)
        assert "limit: " in await refusal(client, "list_events", limit=0)
    assert said["events"] == [
        {"time": "2026-11-20T12:00:00+01:00", "age_s": 3600.0, "kind": "disk", "message": "almost full"},
        {
            "time": "2026-11-20T11:00:00+01:00",
            "age_s": 7200.0,
            "kind": "status",
            "device": "shed",
            "message": "new -> faulty",
            "detail": {"from": "new", "n": "3"},
        },
    ]
    assert shed["returned"] == 1


async def test_resources_of_zone_history_alerts_and_schema(lab: House, era: str) -> None:
    async def read(uri: str) -> dict[str, object]:
        contents = (await client.read_resource(uri)).contents[0]
        assert contents.mime_type == "application/json"
        found: dict[str, object] = json.loads(contents.text)  # type: ignore[union-attr]
        assert found["now"] == "2026-11-20T13:00:00+01:00"
        return found

    async with asking_for(lab, era, "all") as client:
        zone = await read("zone://roof/summary")
        history = await read("device://attic/history")
        assert (await read("alerts://active"))["alerts"] == (await answer(client, "list_active_alerts"))["alerts"]
        assert {"devices", "measurements"} <= {one["name"] for one in (await read("schema://"))["tables"]}  # type: ignore[attr-defined, index]
    assert {one["metric"] for one in zone["metrics"]} == {"co2", "humidity", "temperature"}  # type: ignore[attr-defined, index]
    co2 = next(one for one in history["series"] if one["metric"] == "co2")  # type: ignore[attr-defined, index]
    assert (co2["unit"], len(co2["times"]), sum(co2["n"])) == ("ppm", 48, 1439)
    assert (co2["times"][0], co2["min"][0]) == ("2026-11-19T13:00:00+01:00", 401.0)


async def test_a_trouble_is_told_with_when_it_began(tmp_path: Path, era: str) -> None:
    clock = HandClock()
    reasons = {"store": "", "disk": ""}
    troubles = Troubles(clock, {kind: partial(reasons.get, kind, "") for kind in reasons})
    assert troubles() == []
    reasons["store"] = "no room"
    assert troubles() == [Condition("store", "critical", "no room", NOW)]
    clock.time += timedelta(minutes=3)
    reasons |= {"store": "still no room", "disk": "few MB"}
    assert troubles() == [
        Condition("store", "critical", "still no room", NOW),
        Condition("disk", "warning", "few MB", NOW + timedelta(minutes=3)),
    ]
    reasons["store"] = ""
    assert [one.kind for one in troubles()] == ["disk"]
    assert disk_low(tmp_path, 0) == ""
    assert "MB are free beside the data, 1099511627776 MB should be" in disk_low(tmp_path, 1 << 40)
