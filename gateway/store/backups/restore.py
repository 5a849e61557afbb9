"""Bringing a backup back: everything is read, proven and written beside the old data before one rename decides."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from gateway.store.backups import transplant
from gateway.store.backups.archive import IDENTITY, SETTINGS, Archive, Entry, Progress
from gateway.store.backups.snapshot import HOT_FILE, SEGMENTS, lend
from gateway.store.db import Store
from gateway.store.errors import BackupError
from gateway.store.files import sync_file, sync_folder
from gateway.store.note import LockFile
from gateway.store.schema import SCHEMA
from gateway.store.segments import manifest

SET_UP = (
    "token",
    "token_grant",
    "node_key",
    "zone",
    "device_edit",
    "saved_query",
    "dynamic_tool",
    "broker_login",
    "firmware_key",
)
"""Tables that people filled rather than sensors."""
_SPARE_BYTES = 16 << 20


def data(archive: Archive, folder: Path, *, force: bool, progress: Progress) -> bool:
    """Make this the data folder of the backup; True where older data were moved aside (`force`). BackupError or
    StoreError: nothing changed."""
    _expect_readable(archive)
    with _told(folder), _owned(folder):
        occupied = bool(transplant.occupants(folder))
        if occupied and not force:
            raise BackupError(f"{folder} holds data: choose another folder with --data, or --force to move them aside")
        _expect_room(archive, folder)
        new = _emptied(folder / transplant.NEW)
        try:
            for entry in archive.manifest.entries:
                if entry.name != SETTINGS:
                    _write(archive, entry, new / entry.name, progress)
            _check(archive, new)
            _seal(new)
            transplant.decide(folder)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        transplant.finish(folder)
        return occupied


async def what_people_set_up(archive: Archive, folder: Path, *, force: bool, progress: Progress) -> None:
    """Zones, and with the keys the identity, tokens and nodes' keys, into this data folder; its readings stay."""
    _expect_readable(archive)
    identity = [each for each in archive.manifest.entries if each.name.startswith(IDENTITY)]
    if archive.manifest.keys and (folder / HOT_FILE).exists() and not force:
        raise BackupError(f"{folder} has an identity and tokens: --force replaces them by those of the backup")
    with _told(folder):
        rows = _set_up(archive, folder, progress)
    async with Store(folder) as store:
        await store.write(lambda db: _replace(db, rows))
    if identity:
        _replace_identity(archive, identity, folder, progress)


def settings(archive: Archive, file: Path, *, force: bool) -> bool:
    """Write the settings file; False where it was there like that already. An older one is moved aside by `force`."""
    entry = archive.manifest.find(SETTINGS)
    if entry is None:
        return False
    with _told(file):
        text = b"".join(archive.read(entry))
        if file.exists() and file.read_bytes() == text:
            return False
        expect_settings(archive, file, force=force)
        hidden = file.with_name(f".{file.name}.part")
        hidden.write_bytes(text)
        sync_file(hidden)
        if file.exists():
            shutil.copy2(file, file.with_name(f"{file.name}.{transplant.ASIDE}{_free(file)}"))
        hidden.replace(file)
        sync_folder(file.parent)
    return True


def expect_settings(archive: Archive, file: Path, *, force: bool) -> None:
    """BackupError now where `settings` would refuse later."""
    entry = archive.manifest.find(SETTINGS)
    if entry is not None and not force and file.exists() and file.read_bytes() != b"".join(archive.read(entry)):
        raise BackupError(f"{file} says something else than the backup: move it away, or --force to do so")


def _expect_readable(archive: Archive) -> None:
    if archive.is_locked:
        raise BackupError(f"{archive.place} is encrypted: give its passphrase, as with --passphrase-file")
    if archive.manifest.opens_from > SCHEMA:
        raise BackupError(
            f"{archive.place} was made by version {archive.manifest.version}, whose data (schema "
            f"{archive.manifest.schema_number}) this one does not understand: install that version"
        )


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """No gateway runs here, and none starts meanwhile; a folder that was made for it goes again where that fails."""
    existed = folder.exists()
    lock = LockFile(folder)
    lock.take()
    try:
        transplant.finish(folder)
        yield
    except BaseException:
        if not existed and {each.name for each in folder.iterdir()} <= {transplant.LOCK}:
            shutil.rmtree(folder)
        raise
    finally:
        lock.release()


