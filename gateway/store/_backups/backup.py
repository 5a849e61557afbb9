"""Writing a backup: into a folder, which gets only what it has not got yet, or as one tar file, which is complete.

Whatever ends the process, what was there before stays whole: files are written under hidden names, synced and renamed,
and the manifest, which alone makes them count, comes last.
"""

import errno
import fcntl
import hashlib
import io
import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from gateway.store import archive, vault
from gateway.store.archive import HEADER, MANIFEST, PIECE_BYTES, Entry, Header, Manifest, Progress
from gateway.store.errors import BackupError
from gateway.store.snapshot import HOT_FILE, SEGMENTS, Snapshot

SEALED = ".sealed"
_OURS = re.compile(r".+\.[0-9a-f]{16}(\.[a-z]+)*")
_SPARE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """A file that belongs into a backup, under the name that it will be restored to. `sha256` is what it should be,
    empty where nobody knows."""

    name: str
    file: Path
    sha256: str = ""


@dataclass(slots=True)
class Written:
    """What came of it: files that were added, those that were there already, bytes written, and the names of files that
    were not any more what was sealed once: they are in it as they are."""

    added: int = 0
    kept: int = 0
    bytes: int = 0
    damaged: list[str] = field(default_factory=list)


def parts(snapshot: Snapshot, others: Mapping[str, Path]) -> list[Part]:
    """Everything of a snapshot, and other files by the name they are restored to."""
    found = [Part(name, file) for name, file in others.items()]
    found.append(Part(HOT_FILE, snapshot.folder / HOT_FILE))
    for each in snapshot.segments:
        pairs = ((each.raw, each.raw_sha256), (each.roll, each.roll_sha256))
        found += [Part(f"{SEGMENTS}/{name}", snapshot.folder / SEGMENTS / name, sha) for name, sha in pairs if name]
    return found


def is_folder(target: str) -> bool:
    """Whether a backup of this name is a folder: it ends with a slash, or is one."""
    return target.endswith("/") or Path(target).is_dir()


def write(
    target: str, what: Sequence[Part], about: Manifest, passphrase: str | None, progress: Progress
) -> tuple[Manifest, Written]:
    """Make or continue a backup; BackupError in one line where that cannot be, with nothing changed that counted."""
    writer = _write_folder if is_folder(target) else _write_tar
    try:
        return writer(Path(target), what, about, passphrase, progress)
    except OSError as error:
        where = error.filename or target
        way = "make room" if error.errno == errno.ENOSPC else "choose another place"
        raise BackupError(f"{where}: {error.strerror or error}: no backup was made; {way}") from error


def missing_bytes(target: str, what: Sequence[Part], gateway_id: str) -> int:
    """How much is to be written, for a progress bar."""
    known = _known(Path(target), gateway_id) if is_folder(target) else {}
    return sum(each.file.stat().st_size for each in what if (each.name, each.sha256) not in known)


def _write_folder(
    place: Path, what: Sequence[Part], about: Manifest, passphrase: str | None, progress: Progress
) -> tuple[Manifest, Written]:
    before = archive.read_header(place)
    if before is None and place.is_dir() and any(not each.name.startswith(".") for each in place.iterdir()):
        raise BackupError(f"{place} holds other files: name a folder of its own, such as {place / 'gateway-backup'}/")
    header, key = _header(place, before, passphrase)
    known = _known(place, about.gateway_id)
    _expect_room(place, what, known)
    place.mkdir(parents=True, exist_ok=True)
    done, entries = Written(), []
    with _alone(place):
        for rest in place.rglob(".*.part"):
            rest.unlink()
        if before is None:
            _put(place, HEADER, header.model_dump_json().encode())
        for part in what:
            entry = known.get((part.name, part.sha256))
            if entry is None:
                entry = _add(place, part, key, progress)
                _count(done, part, entry)
            else:
                done.kept += 1
            entries.append(entry)
        for folder in {(place / each.path).parent for each in entries}:
            _sync(folder)
        manifest = about.model_copy(update={"entries": tuple(entries)}).proven(key)
        _put(place, MANIFEST, manifest.model_dump_json(indent=1).encode())
        _remove_unnamed(place, {each.path for each in entries})
    return manifest, done


