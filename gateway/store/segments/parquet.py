"""Segments as Parquet files: written under a hidden name, synced, renamed; each says in its own metadata what it is.

Measured beside read-only DuckDB files (`python -m bench formats`): less than a third of the size, nothing to attach.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

from gateway.store.codes import USABLE_BELOW
from gateway.store.files import quoted, sync_file, sync_folder
from gateway.store.segments.layout import BUCKET_MS, Level, Seal, Segment

OPTIONS = "format parquet, parquet_version 'v2', compression zstd, row_group_size 40960"
"""Version 2 packs times as differences: 2.1 bytes a reading against 2.4. A question about one series unpacks whole row
groups: a third of the engine's default takes a third less time for a day or a year, and 6 % more room."""
EFFORT = {Level.HOUR: 3, Level.DAY: 9, Level.MONTH: 9}
"""zstd's level: what stays for years is written once, by a child at idle priority, and reads as fast. 4 % smaller."""
DENSE_FROM = 16
"""Readings a bucket from which a rollup file is worth its bytes; below that the raw file answers as fast."""
KEY = "ambient_gateway"
NAME = re.compile(r"(\d{8,})-(hour|day|month)\.(raw|roll)\.parquet")
PART = ".part"

RAW_COLUMNS = "series_id, ts, value, quality"
ROLL_COLUMNS = "series_id, bucket, n, uncertain, bad, min, max, sum, m2, last, last_ms"
_USABLE = f"value is not null and quality < {USABLE_BELOW}"


@dataclass(frozen=True, slots=True)
class Draft:
    """A segment to be written. `raw` and `partials` are SQL to stand after FROM: its raw rows, and partial rollups of
    everything it covers, which are given where the raw rows are not (or no longer) everything."""

    segment_id: int
    level: Level
    made_ms: int
    seals: tuple[Seal, ...]
    raw: str | None
    partials: str | None = None
    replaces: tuple[int, ...] = ()
    expired: tuple[int, ...] = ()
    ancestors: tuple[int, ...] = ()


def rollup_of(raw: str) -> str:
    """SQL of the rollups of raw rows, to stand after FROM. From min to last NULL where nothing is usable."""
    usable = f"filter (where {_USABLE})"
    return f"""(select series_id, make_timestamp_ms(ms - ms % {BUCKET_MS})::TIMESTAMP_MS as bucket,
        (count(*) {usable})::INTEGER as n, (count(*) filter (where {_USABLE} and quality >= 64))::INTEGER as uncertain,
        (count(*) filter (where not ({_USABLE})))::INTEGER as bad, min(value) {usable} as min,
        max(value) {usable} as max, sum(value) {usable} as sum,
        (var_pop(value) {usable} * count(*) {usable})::FLOAT as m2,
        (max({{'ms': ms, 'value': value}}) {usable}).value as last,
        (max(ms) {usable} % {BUCKET_MS})::INTEGER as last_ms
        from (select series_id, epoch_ms(ts) as ms, value, quality from {raw})
        group by series_id, ms - ms % {BUCKET_MS})"""  # noqa: S608 - made of our own names and numbers


def merged(partials: str) -> str:
    """SQL of one rollup a series and bucket from several partial ones, to stand after FROM."""
    return f"""(select series_id, bucket, sum(n)::INTEGER as n, sum(uncertain)::INTEGER as uncertain,
        sum(bad)::INTEGER as bad, min(min) as min, max(max) as max, sum(sum) as sum,
        greatest(0, sum(m2) + (sum(sum * sum / nullif(n, 0)) - sum(sum) ** 2 / nullif(sum(n), 0)))::FLOAT as m2,
        (max({{'ms': last_ms, 'value': last}}) filter (where n > 0)).value as last, max(last_ms)::INTEGER as last_ms
        from {partials} group by series_id, bucket)"""  # noqa: S608


def scan(folder: Path, names: Sequence[str], columns: str = RAW_COLUMNS) -> str:
    """SQL that reads these files, to stand after FROM."""
    files = ", ".join(quoted(folder / name) for name in names)
    return f"(select {columns} from read_parquet([{files}]))"  # noqa: S608


def union(parts: Sequence[str]) -> str:
    """SQL of all rows of these, to stand after FROM."""
    return "(" + " union all ".join(f"select * from {part}" for part in parts) + ")"  # noqa: S608


