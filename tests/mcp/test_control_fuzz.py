"""Random arguments, drawn from each tool's own schema and beyond it: a result, or one line that says what is wrong."""

import random
from pathlib import Path
from typing import Any

import pytest

from gateway.access.principal import Scope
from tests.control.scene import scene
from tests.web.house import ERAS

CALLS = 12
"""Of each tool; the seed is fixed, so that a failure comes again."""
WORDS = (
    "attic",
    "node-1",
    "scd30",
    "co2",
    "roof",
    "task-1",
    "-1h",
    "x" * 3000,
    "",
    "\x00\u202e",
    "\U0001f4a9",
    "'; --",
)
ODD = (None, True, -1, 0, 2**70, 1.5, float("1e300"), [], {}, [[]], {"a": {"b": [None]}}, *WORDS)


def drawn(rng: random.Random, schema: dict[str, Any]) -> Any:
    """Mostly what the schema allows, sometimes anything."""
    choices = schema.get("enum", ODD if rng.random() < 0.15 else ())
    if choices or "anyOf" in schema:
        return rng.choice(choices) if choices else drawn(rng, rng.choice(schema["anyOf"]))
    kinds = schema.get("type", "string")
    found: Any = rng.choice(WORDS)
    match rng.choice(kinds) if isinstance(kinds, list) else kinds:
        case "boolean":
            found = rng.random() < 0.5
        case "integer" | "number":
            found = rng.choice((0, 1, 15, 60, 400, -3, rng.randint(0, 2000)))
        case "array":
            found = [drawn(rng, schema.get("items", {})) for _ in range(rng.randint(0, 3))]
        case "object":
            names = {**schema.get("properties", {}), "odd": {}}
            found = {name: drawn(rng, each) for name, each in names.items() if rng.random() < 0.7}
    return found


@pytest.mark.parametrize("era", ERAS[1:])
async def test_a_result_or_a_line_never_a_traceback(tmp_path: Path, era: str) -> None:
    rng = random.Random(5)
    async with scene(tmp_path) as home, home.client(era, Scope.ADMIN) as client:
        for tool in (await client.list_tools()).tools:
            for _ in range(CALLS):
                properties = tool.input_schema.get("properties", {})
                arguments = {name: drawn(rng, each) for name, each in properties.items() if rng.random() < 0.8}
                result = await client.call_tool(tool.name, arguments)
                text = str(result.content[0].text)  # type: ignore[union-attr]
                if result.is_error:
                    assert text.isprintable(), (tool.name, arguments)
                    assert len(text) <= 600, (tool.name, arguments)
                    assert "its log says why" not in text, (tool.name, arguments)
                    assert "Traceback" not in text, (tool.name, arguments)
