"""From a checked SELECT to a table: in the engine every column becomes numbers or text, and only so much is kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from gateway.jail.table import MAX_COLUMNS, Builder, Kind, Table

MAX_ROWS = 100_000
MAX_BYTES = 16 << 20
CHUNK, CHUNK_BYTES = 100, 1 << 20
_WHOLE = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
_HUGE = {"HUGEINT", "UHUGEINT", "UBIGINT"}


class TooWide(ValueError):
    """Too many columns, or not even the first rows fit."""


@dataclass(frozen=True, slots=True)
class Found:
    """The rows that are kept. `total` counts all there are; where that took too long (not `counted`) it is only a
    number that there are at least."""

    table: Table
    total: int
    counted: bool


def run(cursor: duckdb.DuckDBPyConnection, text: str, parameters: Any) -> Found:
    """The answer to one SELECT that was checked; errors are the engine's, or TooWide."""
    inner = f"(\n{text}\n)"
    told = cursor.execute(f"describe select * from {inner}", parameters or None).fetchall()  # noqa: S608 - checked
    columns = [(str(name), str(kind)) for name, kind, *_ in told]
    if len(columns) > MAX_COLUMNS:
        raise TooWide(f"{len(columns)} columns: at most {MAX_COLUMNS} are answered")
    names = [f"c{at}" for at in range(len(columns))]
    picked = [_as_plain(name, kind) for name, (_, kind) in zip(names, columns, strict=True)]
    source = f"from {inner} as given({', '.join(names)})"
    cursor.execute(f"select {', '.join(picked)} {source}", parameters or None)
    builder = Builder([(name, kind, _kind(kind)) for name, kind in columns])
    more = _fill(builder, cursor)
    if not more:
        return Found(builder.table(), builder.rows, True)
    table = builder.table()
    try:
        (total,) = cursor.execute(f"select count(*) from {inner}", parameters or None).fetchall()[0]  # noqa: S608
    except duckdb.InterruptException:
        return Found(table, table.rows + 1, False)
    return Found(table, max(total, table.rows + 1), True)


def _fill(builder: Builder, cursor: duckdb.DuckDBPyConnection) -> bool:
    """Rows into the builder, as many as are kept; whether there are more."""
    chunk = CHUNK
    while found := cursor.fetchmany(chunk):
        fitting = found[: MAX_ROWS - builder.rows]
        if builder.size_bytes + builder.size_of(fitting) > MAX_BYTES:
            fitting = list(_fitting(builder, fitting))
            if not fitting and not builder.rows:
                raise TooWide(f"not even the first row is within {MAX_BYTES >> 20} MB: ask for less")
        builder.extend(fitting)
        if len(fitting) < len(found):
            return True
        chunk = (
            min(20 * CHUNK, max(1, CHUNK_BYTES * builder.rows // builder.size_bytes)) if builder.size_bytes else CHUNK
        )
    return False


def _fitting(builder: Builder, rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    room_bytes = MAX_BYTES - builder.size_bytes
    for row in rows:
        room_bytes -= builder.size_of([row])
        if room_bytes < 0:
            return
        yield row


def explained(cursor: duckdb.DuckDBPyConnection, text: str, parameters: Any) -> Found:
    """The plan of an EXPLAIN, as text."""
    rows = cursor.execute(text, parameters or None).fetchall()
    builder = Builder([("plan", "VARCHAR", "text")])
    builder.extend([[str(row[-1])] for row in rows])
    return Found(builder.table(), builder.rows, True)


def _kind(told: str) -> Kind:
    if told == "BOOLEAN":
        return "bool"
    if told in _WHOLE or told in _HUGE:
        return "i8"
    if told in {"FLOAT", "DOUBLE"} or told.startswith("DECIMAL"):
        return "f8"
    return "ts" if told == "DATE" or (told.startswith("TIMESTAMP") and "[" not in told) else "text"


def _as_plain(name: str, told: str) -> str:
    """SQL of a column as its kind: numbers, or text; times out of Python's range are NULL."""
    kind = _kind(told)
    if kind == "ts":
        at = f"{name}::TIMESTAMP"
        return f"case when {at} between '0001-01-01' and '9999-12-31 23:59:59.999999' then epoch_us({at}) end"
    if kind == "text":
        nested = told.endswith("]") or told.startswith(("STRUCT", "MAP"))
        return f"to_json({name})::VARCHAR" if nested else f"{name}::VARCHAR"
    if told in _HUGE:
        return f"{name}::HUGEINT"
    return f"{name}::{ {'f8': 'DOUBLE', 'i8': 'BIGINT', 'bool': 'BOOLEAN'}[kind] }"
