"""What to do where the list of segments and the files on disk differ: at each start.

A file that is not listed is one of three things: what a crash left (its rows are still hot, or its parts still listed),
what a later segment replaced, or, where the hot file is an older copy, a segment from after that copy.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from gateway.store import codes
from gateway.store.segments import parquet
from gateway.store.segments.layout import Segment


@dataclass(frozen=True, slots=True)
class Found:
    """`adopt` is on disk only and counts; `drop` is listed and does not count any more, of these `missing` are gone
    or damaged with nothing in their place; `stale` are files that nobody needs, `strange` those nobody understands."""

    adopt: tuple[Segment, ...]
    drop: tuple[Segment, ...]
    missing: tuple[Segment, ...]
    stale: tuple[str, ...]
    strange: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether the list has to change."""
        return bool(self.adopt or self.drop)

    def events(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """(kind, words, detail) of what somebody should know."""
        for each in self.missing:
            detail = {"files": each.files, "rows": each.rows, "first_ms": each.first_ms, "last_ms": each.last_ms}
            yield "store_loss", f"{_range(each)}: {each.rows} sealed readings are missing or damaged on disk", detail
        for each in self.adopt:
            text = f"{_range(each)}: {each.rows} sealed readings were found that the hot file did not know"
            yield "store_repaired", text, {"files": each.files, "rows": each.rows}
        for name in self.strange:
            yield "store_loss", f"{name} cannot be read as a segment: put aside as {name}.damaged", {"file": name}


def look(db: duckdb.DuckDBPyConnection, folder: Path, listed: Sequence[Segment], batch: int) -> Found:
    """Compare; `batch` is the last one that the hot file knows. Only files that are not listed are opened."""
    sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    unlisted, strange = _unlisted(db, folder, listed, sizes)
    found = decide(listed, unlisted, sizes, batch)
    damaged = [name for each in found.missing for name in each.files if name in sizes]
    return Found(found.adopt, found.drop, found.missing, found.stale, (*strange, *damaged))


def decide(listed: Sequence[Segment], unlisted: Sequence[Segment], sizes: Mapping[str, int], batch: int) -> Found:
    """`sizes` are the bytes of the files that exist. Pure."""
    intact = {each.segment_id for each in listed if _intact(each, sizes)}
    replaced = {number for each in listed if each.segment_id in intact for number in _before(each)}
    adopt: list[Segment] = []
    for each in sorted(unlisted, key=lambda one: -one.segment_id):
        if each.segment_id not in replaced:
            if not _needed(each, intact, batch):
                continue
            adopt.append(each)
        replaced.update(_before(each))  # also what a replaced one had replaced, where a reader kept that from going
    drop = [each for each in listed if each.segment_id in replaced or each.segment_id not in intact]
    missing = [each for each in drop if each.segment_id not in replaced]
    kept = {each.segment_id for each in adopt}
    stale = [name for each in unlisted if each.segment_id not in kept for name in each.files]
    stale += [name for each in drop if each.segment_id in replaced for name in each.files if name in sizes]
    return Found(tuple(reversed(adopt)), tuple(drop), tuple(missing), tuple(stale))


def put_aside(folder: Path, found: Found) -> None:
    """Before the list changes: what nobody understands gets a name that nobody removes."""
    for name in found.strange:
        (folder / name).rename(folder / f"{name}.damaged")


def tidy(folder: Path, found: Found) -> None:
    """After the list is right on disk: stale files and unfinished ones go."""
    parquet.discard(folder, found.stale)
    for file in folder.glob(f".*{parquet.PART}"):
        file.unlink()


def _unlisted(
    db: duckdb.DuckDBPyConnection, folder: Path, listed: Sequence[Segment], sizes: Mapping[str, int]
) -> tuple[list[Segment], list[str]]:
    """(segments on disk that are not listed, names of files that cannot be read as one)."""
    known, ids = {name for each in listed for name in each.files}, {each.segment_id for each in listed}
    stems: dict[int, dict[str, str]] = {}
    strange = []
    for name in sorted(sizes):
        match = parquet.NAME.fullmatch(name)
        if match is None or name in known:
            continue
        if int(match[1]) in ids:
            strange.append(name)
        else:
            stems.setdefault(int(match[1]), {})[match[3]] = name
    found = []
    for names in stems.values():
        try:
            found.append(parquet.inspect(db, folder, names.get("raw", ""), names.get("roll", "")))
        except (duckdb.Error, ValueError, KeyError):
            strange += names.values()
    return found, strange


def _before(segment: Segment) -> tuple[int, ...]:
    return (*segment.replaces, *segment.ancestors)


def _needed(orphan: Segment, intact: Collection[int], batch: int) -> bool:
    """A merged one whose parts are not all there any more; a sealed one that the hot file never heard of."""
    if orphan.replaces:
        return not set(orphan.replaces) <= set(intact)
    return any(seal.batch > batch for seal in orphan.seals)


def _intact(segment: Segment, sizes: Mapping[str, int]) -> bool:
    wanted = ((segment.raw, segment.raw_bytes), (segment.roll, segment.roll_bytes))
    return all(sizes.get(name) == size for name, size in wanted if name)


def _range(segment: Segment) -> str:
    first, last = codes.from_ms(segment.first_ms), codes.from_ms(segment.last_ms)
    return f"{first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC"
