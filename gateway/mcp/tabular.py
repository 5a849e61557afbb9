"""Results of SQL in an answer: so many columns, rows and characters as fit. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic_core import to_json

from gateway.jail.table import Cell, Column, Table
from gateway.mcp.fitting import clean

MOST_COLUMNS = 60
NAME_LIMIT = 64
CELL_LIMIT = 200
ROWS_BYTES = 14_000
TOLD_POINTS = 120


def shown(cell: Cell, limit: int = CELL_LIMIT) -> Any:
    """A value as JSON has it: times in UTC, texts of one line."""
    if isinstance(cell, datetime):
        return cell.isoformat().replace("+00:00", "Z")
    if isinstance(cell, str):
        return clean(cell, limit)
    return cell


def rows_that_fit(rows: Sequence[Sequence[Cell]], most_bytes: int = ROWS_BYTES) -> list[list[Any]]:
    """The leading rows that have room, at least one; of each the columns that are shown. Long texts are cut so far
    that one row has room."""
    found: list[list[Any]] = []
    size, limit = 0, CELL_LIMIT
    for row in rows:
        cells = [shown(cell, limit) for cell in row[:MOST_COLUMNS]]
        if not found and len(to_json(cells)) > most_bytes:
            limit = max(4, most_bytes // (4 * len(cells)) - 2)
            cells = [shown(cell, limit) for cell in row[:MOST_COLUMNS]]
        size += len(to_json(cells)) + 1
        if found and size > most_bytes:
            break
        found.append(cells)
    return found


def points(table: Table, most: int = TOLD_POINTS, most_bytes: int = ROWS_BYTES // 2) -> str:
    """Rows of a table as CSV: all, or at most so many that keep the first, the last, and the extremes of the first
    column of numbers that is no id."""
    columns = table.columns[:8]
    at = _kept(_numbers(columns, table.rows), most) if table.rows > most else range(table.rows)
    cells = [[shown(each.cells(row, row + 1)[0]) for each in columns] for row in at]
    lines = [",".join(clean(each.name, NAME_LIMIT) for each in columns)]
    lines += [",".join("" if cell is None else str(cell) for cell in row) for row in cells]
    text = "\n".join(lines)
    return text if len(text.encode()) <= most_bytes or most <= 2 else points(table, most // 2, most_bytes)


def _numbers(columns: Sequence[Column], rows: int) -> list[float | None]:
    for column in columns:
        if column.kind in {"f8", "i8"} and not column.name.endswith("id"):
            return [cell if isinstance(cell, int | float) else None for cell in column.cells(0, rows)]
    return [None] * rows


def _kept(values: Sequence[float | None], most: int) -> list[int]:
    """Places of at most so many: the first, the last, and the smallest and largest of equal parts."""
    kept, parts = {0, len(values) - 1}, (most - 2) // 2
    for part in range(parts):
        inside = range(part * len(values) // parts, (part + 1) * len(values) // parts)
        known = [(value, at) for at in inside if (value := values[at]) is not None] or [(0.0, inside[0])]
        kept |= {min(known)[1], max(known)[1]}
    return sorted(kept)
