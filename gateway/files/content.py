"""The bytes of files on the medium: written, moved in, hashed. Everything here blocks: call it in a thread."""

import os
import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from gateway.files.entry import FILE_ID, FileEntry
from gateway.store.files import sync_file, sync_folder

BLOCK_BYTES = 1 << 18


def take(file: Path, source: Path | bytes) -> str:
    """Make a file of these bytes, or by moving another one here, durably; its SHA-256."""
    if isinstance(source, Path):
        shutil.move(source, file)
        file.chmod(0o600)
    else:
        file.touch(mode=0o600)
        file.write_bytes(source)
    sync_file(file)
    sync_folder(file.parent)
    return digest(file)


def digest(file: Path) -> str:
    """The SHA-256 of a file."""
    found = sha256()
    with file.open("rb") as content:
        while block := content.read(BLOCK_BYTES):
            found.update(block)
    return found.hexdigest()


def create(file: Path) -> None:
    """Make an empty file whose name is durable."""
    file.touch(mode=0o600)
    sync_folder(file.parent)


def append(file: Path, offset: int, content: bytes) -> None:
    """Write these bytes from there on, cutting off what was behind; durable after `sync_file`."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        view = memoryview(content)
        os.ftruncate(descriptor, offset)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written
    finally:
        os.close(descriptor)


def discard(file: Path) -> None:
    """Remove it, where it is there."""
    file.unlink(missing_ok=True)


def size_bytes(file: Path) -> int:
    """How long it is; 0 where it is not there."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def reconciled(folder: Path, rows: Sequence[FileEntry]) -> tuple[dict[str, FileEntry], dict[str, int]]:
    """Of these rows, those whose bytes are there, and how far uploads are; files of no row are removed."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept: dict[str, FileEntry] = {}
    offsets: dict[str, int] = {}
    for row in rows:
        file = folder / row.file_id
        size = size_bytes(file)
        if not FILE_ID.fullmatch(row.file_id) or (row.complete and (size != row.size_bytes or not file.is_file())):
            continue
        if row.size_bytes is not None and size > row.size_bytes:
            continue
        kept[row.file_id] = row
        if not row.complete:
            create(file)
            offsets[row.file_id] = size
    for file in folder.iterdir():
        if file.name not in kept and file.is_file():
            file.unlink()
    return kept, offsets
