"""Reading out a database file with damaged blocks: whatever DuckDB can still decode goes into a new file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb

from gateway.store.files import quoted

ROWS_AT_ONCE = 2048
"""DuckDB decodes so many rows together; a damaged block takes at least these with it."""
FREE_OF_NAMES = frozenset({"dated", "reading", "delivery", "gap", "newest", "audit", "event"})
"""Tables whose rows stand for themselves: a hole there spoils nothing else."""


@dataclass(frozen=True, slots=True)
class Gone:
    """How many rows of which tables could not be read."""

    rows: Mapping[str, int]

    @property
    def names(self) -> bool:
        """Something is missing that other rows refer to, or that people and devices need to be known by."""
        return not FREE_OF_NAMES.issuperset(self.rows)

    def __str__(self) -> str:
        lost = ", ".join(f"{count} of {table}" for table, count in sorted(self.rows.items()))
        return f"without these rows: {lost}" if lost else "with every row"


def verify(db: duckdb.DuckDBPyConnection) -> None:
    """Read every block of every table of the open file; duckdb.Error where one is damaged."""
    query = "select table_name from duckdb_tables() where database_name = current_database()"
    tables = [table for (table,) in db.execute(query).fetchall()]
    scans = [f'select sum(hash(row_)) from "{table}" row_' for table in tables]  # noqa: S608 - names of our own
    if scans:
        db.execute(" union all ".join(scans)).fetchall()


def read_out(file: Path, new: Path) -> Gone:
    """Copy the tables and views of a closed file, its log included, as far as that can be read; duckdb.Error if it
    cannot be opened at all."""
    with duckdb.connect(config={"memory_limit": "128MB", "threads": 1}) as db:
        db.execute(f"attach {quoted(file)} as old (read_only)")
        db.execute(f"attach {quoted(new)} as new")
        db.execute("copy from database old to new (schema)")
        tables = db.execute("select table_name from duckdb_tables() where database_name = 'old'").fetchall()
        gone = {}
        for (table,) in tables:
            top = db.execute(f'select max(rowid) from old."{table}"').fetchone()  # noqa: S608
            missing = _pull(db, table, 0, (top[0] if top and top[0] is not None else -1) + 1)
            if missing:
                gone[table] = missing
        # Readings without a series mean nothing, and its number will be given to another one.
        for table in {"dated", "reading", "newest"} & {table for (table,) in tables}:
            db.execute(f"delete from new.{table} where series_id not in (select series_id from new.series)")  # noqa: S608
        db.execute("checkpoint new")
        db.execute("detach new")
        return Gone(gone)


def _pull(db: duckdb.DuckDBPyConnection, table: str, first: int, end: int) -> int:
    """Copy the rows from `first` to before `end`; how many of them could not be read."""
    if end <= first:
        return 0
    try:
        db.execute(f'insert into new."{table}" from old."{table}" where rowid >= {first} and rowid < {end}')
        return 0
    except duckdb.Error:
        if end - first <= ROWS_AT_ONCE:
            return end - first
    vectors = -(-(end - first) // ROWS_AT_ONCE)
    middle = first + vectors // 2 * ROWS_AT_ONCE
    return _pull(db, table, first, middle) + _pull(db, table, middle, end)
