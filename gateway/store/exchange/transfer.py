"""Rows of a CSV or Parquet file as they are read, and into the store with them: flat in memory."""

import csv
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import duckdb

from gateway.store import codes
from gateway.store.errors import TransferError
from gateway.store.exchange.export import TIME, Fraction, connected, form
from gateway.store.exchange.rows import COLUMNS, BadRow, Key, Reader, Row
from gateway.store.files import quoted

ROWS_AT_ONCE = 5_000
NAMES_AT_ONCE = 500


def read(file: Path, now: datetime, progress: Fraction) -> Iterator[list[Row]]:
    """The rows of a file in blocks of at most ROWS_AT_ONCE; TransferError names line, value and rule."""
    form(file)
    if not file.is_file():
        raise TransferError(f"{file}: there is no such file")
    reader = _read_parquet if file.suffix == ".parquet" else _read_csv
    rows = reader(file, codes.to_ms(now), progress)
    while block := _block(rows):
        yield block


def _block(rows: Iterator[Row]) -> list[Row]:
    """As many rows as one line of the control socket holds, however long their names."""
    block: list[Row] = []
    names: set[Key] = set()
    for row in rows:
        block.append(row)
        names.add(row.key)
        if len(block) == ROWS_AT_ONCE or len(names) == NAMES_AT_ONCE:
            break
    return block


def check(file: Path, now: datetime, progress: Fraction) -> int:
    """Read all of it and keep nothing: how many rows there are."""
    return sum(len(block) for block in read(file, now, progress))


def _read_csv(file: Path, now_ms: int, progress: Fraction) -> Iterator[Row]:
    size = max(1, file.stat().st_size)
    with file.open("rb") as raw, open(raw.fileno(), encoding="utf-8-sig", newline="", closefd=False) as text:
        lines = csv.reader(text, strict=True)
        line = 1
        try:
            reader = Reader(next(lines, []), now_ms)
            for number, fields in enumerate(lines):
                line = lines.line_num
                if fields:
                    yield reader.row(fields)
                if not number % ROWS_AT_ONCE:
                    progress(os.lseek(raw.fileno(), 0, os.SEEK_CUR) / size)
        except BadRow as error:
            raise TransferError(f"{file} line {line}: {error}") from error
        except (csv.Error, UnicodeDecodeError) as error:
            raise TransferError(f"{file} after line {line}: not CSV in UTF-8 ({error}): save it as that") from error


def _read_parquet(file: Path, now_ms: int, progress: Fraction) -> Iterator[Row]:
    with connected(None, None) as db:
        try:
            source = f"read_parquet({quoted(file)})"
            known = {row[0]: row[1] for row in db.execute(f"describe from {source}").fetchall()}
            found = [name for name in known if name in COLUMNS]
            reader = Reader(list(known), now_ms)
            (count,) = db.execute(f"select count(*) from {source}").fetchall()[0]  # noqa: S608
            columns = ", ".join(_as_text(name, known[name]) for name in found)
            rows = db.execute(f"select {columns} from {source}")  # noqa: S608
        except (duckdb.Error, BadRow) as error:
            raise TransferError(f"{file}: {' '.join(str(error).split())[:300]}") from error
        number = 0
        while block := rows.fetchmany(ROWS_AT_ONCE):
            for fields in block:
                number += 1
                try:
                    yield reader.row(fields)
                except BadRow as error:
                    raise TransferError(f"{file} row {number}: {error}") from error
            progress(number / max(1, count))


def _as_text(name: str, kind: str) -> str:
    """SQL of a column as the text that a CSV file would hold."""
    if name == "time" and "TIMESTAMP" in kind:
        zone = "" if "TIME ZONE" not in kind else " at time zone 'UTC'"
        return f"strftime(({name}{zone})::TIMESTAMP, '{TIME}')"
    return f"coalesce({name}::VARCHAR, '')"
