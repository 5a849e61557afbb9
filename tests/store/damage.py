"""A store whose process ended between two batches: what was acknowledged, and where in its log each batch ends."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.reading import Message
from gateway.store import queries
from gateway.store.db import Store
from gateway.store.engine import Engine
from gateway.store.mend import wal
from gateway.store.mend.incidents import Incidents
from gateway.store.types import Event
from tests.store.builders import local, numbered, reading

FOLDED = 8
"""So many batches are in the file itself, the others in its log."""


def batch(number: int) -> list[Message]:
    """One numbered message and some rows more, from each of which the batch can be told."""
    return [numbered(number, value=float(number)), local(*(reading(float(number), number) for _ in range(4)))]


BATCHES = """
    select batch, min(value), max(value), count(*)
    from (select batch, value from dated union all select batch, value from reading) group by batch order by batch
"""


@dataclass(frozen=True, slots=True)
class Crashed:
    """The files as they lay there, and the length of the log after each batch in it. `start` is where its head ends."""

    folder: Path
    batches: int
    ends: dict[int, int]
    start: int

    @property
    def log(self) -> bytes:
        return (self.folder / "hot.duckdb.wal").read_bytes()

    @property
    def file(self) -> bytes:
        return (self.folder / "hot.duckdb").read_bytes()

    def before(self, offset: int) -> int:
        """The last batch that is whole before this byte of the log."""
        return max((number for number, end in self.ends.items() if end <= offset), default=FOLDED)


@dataclass(frozen=True, slots=True)
class Opened:
    """What a start made of damaged files."""

    stored: list[int]
    events: list[Event]
    lost: tuple[int, int] | None
    left: frozenset[str]

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


async def crash(place: Path, batches: int) -> Crashed:
    """Write so many batches and take the files away from under the open store."""
    ends = {}
    async with Store(place / "live") as store:
        for number in range(1, batches + 1):
            await store.append(batch(number))
            if number == FOLDED:
                await store.checkpoint()
            if number > FOLDED:
                ends[number] = (place / "live" / "hot.duckdb.wal").stat().st_size
        shutil.copytree(place / "live", place / "crashed")
    head = wal.read_head(place / "crashed" / "hot.duckdb")
    assert head is not None
    assert head.iteration is not None
    start = len(wal.Belonging(head.identifier, head.iteration).encode())
    return Crashed(place / "crashed", batches, ends, start)


async def opened(folder: Path) -> Opened:
    """Start on these files, and go on."""
    async with Store(folder) as store:
        found = await stored(store)
        events = await queries.events(store)
        lost = store.lost_batches
        names = frozenset(path.name for path in damaged(folder))
        before = store.batch
        assert (await store.append([local(reading(1.0), timed=False)])).batch == before + 1
    return Opened(found, list(events), lost, names)


def faults(crashed: Crashed, folder: Path, least: int) -> Iterator[str]:
    """Open the files alone, which takes half as long as a start: what is wrong with what is there and what is named.
    At least the batches up to `least` have to be there."""
    engine = Engine(folder, 128, 1)
    engine.lock()
    try:
        engine.connect()
        rows = engine.writer.execute(BATCHES).fetchall()
        mended, noted = engine.mended()
        engine.writer.execute("pragma disable_checkpoint_on_shutdown")
        engine.disconnect()
    finally:
        engine.unlock()
    if any(row[0] != row[1] or row[1] != row[2] or row[3] != 5 for row in rows):
        yield f"a batch in part: {rows}"
    last = len(rows)
    if [row[0] for row in rows] != list(range(1, last + 1)) or last < least:
        yield f"batches {[row[0] for row in rows]} where {least} stand before the damage"
    loss = Incidents().opened("hot", mended, noted, last, None)
    named = None if loss is None else (loss.first_batch, loss.last_batch)
    if named != (None if last == crashed.batches else (last + 1, crashed.batches)):
        yield f"{last} of {crashed.batches} batches are there, named as lost are {named}"


def damaged(folder: Path) -> list[Path]:
    """What was kept aside."""
    return [path for path in folder.iterdir() if ".damaged-" in path.name]


async def stored(store: Store) -> list[int]:
    """Numbers of the batches that are there; whole ones, or the test fails."""
    rows = await store.read(lambda db: db.execute(BATCHES).fetchall())
    assert all(row[0] == row[1] == row[2] and row[3] == 5 for row in rows), f"a batch in part or doubled: {rows}"
    return [row[0] for row in rows]


def laid(crashed: Crashed, folder: Path, *, log: bytes | None = None, file: bytes | None = None) -> Path:
    """The files again in another folder, with another log or file."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(crashed.folder, folder)
    if log is not None:
        (folder / "hot.duckdb.wal").write_bytes(log)
    if file is not None:
        (folder / "hot.duckdb").write_bytes(file)
    return folder
