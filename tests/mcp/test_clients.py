"""Clients of other makers against a whole gateway: the MCP inspector over HTTP, the TypeScript SDK's client in each of
its lines and eras, which holds every answer against the tool's output schema."""

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from gateway.access.policy import ACTIONS
from tests.mcp.test_budget import READER
from tests.node_tools import NodeTools, node_tools
from tests.running import Running, command, gateway, program

pytestmark = [pytest.mark.system, pytest.mark.slow]

SCRIPT = Path(__file__).parent / "clients.js"
ERAS = {"v1": "", "legacy": "2025-11-25", "2026-07-28": "2026-07-28"}
"""The client's line and era, and the version that it agreed on (the first line does not tell)."""
DEADLINE_S = 60.0
SERIES = {"device": "study", "sensor": "scd30", "metric": "co2"}
SQL = "select time, value from measurements where metric_type = 'co2' and device_id = 'study' order by time"


def of(tool: str, field: str) -> Any:
    """A field of what an earlier call answered."""
    return {"$from": [tool, field]}


ROWS = of("execute_sql_query", "query_id")
CALLS: dict[str, dict[str, Any]] = {
    "list_devices": {"status": "online", "limit": 2},
    "get_device": {"device": "living-room"},
    "find": {"query": "the study co2 thing"},
    "list_zones": {},
    "list_sensors": {"device": "study"},
    "get_latest_readings": {},
    "get_time_series": SERIES | {"start": "-2h", "bucket": "15m"},
    "get_statistics": SERIES,
    "detect_anomalies": {"metric": "co2", "above": 600},
    "get_database_schema": {},
    "execute_sql_query": {"sql": SQL},
    "analyze_data": {"query_id": ROWS, "code": "print(len(df))\nresult = {'mean': df['value'].mean()}"},
    "create_plot": {"query_id": ROWS, "plot_code": "plt.plot(df['time'], df['value'])\nplt.title('CO2')"},
    "list_active_alerts": {},
    "export_data": {"device": "study", "metric": "co2", "start": "-1h"},
    "get_task": {"task_id": of("export_data", "task_id")},
    "get_zone_snapshot": {},
    "compare_periods": SERIES | {"first_start": "-4h", "first_end": "-2h", "second_start": "-2h"},
    "list_events": {"limit": 5},
    "plot": {"metric": "co2", "devices": ["study", "greenhouse"], "start": "-2h"},
    "get_tool_risk_metadata": {},
    "whoami": {},
    "list_audit": {"limit": 5},
    "clear_query_cache": {},
    "set_context": {"device": "study"},
}
URIS = ("devices://", "alerts://active", "schema://", "device://study/status", "device://study/history")


@pytest.fixture(scope="session")
def tools() -> NodeTools:
    return node_tools()


async def test_the_inspector_over_http(tmp_path: Path, tools: NodeTools) -> None:
    """As a reader, in both eras; its own check of the schemas finds no error in them."""
    async with gateway(tmp_path / "data", "--demo") as running:

        async def ask(era: str, *asked: str) -> Any:
            place = (running.url, "--transport", "http", "--header", f"Authorization: Bearer {running.token}")
            inspector = (str(tools.node), str(tools.inspector), "--cli", *place, "--protocol-era", era)
            home = {"HOME": str(tmp_path / era)}
            code, out, err = await program(*inspector, *asked, environment=home)
            assert code == 0, (asked, err)
            return json.loads(out)

        for era in ("legacy", "modern"):
            listed, called, read, prompts = await asyncio.gather(
                ask(era, "--method", "tools/list", "--strict"),
                ask(era, "--method", "tools/call", "--tool-name", "get_statistics", *arguments(SERIES)),
                ask(era, "--method", "resources/read", "--uri", "device://study/status"),
                ask(era, "--method", "prompts/get", "--prompt-name", "air_quality_report"),
            )
            assert tuple(tool["name"] for tool in listed["tools"]) == READER
            assert called["structuredContent"]["unit"] == "ppm"
            assert called["structuredContent"]["n"] > 100
            assert json.loads(read["contents"][0]["text"])["device"] == "study"
            assert prompts["messages"]


async def test_the_typescript_client_calls_every_read_tool(tmp_path: Path, tools: NodeTools) -> None:
    async with gateway(tmp_path / "data", "--demo") as running:
        secrets = await tokens(running, ERAS)
        runs = (talk(tools, running, era, secret) for era, secret in zip(ERAS, secrets, strict=True))
        for era, said in zip(ERAS, await asyncio.gather(*runs), strict=True):
            assert said["version"] == ERAS[era]
            listed = {tool["name"]: tool for tool in said["tools"]}
            reads = [name for name, action in ACTIONS.items() if action.toolset in {"core", "explore"} and action.tool]
            assert set(reads) <= set(CALLS), "every one of them is called"
            assert set(reads) <= set(listed)
            promised = {name for name in reads if listed[name]["outputSchema"]["properties"]}
            assert promised == set(reads) - {"get_task"}, "what a task says depends on what it is about"
            for name, result in said["answers"].items():
                assert not result.get("thrown"), (era, name, result)
                assert not result.get("isError"), (era, name, result)
                assert result["structuredContent"]["now"], name
            check(said["answers"])
            assert {prompt["name"] for prompt in said["prompts"]} >= {"air_quality_report"}
            for uri in URIS:
                assert json.loads(said["resources"][uri][0]["text"])["timezone"], uri


def check(answers: dict[str, Any]) -> None:
    """They say what was asked for, not only something that fits."""
    found = {name: result["structuredContent"] for name, result in answers.items()}
    assert found["find"]["found"][0]["device"] == "study"
    assert {each["metric"] for each in found["detect_anomalies"]["anomalies"]} == {"co2"}
    assert found["execute_sql_query"]["kept"] == found["create_plot"]["rows"] > 100
    assert found["analyze_data"]["stdout"].strip() == str(found["execute_sql_query"]["kept"])
    assert found["get_task"]["state"] == "done"
    assert found["clear_query_cache"]["cleared"] == 1
    for name in ("create_plot", "plot"):
        assert [each["mimeType"] for each in answers[name]["content"] if each["type"] == "image"] == ["image/png"]


async def talk(tools: NodeTools, running: Running, era: str, token: str) -> Any:
    """What one client says that it got."""
    place = f"{running.url}?toolsets=core,explore,export"
    child = await asyncio.create_subprocess_exec(
        *(tools.node, SCRIPT, tools.packages, era, place, token),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            asked = {"calls": list(CALLS.items()), "uris": URIS}
            said, wrong = await child.communicate(json.dumps(asked).encode())
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert child.returncode == 0, (era, wrong.decode())
    return json.loads(said)


async def tokens(running: Running, names: Iterable[str]) -> list[str]:
    """One admin each: what is kept for one is not for another."""
    make = ("token", "create", "--scope", "admin", "--data", str(running.data))
    found = await asyncio.gather(*(command(*make, f"client-{name}") for name in names))
    assert {code for code, _, _ in found} == {0}, found
    return [out.strip() for _, out, _ in found]


def arguments(given: dict[str, Any]) -> list[str]:
    return [word for name, value in given.items() for word in ("--tool-arg", f"{name}={value}")]
