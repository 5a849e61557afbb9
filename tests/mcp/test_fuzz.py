"""Random arguments to every tool that reads, after its own schema and against it: an answer, or an error that names the
argument; never a failure inside."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.mcp.fitting import CEILING_BYTES
from tests.mcp.asking import MODERN, asking_for
from tests.web.house import furnish, house

ROUNDS = 6
"""Calls of each tool in one example."""
NAMES = ["attic", "cellar", "scd30", "bmp280", "co2", "pressure", "roof", "now", "today", "-24h", "1h", "15m", "online"]
TIMES = ["2026-11-20T08:00:00+01:00", "2026-11-20T08:00:00", "9999-12-31T23:59:59-12:00", "-999999999w", "0001-01-01"]

words = st.one_of(st.sampled_from([*NAMES, *TIMES]), st.text(max_size=30))
junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=2000),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)


def fitting(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that the schema of an argument allows, mostly."""
    match schema.get("type"):
        case "integer":
            return st.integers(schema.get("minimum", 0), schema.get("maximum", 1000))
        case "number":
            return st.floats(-1e6, 1e6)
        case "boolean":
            return st.booleans()
    return words


def arguments(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    properties = schema.get("properties", {})
    each = {name: st.one_of(fitting(one), fitting(one), junk) for name, one in properties.items()}
    required = {name: each.pop(name) for name in schema.get("required", ()) if name in each}
    known = st.fixed_dictionaries(required, optional=each)
    return st.one_of(known, known, known, st.builds(dict.__or__, known, st.dictionaries(words, junk, max_size=1)))


@pytest.mark.slow
# Not made smaller: each example is a house and hundreds of calls, and the error names the call.
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(data=st.data())
def test_any_arguments_get_an_answer_or_a_helpful_error(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    asyncio.run(_ask_everything(tmp_path_factory.mktemp("fuzz"), data))


async def _ask_everything(folder: Path, data: Any) -> None:
    async with house(folder) as home:
        await furnish(home)
        async with asking_for(home, MODERN, "core,explore") as client:
            for tool in (await client.list_tools()).tools:
                if tool.name == "set_context":
                    continue  # it would change what the others are asked
                for _ in range(ROUNDS):
                    asked = data.draw(arguments(tool.input_schema))
                    result = await client.call_tool(tool.name, asked)
                    text = "".join(getattr(each, "text", "") for each in result.content)
                    if result.is_error:
                        helps(tool.name, tool.input_schema, asked, text)
                    assert len(text.encode()) + len(json.dumps(result.structured_content)) <= CEILING_BYTES * 1.1


def helps(tool: str, schema: dict[str, Any], asked: dict[str, Any], text: str) -> None:
    """One line that names an argument; or what is missing, where nothing was stored."""
    assert text, (tool, asked)
    assert text.isprintable(), (tool, asked, text)
    assert "failed inside" not in text, (tool, asked)
    named = set(re.findall(r"\w+", text.partition(":")[0])) & schema.get("properties", {}).keys()
    unknown = "has no such argument; " in text and asked.keys() - schema.get("properties", {}).keys()
    nothing = text.startswith("nothing to look for: give deviations, above or below")
    assert named or unknown or nothing, (tool, asked, text)
