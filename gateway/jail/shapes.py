"""The part of JSON schema that dynamic tools may use for their arguments: bounded, and checked without surprises. Pure.

No references, no regular expressions, no combinations: a schema is somebody's text, and must neither fetch nor hang.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from gateway.registry.commands import tidy

MOST_BYTES = 8192
MOST_PROPERTIES = 20
DEEPEST = 4
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
}
COMMON = {"type", "description", "default", "enum"}
KEYWORDS: Mapping[str, set[str]] = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
    "number": {"minimum", "maximum"},
    "integer": {"minimum", "maximum"},
    "boolean": set(),
}


def check(schema: object) -> dict[str, Any]:
    """The schema of a tool's arguments as it is kept; ValueError names the place and the rule."""
    if not isinstance(schema, dict):
        raise ValueError("arguments: give a JSON schema of type object")
    try:
        size = len(json.dumps(schema, allow_nan=False).encode())
    except (ValueError, TypeError, RecursionError):
        raise ValueError("arguments: give plain JSON without NaN") from None
    if size > MOST_BYTES:
        raise ValueError(f"arguments: {size} bytes are more than {MOST_BYTES}: make the schema shorter")
    if schema.get("type", "object") != "object":
        raise ValueError("arguments: the schema itself is of type object")
    checked = _check({"type": "object", "properties": {}} | schema, "arguments", 0)
    return checked | {"additionalProperties": False}


def conform(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with defaults filled in; ValueError names the argument that breaks the schema, and the rule."""
    return _object(schema, arguments, "")


def one_line(text: object, where: str, most: int = 200) -> str:
    """A description as assistants see it; ValueError where it is none, too long, or would not print."""
    if not isinstance(text, str) or len(text) > most:
        raise ValueError(f"{where}: a description is a text of at most {most} characters")
    try:
        return tidy(" ".join(text.split()))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _check(schema: Mapping[str, Any], where: str, depth: int) -> dict[str, Any]:
    kind = schema.get("type")
    if depth > DEEPEST:
        raise ValueError(f"{where}: nested deeper than {DEEPEST} levels")
    if not isinstance(kind, str) or kind not in TYPES:
        raise ValueError(f"{where}: type {str(kind)[:40]!r} is none of {', '.join(TYPES)}")
    strange = sorted(schema.keys() - COMMON - KEYWORDS[kind])
    if strange:
        raise ValueError(f"{where}: {strange[0][:40]!r} may not stand at {kind}: leave it out")
    kept = dict(schema)
    for bound in KEYWORDS[kind] & schema.keys() & _BOUNDS:
        if type(schema[bound]) not in {int, float}:
            raise ValueError(f"{where}: {bound} is a number")
    if kind == "object":
        kept |= _properties(schema, where, depth)
    if kind == "array":
        items = schema.get("items")
        if not isinstance(items, Mapping):
            raise ValueError(f"{where}: an array says what its items are")
        kept["items"] = _check(items, f"{where}[]", depth + 1)
    if "enum" in kept and not (isinstance(kept["enum"], list) and 0 < len(kept["enum"]) <= 50):
        raise ValueError(f"{where}: enum is a list of 1 to 50 values")
    if "description" in kept:
        kept["description"] = one_line(kept["description"], where)
    if "default" in kept:
        _value({key: value for key, value in kept.items() if key != "default"}, kept["default"], f"{where} default")
    return kept


def _properties(schema: Mapping[str, Any], where: str, depth: int) -> dict[str, Any]:
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, Mapping) or len(properties) > MOST_PROPERTIES:
        raise ValueError(f"{where}: properties is an object of at most {MOST_PROPERTIES}")
    for name in properties:
        if not NAME.fullmatch(name):
            raise ValueError(f"{where}: {name[:64]!r} is no name: letters, digits and _, not starting with a digit")
        if not isinstance(properties[name], Mapping):
            raise ValueError(f"{where}.{name}: give a schema")
    if not isinstance(required, list) or not all(isinstance(each, str) and each in properties for each in required):
        raise ValueError(f"{where}: required is a list of names of its properties")
    if schema.get("additionalProperties", False) is not False:
        raise ValueError(f"{where}: additionalProperties is false: name every property")
    return {"properties": {name: _check(each, f"{where}.{name}", depth + 1) for name, each in properties.items()}}


def _object(schema: Mapping[str, Any], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    properties: Mapping[str, Any] = schema.get("properties", {})
    dot = f"{where}." if where else ""
    for name in given:
        if name not in properties:
            known = ", ".join(properties) or "none"
            raise ValueError(f"{dot}{name[:64]}: there is no such argument; known are {known}")
    for name in schema.get("required", ()):
        if name not in given and "default" not in properties[name]:
            raise ValueError(f"{dot}{name}: it is missing")
    filled = {name: each["default"] for name, each in properties.items() if "default" in each}
    return filled | {name: _value(properties[name], value, f"{dot}{name}") for name, value in given.items()}


def _value(schema: Mapping[str, Any], value: Any, where: str) -> Any:
    kind = schema["type"]
    if type(value) not in TYPES[kind] or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{where}: {_brief(value)} is no {kind}")
    if "enum" in schema and not any(type(each) is type(value) and each == value for each in schema["enum"]):
        raise ValueError(f"{where}: {_brief(value)} is none of {json.dumps(schema['enum'])[:200]}")
    if kind in {"number", "integer"}:
        _within(schema, "minimum", "maximum", value, where)
    elif kind == "string":
        _within(schema, "minLength", "maxLength", len(value), f"{where} of length {len(value)}")
    elif kind == "array":
        _within(schema, "minItems", "maxItems", len(value), f"{where} of {len(value)} items")
        return [_value(schema["items"], each, f"{where}[{at}]") for at, each in enumerate(value)]
    elif kind == "object":
        return _object(schema, value, where)
    return value


def _within(schema: Mapping[str, Any], low: str, high: str, size: float, where: str) -> None:
    if size < schema.get(low, -math.inf):
        raise ValueError(f"{where}: it is less than {low} {schema[low]}")
    if size > schema.get(high, math.inf):
        raise ValueError(f"{where}: it is more than {high} {schema[high]}")


def _brief(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."


_BOUNDS = {"minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"}
