"""Schemas of dynamic tools: what may stand in them, and that what they let through is what they say."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.jail import shapes

NUMBER = {"type": "number"}


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ([], "give a JSON schema of type object"),
        ({"type": "array"}, "is of type object"),
        (of(a={"type": "null"}), "arguments.a: type 'null' is none of"),
        (of(a={"type": ["string", "number"]}), "arguments.a: type"),
        (of(a={"type": "string", "pattern": "x"}), "'pattern' may not stand at string"),
        (of(a={"type": "string", "format": "uri"}), "'format' may not stand"),
        (of(a={"type": "array"}), "says what its items are"),
        (of(a={"type": "number", "minimum": "0"}), "minimum is a number"),
        (of(a={"type": "string", "enum": []}), "a list of 1 to 50"),
        (of(a=3), "arguments.a: give a schema"),
        (of(**{"1a": NUMBER}), "is no name"),
        (of(**{f"a{n}": NUMBER for n in range(21)}), "at most 20"),
        (of(a=NUMBER) | {"required": ["b"]}, "required is a list of names"),
        (of(a=NUMBER) | {"additionalProperties": True}, "additionalProperties is false"),
        (of(a={"type": "string", "description": "x\u202ey"}), "U+202E does not print"),
        (of(a={"type": "string", "description": "x" * 9000}), "make the schema shorter"),
        (of(a=of(b=of(c=of(d=of(e=NUMBER))))), "nested deeper than 4"),
        (of(a={"type": "number", "default": float("nan")}), "without NaN"),
    ],
)
def test_what_may_not_stand_in_a_schema(schema: Any, words: str) -> None:
    with pytest.raises(ValueError, match="arguments") as refused:
        shapes.check(schema)
    assert words in str(refused.value)


ROOM = shapes.check(
    of(
        name={"type": "string", "minLength": 1, "maxLength": 5, "enum": ["attic", "hall"]},
        values={"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 1, "maxItems": 3},
        deep=of(on={"type": "boolean", "default": True}, count={"type": "integer"}) | {"required": ["count"]},
    )
    | {"required": ["name"]}
)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "name: it is missing"),
        ({"name": 1}, "name: 1 is no string"),
        ({"name": "roof"}, "name: 'roof' is none of"),
        ({"name": "hall", "values": []}, "values of 0 items: it is less than minItems 1"),
        ({"name": "hall", "values": [1, -1]}, "values[1]: it is less than minimum 0"),
        ({"name": "hall", "values": [True]}, "values[0]: True is no number"),
        ({"name": "hall", "values": [float("inf")]}, "values[0]: inf is no number"),
        ({"name": "hall", "deep": {}}, "deep.count: it is missing"),
        ({"name": "hall", "deep": {"count": 1.0}}, "deep.count: 1.0 is no integer"),
        ({"name": "hall", "more": 1}, "more: there is no such argument; known are name, values, deep"),
    ],
)
def test_an_argument_that_breaks_the_schema_is_named(arguments: Any, words: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        shapes.conform(ROOM, arguments)
    assert words in str(refused.value)


def test_defaults_are_filled_in() -> None:
    said = shapes.conform(ROOM, {"name": "hall", "deep": {"count": 2}})
    assert said == {"name": "hall", "deep": {"on": True, "count": 2}}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(JSON, JSON)
def test_whatever_comes_is_judged_and_never_an_accident(schema: Any, arguments: Any) -> None:
    try:
        checked = shapes.check(schema)
    except ValueError:
        return
    if isinstance(arguments, dict):
        try:
            assert shapes.conform(checked, arguments).keys() <= checked["properties"].keys()
        except ValueError:
            return
