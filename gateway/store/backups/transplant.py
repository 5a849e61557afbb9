"""Data of a backup take the place of a folder's own: decided by one rename, then finished by whoever comes next.

The new data are prepared in DATA/.restore-new. Renamed to .restore-ready, they count: `finish` (at the end of a
restore, and at each start before anything is opened) moves the old data aside and the new ones in, and can be cut short
anywhere. All of it happens inside the data folder, which may be a volume of its own that nobody can rename.
"""

import json
import logging
import os
import shutil
from datetime import datetime
from pathlib import Path

import duckdb

from gateway.store import codes
from gateway.store.files import sync_folder

log = logging.getLogger(__name__)

ONLY = ".only"
"""In the prepared folder: nothing moves aside but what has a successor there."""
NEW, READY, MOVING, OLD = ".restore-new", ".restore-ready", ".restore-moving", ".restore-old"
ASIDE = "before-restore-"
LOCK = "hot.lock"
_STAYS = frozenset({LOCK, "control.sock", "broker", NEW, READY, MOVING, OLD})
"""The broker's queue holds messages that no gateway has taken yet."""
IDENTITY = "identity"
SECOND = "%Y-%m-%d %H:%M:%S"
MARK = "snapshot"
"""A setting of every copy that may come back to life: when it was taken, and up to which batch."""


def occupants(data: Path) -> list[Path]:
    """What a restore would put aside."""
    if not data.is_dir():
        return []
    return sorted(each for each in data.iterdir() if each.name not in _STAYS and not _is_apart(each.name))


def decide(data: Path) -> None:
    """What lies prepared counts from now on."""
    sync_folder(data / NEW)
    (data / NEW).rename(data / READY)
    sync_folder(data)


def finish(data: Path) -> bool:
    """Complete what was decided; True where something was. For the owner of the folder's lock."""
    if (data / READY).exists():
        _put_aside(data)
        (data / READY).rename(data / MOVING)
        sync_folder(data)
    found = (data / MOVING).exists()
    if found:
        (data / MOVING / ONLY).unlink(missing_ok=True)
        for each in sorted((data / MOVING).iterdir()):
            each.rename(data / each.name)
        sync_folder(data)
        (data / MOVING).rmdir()
    if (data / OLD).exists():
        _name_aside(data)
    shutil.rmtree(data / NEW, ignore_errors=True)
    return found


def is_copy(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether this hot file comes from a backup and did not say so yet."""
    return bool(db.execute("select 1 from setting where name = ?", [MARK]).fetchall())


def tell(db: duckdb.DuckDBPyConnection, now: datetime) -> None:
    """In the open transaction: an event says what is missing; once."""
    mark = json.loads(db.execute("select value from setting where name = ?", [MARK]).fetchall()[0][0])
    since = codes.from_ms(mark["moment_ms"])
    until = f"{now:{SECOND}} UTC" if now > since else "now (the clock was set back)"
    text = (
        f"this is a backup of {since:{SECOND}} UTC, batch {mark['batch']}: what was stored between then and {until} "
        "is missing, but for what nodes still hold and send again"
    )
    if not mark["keys"]:
        text += "; no token and no node's key was in it: make new ones"
    log.warning("%s", text)
    detail = {"first_batch": mark["batch"] + 1, "after": since.isoformat(), "until": now.isoformat()}
    row = [codes.to_ms(now), "store_restored", text, json.dumps(detail)]
    db.execute("insert into event values (make_timestamp_ms(?), ?, '', ?, ?)", row)
    why = "it came back with a backup: look at what the nodes run before it goes on"
    db.execute("update rollout set course = 'paused', reason = ? where ended is null and course = 'running'", [why])
    db.execute("delete from setting where name = ?", [MARK])


def _put_aside(data: Path) -> None:
    (data / OLD).mkdir(exist_ok=True)
    new, part = {each.name for each in (data / READY).iterdir()}, (data / READY / ONLY).exists()
    for each in occupants(data):
        # A backup without keys leaves the gateway who it is.
        if each.name in new or not (part or each.name == IDENTITY):
            each.rename(data / OLD / each.name)
    note = data / LOCK
    if not part and note.exists() and note.stat().st_size:
        shutil.copy2(note, data / OLD / LOCK)
        os.truncate(note, 0)  # its batch number is the old data's
    sync_folder(data / OLD)
    sync_folder(data)


def _name_aside(data: Path) -> None:
    if not any((data / OLD).iterdir()):
        (data / OLD).rmdir()
        return
    number = 1
    while (aside := data / f"{ASIDE}{number}").exists():
        number += 1
    (data / OLD).rename(aside)
    log.info("%s holds what was there before the restore: remove it when nothing is missing", aside)
    sync_folder(data)


def _is_apart(name: str) -> bool:
    return name.startswith((ASIDE, ".snapshot-"))
