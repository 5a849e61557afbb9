"""What a second process asks of the store that the gateway holds: a snapshot to back up or export, rows to import."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from drivers.model import Quantity
from gateway.clock import Clock
from gateway.command import Command
from gateway.reading import Message, Reading
from gateway.store import codes
from gateway.store.backups import snapshot
from gateway.store.db import Store
from gateway.store.exchange.rows import Key, Row
from gateway.store.known import Known
from gateway.store.segments.seal import HotChanged
from gateway.store.segments.view import View

MOST_ROWS = 10_000
HOT_ROWS = 500_000
"""What may wait in the hot file before an import has it sealed."""


class TakeSnapshot(Command):
    """Fill the folder of this name within the data folder."""

    command: Literal["take_snapshot"] = "take_snapshot"
    name: str
    keys: bool

    @property
    def target(self) -> str:
        return self.name

    @property
    def detail(self) -> str:
        return "with keys" if self.keys else "without keys"


class BeginImport(Command):
    """Announce an import, for the audit."""

    command: Literal["begin_import"] = "begin_import"
    file: str
    rows: int

    @property
    def target(self) -> str:
        return self.file

    @property
    def detail(self) -> str:
        return f"{self.rows} rows"


class ImportRows(Command):
    """Some rows by columns; `of` points into `keys` (device, sensor, metric, quantity)."""

    command: Literal["import_rows"] = "import_rows"
    keys: list[tuple[str, str, str, Quantity]]
    of: Annotated[list[int], Field(max_length=MOST_ROWS)]
    ms: Annotated[list[int], Field(max_length=MOST_ROWS)]
    values: Annotated[list[float | None], Field(max_length=MOST_ROWS)]
    qualities: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(max_length=MOST_ROWS)]

    @classmethod
    def pack(cls, rows: Sequence[Row]) -> "ImportRows":
        """The command for these rows."""
        at: dict[Key, int] = {}
        of = [at.setdefault(row.key, len(at)) for row in rows]
        ms, values, qualities = [row.ms for row in rows], [row.value for row in rows], [row.quality for row in rows]
        return cls(keys=list(at), of=of, ms=ms, values=values, qualities=qualities)

    def rows(self) -> list[Row]:
        """The inverse of `pack`; ValueError where the columns do not fit together."""
        if len({len(column) for column in (self.of, self.ms, self.values, self.qualities)}) > 1:
            raise ValueError("columns of different lengths: send as many of each")
        if self.of and not 0 <= min(self.of) <= max(self.of) < len(self.keys):
            raise ValueError(f"row of series {max(self.of)} among {len(self.keys)}: point into keys")
        columns = zip(self.ms, self.of, self.values, self.qualities, strict=True)
        return [Row(ms, self.keys[of], value, quality) for ms, of, value, quality in columns]


class EndImport(Command):
    """Make what was imported known to the rest of the house."""

    command: Literal["end_import"] = "end_import"


Errand = TakeSnapshot | BeginImport | ImportRows | EndImport


class Taken(BaseModel):
    """`settings`: the file that the gateway runs with, None where that is unknown."""

    settings: str | None


class Imported(BaseModel):
    """Rows that were stored, that were there already, and that lie where raw readings have expired: nobody can tell
    whether those were there."""

    stored: int = 0
    duplicates: int = 0
    expired: int = 0


class Errands:
    """Runs them on an open store. `seal` empties the hot file of closed hours, `learn` hears of each import's end."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        seal: Callable[[], Awaitable[object]],
        learn: Callable[[], Awaitable[None]],
        settings: Path | None = None,
    ) -> None:
        self._store, self._clock, self._seal, self._learn, self._settings = store, clock, seal, learn, settings

    async def run(self, errand: Errand) -> BaseModel:
        """Do one; StoreError or ValueError say what was wrong."""
        match errand:
            case TakeSnapshot():
                await snapshot.take(self._store, errand.name, self._clock.now(), keys=errand.keys)
                return Taken(settings=str(self._settings) if self._settings else None)
            case ImportRows():
                imported = await take_in(self._store, errand.rows())
                if self._store.known.hot_rows >= HOT_ROWS:
                    with suppress(HotChanged):  # the next rows try again
                        await self._seal()
                return imported
            case EndImport():
                await self._learn()
        return Imported()


async def take_in(store: Store, rows: Sequence[Row]) -> Imported:
    """Store the rows that are not stored yet, neither in hot rows nor in sealed ones."""
    known = store.known
    suspects = {
        at: row
        for at, row in enumerate(rows)
        if row.ms <= known.newest_ms.get(known.series_ids.get(row.key, -1), row.ms - 1)
    }
    there, expired = (
        await store.ask(lambda view: _stored(view, suspects, known.series_ids)) if suspects else (set(), set())
    )
    fresh = [row for at, row in enumerate(rows) if at not in there and at not in expired]
    commit = await store.append(_messages(fresh, known))
    return Imported(stored=commit.stored, duplicates=commit.duplicates + len(there), expired=len(expired))


def _stored(view: View, rows: dict[int, Row], series_ids: dict[Key, int]) -> tuple[set[int], set[int]]:
    """Which of these are stored, and which nobody can tell of."""
    ids = {at: series_ids[row.key] for at, row in rows.items()}
    gone_ms = {one: view.raw_from_ms(one) for one in set(ids.values())}
    expired = {at for at, row in rows.items() if row.ms < gone_ms[ids[at]]}
    asked = [at for at in rows if at not in expired]
    if not asked:
        return set(), expired
    times = [rows[at].ms for at in asked]
    raw = view.raw({ids[at] for at in asked}, min(times), max(times) + 1)
    found = view.db.execute(
        f"""select distinct c.i from (select unnest($1::INTEGER[]) i, unnest($2::INTEGER[]) s,
                make_timestamp_ms(unnest($3::BIGINT[]))::TIMESTAMP_MS t, unnest($4::DOUBLE[]) v) c
            join {raw} r on r.series_id = c.s and r.ts = c.t and r.value is not distinct from c.v""",  # noqa: S608
        [asked, [ids[at] for at in asked], times, [rows[at].value for at in asked]],
    ).fetchall()
    return {at for (at,) in found}, expired


def _messages(rows: Sequence[Row], known: Known) -> list[Message]:
    """Received when the newest reading of their series was: then no row counts as corrected by an older one, and no
    device counts as heard now."""
    heard_ms = {key: known.newest_ms.get(known.series_ids.get(key, -1), 0) for key in {row.key for row in rows}}
    for row in rows:
        heard_ms[row.key] = max(heard_ms[row.key], row.ms)
    heard = {key: codes.from_ms(ms) for key, ms in heard_ms.items()}
    by_sensor: dict[tuple[str, str], list[Reading]] = {}
    time, ms = codes.EPOCH, 0
    for row in rows:
        device, sensor, metric, quantity = row.key
        quality, reason = codes.unpack(row.quality)
        if row.ms != ms:
            time, ms = codes.from_ms(row.ms), row.ms
        reading = Reading(device, sensor, metric, quantity, row.value, time, heard[row.key], quality, reason)
        by_sensor.setdefault((device, sensor), []).append(reading)
    return [Message(*sensor, tuple(readings), timed=True) for sensor, readings in by_sensor.items()]
