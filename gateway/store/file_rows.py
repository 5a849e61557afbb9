"""What is known of the temporary files in DATA/files: table `file`. The bytes themselves are not the store's."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from gateway.store import codes
from gateway.store.db import Connection, Store


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file, or (not `complete`) one that is being uploaded: then size and SHA-256 (64 hexadecimal digits) are what
    its sender declared, None and "" where it declared nothing."""

    file_id: str
    owner: str
    name: str
    media_type: str
    size_bytes: int | None
    sha256: str
    complete: bool
    created: datetime
    expires: datetime


async def save_file(store: Store, row: FileRow) -> None:
    """Insert or replace a file by its id."""

    def change(db: Connection) -> None:
        db.execute("delete from file where file_id = ?", [row.file_id])
        times = [codes.from_ms(codes.to_ms(time)).replace(tzinfo=None) for time in (row.created, row.expires)]
        values = [row.file_id, row.owner, row.name, row.media_type, row.size_bytes, row.sha256, row.complete, *times]
        db.execute("insert into file values (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    await store.write(change)


async def remove_files(store: Store, file_ids: Collection[str]) -> None:
    """Forget some files, in one transaction."""
    ids = sorted(file_ids)
    if ids:
        await store.write(lambda db: db.execute("delete from file where list_contains(?::VARCHAR[], file_id)", [ids]))


async def files(store: Store) -> list[FileRow]:
    """Every file that was not removed, oldest first, expired ones included."""
    query = """select file_id, owner, name, media_type, size_bytes, sha256, complete, created, expires from file
               order by created, file_id"""
    rows = await store.read(lambda db: db.execute(query).fetchall())
    return [FileRow(*row[:7], *map(codes.made_aware, row[7:])) for row in rows]
