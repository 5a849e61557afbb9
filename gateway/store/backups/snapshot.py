"""One moment of the store in a folder of its own: what backups and exports are made of while the gateway goes on.

Whoever wants one lends a folder within the data folder (`lend`); the process that has the store open fills it (`take`)
with a copy of the hot file and links to the segments of the same moment, in seconds and without a copy of history.
Reading them, which takes long, needs no store. What a killed process leaves of it is removed by the next one.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from gateway.store import codes
from gateway.store.backups.transplant import MARK
from gateway.store.db import Store
from gateway.store.errors import BackupError
from gateway.store.files import quoted
from gateway.store.known import Known
from gateway.store.segments import manifest
from gateway.store.segments.layout import Segment

PREFIX = ".snapshot-"
NAME = re.compile(re.escape(PREFIX) + r"[A-Za-z0-9_]+")
HOT_FILE, SEGMENTS = "hot.duckdb", "segments"
SPARE_BYTES = 16 << 20
KEYS = ("token", "token_grant", "node_key", "broker_login", "firmware_key", "audit")
"""Tables whose rows let somebody in, or tell who may: they leave the house under a passphrase only."""
_NO_LINKS = {errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What lies in such a folder. `moment` is when it was taken, `batch` the last one in it; data of this `schema`
    may be written by a gateway that knows the schema `opens_from`."""

    folder: Path
    moment: datetime
    batch: int
    readings: int
    schema: int
    opens_from: int
    segments: tuple[Segment, ...]


@contextmanager
def lend(data: Path) -> Iterator[Path]:
    """An empty folder within the data folder, until left. Give its name to `take`."""
    try:
        with _alone(data):
            _sweep(data)
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=data))
            handle = _hold(folder)
        if os.geteuid() == 0:  # the gateway, which fills it, may be somebody else
            owner = data.stat()
            os.chown(folder, owner.st_uid, owner.st_gid)
    except OSError as error:
        raise BackupError(f"{data}: {error.strerror}: run this as the gateway's user, or with sudo") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


async def take(store: Store, name: str, now: datetime, *, keys: bool) -> None:
    """Fill the folder of this name in the data folder; without `keys` the tables that hold some stay empty."""
    folder = store.folder / name
    if NAME.fullmatch(name) is None or not folder.is_dir():
        raise BackupError(f"{folder} is not a folder for a snapshot: name one that `lend` made")
    _expect_room(store.folder)
    moment_ms = codes.to_ms(now)

    def fill(db: duckdb.DuckDBPyConnection, segments: tuple[Segment, ...]) -> None:
        _copy_hot(db, folder / HOT_FILE, moment_ms, keys=keys)
        (folder / SEGMENTS).mkdir()
        for file in (file for each in segments for file in each.files):
            _link(store.segments_folder / file, folder / SEGMENTS / file)

    await store.work(lambda view: fill(view.db, view.segments))


def look(folder: Path) -> Snapshot:
    """What was taken; BackupError where the copy of the hot file is not whole."""
    try:
        with duckdb.connect(str(folder / HOT_FILE), read_only=True) as db:
            told = dict(db.execute("select name, value from setting").fetchall())
            schema, opens_from = db.execute("select max(number), max(opens_from) from migration").fetchall()[0]
            mark = json.loads(told[MARK])
            segments = manifest.load(db)
            readings = Known.load(db, segments).hot_rows + sum(each.rows for each in segments)
            moment = codes.from_ms(mark["moment_ms"])
            return Snapshot(folder, moment, mark["batch"], readings, schema, opens_from, segments)
    except (duckdb.Error, KeyError) as error:
        raise BackupError(f"{folder / HOT_FILE}: the copy is not whole ({error}): try again") from error


def _copy_hot(db: duckdb.DuckDBPyConnection, file: Path, moment_ms: int, *, keys: bool) -> None:
    """Within the read transaction of `db`: its tables, but no view, for views name files of this folder."""
    tables = db.execute(
        "select table_name, sql from duckdb_tables() where database_name = current_database()"
    ).fetchall()
    (hot,) = db.execute("select current_database()").fetchall()[0]
    batch = Known.load(db).batch
    db.execute(f"attach {quoted(file)} as snapshot")
    try:
        db.execute("use snapshot")
        for table, sql in tables:
            db.execute(sql)
            if keys or table not in KEYS:
                db.execute(f'insert into snapshot."{table}" select * from "{hot}"."{table}"')  # noqa: S608 - from the catalog
        db.execute("delete from setting where name in ('views', ?)", [MARK])
        mark = json.dumps({"moment_ms": moment_ms, "batch": batch, "keys": keys})
        db.execute("insert into setting values (?, ?)", [MARK, mark])
        db.execute("commit")
        db.execute("checkpoint snapshot")
    finally:
        with suppress(duckdb.Error):
            db.execute("rollback")
        db.execute(f'use "{hot}"')
        db.execute("detach snapshot")


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, target)


def _expect_room(data: Path) -> None:
    """A medium that becomes full meanwhile would take the open store with it."""
    need = sum(file.stat().st_size for file in data.glob(f"{HOT_FILE}*")) + SPARE_BYTES
    free = shutil.disk_usage(data).free
    if free < need:
        raise BackupError(f"{data}: {free >> 20} MB are free, a snapshot may take {need >> 20} MB: make room")


def _sweep(data: Path) -> None:
    """Remove folders whose lender has died."""
    for folder in data.glob(f"{PREFIX}*"):
        try:
            handle = _hold(folder)
        except OSError:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


@contextmanager
def _alone(data: Path) -> Iterator[None]:
    """A folder that was just made must not look like one whose lender has died."""
    handle = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _hold(folder: Path) -> int:
    """Lock a folder as long as the handle is open; OSError where somebody else does."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle
