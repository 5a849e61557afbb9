"""Saved queries: SQL with named parameters that people keep for assistants."""

import re
from collections.abc import Mapping
from datetime import datetime
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from gateway.registry.commands import tidy
from gateway.store import tool_rows
from gateway.store.db import Store
from gateway.store.tool_rows import SavedQuery

MOST_QUERIES = 100
MOST_SQL = 10_000
MOST_PARAMETERS = 20
TOKEN = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|\$([A-Za-z_][A-Za-z0-9_]*)""", re.DOTALL)
"""What may hide a $ that is no parameter: texts, quoted names, comments; else the parameter's name."""

Kind = Literal["text", "number", "integer", "boolean", "time"]
Value = str | int | float | bool
_TYPES: Mapping[str, tuple[type, ...]] = {
    "text": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "time": (str,),
}


class Parameter(BaseModel):
    """What `$name` in the SQL stands for; without a `default` it has to be given. A time is ISO-8601."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
    type: Kind = "text"
    default: Value | None = None
    description: Annotated[str, Field(max_length=200), AfterValidator(tidy)] = ""


class QueryRefused(ValueError):
    """A query cannot be kept, found or run; one line with the way out."""


class SavedQueries:
    """Over the store, which is asked each time: they are few and rarely used."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def all(self) -> list[SavedQuery]:
        """Every one, by name."""
        return await tool_rows.saved_queries(self._store)

    async def get(self, name: str) -> SavedQuery:
        """One of them; QueryRefused names the nearest."""
        known = {each.name: each for each in await self.all()}
        if name not in known:
            near = get_close_matches(name, known, 1, 0.5)
            there = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(known) or 'none yet'}"
            raise QueryRefused(f"name: there is no saved query {name[:64]!r}; {there}")
        return known[name]

    async def expect(self, query: SavedQuery) -> bool:
        """QueryRefused where it cannot be kept; whether one of that name is replaced."""
        known = {each.name for each in await self.all()}
        if query.name not in known and len(known) >= MOST_QUERIES:
            raise QueryRefused(f"there are {MOST_QUERIES} saved queries already: delete one first")
        declared = {each["name"] for each in query.parameters}
        if len(declared) != len(query.parameters) or len(declared) > MOST_PARAMETERS:
            raise QueryRefused(f"parameters: give at most {MOST_PARAMETERS}, each name once")
        used = {match[1] for match in TOKEN.finditer(query.sql) if match[1]}
        if used != declared:
            odd = min(used ^ declared)
            where = "the SQL does not use it" if odd in declared else "it is not declared"
            raise QueryRefused(f"parameters: ${odd}: {where}; each one stands in both")
        for each in query.parameters:
            if each.get("default") is not None:
                _typed(each, each["default"])
        return query.name in known

    async def keep(self, query: SavedQuery) -> None:
        """Keep what was expected."""
        await tool_rows.save_query(self._store, query)

    async def delete(self, name: str) -> None:
        """Forget one."""
        await tool_rows.delete_query(self._store, name)


def bind(query: SavedQuery, given: Mapping[str, Any]) -> dict[str, Value]:
    """The values of all parameters; QueryRefused names the one that is missing, unknown or of another type."""
    known = {each["name"]: each for each in query.parameters}
    for name in given:
        if name not in known:
            raise QueryRefused(
                f"parameters: {name[:64]!r} is none of this query; known are {', '.join(known) or 'none'}"
            )
    values = {}
    for name, each in known.items():
        value = given.get(name, each.get("default"))
        if value is None:
            raise QueryRefused(f"parameters: {name} ({each.get('type', 'text')}) is missing")
        values[name] = _typed(each, value)
    return values


def _typed(parameter: Mapping[str, Any], value: Any) -> Value:
    kind, name = parameter.get("type", "text"), parameter["name"]
    if type(value) not in _TYPES[kind] or (isinstance(value, str) and len(value) > 1000):
        raise QueryRefused(f"parameters: {name}: {str(value)[:80]!r} is no {kind}")
    if kind == "time":
        try:
            datetime.fromisoformat(value)
        except ValueError:
            raise QueryRefused(
                f"parameters: {name}: {value[:40]!r} is no time: give it as 2026-11-20T12:00:00"
            ) from None
    checked: Value = value
    return checked
