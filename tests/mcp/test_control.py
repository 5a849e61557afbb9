"""The tools that act, through a real client in both eras: what they do, say, refuse and write down."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from mcp_types import CallToolResult

from gateway.access.principal import Scope
from gateway.registry.registry import Registry
from gateway.store import queries
from tests.control.scene import scene
from tests.web.house import ERAS, HandClock

both = pytest.mark.parametrize("era", ERAS)
modern = pytest.mark.parametrize("era", ERAS[1:])
"""What is the same in both is asked in one: the matrix asks every tool in both."""


def said(result: CallToolResult) -> dict[str, Any]:
    assert not result.is_error, result.content
    answer = result.structured_content
    assert isinstance(answer, dict)
    assert answer["now"] == "2026-11-20T13:00:00+01:00"
    return answer


def refusal(result: CallToolResult) -> str:
    assert result.is_error, result.structured_content
    return str(result.content[0].text)  # type: ignore[union-attr]


@both
async def test_a_device_is_renamed_and_stays_so(tmp_path: Path, era: str) -> None:
    async with scene(tmp_path) as home, home.client(era, Scope.CONTROL) as client:
        registry = home.house.registry
        words = {"device": "node-1", "name": "Bedroom", "zone": "ground"}
        dry = said(await client.call_tool("update_device", words | {"dry_run": True}))
        assert dry["dry_run"] is True
        assert registry.device("node-1").device_name == ""
        done = said(await client.call_tool("update_device", words))
        assert done["changed"] == {
            "name": {"before": "", "after": "Bedroom"},
            "zone": {"before": "", "after": "ground"},
        }
        assert home.node.changed == ["node-1"]
        assert said(await client.call_tool("update_device", words))["changed"] == {}
        await registry.capabilities("node-1", {"device_name": "ESP32-AB12", "manufacturer": "Acme"})
        known = registry.device("node-1")
        assert (known.device_name, known.zone_id, known.manufacturer) == ("Bedroom", "ground", "Acme")
        again = Registry(home.house.store, HandClock())
        await again.load()
        await again.capabilities("node-1", {"device_name": "ESP32-AB12"})
        assert again.device("node-1").device_name == "Bedroom"


@both
async def test_what_is_wrong_names_the_nearest(tmp_path: Path, era: str) -> None:
    async with scene(tmp_path) as home, home.client(era, Scope.CONTROL) as client:
        for tool, arguments, words in (
            ("update_device", {"device": "node-11", "name": "x"}, "did you mean 'node-1'?"),
            ("update_device", {"device": "node-1", "zone": "rooof"}, "zone: there is no 'rooof'; did you mean 'roof'?"),
            ("update_device", {"device": "node-1"}, "nothing to change"),
            ("update_device", {"device": "node-1", "status": "decommissioned"}, "reason: say why"),
            ("update_device", {"device": "node-1", "status": "gone"}, "status: "),
            ("update_device", {"device": "node-1", "name": "a\x1b[31m"}, "U+001B does not print"),
            ("update_device", {"device": "attic", "name": "Loft"}, "name: the settings say the name of attic"),
            ("claim_device", {"device": "attic"}, "is in the settings"),
            ("delete_device", {"device": "attic", "confirm": True}, "would come back"),
            ("save_zone", {"zone": "rof"}, "did you mean 'roof'?"),
            ("save_zone", {"zone": "roof", "devices": ["attic", "node-9"]}, "did you mean 'node-"),
            ("delete_zone", {"zone": "celar", "confirm": True}, "there is no 'celar'"),
            ("delete_zone", {"zone": "roof", "confirm": True}, "the settings say the zone of attic"),
            ("send_command", {"device": "attic", "name": "blink"}, "no node of ours"),
            (
                "calibrate_sensor",
                {"device": "attic", "sensor": "scd", "operation": "altitude", "value": 3, "confirm": True},
                "attic/scd30",
            ),
            (
                "calibrate_sensor",
                {"device": "attic", "sensor": "scd30", "operation": "altitude", "value": True},
                "altitude takes a number",
            ),
            ("export_data", {"device": "atic"}, "did you mean 'attic'?"),
            ("export_data", {"start": "-1h", "end": "-2h"}, "swap them"),
            ("get_task", {"task_id": "task-1"}, "there is no 'task-1'; you have none"),
        ):
            assert words in refusal(await client.call_tool(tool, arguments)), tool


@modern
async def test_decommissioned_with_a_reason(tmp_path: Path, era: str) -> None:
    async with scene(tmp_path) as home, home.client(era, Scope.CONTROL) as client:
        said(
            await client.call_tool("update_device", {"device": "node-2", "status": "decommissioned", "reason": "sold"})
        )
        assert home.house.registry.status("node-2").reason == "sold"
        assert home.house.registry.device("node-2").status == "decommissioned"
        await home.house.registry.announce()
        (event, *_) = [e for e in await queries.events(home.house.store) if e.device == "node-2"]
        assert event.message.endswith("-> decommissioned: sold")
        row = (await queries.audit_rows(home.house.store))[0]
        assert row.detail == "status decommissioned, because 'sold'"
        back = said(await client.call_tool("update_device", {"device": "node-2", "status": "active", "reason": "back"}))
        assert back["changed"]["status"] == {"before": "decommissioned", "after": "active"}
        assert home.house.registry.device("node-2").status == "online"


@modern
async def test_a_node_is_claimed_once_and_gets_its_key(tmp_path: Path, era: str) -> None:
    async with scene(tmp_path) as home, home.client(era, Scope.ADMIN) as client:
        claimed = said(await client.call_tool("claim_device", {"device": "node-1", "zone": "roof"}))
        key = home.core.keys.get("node-1")
        assert key is not None
        assert claimed["key"] == key.hex()
        assert home.house.registry.device("node-1").metadata == {"claimed": "2026-11-20T12:00:00+00:00"}
        assert "was claimed on 2026-11-20" in refusal(await client.call_tool("claim_device", {"device": "node-1"}))
        assert home.core.keys.get("node-1") == key
        row = (await queries.audit_rows(home.house.store))[0]
        assert claimed["key"] not in str(row)


@modern
async def test_a_key_is_for_admins(tmp_path: Path, era: str) -> None:
    async with scene(tmp_path) as home, home.client(era, Scope.CONTROL) as client:
        claimed = said(await client.call_tool("claim_device", {"device": "node-1"}))
        assert (claimed.get("key"), claimed["note"]) == (None, "for its key an admin runs `gateway node add node-1`")
        assert home.core.keys.get("node-1") is None


@modern
async def test_a_deleted_device_is_gone_everywhere(tmp_path: Path, era: str) -> None:
    async with scene(tmp_path) as home, home.client(era, Scope.CONTROL) as client:
        store = home.house.store
        said(await client.call_tool("claim_device", {"device": "node-1"}))
        asked = refusal(await client.call_tool("delete_device", {"device": "node-1"}))
        assert asked.startswith("this deletes node-1 with all readings of its 1 series; if it goes on sending")
        assert home.node.cleared == []
        done = said(await client.call_tool("delete_device", {"device": "node-1", "confirm": True}))
        assert (done["state"], done["result"]) == ("done", {"done": "node-1 and its 1 series are deleted"})
        assert home.node.cleared == ["node-1"]
        assert "node-1" not in [one.device_id for one in home.house.registry.devices()]
        assert queries.find_series(store, device="node-1") == []
        for table in ("device", "sensor", "series", "node_key", "device_edit"):
            rows = await store.read(lambda db, table=table: db.execute(f"select * from {table}").fetchall())
            assert "node-1" not in str(rows), table
        assert home.core.keys.get("node-1") is None
        assert queries.find_series(store, device="node-2")
        again = said(await client.call_tool("get_task", {"task_id": done["task_id"]}))
        assert again["state"] == "done"


@modern
async def test_nothing_is_deleted_while_the_broker_is_away(tmp_path: Path, era: str) -> None:
    async with scene(tmp_path) as home, home.client(era, Scope.CONTROL) as client:
        home.node.away = ConnectionError("the broker was not reached")
        text = refusal(await client.call_tool("delete_device", {"device": "node-1", "confirm": True}))
        assert text == "the broker was not reached: nothing of node-1 was deleted"
        assert queries.find_series(home.house.store, device="node-1")


@modern
async def test_zones(tmp_path: Path, era: str) -> None:
    async with scene(tmp_path) as home, home.client(era, Scope.CONTROL) as client:
        made = said(
            await client.call_tool(
                "save_zone", {"zone": "lab", "name": "Laboratory", "area_sqm": 12.5, "devices": ["node-1", "node-2"]}
            )
        )
        assert (made["is_new"], made["moved"]) == (True, ["node-1", "node-2"])
        changed = said(await client.call_tool("save_zone", {"zone": "lab", "floor": "2"}))
        assert (changed["is_new"], changed["name"], changed["moved"]) == (False, "Laboratory", [])
        (lab,) = [zone for zone in await queries.zones(home.house.store) if zone.zone_id == "lab"]
        assert (lab.name, lab.floor, lab.area_sqm) == ("Laboratory", "2", 12.5)
        assert "node-1, node-2 would be in none" in refusal(await client.call_tool("delete_zone", {"zone": "lab"}))
        said(await client.call_tool("delete_zone", {"zone": "lab", "confirm": True}))
        assert {home.house.registry.device(each).zone_id for each in ("node-1", "node-2")} == {""}
        assert "lab" not in {zone.zone_id for zone in await queries.zones(home.house.store)}


@modern
async def test_subscribers_hear_of_what_was_changed(tmp_path: Path, era: str) -> None:
    async with scene(tmp_path) as home, home.client(era, Scope.CONTROL) as client:
        wanted = ["device://node-1/status", "zone://ground/summary"]
        async with asyncio.timeout(10), client.listen(resource_subscriptions=wanted) as events:
            said(await client.call_tool("update_device", {"device": "node-1", "zone": "ground"}))
            heard = {getattr(await anext(aiter(events)), "uri", "") for _ in wanted}
            assert heard == set(wanted)
            said(await client.call_tool("save_zone", {"zone": "ground", "name": "Ground"}))
            assert getattr(await anext(aiter(events)), "uri", "") == "zone://ground/summary"


@modern
async def test_a_command_to_a_node(tmp_path: Path, era: str) -> None:
    async with scene(tmp_path) as home, home.client(era, Scope.CONTROL) as client:
        call = {"device": "node-1", "name": "blink", "args": {"times": 3}}
        assert "would" in said(await client.call_tool("send_command", call | {"dry_run": True}))
        assert home.node.heard == []
        done = said(await client.call_tool("send_command", call))
        assert (done["ok"], done["result"]) == (True, {"uptime_s": 12})
        assert home.node.heard == [("node-1", "blink", {"times": 3})]
        assert (await queries.audit_rows(home.house.store))[0].detail == "blink(times)"


@modern
async def test_a_sensor_is_calibrated_as_on_the_command_line(tmp_path: Path, era: str) -> None:
    async with scene(tmp_path) as home, home.client(era, Scope.CONTROL) as client:
        call = {"device": "attic", "sensor": "scd30", "operation": "altitude", "value": 300}
        dry = said(await client.call_tool("calibrate_sensor", call | {"dry_run": True}))
        assert (dry["dry_run"], dry["before"]["altitude_m"]) == (True, 0)
        assert "altitude 300 m; this cannot be undone" in refusal(await client.call_tool("calibrate_sensor", call))
        done = said(await client.call_tool("calibrate_sensor", call | {"confirm": True}))
        assert done["after"]["altitude_m"] == 300
        frc = {"operation": "recalibrate", "value": 600, "confirm": True}
        text = refusal(await client.call_tool("calibrate_sensor", call | frc))
        assert "no usable CO2 reading" in text


@both
async def test_an_export_is_a_file_of_ones_own(tmp_path: Path, era: str) -> None:
    async with scene(tmp_path) as home, home.client(era, Scope.CONTROL) as client:
        told: list[float] = []

        async def progress(fraction: float, total: float | None, message: str | None) -> None:
            told.append(fraction)

        done = await client.call_tool(
            "export_data", {"device": "attic", "metric": "co2", "start": "-2h"}, progress_callback=progress
        )
        result = said(done)["result"]
        assert 110 < result["rows"] < 130
        owner = await home.house.tokens.verify(home.secrets[Scope.CONTROL])
        assert owner is not None
        entry, file = await home.files.fetch(result["link"].removeprefix("/files/"), owner.token_id)
        assert (entry.size_bytes, entry.sha256) == (result["size_bytes"], result["sha256"])
        lines = file.read_text().splitlines()
        assert len(lines) == result["rows"] + 1
        assert told[-1] == 1.0
        assert not list((tmp_path / "data").glob(".snapshot-*"))
        task = said(done)["task_id"]
        assert "you have none" in refusal(await home.call(era, Scope.ADMIN, "get_task", task_id=task))
