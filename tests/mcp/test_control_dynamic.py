"""Dynamic tools and saved queries over real HTTP, in the real jail: kept, approved, listed, called, counted, gone."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from mcp_types import Tool

from gateway.access.policy import ACTIONS
from gateway.access.principal import Scope
from gateway.jail.analysis import Analysis
from gateway.jail.toolbox import Toolbox
from gateway.store import tool_rows
from tests.control.scene import Scene, scene
from tests.mcp.asking import LEGACY, answer, asking_for, changes, refusal
from tests.web.house import ERAS

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

CODE = """
def dew_point(temperature: float, humidity: float = 50.0) -> float:
    import math
    x = math.log(humidity / 100) + 17.62 * temperature / (243.12 + temperature)
    return round(243.12 * x / (17.62 - x), 1)
"""
SCHEMA = {
    "type": "object",
    "properties": {
        "temperature": {"type": "number", "minimum": -40, "maximum": 80, "description": "degC"},
        "humidity": {"type": "number", "default": 50.0, "minimum": 1, "maximum": 100},
    },
    "required": ["temperature"],
}
TOOL = {"name": "dew_point", "description": "Dew point in degC", "code": CODE, "arguments": SCHEMA}


async def listing(home: Scene, era: str) -> list[Tool]:
    """What a reader sees on a new connection: an old one may keep its list for minutes."""
    async with home.client(era, Scope.READ, "dynamic") as client:
        return (await client.list_tools()).tools


@pytest.mark.parametrize("era", ERAS)
async def test_from_code_to_a_tool_of_its_own_and_back(tmp_path: Path, era: str) -> None:
    heard: asyncio.Queue[Any] = asyncio.Queue()
    options = {"message_handler": heard.put} if era == LEGACY else {}
    async with Analysis(tmp_path / "jail") as jail, scene(tmp_path, call=jail.call) as home:
        token = home.secrets[Scope.ADMIN]
        async with (
            asking_for(home.house, era, "dynamic", token=token, **options) as admin,
            home.client(era, Scope.READ, "dynamic") as reader,
            changes(home.house, admin, era, heard) as told,
        ):
            before = [tool.name for tool in await listing(home, era)]
            assert before == ["list_dynamic_tools", "call_dynamic_tool"]
            kept = await answer(admin, "register_dynamic_tool", **TOOL)
            assert (kept["version"], kept["is_new"]) == (1, True)
            assert (await answer(admin, "register_dynamic_tool", **TOOL))["is_new"] is False
            call = {"name": "dew_point", "arguments": {"temperature": 20.0}}
            assert "no version of 'dew_point' is approved" in await refusal(reader, "call_dynamic_tool", **call)
            assert (await answer(reader, "list_dynamic_tools"))["tools"] == []
            (draft,) = (await answer(admin, "list_dynamic_tools"))["tools"]
            assert (draft["runs"], draft["code"], draft["sha256"]) == (False, CODE, kept["sha256"])
            wrong = await refusal(admin, "approve_dynamic_tool", name="dew_point", version=1, sha256="0" * 64)
            assert kept["sha256"] in wrong
            await answer(admin, "approve_dynamic_tool", name="dew_point", version=1, sha256=kept["sha256"])
            await asyncio.wait_for(told(), 10)
            (*_, listed) = await listing(home, era)
            assert (listed.name, listed.description) == ("dew_point", "Dew point in degC")
            assert listed.input_schema == SCHEMA | {"additionalProperties": False}
            assert listed.meta == {"risk": "medium", "scope": "read", "toolset": "dynamic", "write": False}
            said = await answer(reader, "dew_point", temperature=20.0)
            assert (said["result"], said["version"]) == (9.3, 1)
            assert (await answer(reader, "call_dynamic_tool", **call))["result"] == 9.3
            assert await refusal(reader, "dew_point", temperature="warm") == "temperature: 'warm' is no number"
            assert await refusal(reader, "dew_point") == "temperature: it is missing"
            assert "maximum 80" in await refusal(reader, "dew_point", temperature=81.0)
            assert "no such argument" in await refusal(reader, "dew_point", temperature=1.0, kelvin=1)
            (used,) = (await answer(reader, "list_dynamic_tools"))["tools"]
            assert (used["calls"], used["failures"], used["last_used"]) == (2, 0, "2026-11-20T13:00:00+01:00")
            assert "code" not in used
            await answer(admin, "remove_dynamic_tool", name="dew_point", confirm=True)
            await asyncio.wait_for(told(), 10)
            assert [tool.name for tool in await listing(home, era)] == before
            assert "there is no tool 'dew_point'" in await refusal(reader, "dew_point", temperature=20.0)
            assert await tool_rows.tools(home.house.store) == []


async def test_another_version_runs_when_it_is_approved(tmp_path: Path) -> None:
    async with scene(tmp_path) as home, home.client(ERAS[1], Scope.ADMIN, "dynamic") as admin:
        for factor in (2, 3):
            code = f"def times(x: int) -> int:\n    return {factor} * x\n"
            schema = {"properties": {"x": {"type": "integer"}}}
            kept = await answer(
                admin, "register_dynamic_tool", name="times", description=f"x{factor}", code=code, arguments=schema
            )
            assert kept["version"] == factor - 1
            if factor == 3:
                assert (await answer(admin, "times", x=5))["result"] == 10
            await answer(admin, "approve_dynamic_tool", name="times", version=kept["version"], sha256=kept["sha256"])
            assert (await answer(admin, "times", x=5))["result"] == factor * 5
        (*_, listed) = (await admin.list_tools()).tools
        assert listed.description == "x3"
        older = next(tool for tool in home.acting.toolbox.versions() if tool.version == 1)
        home.house.clock.time += timedelta(minutes=1)
        await admin.call_tool("approve_dynamic_tool", {"name": "times", "version": 1, "sha256": older.sha256})
        result = await admin.call_tool("times", {"x": 5})
        assert (result.structured_content or {})["result"] == 10


async def test_names_and_texts_cannot_be_those_of_the_gateway(tmp_path: Path) -> None:
    async with scene(tmp_path) as home, home.client(ERAS[1], Scope.ADMIN, "dynamic") as admin:
        for change, words in (
            ({"name": "delete_device", "code": "def delete_device(): pass"}, "is taken by this gateway itself"),
            ({"name": "view_page", "code": "def view_page(): pass"}, "is taken by this gateway itself"),
            ({"name": "Dew"}, "3 to 48 of a-z"),
            ({"name": "dew\u0430point"}, "3 to 48 of a-z"),
            ({"name": "dew_points"}, "it does not define the function of the tool: def dew_points("),
            ({"description": "x" * 501}, "at most 500 characters"),
            ({"description": "fine\u202e"}, "U+202E does not print"),
            ({"description": "  "}, "say what the tool does"),
            ({"code": "def dew_point():\n" + " " * 20_000}, "give 1 to 20000"),
            ({"arguments": {"type": "object", "properties": {"a": {"$ref": "http://x/y"}}}}, "is none of object"),
            ({"arguments": {"properties": {"a": {"type": "string", "pattern": "(a+)+$"}}}}, "'pattern' may not stand"),
            ({"arguments": {"properties": {"a b": {"type": "string"}}}}, "is no name"),
            ({"arguments": {"properties": {"a": {"type": "number", "default": "x"}}}}, "'x' is no number"),
        ):
            assert words in await refusal(admin, "register_dynamic_tool", **(TOOL | change)), change
        assert home.acting.toolbox.versions() == []
        await answer(admin, "register_dynamic_tool", **(TOOL | {"description": "Dew\n  point"}))
        assert home.acting.toolbox.versions()[0].description == "Dew point"


async def test_a_stored_tool_that_a_newer_gateway_has_itself_does_not_run(tmp_path: Path) -> None:
    async with scene(tmp_path) as home, home.client(ERAS[1], Scope.ADMIN, "dynamic") as admin:
        kept = await answer(admin, "register_dynamic_tool", **TOOL)
        await answer(admin, "approve_dynamic_tool", name="dew_point", version=1, sha256=kept["sha256"])
        box = Toolbox(home.house.store, home.house.clock, home.acting.toolbox._call, {*ACTIONS, "dew_point"})
        async with box:
            assert box.live() == []
        box = Toolbox(home.house.store, home.house.clock, home.acting.toolbox._call, ACTIONS.keys())
        async with box:
            assert [tool.sha256 for tool in box.live()] == [kept["sha256"]]


async def test_use_is_counted_and_written_now_and_then(tmp_path: Path) -> None:
    code = "def fails(x: int) -> int:\n    return 1 // x\n"
    schema = {"properties": {"x": {"type": "integer"}}}
    async with scene(tmp_path) as home, home.client(ERAS[1], Scope.ADMIN, "dynamic") as admin:
        fails = {"name": "fails", "description": "x", "code": code, "arguments": schema}
        kept = await answer(admin, "register_dynamic_tool", **fails)
        await answer(admin, "approve_dynamic_tool", name="fails", version=1, sha256=kept["sha256"])
        batches = len(await tool_rows.uses(home.house.store))
        assert "ZeroDivisionError" in await refusal(admin, "fails", x=0)
        await answer(admin, "fails", x=1)
        assert len(await tool_rows.uses(home.house.store)) == batches == 0
        home.house.clock.time += timedelta(hours=1)
        await admin.call_tool("fails", {"x": 1})
        use = (await tool_rows.uses(home.house.store))["fails"]
        assert (use.calls, use.failures, use.last_used) == (3, 1, home.house.clock.time)


async def test_saved_queries_are_replayed_with_parameters(tmp_path: Path) -> None:
    sql = "select * from measurements where value > $least and unit <> '$not a parameter' -- $nor_this\n"
    parameters = [{"name": "least", "type": "number", "default": 1000.0, "description": "ppm"}]
    async with scene(tmp_path) as home, home.client(ERAS[1], Scope.ADMIN, "queries") as admin:
        await answer(admin, "save_query", name="high", sql=sql, parameters=parameters, description="High CO2")
        async with home.client(ERAS[1], Scope.READ, "queries") as reader:
            (listed,) = (await answer(reader, "list_saved_queries"))["queries"]
            assert (listed["name"], listed["sql"], listed["parameters"][0]["name"]) == ("high", sql, "least")
            asked = await reader.call_tool("run_saved_query", {"name": "high", "parameters": {"least": 1400}})
            assert asked.structured_content == {"sql": sql, "parameters": {"least": 1400}}
            asked = await reader.call_tool("run_saved_query", {"name": "high"})
            assert (asked.structured_content or {})["parameters"] == {"least": 1000.0}
            assert "did you mean 'high'" in await refusal(reader, "run_saved_query", name="hihg")
            assert "least: 'x' is no number" in await refusal(
                reader, "run_saved_query", name="high", parameters={"least": "x"}
            )
            assert "'most' is none of this query" in await refusal(
                reader, "run_saved_query", name="high", parameters={"most": 1}
            )
        for change, words in (
            ({"parameters": []}, "$least: it is not declared"),
            ({"sql": "select 1"}, "$least: the SQL does not use it"),
            ({"parameters": [{"name": "least", "type": "time", "default": "soon"}]}, "'soon' is no time"),
            ({"parameters": [{"name": "least", "kind": "x"}]}, "parameters.0.kind"),
            ({"name": "no spaces"}, "name: "),
        ):
            call = {"name": "high", "sql": sql, "parameters": parameters} | change
            assert words in await refusal(admin, "save_query", **call), change
        await answer(admin, "delete_saved_query", name="high", confirm=True)
        assert (await answer(admin, "list_saved_queries"))["queries"] == []