def write(db: duckdb.DuckDBPyConnection, folder: Path, draft: Draft) -> Segment | None:
    """Write and sync a segment's files; None (and no file) where it would be empty. After an error none is left."""
    stem = f"{draft.segment_id:08d}-{draft.level.name.lower()}"
    raw, roll = f"{stem}.raw.parquet", f"{stem}.roll.parquet"
    try:
        rows = 0
        if draft.raw is not None:
            rows = _copy(
                db, folder, raw, f"{RAW_COLUMNS} from {draft.raw} order by series_id, ts, value nulls first", draft
            )
        partials = draft.partials
        if partials is None and rows and rows >= DENSE_FROM * _buckets(db, scan(folder, [raw])):
            partials = rollup_of(scan(folder, [raw]))
        rolls = 0
        if partials is not None:
            rolls = _copy(db, folder, roll, f"{ROLL_COLUMNS} from {merged(partials)} order by series_id, bucket", draft)
        sync_folder(folder)
    except BaseException:
        discard(folder, [raw, roll])
        raise
    return inspect(db, folder, raw if rows else "", roll if rolls else "") if rows or rolls else None


def inspect(db: duckdb.DuckDBPyConnection, folder: Path, raw: str, roll: str) -> Segment:
    """The segment that these files make; "" for one that is not there. ValueError where they are not ours."""
    told = db.execute(
        "select value from parquet_kv_metadata(?) where key = ?", [str(folder / (raw or roll)), KEY.encode()]
    ).fetchall()
    if not told:
        raise ValueError(f"{folder / (raw or roll)}: not a segment of this gateway: move it away")
    meta = json.loads(bytes(told[0][0]))
    extents = [
        _extent(db, scan(folder, [name], f"series_id, {at} as ts"))
        for name, at in ((raw, "ts"), (roll, "bucket"))
        if name
    ]
    return Segment(
        meta["segment_id"],
        Level(meta["level"]),
        min(extent[1] for extent in extents),
        max(extent[2] for extent in extents),
        min(extent[3] for extent in extents),
        max(extent[4] for extent in extents),
        extents[0][0] if raw else 0,
        raw=raw,
        raw_bytes=(folder / raw).stat().st_size if raw else 0,
        raw_sha256=sha256_of(folder / raw) if raw else "",
        roll=roll,
        roll_bytes=(folder / roll).stat().st_size if roll else 0,
        roll_sha256=sha256_of(folder / roll) if roll else "",
        made_ms=meta["made_ms"],
        seals=tuple(Seal(*seal) for seal in meta["seals"]),
        replaces=tuple(meta["replaces"]),
        expired=tuple(meta["expired"]),
        ancestors=tuple(meta["ancestors"]),
    )


def discard(folder: Path, names: Sequence[str]) -> None:
    """Remove files that nobody needs, under their own and their hidden names, where they exist."""
    for name in names:
        for each in (name, f".{name}{PART}"):
            with suppress(FileNotFoundError):
                (folder / each).unlink()


def sha256_of(file: Path) -> str:
    """The hash of a whole file, as hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _copy(db: duckdb.DuckDBPyConnection, folder: Path, name: str, query: str, draft: Draft) -> int:
    """Rows written to this name; 0 and no file where there are none."""
    meta = {
        "segment_id": draft.segment_id,
        "level": int(draft.level),
        "made_ms": draft.made_ms,
        "seals": [[seal.batch, seal.cutoff_ms, seal.undated_ms] for seal in draft.seals],
        "replaces": draft.replaces,
        "expired": draft.expired,
        "ancestors": draft.ancestors,
    }
    part = folder / f".{name}{PART}"
    effort = f"compression_level {EFFORT[draft.level]}"
    rows: int = db.execute(
        f"copy (select {query}) to {quoted(part)} ({OPTIONS}, {effort}, kv_metadata {{{KEY}: '{json.dumps(meta)}'}})"
    ).fetchall()[0][0]
    if not rows:
        part.unlink()
        return 0
    sync_file(part)
    part.rename(folder / name)
    return rows


def _buckets(db: duckdb.DuckDBPyConnection, raw: str) -> int:
    buckets: int = db.execute(
        f"select count(*) from (select distinct series_id, epoch_ms(ts) // {BUCKET_MS} from {raw})"  # noqa: S608
    ).fetchall()[0][0]
    return buckets


def _extent(db: duckdb.DuckDBPyConnection, rows: str) -> tuple[int, int, int, int, int]:
    """(rows, first ms, last ms, first series, last series)."""
    query = f"select count(*), epoch_ms(min(ts)), epoch_ms(max(ts)), min(series_id), max(series_id) from {rows}"  # noqa: S608
    found: tuple[int, int, int, int, int] = db.execute(query).fetchall()[0]
    return found
