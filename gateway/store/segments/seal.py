"""Out of the hot file into segments: which rows, and the transaction that makes it true.

The files are written first, under names that nobody reads; the rows leave the hot file in the transaction that lists
the files. A crash before it leaves files that the next start removes, a crash after it leaves nothing to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from gateway.store import codes
from gateway.store.segments import parquet
from gateway.store.segments.layout import DAY_MS, Level, Seal, Segment, partitions
from gateway.store.segments.parquet import Draft
from gateway.store.segments.view import View


@dataclass(frozen=True, slots=True)
class Sealed:
    """Files that hold `rows` of the hot file, not true before `settle` is committed."""

    seal: Seal
    rows: int
    segments: tuple[Segment, ...]


class HotChanged(Exception):
    """Rows that were being sealed changed meanwhile: nothing was sealed, try again."""


def predicates(seal: Seal) -> dict[str, str]:
    """SQL of the rows that a seal takes, by the table they stand in."""
    closed = f"ts < make_timestamp_ms({seal.cutoff_ms})::TIMESTAMP_MS"
    undated = f"quality & 63 in ({', '.join(map(str, sorted(codes.UNDATED)))})"
    waited = f"received < make_timestamp_ms({seal.undated_ms})::TIMESTAMP_MS"
    return {
        "dated": f"batch <= {seal.batch} and {closed}",
        "reading": f"batch <= {seal.batch} and case when {undated} then {waited} else {closed} end",
    }


def write(view: View, seal: Seal, next_id: int, now_ms: int) -> Sealed:
    """Write the files of a seal, one segment a UTC day (a month where it is long ago); slow, beside everything else."""
    taken = parquet.union(
        [f"(select {parquet.RAW_COLUMNS} from {table} where {term})" for table, term in predicates(seal).items()]  # noqa: S608
    )
    days = view.db.execute(
        f"select epoch_ms(ts) // {DAY_MS} as day, count(*) from {taken} group by day"  # noqa: S608
    ).fetchall()
    segments: list[Segment] = []
    try:
        for start_ms, end_ms in partitions((day * DAY_MS for day, _ in days), now_ms):
            rows = f"(select * from {taken} where epoch_ms(ts) >= {start_ms} and epoch_ms(ts) < {end_ms})"  # noqa: S608
            draft = Draft(next_id + len(segments), Level.HOUR, now_ms, (seal,), rows)
            made = parquet.write(view.db, view.folder, draft)
            segments += [made] if made is not None else []
    except BaseException:
        discard(view.folder, segments)
        raise
    return Sealed(seal, sum(count for _, count in days), tuple(segments))


def settle(db: duckdb.DuckDBPyConnection, sealed: Sealed) -> None:
    """Into the open transaction: the rows leave. HotChanged if they are not the same rows."""
    gone = _leave(db, sealed.seal)
    if gone != sealed.rows or gone != sum(each.rows for each in sealed.segments):
        raise HotChanged(f"{sealed.rows} rows were sealed, {gone} were there afterwards: the sealing is repeated")


def forget_sealed(db: duckdb.DuckDBPyConnection, segments: Sequence[Segment], batch: int) -> int:
    """Into the open transaction: an older copy of the hot file, which knows batches up to `batch`, loses what these
    segments took since; how many rows that were."""
    return sum(
        _leave(db, each) for each in sorted({each for one in segments for each in one.seals if each.batch > batch})
    )


def _leave(db: duckdb.DuckDBPyConnection, seal: Seal) -> int:
    """Rows deleted."""
    deleted = [f"delete from {table} where {term}" for table, term in predicates(seal).items()]  # noqa: S608
    return sum(int(db.execute(query).fetchall()[0][0]) for query in deleted)


def discard(folder: Path, segments: Sequence[Segment]) -> None:
    """Remove the files of segments that did not come true."""
    parquet.discard(folder, [name for each in segments for name in each.files])