def _write_tar(
    place: Path, what: Sequence[Part], about: Manifest, passphrase: str | None, progress: Progress
) -> tuple[Manifest, Written]:
    if place.exists() and archive.read_header(place) is None:
        raise BackupError(f"{place} is something else than a backup: choose another name")
    header, key = _header(place, None, passphrase)
    _expect_room(place.parent, what, {})
    hidden = place.with_name(f".{place.name}.part")
    done, entries = Written(), []
    with open(hidden, "wb", opener=lambda path, flags: _private(path, flags & ~os.O_TRUNC)) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stream.truncate(0)
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                _add_bytes(tar, HEADER, header.model_dump_json().encode(), about)
                for part in what:
                    with part.file.open("rb") as file:
                        passage = _Passage(file, part, key, progress)
                        path = part.name + (SEALED if key else "")
                        tar.addfile(_info(path, passage.stored_size, about), passage)
                    entries.append(passage.entry(path))
                    _count(done, part, entries[-1])
                manifest = about.model_copy(update={"entries": tuple(entries)}).proven(key)
                _add_bytes(tar, MANIFEST, manifest.model_dump_json(indent=1).encode(), about)
            stream.flush()
            os.fsync(stream.fileno())
            hidden.replace(place)
        except BlockingIOError as error:
            raise BackupError(f"{place}: another backup is being written there: wait for it") from error
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise
    _sync(place.parent)
    return manifest, done


class _Passage(io.RawIOBase):
    """A file on its way into a backup, sealed where there is a key: hashed before and after, counted."""

    def __init__(self, file: BinaryIO, part: Part, key: bytes | None, progress: Progress) -> None:
        super().__init__()
        self._file, self._part, self._progress = file, part, progress
        self._plain, self._stored = hashlib.sha256(), hashlib.sha256()
        self._read_bytes = 0
        self.size = os.fstat(file.fileno()).st_size
        self.stored_size = vault.sealed_bytes(self.size) if key else self.size
        self._pieces = vault.seal(_Hashing(self), key, part.name) if key else self._through()
        self._rest = b""

    def pieces(self) -> Iterator[bytes]:
        """What is to be stored."""
        for piece in self._pieces:
            self._stored.update(piece)
            yield piece

    def read(self, size: int = -1, /) -> bytes:
        """The same, as tarfile wants it."""
        while len(self._rest) < size and (piece := next(self._pieces, b"")):
            self._rest += piece
        data, self._rest = self._rest[:size], self._rest[size:]
        self._stored.update(data)
        return data

    def take(self, size: int) -> bytes:
        """From the file itself, never more than it had at first: a file that grows is not ours to wait for."""
        data = self._file.read(min(size, self.size - self._read_bytes))
        self._read_bytes += len(data)
        self._plain.update(data)
        self._progress(len(data))
        return data

    def entry(self, path: str) -> Entry:
        """What was stored, once it is."""
        return Entry(
            name=self._part.name,
            path=path,
            size=self.size,
            sha256=self._plain.hexdigest(),
            stored_size=self.stored_size,
            stored_sha256=self._stored.hexdigest(),
        )

    @property
    def stored_sha256(self) -> str:
        return self._stored.hexdigest()

    def _through(self) -> Iterator[bytes]:
        while piece := self.take(PIECE_BYTES):
            yield piece


class _Hashing:
    """The plain side of a passage, as `vault` wants it."""

    def __init__(self, passage: _Passage) -> None:
        self._passage = passage

    def read(self, size: int, /) -> bytes:
        return self._passage.take(size)


