"""What befell the data files, as events. They are kept in memory until they can be written: a full medium is one."""

import json
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb

from gateway.store import codes
from gateway.store.mend.repair import Mended
from gateway.store.note import Note
from gateway.store.types import Event

log = logging.getLogger(__name__)

UNTOLD_EVENTS = 50
MINUTE = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True, slots=True)
class Loss:
    """Batches (both included) that were committed once and are gone, and between which times they were received."""

    first_batch: int
    last_batch: int
    after: datetime | None
    until: datetime | None


class Incidents:
    """Owned by the writer thread."""

    def __init__(self) -> None:
        self._untold: deque[Event] = deque(maxlen=UNTOLD_EVENTS)
        self._full_since: datetime | None = None

    @property
    def untold(self) -> tuple[Event, ...]:
        """Events that are not written yet, the oldest first."""
        return tuple(self._untold)

    @property
    def is_full(self) -> bool:
        """The last batch found no room."""
        return self._full_since is not None

    def opened(
        self, file: str, mended: Sequence[Mended], noted: Note, batch: int, newest: datetime | None
    ) -> Loss | None:
        """The file is open again up to this batch, whose readings were received up to `newest`: compare that with what
        was noted, and with what was mended on the way. A copy that turns out to hold nothing is removed."""
        loss = _loss(mended, noted, batch, newest)
        lossy = loss is not None or any(each.lossy for each in mended)
        kept = [path for each in mended if lossy or not each.spare for path in each.kept]
        for path in (path for each in mended for path in each.kept if path not in kept):
            path.unlink(missing_ok=True)
        if not lossy and not mended:
            return None
        parts = [each.what for each in mended] or [
            "its medium lies about writes, or an older copy was put in its place"
        ]
        detail: dict[str, object] = {"repairs": [each.what for each in mended], "kept": [path.name for path in kept]}
        if loss is not None:
            words, more = _told(loss)
            parts.insert(0, f"{file} lost {words}, which were committed once")
            detail |= more
        elif lossy:
            parts.insert(
                0, f"{file} lost some of what was committed" + (f" after {newest:{MINUTE}} UTC" if newest else "")
            )
        if kept:
            parts.append(f"kept: {', '.join(path.name for path in kept)}")
        self._tell("store_loss" if lossy else "store_repaired", "; ".join(parts), detail)
        return loss

    def full(self, text: str) -> None:
        """A batch found no room; told once, until one finds room again."""
        if self._full_since is None:
            self._full_since = datetime.now(UTC)
            self._tell("store_full", f"{text}; readings wait in memory and in the broker", {})

    def stored(self) -> None:
        """A batch was stored."""
        if self._full_since is not None:
            waited = datetime.now(UTC) - self._full_since
            self._full_since = None
            self._tell(
                "store_room", f"there is room again: batches are stored after {waited.total_seconds():.0f} s", {}
            )

    def write(self, db: duckdb.DuckDBPyConnection) -> None:
        """Everything untold, into the open transaction; `written` after its COMMIT."""
        for event in self._untold:
            row = [codes.to_ms(event.time), event.kind, event.device, event.message, json.dumps(event.detail)]
            db.execute("insert into event values (make_timestamp_ms(?), ?, ?, ?, ?)", row)

    def written(self, events: Sequence[Event]) -> None:
        for event in events:
            with suppress(ValueError):
                self._untold.remove(event)

    def _tell(self, kind: str, message: str, detail: dict[str, object]) -> None:
        (log.info if kind == "store_room" else log.error)("%s", message)
        self._untold.append(Event(datetime.now(UTC), kind, "", message, detail))


def _loss(mended: Sequence[Mended], noted: Note, batch: int, newest: datetime | None) -> Loss | None:
    """The note may be some seconds old after a power cut; what stood behind the damage is counted in the log itself."""
    beyond = sum(each.beyond for each in mended)
    last = max(noted.batch, batch + beyond)
    if last <= batch:
        return None
    until_ms = noted.commit_ms if noted.batch > batch else 0
    if beyond:
        with suppress(OSError):
            written = [path.stat().st_mtime for each in mended if each.beyond for path in each.kept]
            until_ms = max(until_ms, *(int(time * 1000) for time in written))
    return Loss(batch + 1, last, newest, codes.from_ms(until_ms) if until_ms else None)


def _told(loss: Loss) -> tuple[str, dict[str, object]]:
    """In words, and as the detail of an event."""
    words = f"batches {loss.first_batch} to {loss.last_batch}"
    if loss.after is not None:
        words += f", received after {loss.after:{MINUTE}}" + (
            f" and committed until {loss.until:{MINUTE}} UTC" if loss.until is not None else " UTC"
        )
    detail: dict[str, object] = {"first_batch": loss.first_batch, "last_batch": loss.last_batch}
    for name, time in (("after", loss.after), ("until", loss.until)):
        if time is not None:
            detail[name] = time.isoformat()
    return words, detail
