"""What the query worker sees, made in the gateway: copies in memory files, and open segments, as descriptors.

Nothing touches the medium: the store writes its hot rows and small tables as Parquet into memory files (memfd), which
are sealed against writing before anybody else gets them. The secrets' tables are not named here, so they never leave.
"""

import fcntl
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.jail.handed import PREFIX
from gateway.store import views
from gateway.store.cells import of_readings, of_rollups
from gateway.store.db import Store
from gateway.store.files import quoted
from gateway.store.segments import parquet
from gateway.store.segments.layout import Segment
from gateway.store.segments.view import HOT, View

MAX_EVENTS = 20_000
_SMALL = {
    "device": "select * from device",
    "sensor": "select * from sensor",
    "series": "select * from series",
    "zone": "select * from zone",
    "event": f"select * from event order by time desc limit {MAX_EVENTS}",  # noqa: S608
}
_HOT_SINCE = """(select series_id, ts, value, quality, batch from dated where batch > {since}
    union all select series_id, ts, value, quality, batch from reading where batch > {since})"""
_UNCHANGEABLE = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class TooMuch(ValueError):
    """More hot rows than a worker may hold; one line."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What a worker has: the store's version, hot rows of the batches up to `batch`, and how many rows those were."""

    version: tuple[int, int]
    batch: int
    rows: int
    undated: int

    @property
    def counts(self) -> tuple[int, int]:
        """Dated and undated rows."""
        return self.rows, self.undated

    @property
    def token(self) -> str:
        """Names this state in questions, so that a worker that has another one says so."""
        return "-".join(map(str, (*self.version, self.batch, self.rows, self.undated)))


@dataclass(slots=True)
class Load:
    """What has to be handed over. `descriptors` are owned by this until `close`; they go by the names of their tables,
    `segments` by those that `files` gives them."""

    sent: Sent
    before: Sent | None = None
    segments: tuple[Segment, ...] = ()
    views: dict[str, str] = field(default_factory=dict)
    descriptors: dict[str, int] = field(default_factory=dict)

    @property
    def question(self) -> dict[str, Any]:
        """The worker's `load`."""
        return {
            "do": "load",
            "state": self.sent.token,
            "after": self.before.token if self.before else None,
            "segments": list(files(self.segments)),
            "views": list(self.views.items()),
            "public": [name for name in self.views if name not in views.HIDDEN],
        }

    def close(self) -> None:
        """Give the memory files back; whoever got a descriptor has its own."""
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        self.descriptors.clear()


async def look(store: Store, before: Sent | None, most_rows: int) -> Load:
    """What a worker needs that was told `before` (None: nothing). TooMuch where the hot file is too long for it."""
    version = store.version  # asked first: what is seen then may be newer, and is sent again
    return await store.ask(lambda view: _look(store, view, version, before, most_rows))


def _look(store: Store, view: View, version: tuple[int, int], before: Sent | None, most_rows: int) -> Load:
    if before is not None and (store.version[0] != before.version[0] or _counts(view, before.batch) != before.counts):
        before = None
    since = before.batch if before else -1
    hot = _HOT_SINCE.format(since=since)
    found = view.db.execute(f"select count(*), max(batch) from {hot}").fetchall()[0]  # noqa: S608
    batch = since if found[1] is None else int(found[1])
    rows, undated = _counts(view, batch)
    if rows + undated > most_rows:
        raise TooMuch(f"{rows + undated} readings wait to be sealed, {most_rows} can be asked for: ask again later")
    load = Load(Sent(version, batch, rows, undated), before, segments=view.segments)
    try:
        if found[0] or before is None:
            load.descriptors["dated"] = _copied(view, f"select series_id, ts, value, quality from {hot}")  # noqa: S608
        if before is None or version != before.version:
            for name, query in _SMALL.items():
                load.descriptors[name] = _copied(view, query)
            load.views = _views(store, view)
    except BaseException:
        load.close()
        raise
    return load


def _counts(view: View, batch: int) -> tuple[int, int]:
    """Hot rows of the batches up to this one: dated, and undated. Other numbers than before: some moved or went."""
    query = "select (select count(*) from dated where batch <= $1), (select count(*) from reading where batch <= $1)"
    dated, undated = view.db.execute(query, [batch]).fetchall()[0]
    return int(dated), int(undated)


def _copied(view: View, query: str) -> int:
    """The answer as a Parquet file in memory that nobody can change: its descriptor."""
    descriptor = os.memfd_create("ambient", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        target = quoted(f"/proc/self/fd/{descriptor}")
        view.db.execute(f"copy ({query}) to {target} (format parquet, compression lz4_raw, use_tmp_file false)")
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _UNCHANGEABLE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _views(store: Store, view: View) -> dict[str, str]:
    """The store's views, over what was handed over instead of files."""
    types = views.type_metrics(store.known.sensors.values(), store.known.series.values())
    made = views.definitions(types, View(view.db, (), view.folder))
    bare = [_raw(each) for each in view.segments if each.raw and not each.roll]
    raws = [_raw(each) for each in view.segments if each.raw]
    rolls = [_roll(each) for each in view.segments if each.roll]
    cells = [of_readings(_union([HOT, *_scans(bare, parquet.RAW_COLUMNS)]))]
    cells += [of_rollups(scan) for scan in _scans(rolls, parquet.ROLL_COLUMNS)]
    made[views.READINGS] = f"select * from {_union([HOT, *_scans(raws, parquet.RAW_COLUMNS)])}"  # noqa: S608
    made[views.CELLS] = f"select * from {parquet.union(cells)}"  # noqa: S608
    return made


def _scans(names: Sequence[str], columns: str) -> list[str]:
    if not names:
        return []
    files = ", ".join(quoted(PREFIX + name) for name in names)
    return [f"(select {columns} from read_parquet([{files}]))"]  # noqa: S608 - our own names


def _union(parts: Sequence[str]) -> str:
    return parquet.union([f"(select series_id, ts, value, quality from {part})" for part in parts])  # noqa: S608


def files(segments: Sequence[Segment]) -> dict[str, str]:
    """The files of these by the names they are handed over under, which say what is in them: the engine remembers
    of a name what it has read there."""
    raws = {_raw(each): each.raw for each in segments if each.raw}
    return raws | {_roll(each): each.roll for each in segments if each.roll}


def open_segments(folder: Path, files: Mapping[str, str]) -> dict[str, int]:
    """Open these files for reading. FileNotFoundError (and none is open) where one has been replaced meanwhile."""
    opened: dict[str, int] = {}
    try:
        for name, file in files.items():
            opened[name] = os.open(folder / file, os.O_RDONLY | os.O_CLOEXEC)
    except BaseException:
        for descriptor in opened.values():
            os.close(descriptor)
        raise
    return opened


def _raw(segment: Segment) -> str:
    return f"{segment.raw_sha256[:16]}-{segment.raw}"


def _roll(segment: Segment) -> str:
    return f"{segment.roll_sha256[:16]}-{segment.roll}"
