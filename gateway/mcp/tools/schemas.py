"""A tool of a function: what the policy says of it, and schemas that cost little context."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from mcp.server.mcpserver.tools import Tool
from mcp_types import ToolAnnotations

from gateway.access.policy import Action

MARKS = "tool_marks"
COMMON = ("now", "timezone", "clock")
"""Fields of every answer."""
PREFIX = "#/$defs/"
REFERENCE = re.compile(r"#/\$defs/(\w+)")
NOTHING: tuple[object, ...] = (None, "", [])

Function = TypeVar("Function", bound=Callable[..., Any])


def marked(**meta: Any) -> Callable[[Function], Function]:
    """A decorator for what else a tool's `_meta` says, such as `ui={"resourceUri": "ui://chart"}`."""

    def mark(function: Function) -> Function:
        setattr(function, MARKS, meta)
        return function

    return mark


def make(function: Callable[..., Any], action: Action) -> Tool:
    """The tool of a function, named as the function is; its docstring is what assistants read."""
    tool = Tool.from_function(
        function, annotations=annotations(action), meta=described(action) | getattr(function, MARKS, {})
    )
    tool.description = " ".join(tool.description.split())
    tool.parameters = slim(tool.parameters)
    if tool.fn_metadata.output_schema is not None:
        tool.fn_metadata.output_schema = promise_less(slim(tool.fn_metadata.output_schema))
    return tool


def described(action: Action) -> dict[str, Any]:
    """A tool's `_meta`: what a host needs to decide whether to ask its user."""
    return {
        "risk": str(action.risk),
        "scope": str(action.scope),
        "toolset": action.toolset,
        "write": action.write,
    }


def annotations(action: Action) -> ToolAnnotations:
    """The protocol's own hints."""
    changes = action.write or action.own
    return ToolAnnotations(
        read_only_hint=not changes,
        destructive_hint=action.destructive if changes else None,
        idempotent_hint=action.own if changes else None,
        open_world_hint=False,
    )


def slim(schema: Any) -> Any:
    """A JSON schema without what costs context and says nothing: titles, model docstrings, empty defaults,
    `or null` of optional arguments (null stays accepted), and the long form of unions."""
    if isinstance(schema, list):
        return [slim(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if not (key == "title" and isinstance(value, str))}
    if "properties" in kept:
        kept.pop("description", None)
        kept["properties"] = {name: slim(value) for name, value in kept["properties"].items()}
    if kept.get("default", kept) in NOTHING and kept.pop("default") is None and "anyOf" in kept:
        choices = [choice for choice in kept.pop("anyOf") if choice != {"type": "null"}]
        kept |= choices[0] if len(choices) == 1 else {"anyOf": choices}
    if all(set(choice) == {"type"} for choice in kept.get("anyOf", [{}])):
        kept["type"] = [choice["type"] for choice in kept.pop("anyOf")]
    return {key: value if key == "properties" else slim(value) for key, value in kept.items()}


def promise_less(schema: dict[str, Any]) -> dict[str, Any]:
    """An output schema that names every field and its type and no more: what is required, defaults, and what all
    answers share cost a third of it; what is used once stands where it is used."""
    slimmer = _fields_only(schema)
    for name in COMMON:
        slimmer.get("properties", {}).pop(name, None)
    parts = slimmer.pop("$defs", {})
    uses = Counter(REFERENCE.findall(str(slimmer)) + REFERENCE.findall(str(parts)))
    once = {name: part for name, part in parts.items() if uses[name] == 1}
    while any(name in once for name in REFERENCE.findall(str(slimmer) + str(parts))):
        slimmer, parts = _inlined(slimmer, once), {name: _inlined(part, once) for name, part in parts.items()}
        parts = {name: part for name, part in parts.items() if name not in once}
    return slimmer | ({"$defs": parts} if parts else {})


def _fields_only(schema: dict[str, Any]) -> dict[str, Any]:
    parts = schema.get("$defs", {})
    slimmer = {key: value for key, value in schema.items() if key not in {"required", "$defs", "properties"}}
    named = schema.get("properties", {})
    fields = {name: {key: it for key, it in field.items() if key != "default"} for name, field in named.items()}
    slimmer |= {"properties": fields} if fields else {}
    return slimmer | ({"$defs": {name: _fields_only(part) for name, part in parts.items()}} if parts else {})


def _inlined(schema: Any, parts: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(each, parts) for each in schema]
    if not isinstance(schema, dict):
        return schema
    name = str(schema.get("$ref", "")).removeprefix(PREFIX)
    if name in parts:
        return _inlined(parts[name], {key: part for key, part in parts.items() if key != name})
    return {key: _inlined(value, parts) for key, value in schema.items()}
