"""The list of segments, a table of the hot file: it changes in the transaction in which the rows leave or come."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import duckdb

from gateway.store.segments.layout import Level, Seal, Segment

TABLE = """
create table segment (
    segment_id BIGINT not null, level INTEGER not null, first_ms BIGINT not null, last_ms BIGINT not null,
    first_series INTEGER not null, last_series INTEGER not null, "rows" BIGINT not null,
    raw VARCHAR not null, raw_bytes BIGINT not null, raw_sha256 VARCHAR not null,
    roll VARCHAR not null, roll_bytes BIGINT not null, roll_sha256 VARCHAR not null,
    made_ms BIGINT not null, seals VARCHAR not null, replaces VARCHAR not null, expired VARCHAR not null,
    ancestors VARCHAR not null)
"""
_COLUMNS = tuple(Segment.__dataclass_fields__)
_LISTS = ("replaces", "expired", "ancestors")


def load(db: duckdb.DuckDBPyConnection) -> tuple[Segment, ...]:
    """The segments in the table, by their id."""
    rows = db.execute(f"select {', '.join(_quoted())} from segment order by segment_id").fetchall()  # noqa: S608
    return tuple(_segment(row) for row in rows)


def add(db: duckdb.DuckDBPyConnection, segments: Iterable[Segment]) -> None:
    """Into the open transaction."""
    for each in segments:
        db.execute(f"insert into segment values ({', '.join('?' * len(_COLUMNS))})", _row(each))  # noqa: S608


def remove(db: duckdb.DuckDBPyConnection, segments: Iterable[Segment]) -> None:
    """Out of the table, in the open transaction; the files are not touched."""
    ids = [each.segment_id for each in segments]
    if ids:
        db.execute("delete from segment where list_contains($1::BIGINT[], segment_id)", [ids])


def _quoted() -> list[str]:
    return [f'"{name}"' for name in _COLUMNS]


def _row(segment: Segment) -> list[object]:
    values = {name: getattr(segment, name) for name in _COLUMNS}
    seals = [[seal.batch, seal.cutoff_ms, seal.undated_ms] for seal in segment.seals]
    texts = {"seals": seals} | {name: getattr(segment, name) for name in _LISTS}
    return list(
        (values | {"level": int(segment.level)} | {name: json.dumps(it) for name, it in texts.items()}).values()
    )


def _segment(row: Sequence[Any]) -> Segment:
    told = dict(zip(_COLUMNS, row, strict=True))
    told["level"] = Level(told["level"])
    told["seals"] = tuple(Seal(*seal) for seal in json.loads(told["seals"]))
    for name in _LISTS:
        told[name] = tuple(json.loads(told[name]))
    return Segment(**told)