def _expect_room(archive: Archive, folder: Path) -> None:
    need, free = sum(each.size for each in archive.manifest.entries) + _SPARE_BYTES, shutil.disk_usage(folder).free
    if free < need:
        raise BackupError(f"{folder}: {free >> 20} MB are free, the restore needs {need >> 20} MB: make room")


def _write(archive: Archive, entry: Entry, file: Path, progress: Progress) -> None:
    """Proven and on disk when it returns."""
    private = entry.name.startswith(IDENTITY)
    file.parent.mkdir(mode=0o700 if private else 0o777, exist_ok=True)
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if private else 0o666)
    with os.fdopen(handle, "wb") as stream:
        for piece in archive.read(entry):
            stream.write(piece)
            progress(len(piece))
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def _told(place: Path) -> Iterator[None]:
    """What the system refuses, in one line."""
    try:
        yield
    except OSError as error:
        what = f"{error.filename or place}: {error.strerror}"
        raise BackupError(f"{what}: not restored; make room, or choose another place") from error


def _check(archive: Archive, new: Path) -> None:
    """The hot file opens, and all that it lists is there."""
    try:
        with duckdb.connect(str(new / HOT_FILE), read_only=True) as db:
            listed = manifest.load(db)
    except duckdb.Error as error:
        raise BackupError(f"{archive.place}: {HOT_FILE} cannot be opened ({error}): take another backup") from error
    for name in (name for each in listed for name in each.files):
        if not (new / SEGMENTS / name).exists():
            raise BackupError(f"{archive.place} lacks {SEGMENTS}/{name}: take another backup")
    (new / SEGMENTS).mkdir(exist_ok=True)


def _seal(new: Path) -> None:
    for folder in (new, *(each for each in new.iterdir() if each.is_dir())):
        sync_folder(folder)


def _set_up(archive: Archive, folder: Path, progress: Progress) -> Mapping[str, tuple[list[str], list[Any]]]:
    """What the backup has in the tables that people fill."""
    folder.mkdir(parents=True, exist_ok=True)
    with lend(folder) as place:
        _write(archive, _find(archive, HOT_FILE), place / HOT_FILE, progress)
        return _rows(place / HOT_FILE, SET_UP if archive.manifest.keys else ("zone",))


def _replace_identity(archive: Archive, files: Sequence[Entry], folder: Path, progress: Progress) -> None:
    with _told(folder), _owned(folder):
        new = _emptied(folder / transplant.NEW)
        for entry in files:
            _write(archive, entry, new / entry.name, progress)
        (new / transplant.ONLY).touch()
        _seal(new)
        transplant.decide(folder)
        transplant.finish(folder)


def _rows(hot: Path, tables: Sequence[str]) -> dict[str, tuple[list[str], list[Any]]]:
    """(columns, rows) of some tables of a hot file; what a backup of an older version lacks is empty."""
    found: dict[str, tuple[list[str], list[Any]]] = {}
    with duckdb.connect(str(hot), read_only=True) as db:
        there = {name for (name,) in db.execute("select table_name from duckdb_tables()").fetchall()}
        for table in tables:
            if table not in there:
                found[table] = ([], [])
                continue
            rows = db.execute(f'select * from "{table}"').fetchall()  # noqa: S608 - from the constants above
            found[table] = ([each[0] for each in db.description or ()], [list(row) for row in rows])
    return found


def _replace(db: duckdb.DuckDBPyConnection, rows: Mapping[str, tuple[list[str], list[Any]]]) -> None:
    for table, (columns, values) in rows.items():
        db.execute(f'delete from "{table}"')  # noqa: S608
        if values:
            names, marks = ", ".join(columns), ", ".join("?" * len(columns))
            db.executemany(f'insert into "{table}" ({names}) values ({marks})', values)  # noqa: S608


def _find(archive: Archive, name: str) -> Entry:
    entry = archive.manifest.find(name)
    if entry is None:
        raise BackupError(f"{archive.place} lacks {name}: take another backup")
    return entry


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _free(file: Path) -> int:
    number = 1
    while file.with_name(f"{file.name}.{transplant.ASIDE}{number}").exists():
        number += 1
    return number
