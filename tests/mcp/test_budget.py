"""What a reader's tools cost an assistant, of a whole gateway: which there are, in which order, in how many tokens."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.node_tools import NodeTools, node_tools
from tests.running import gateway
from tests.web.house import ERAS

READER = (
    "list_devices",
    "get_device",
    "find",
    "list_zones",
    "list_sensors",
    "get_latest_readings",
    "get_time_series",
    "get_statistics",
    "detect_anomalies",
    "get_database_schema",
    "execute_sql_query",
    "analyze_data",
    "create_plot",
    "list_active_alerts",
    "get_task",
)
MOST_TOKENS = 5_000
COUNT = """
const { encode } = require(process.argv[1] + "/gpt-tokenizer/cjs/encoding/o200k_base.js");
process.stdout.write(String(encode(require("fs").readFileSync(0, "utf8")).length));
"""


@pytest.fixture(scope="session")
def tools() -> NodeTools:
    return node_tools()


async def tokens(tools: NodeTools, text: str) -> int:
    """How many tokens of o200k_base a text has, by a tokenizer that is not ours."""
    child = await asyncio.create_subprocess_exec(
        tools.node,
        *("-e", COUNT, str(tools.packages)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, wrong = await child.communicate(text.encode())
    assert child.returncode == 0, wrong.decode()
    return int(said)


async def test_a_tokenizer_counts(tools: NodeTools) -> None:
    assert await tokens(tools, "hello world") == 2
    assert await tokens(tools, "a b c d e f " * 100) > 500


@pytest.mark.slow
async def test_a_readers_tools_are_fifteen_and_cost_few_tokens(tmp_path: Path, tools: NodeTools) -> None:
    listed = []
    async with gateway(tmp_path, "--demo") as running:
        for era in (*ERAS, ERAS[0]):
            async with running.client(era) as client:
                found = (await client.list_tools()).tools
                listed.append([tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in found])
    assert tuple(tool["name"] for tool in listed[0]) == READER
    assert listed[0] == listed[1], "the same in both eras"
    texts = [json.dumps(each, separators=(",", ":")) for each in listed]
    assert texts[0] == texts[2], "the same at every call, to the letter"
    assert max([await tokens(tools, text) for text in texts]) <= MOST_TOKENS
    assert "title" not in texts[0].replace('"title":{"type"', "")  # but a field of an answer may be called so
    assert not any("\n" in tool["description"] for tool in listed[0])
