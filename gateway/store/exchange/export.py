"""Readings out of a snapshot into a CSV or Parquet file, in order of time, flat in memory.

Sorting years at once takes more memory than a gateway has: windows of time are sorted one after the other, and the file
is written from those.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from drivers.model import Quality, Reason
from gateway.store import codes
from gateway.store.backups.snapshot import HOT_FILE, SEGMENTS
from gateway.store.errors import TransferError
from gateway.store.files import quoted, sync_file, sync_folder
from gateway.store.segments import manifest
from gateway.store.segments.layout import BUCKET_MS, HOUR_MS
from gateway.store.segments.view import HOT, View

WINDOW_ROWS = 500_000
WINDOW_BUCKETS = 200_000
MEMORY_LIMIT_MB = 128
TIME = "%Y-%m-%dT%H:%M:%S.%gZ"
"""A moment of UTC in a CSV file, for DuckDB's strftime."""
WRITING = 0.7
"""The share of the work that is done when all windows are sorted."""

Fraction = Callable[[float], None]
"""Told how much is done, from 0 to 1."""
Window = tuple[int, int]
"""From and before, in milliseconds."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which readings: None is all. `bucket_ms` wants figures of spans of UTC instead of readings."""

    start: datetime | None = None
    end: datetime | None = None
    device: str | None = None
    metric: str | None = None
    bucket_ms: int | None = None

    @property
    def bounds(self) -> tuple[int | None, int | None]:
        """Start and end in milliseconds."""
        return (
            None if self.start is None else codes.bound_ms(self.start),
            None if self.end is None else codes.bound_ms(self.end),
        )


@dataclass(frozen=True, slots=True)
class Exported:
    """How many rows came out. `expired_until`: from before that moment some readings are kept as rollups only."""

    rows: int
    expired_until: datetime | None


def export(snapshot: Path, file: Path, wanted: Wanted, progress: Fraction) -> Exported:
    """Write what is wanted. The file appears when it is complete; TransferError where that cannot be."""
    expect(file, wanted)
    hidden = file.with_name(f".{file.stem}.part{file.suffix}")
    try:
        with connected(snapshot / HOT_FILE, snapshot / "export.spill") as db:
            view = View(db, manifest.load(db), snapshot / SEGMENTS)
            ids = _series(db, wanted)
            parts = list(_sorted_parts(view, ids, wanted, snapshot / "export", progress))
            rows = _join(db, parts, wanted, hidden)
            gone_ms = max((view.raw_from_ms(one) for one in ids), default=0)
        sync_file(hidden)
        hidden.rename(file)
        sync_folder(file.parent)
    except (duckdb.Error, OSError) as error:
        text = " ".join(str(error).split())[:200]
        raise TransferError(f"{file}: not written ({text}): make room, or name another place") from error
    finally:
        hidden.unlink(missing_ok=True)
        shutil.rmtree(snapshot / "export", ignore_errors=True)
    missing = wanted.bucket_ms is None and gone_ms > (wanted.bounds[0] or 0)
    return Exported(rows, codes.from_ms(gone_ms) if missing else None)


def expect(file: Path, wanted: Wanted) -> None:
    """TransferError now for what cannot be later."""
    form(file)
    if file.exists():
        raise TransferError(f"{file} is there already: name another file, or remove it")
    if not file.parent.is_dir():
        raise TransferError(f"{file.parent}: there is no such folder: make it, or name another file")
    if wanted.bucket_ms is not None and (wanted.bucket_ms <= 0 or wanted.bucket_ms % BUCKET_MS):
        raise TransferError(
            f"a bucket of {wanted.bucket_ms / 60_000:g} minutes: give a multiple of 15 minutes, as in 1h"
        )


def form(file: Path) -> str:
    """How DuckDB writes a file of this name; TransferError where it tells nothing."""
    if file.suffix == ".csv":
        return "format csv, header"
    if file.suffix == ".parquet":
        return "format parquet, compression zstd"
    raise TransferError(f"{file}: name it .csv or .parquet, so that its form is known")