def _add(place: Path, part: Part, key: bytes | None, progress: Progress) -> Entry:
    """Into a folder, under a name that says what it holds: what is there already is never written to."""
    named = PurePosixPath(part.name)
    folder = place / named.parent
    folder.mkdir(exist_ok=True)
    hidden = folder / f".{named.name}.part"
    with part.file.open("rb") as file, open(hidden, "wb", opener=_private) as stream:
        passage = _Passage(file, part, key, progress)
        stream.writelines(passage.pieces())
        stream.flush()
        os.fsync(stream.fileno())
    name = f"{named.stem}.{passage.stored_sha256[:16]}{named.suffix}{SEALED if key else ''}"
    hidden.replace(folder / name)
    return passage.entry(str(named.parent / name))


def _count(done: Written, part: Part, entry: Entry) -> None:
    done.added += 1
    done.bytes += entry.stored_size
    if part.sha256 and part.sha256 != entry.sha256:
        done.damaged.append(part.name)


def _header(place: Path, before: Header | None, passphrase: str | None) -> tuple[Header, bytes | None]:
    """A new header, or that of the backups that lie there already; and the key, None where nothing is encrypted."""
    if before is None:
        if passphrase is None:
            return Header(lock=None), None
        lock, key = vault.new_lock(passphrase)
        return Header(lock=lock), key
    if before.lock is None:
        if passphrase is not None:
            raise BackupError(
                f"{place} was begun without a passphrase: name another folder to encrypt, or leave it out"
            )
        return before, None
    if passphrase is None:
        raise BackupError(f"{place} is encrypted: give its passphrase, as with --passphrase-file, or another folder")
    key_of = vault.unlock(before.lock, passphrase)
    if key_of is None:
        raise BackupError(f"{place}: wrong passphrase: give the one of the backups before, or name another folder")
    return before, key_of


def _known(place: Path, gateway_id: str) -> dict[tuple[str, str], Entry]:
    """Files of the backup before that are still there, by name and content."""
    try:
        with archive.opened(place) as before:
            manifest = before.manifest
    except BackupError:
        return {}
    if manifest.gateway_id != gateway_id:
        raise BackupError(f"{place} holds the backup of {manifest.gateway_id}: name another folder")
    found = {}
    for each in manifest.entries:
        with suppress(OSError):
            if (place / each.path).stat().st_size == each.stored_size:
                found[each.name, each.sha256] = each
    return found


def _expect_room(place: Path, what: Sequence[Part], known: Mapping[tuple[str, str], Entry]) -> None:
    while not place.exists():
        place = place.parent
    need = sum(each.file.stat().st_size for each in what if (each.name, each.sha256) not in known) + _SPARE_BYTES
    free = shutil.disk_usage(place).free
    if free < need:
        raise BackupError(f"{place}: {free >> 20} MB are free, the backup needs {need >> 20} MB: make room")


def _remove_unnamed(place: Path, named: set[str]) -> None:
    """Files of earlier backups that this one does not need: compacted since, or the hot file of then."""
    for folder in (place, place / SEGMENTS, place / archive.IDENTITY):
        for file in folder.iterdir() if folder.is_dir() else ():
            if _OURS.fullmatch(file.name) and str(file.relative_to(place)) not in named and file.is_file():
                file.unlink()


def _put(folder: Path, name: str, data: bytes) -> None:
    hidden = folder / f".{name}.part"
    with open(hidden, "wb", opener=_private) as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    hidden.replace(folder / name)
    _sync(folder)


def _add_bytes(tar: tarfile.TarFile, name: str, data: bytes, about: Manifest) -> None:
    tar.addfile(_info(name, len(data), about), io.BytesIO(data))


def _info(name: str, size: int, about: Manifest) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, int(about.moment.timestamp()), 0o600
    return info


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """One backup at a time, where the file system can tell."""
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BackupError(f"{place}: another backup is being written there: wait for it") from error
        except OSError as error:
            if error.errno not in {errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}:
                raise
        yield
    finally:
        os.close(handle)


def _sync(folder: Path) -> None:
    """Make the names in a folder durable, where the file system knows how."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
            raise
    finally:
        os.close(handle)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
