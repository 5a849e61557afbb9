"""Several segments become one, in a process of its own at idle priority: the gateway keeps its memory and its pace.

`python -m gateway.store.segments.merge` reads one Job as JSON from its standard input and prints the names of what it
wrote, one segment a line. Nothing it writes counts before the gateway lists it.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import duckdb

from gateway.child import die_with_parent, yield_the_medium
from gateway.store.segments import parquet
from gateway.store.segments.layout import ANCESTORS, Level, Seal, Segment, minimal
from gateway.store.segments.parquet import Draft

PART_ROWS = 1_000_000
"""A month of more rows becomes several files by series, so that sorting one fits into memory."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to make of `inputs`. Of the series in `drop` nothing is kept. Of those in `expire` (None: of all) the raw
    readings go and their rollups stay. `marks` are (series, start ms, end ms, quality byte): readings of that range
    get this quality. Segment numbers from `next_id` on are free."""

    folder: str
    memory_mb: int
    level: Level
    next_id: int
    now_ms: int
    inputs: tuple[Segment, ...]
    drop: tuple[int, ...] = ()
    expire: tuple[int, ...] | None = ()
    marks: tuple[tuple[int, int, int, int], ...] = ()

    def text(self) -> str:
        """As one line of JSON; what `run` takes."""
        wanted = ("segment_id", "raw", "roll", "expired", "replaces", "ancestors")
        told = {name: getattr(self, name) for name in self.__dataclass_fields__} | {
            "parent": os.getpid(),
            "level": int(self.level),
            "inputs": [{name: getattr(each, name) for name in wanted} for each in self.inputs],
            "seals": [astuple(seal) for seal in minimal(seal for each in self.inputs for seal in each.seals)],
        }
        return json.dumps(told)


def run(job: Mapping[str, Any]) -> list[Segment]:
    """Do it; the segments in order of their series."""
    folder = Path(job["folder"])
    config: dict[str, Any] = {
        "memory_limit": f"{job['memory_mb']}MB",
        "threads": 1,
        "temp_directory": str(folder / "merge.spill"),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    with duckdb.connect(config=config) as db:
        db.execute("set TimeZone = 'UTC'")
        raw, partials, expired = _sources(folder, job)
        before = sorted({one for each in job["inputs"] for one in (*each["replaces"], *each["ancestors"])})
        made: list[Segment] = []
        for low, high in _parts(db, [each for each in (raw, partials) if each]):
            within = f"where series_id between {low} and {high}"
            draft = Draft(
                job["next_id"] + len(made),
                Level(job["level"]),
                job["now_ms"],
                tuple(Seal(*seal) for seal in job["seals"]),
                f"(select * from {raw} {within})" if raw else None,  # noqa: S608
                f"(select * from {partials} {within})" if partials else None,  # noqa: S608
                tuple(each["segment_id"] for each in job["inputs"]),
                tuple(each for each in expired if low <= each <= high),
                tuple(before[-ANCESTORS:]),
            )
            segment = parquet.write(db, folder, draft)
            made += [segment] if segment is not None else []
        return made


def _sources(folder: Path, job: Mapping[str, Any]) -> tuple[str | None, str | None, Sequence[int]]:
    """(SQL of the raw rows that stay, SQL of the rollups where raw rows are not everything, series that miss some).

    Of a series that has expired in a segment its rollup file tells everything, also of raw rows that came in later.
    """
    inputs, expire = job["inputs"], job["expire"]
    kept = [f"series_id not in ({_list(job['drop'])})"] if job["drop"] else []
    columns = _marked(job["marks"])
    raws, partials, told = [], [], []
    for each in inputs:
        if each["raw"]:
            rows = parquet.scan(folder, [each["raw"]], columns)
            raws.append(_filtered(rows, kept))
            missing = [f"series_id not in ({_list(each['expired'])})"] if each["expired"] else []
            told.append(_filtered(rows, [*kept, *missing]))
        if each["roll"] and (each["expired"] or not each["raw"]):
            terms = [*kept, f"series_id in ({_list(each['expired'])})"] if each["raw"] else kept
            partials.append(_filtered(parquet.scan(folder, [each["roll"]], parquet.ROLL_COLUMNS), terms))
    raw = parquet.union(raws) if raws else None
    expired = sorted({one for each in inputs for one in each["expired"]} | set(expire or ()))
    if not partials and not expired and expire is not None:
        return raw, None, ()
    if told:
        partials.append(f"(select {parquet.ROLL_COLUMNS} from {parquet.rollup_of(parquet.union(told))})")  # noqa: S608
    if raw is None or expire is None:
        return None, parquet.union(partials), ()
    fresh = [f"series_id not in ({_list(expire)})"] if expire else []
    return _filtered(raw, fresh), parquet.union(partials), expired


def _marked(marks: Iterable[tuple[int, int, int, int]]) -> str:
    """The raw columns with corrected qualities."""
    cases = "".join(
        f" when series_id = {one} and ts >= make_timestamp_ms({start}) and ts < make_timestamp_ms({end}) then {quality}"
        for one, start, end, quality in marks
    )
    return (
        f"series_id, ts, value, (case{cases} else quality end)::UTINYINT as quality" if cases else parquet.RAW_COLUMNS
    )


def _parts(db: duckdb.DuckDBPyConnection, sources: Sequence[str]) -> list[tuple[int, int]]:
    """Ranges of series (both included) of at most PART_ROWS rows, a larger series by itself."""
    rows = parquet.union([f"(select series_id from {source})" for source in sources])  # noqa: S608
    counts = db.execute(f"select series_id, count(*) from {rows} group by series_id order by series_id").fetchall()  # noqa: S608
    parts: list[tuple[int, int]] = []
    filled = 0
    for series_id, count in counts:
        if parts and filled + count <= PART_ROWS:
            parts[-1] = (parts[-1][0], series_id)
            filled += count
        else:
            parts.append((series_id, series_id))
            filled = count
    return parts


def _filtered(rows: str, terms: Sequence[str]) -> str:
    return f"(select * from {rows} where {' and '.join(terms)})" if terms else rows  # noqa: S608


def _list(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _step_back() -> None:
    """Whatever else wants the processor or the medium goes first."""
    os.nice(19)
    yield_the_medium()


def main() -> int:
    """0 and lines of [raw, roll] names, or 1 and a line on standard error."""
    job = json.loads(sys.stdin.readline())
    die_with_parent(job["parent"])
    _step_back()
    try:
        made = run(job)
    except (duckdb.Error, OSError) as error:
        print(" ".join(str(error).split())[:400], file=sys.stderr)  # noqa: T201
        return 1
    for each in made:
        print(json.dumps([each.raw, each.roll]))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
