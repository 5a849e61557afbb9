"""What people keep for assistants: saved queries, and dynamic tools with their versions and their use."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.store import codes
from gateway.store.db import Connection, Store


@dataclass(frozen=True, slots=True)
class SavedQuery:
    """`parameters` as they were declared: name, type, default, in the order in which they are told."""

    name: str
    sql: str
    parameters: tuple[Mapping[str, Any], ...]
    description: str
    principal: str
    time: datetime


@dataclass(frozen=True, slots=True)
class DynamicTool:
    """One version of a tool. `arguments` is a JSON schema; `sha256` is of all that decides what it does and says, and
    `approved` is None until somebody approved exactly that."""

    name: str
    version: int
    description: str
    code: str
    arguments: Mapping[str, Any]
    sha256: str
    principal: str
    time: datetime
    approved_by: str = ""
    approved: datetime | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """How often a tool was called, and how often that failed."""

    calls: int = 0
    failures: int = 0
    last_used: datetime | None = None


async def save_query(store: Store, query: SavedQuery) -> None:
    """Insert or replace a query by its name."""
    row = [query.name, query.sql, json.dumps(query.parameters), query.description, query.principal, _ms(query.time)]

    def change(db: Connection) -> None:
        db.execute("delete from saved_query where name = ?", [query.name])
        db.execute("insert into saved_query values (?, ?, ?, ?, ?, ?)", row)

    await store.write(change)


async def delete_query(store: Store, name: str) -> None:
    """Forget a query."""
    await store.write(lambda db: db.execute("delete from saved_query where name = ?", [name]))


async def saved_queries(store: Store) -> list[SavedQuery]:
    """All of them by name."""
    query = "select name, sql, parameters, description, principal, time from saved_query order by name"
    rows = await store.read(lambda db: db.execute(query).fetchall())
    return [
        SavedQuery(row[0], row[1], tuple(json.loads(row[2] or "[]")), row[3] or "", row[4] or "", _aware(row[5]))
        for row in rows
    ]


async def save_tool(store: Store, tool: DynamicTool, drop: Sequence[int] = ()) -> None:
    """Insert or replace a version of a tool; the versions `drop` go."""
    approved = None if tool.approved is None else _ms(tool.approved)
    row = [tool.name, tool.version, tool.description, tool.code, json.dumps(tool.arguments), tool.sha256]
    row += [tool.principal, _ms(tool.time), tool.approved_by, approved]

    def change(db: Connection) -> None:
        for version in (tool.version, *drop):
            db.execute("delete from dynamic_tool where name = ? and version = ?", [tool.name, version])
        db.execute("insert into dynamic_tool values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    await store.write(change)


async def delete_tool(store: Store, name: str) -> None:
    """Forget a tool with all its versions."""

    def change(db: Connection) -> None:
        for table in ("dynamic_tool", "dynamic_tool_use"):
            db.execute(f"delete from {table} where name = ?", [name])  # noqa: S608

    await store.write(change)


async def tools(store: Store) -> list[DynamicTool]:
    """Every version of every tool, by name and version."""
    query = """select name, version, description, code, arguments, sha256, principal, time, approved_by, approved
               from dynamic_tool order by name, version"""
    rows = await store.read(lambda db: db.execute(query).fetchall())
    return [
        DynamicTool(
            row[0],
            row[1],
            row[2] or "",
            row[3],
            json.loads(row[4]),
            row[5],
            row[6] or "",
            _aware(row[7]),
            row[8] or "",
            None if row[9] is None else _aware(row[9]),
        )
        for row in rows
    ]


async def save_uses(store: Store, uses: Mapping[str, Use]) -> None:
    """Write down how often these tools were used, all in one transaction."""

    def change(db: Connection) -> None:
        for name, use in uses.items():
            last = None if use.last_used is None else _ms(use.last_used)
            db.execute("delete from dynamic_tool_use where name = ?", [name])
            db.execute("insert into dynamic_tool_use values (?, ?, ?, ?)", [name, use.calls, use.failures, last])

    if uses:
        await store.write(change)


async def uses(store: Store) -> dict[str, Use]:
    """What was written down."""
    query = "select name, calls, failures, last_used from dynamic_tool_use"
    rows = await store.read(lambda db: db.execute(query).fetchall())
    return {row[0]: Use(row[1], row[2], None if row[3] is None else _aware(row[3])) for row in rows}


def _ms(time: datetime) -> datetime:
    return codes.from_ms(codes.to_ms(time)).replace(tzinfo=None)


def _aware(time: datetime) -> datetime:
    return codes.made_aware(time)
