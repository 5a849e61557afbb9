"""What a kill left of a store that keeps house: opened, and compared with what was acknowledged."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

from gateway.store import codes, queries
from gateway.store.codes import USABLE_BELOW
from gateway.store.db import Store
from gateway.store.keeper import Keeper
from gateway.store.segments import merge, parquet
from gateway.store.segments.layout import BUCKET_MS
from gateway.store.segments.merge import Job
from gateway.store.segments.view import View
from gateway.store.types import Event
from tests.store.housekeeper import MARKED, Row, batch, batch_ms, rows

Stored = tuple[str, int, float | None, int]
"""Device, ms, value, quality."""


@dataclass(slots=True)
class Said:
    """What the killed ones said: the last acknowledged batch, batches whose mark was begun and those whose mark was
    done, steps that a kill fell into."""

    acked: int = 0
    begun: set[int] = field(default_factory=set)
    marked: set[int] = field(default_factory=set)
    hit: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


async def look(folder: Path, said: Said, *, catch_up: bool = False) -> list[str]:
    """Open what a kill left behind; what is wrong with it, and after everything that is due was merged."""
    wrong = [*said.wrong, *_bad_copy(folder)]
    async with Store(folder) as store:
        wrong += [f"{event.kind}: {event.message}" for event in await queries.events(store) if not _expected(event)]
        wrong += [f"batches {store.lost_batches} are missing"] if store.lost_batches else []
        last, differences = await _compare(store, said)
        wrong += differences
        newest = {reading.device: codes.to_ms(reading.time) for reading in store.newest().values()}
        wrong += [] if newest == _newest(last) else [f"newest values are {newest}"]
        if last:
            wrong += [line for number in {last, max(1, last - 5)} for line in await _offer_again(store, number)]
        if catch_up:
            await Keeper(store, _After(last), merge=_merge_here).compact()
            wrong += (await _compare(store, said))[1]
        return wrong


def _expected(event: Event) -> bool:
    """A write that was cut off is mended and told of; sealed rows that had been forgotten are something else."""
    return event.kind == "store_repaired" and "sealed" not in event.message


async def _compare(store: Store, said: Said) -> tuple[int, list[str]]:
    """(the last batch that is stored, what is wrong with files, raw readings and rollups)."""
    names, there = {name for each in store.segments for name in each.files}, files(store.folder)
    wrong = [f"{name} is not listed" for name in there - names] + [f"{name} is missing" for name in names - there]
    raw, rolled, brief_from_ms = await store.ask(_everything)
    last, differences = compare(raw, said, brief_from_ms)
    return last, [*wrong, *differences, *rolled_up_wrong(rolled, raw, last, brief_from_ms)]


@dataclass(frozen=True, slots=True)
class _After:
    """A clock that stands after a batch."""

    number: int

    def now(self) -> datetime:
        return codes.from_ms(batch_ms(self.number + 1))

    def trusted(self) -> bool:
        return True


async def _merge_here(job: Job) -> list[tuple[str, str]]:
    return [(each.raw, each.roll) for each in merge.run(json.loads(job.text()))]


async def _offer_again(store: Store, number: int) -> list[str]:
    """A batch that is there already, sealed or not, is known."""
    given = batch(number)
    commit = await store.append(given)
    if (commit.stored, commit.duplicates) == (0, sum(len(message.readings) for message in given)):
        return []
    return [f"batch {number} offered again: {commit.stored} readings stored, {commit.duplicates} known"]


def _everything(view: View) -> tuple[list[Stored], list[tuple[Any, ...]], int]:
    """(raw rows, merged rollups, the moment before which raw readings of `brief` have expired)."""
    named = "(select series_id, device_id from series join sensor using (sensor_id))"
    raw = view.db.execute(
        f"select device_id, epoch_ms(ts), value, quality from {view.raw()} join {named} using (series_id) order by all"
    ).fetchall()
    rolled = view.db.execute(
        f"""select device_id, epoch_ms(bucket), n, bad, min, max, sum, last, last_ms, m2
            from {parquet.merged(view.rollup())} join {named} using (series_id)"""
    ).fetchall()
    brief = view.db.execute(f"select series_id from {named} where device_id = 'brief'").fetchone()
    return raw, rolled, view.raw_from_ms(brief[0]) if brief else 0


def compare(found: Sequence[Stored], said: Said, brief_from_ms: int) -> tuple[int, list[str]]:
    """(the last batch that is stored, differences between what is stored and what was acknowledged)."""
    nodes = sum(row[0] == "node" for row in found)
    last = (
        said.acked + 1 if nodes == len([row for row in _rows(said.acked + 1) if row.device == "node"]) else said.acked
    )
    stored = Counter(row[:3] for row in found)
    wanted = set(_rows(last))
    may_be_gone = {row for row in wanted if row.device == "brief" and row.ms < brief_from_ms}
    lost = [row for row in wanted if row not in stored and row not in may_be_gone]
    doubled = [row for row, count in stored.items() if count > 1]
    strange = [row for row in stored if row not in wanted]
    wrong = [
        f"{len(rows_)} {what}, as {rows_[0]}"
        for what, rows_ in (("lost", lost), ("doubled", doubled), ("in part or never sent", strange))
        if rows_
    ]
    sure, maybe = (_dated(said.marked), _dated(said.begun))
    for device, ms, value, quality in found:
        row = Row(device, ms, value or 0.0)
        if (quality == MARKED and row not in maybe) or (quality != MARKED and row in sure):
            wrong.append(f"{row} has quality {quality}")
            break
    return last, wrong


def _dated(numbers: Iterable[int]) -> set[Row]:
    return {row for number in numbers for row in _rows_of(number) if row.device == "dated"}


def rolled_up_wrong(
    found: Iterable[tuple[Any, ...]], raw: Sequence[Stored], last: int, brief_from_ms: int
) -> list[str]:
    """Rollups that tell other things than the raw readings, or of those that expired than what was sent."""
    gone = [(*row, 0) for row in _rows(last) if row.device == "brief" and row.ms < brief_from_ms]
    whole = [row for row in raw if row[0] != "brief" or row[1] >= brief_from_ms]
    wanted: dict[tuple[str, int], list[Stored]] = {}
    for row in (*gone, *whole):
        wanted.setdefault((row[0], row[1] - row[1] % BUCKET_MS), []).append(row)
    told = {(each[0], each[1]): each[2:] for each in found}
    wrong = [f"rollup of {key} is missing" for key in wanted.keys() - told.keys()]
    wrong += [f"rollup of {key} tells of nothing" for key in told.keys() - wanted.keys()]
    for key in wanted.keys() & told.keys():
        *exact, m2 = bucket(wanted[key])
        if list(told[key][:-1]) != exact or abs((told[key][-1] or 0.0) - (m2 or 0.0)) > 1e-3:
            wrong.append(f"rollup of {key}: {told[key]}, should be {exact} and {m2}")
    return wrong[:3]


def bucket(inside: Sequence[Stored]) -> list[Any]:
    """The rollup of these readings, worked out plainly: n, bad, min, max, sum, last, last_ms, m2."""
    usable = sorted((ms, value) for _, ms, value, quality in inside if value is not None and quality < USABLE_BELOW)
    values = [value for _, value in usable]
    counts = [len(usable), len(inside) - len(usable)]
    if not usable:
        return [*counts, None, None, None, None, None, None]
    mean = sum(values) / len(values)
    m2 = sum((value - mean) ** 2 for value in values)
    return [*counts, min(values), max(values), sum(values), usable[-1][1], usable[-1][0] % BUCKET_MS, m2]


def _rows(last: int) -> list[Row]:
    return [row for number in range(1, last + 1) for row in _rows_of(number)]


@cache
def _rows_of(number: int) -> tuple[Row, ...]:
    return tuple(rows(number))


def _newest(last: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in _rows(last):
        found[row.device] = max(row.ms, found.get(row.device, row.ms))
    return found


def files(folder: Path) -> set[str]:
    return {file.name for file in (folder / "segments").iterdir()}


def _bad_copy(folder: Path) -> list[str]:
    """The good copy is not there, or whole."""
    file = folder / "hot.good.duckdb"
    if not file.exists():
        return []
    try:
        with duckdb.connect(str(file), read_only=True) as db:
            db.execute("select sum(series_id), sum(value) from reading").fetchall()
            db.execute("select count(*), max(segment_id) from segment").fetchall()
    except duckdb.Error as error:
        return [f"{file.name} does not open: {error}"]
    return []
