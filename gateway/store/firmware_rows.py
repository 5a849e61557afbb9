"""Firmware that nodes can be given, and whose signatures count: tables `firmware` and `firmware_key`. The files
themselves are not the store's."""

from dataclasses import dataclass
from datetime import datetime

from gateway.store import codes
from gateway.store.db import Connection, Store


@dataclass(frozen=True, slots=True)
class FirmwareKey:
    """A public key (64 hexadecimal digits) whose bundles are taken."""

    key: str
    name: str
    added: datetime
    added_by: str


@dataclass(frozen=True, slots=True)
class FirmwareRow:
    """A bundle, known by the SHA-256 of its manifest (`digest`); `manifest` is that text, `signed_by` a key."""

    digest: str
    version: str
    boards: tuple[str, ...]
    kind: str
    size_bytes: int
    mpy: int | None
    created: datetime
    added: datetime
    added_by: str
    signed_by: str
    manifest: str


async def save_key(store: Store, row: FirmwareKey) -> None:
    """Insert or replace a key."""

    def change(db: Connection) -> None:
        db.execute("delete from firmware_key where key = ?", [row.key])
        db.execute("insert into firmware_key values (?, ?, ?, ?)", [row.key, row.name, _ms(row.added), row.added_by])

    await store.write(change)


async def remove_key(store: Store, key: str) -> None:
    """Forget a key."""
    await store.write(lambda db: db.execute("delete from firmware_key where key = ?", [key]))


async def firmware_keys(store: Store) -> list[FirmwareKey]:
    """All of them, oldest first."""
    query = "select key, name, added, added_by from firmware_key order by added, key"
    rows = await store.read(lambda db: db.execute(query).fetchall())
    return [FirmwareKey(row[0], row[1], codes.made_aware(row[2]), row[3]) for row in rows]


async def save_firmware(store: Store, row: FirmwareRow) -> None:
    """Insert or replace a bundle."""
    values = [row.digest, row.version, " ".join(row.boards), row.kind, row.size_bytes, row.mpy, _ms(row.created)]
    values += [_ms(row.added), row.added_by, row.signed_by, row.manifest]

    def change(db: Connection) -> None:
        db.execute("delete from firmware where digest = ?", [row.digest])
        db.execute("insert into firmware values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    await store.write(change)


async def remove_firmware(store: Store, digest: str) -> None:
    """Forget a bundle."""
    await store.write(lambda db: db.execute("delete from firmware where digest = ?", [digest]))


async def firmware(store: Store) -> list[FirmwareRow]:
    """All of them, oldest first."""
    query = """select digest, version, board, kind, size_bytes, mpy, created, added, added_by, signed_by, manifest
               from firmware order by added, digest"""
    rows = await store.read(lambda db: db.execute(query).fetchall())
    return [
        FirmwareRow(row[0], row[1], tuple(row[2].split()), *row[3:6], *map(codes.made_aware, row[6:8]), *row[8:11])
        for row in rows
    ]


def _ms(time: datetime) -> datetime:
    return codes.from_ms(codes.to_ms(time)).replace(tzinfo=None)