@contextmanager
def connected(database: Path | None, spill: Path | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """An engine of its own, reading this file or none."""
    config: dict[str, Any] = {
        "memory_limit": f"{MEMORY_LIMIT_MB}MB",
        "threads": 2,
        "temp_directory": str(spill or ""),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    with closing(duckdb.connect(str(database or ":memory:"), read_only=database is not None, config=config)) as db:
        db.execute("set TimeZone = 'UTC'")
        yield db


def _series(db: duckdb.DuckDBPyConnection, wanted: Wanted) -> list[int]:
    query = """select series_id from series join sensor using (sensor_id)
        where ($1 is null or device_id = $1) and ($2 is null or metric = $2) order by series_id"""
    ids = [one for (one,) in db.execute(query, [wanted.device, wanted.metric]).fetchall()]
    if not ids:
        what = " and ".join(repr(each) for each in (wanted.device, wanted.metric) if each) or "anything"
        raise TransferError(f"no readings of {what}: leave out --device and --metric to take all")
    return ids


def _sorted_parts(view: View, ids: Sequence[int], wanted: Wanted, folder: Path, progress: Fraction) -> Iterator[Path]:
    """Files that hold one window each, sorted."""
    folder.mkdir()
    windows = _windows(view, ids, wanted) if wanted.bucket_ms is None else _spans(view, ids, wanted, wanted.bucket_ms)
    windows = windows or [(0, 0)]  # nothing at all is a file too
    for number, window in enumerate(windows):
        query = _rows(view, ids, window) if wanted.bucket_ms is None else _buckets(view, ids, window, wanted.bucket_ms)
        part = folder / f"{number}.parquet"
        view.db.execute(f"copy ({query}) to {quoted(part)} (format parquet)")
        yield part
        progress(WRITING * (number + 1) / len(windows))


def _windows(view: View, ids: Sequence[int], wanted: Wanted) -> list[Window]:
    """Whole hours, as many together as WINDOW_ROWS allows."""
    low, high = wanted.bounds
    hours = f"(select epoch_ms(ts) // {HOUR_MS} as hour from {view.raw(ids, low, high)})"  # noqa: S608
    counts = view.db.execute(f"select hour, count(*) from {hours} group by hour order by hour").fetchall()  # noqa: S608
    windows: list[Window] = []
    filled = 0
    for hour, count in counts:
        start = max(hour * HOUR_MS, low if low is not None else hour * HOUR_MS)
        end = min((hour + 1) * HOUR_MS, high if high is not None else (hour + 1) * HOUR_MS)
        if windows and filled + count <= WINDOW_ROWS:
            windows[-1] = (windows[-1][0], end)
            filled += count
        else:
            windows.append((start, end))
            filled = count
    return windows


def _spans(view: View, ids: Sequence[int], wanted: Wanted, width_ms: int) -> list[Window]:
    """Whole buckets, as many together as WINDOW_BUCKETS allows."""
    row = view.db.execute(f"select epoch_ms(min(ts)), epoch_ms(max(ts)) from {HOT}").fetchall()[0]  # noqa: S608
    ends = [each for each in row if each is not None]
    ends += [each for one in view.segments for each in (one.first_ms, one.last_ms)]
    if not ends:
        return []
    low, high = wanted.bounds
    first = max(min(ends), low if low is not None else min(ends)) // width_ms * width_ms
    last = min(max(ends) + 1, high if high is not None else max(ends) + 1)
    step = max(width_ms, WINDOW_BUCKETS // len(ids) * BUCKET_MS // width_ms * width_ms)
    return [
        (max(start, low if low is not None else start), min(start + step, last)) for start in range(first, last, step)
    ]


def _rows(view: View, ids: Sequence[int], window: Window) -> str:
    return f"select * from {view.raw(ids, *window)} order by ts, series_id, value nulls first, quality"  # noqa: S608


def _buckets(view: View, ids: Sequence[int], window: Window, width_ms: int) -> str:
    return f"""select make_timestamp_ms(start_ms)::TIMESTAMP_MS as start, series_id, sum(r.n)::BIGINT as n,
        sum(uncertain)::BIGINT as uncertain, sum(bad)::BIGINT as bad, min(min) as min,
        sum(sum) / nullif(sum(r.n), 0) as mean, max(max) as max,
        (max({{'ms': bucket_ms + last_ms, 'value': last}}) filter (where r.n > 0)).value as last
        from (select *, epoch_ms(bucket) as bucket_ms, bucket_ms - bucket_ms % {width_ms} as start_ms
              from {view.rollup(ids, *window)}) r
        group by start_ms, series_id order by start_ms, series_id"""  # noqa: S608


def _join(db: duckdb.DuckDBPyConnection, parts: Sequence[Path], wanted: Wanted, file: Path) -> int:
    """The parts in their order, with names instead of numbers; how many rows."""
    target = form(file)
    moment = "{}" if file.suffix == ".parquet" else f"strftime({{}}::TIMESTAMP, '{TIME}')"
    if wanted.bucket_ms is None:
        qualities = ", ".join(f"'{each}'" for each in Quality)
        reasons = " ".join(f"when {each.value} then '{each}'" for each in Reason if each is not Reason.NONE)
        columns = f"""{moment.format("r.ts")} as time, n.device_id as device, n.sensor, s.metric, s.quantity, r.value,
            s.unit, [{qualities}][(r.quality >> 6) + 1] as quality,
            case r.quality & 63 when 0 then null {reasons} else '{Reason.UNSPECIFIED}' end as reason"""
    else:
        columns = f"""{moment.format("r.start")} as start, n.device_id as device, n.sensor, s.metric, s.quantity,
            s.unit, r.n, r.uncertain, r.bad, r.min, r.mean, r.max, r.last"""
    source = f"read_parquet([{', '.join(map(quoted, parts))}])"
    db.execute("set threads = 1")  # with more, a join does not keep the order
    query = f"select {columns} from {source} r join series s using (series_id) join sensor n using (sensor_id)"  # noqa: S608
    return int(db.execute(f"copy ({query}) to {quoted(file)} ({target})").fetchall()[0][0])
