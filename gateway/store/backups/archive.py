"""A backup as it lies on a medium: what is in it, whether that is what was written, and reading it.

A folder or one tar file of `header.json` (how it is locked), the files, and `manifest.json` (their names, sizes and
hashes), which comes last: without it a backup was never finished. In a folder files never change and are named by
their hash, so the manifest of the last backup holds until the next one replaces it by a rename.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, BinaryIO, Final, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.store.backups import vault
from gateway.store.backups.vault import Lock
from gateway.store.errors import BackupError

HEADER, MANIFEST = "header.json", "manifest.json"
PIECE_BYTES = 1 << 20
SETTINGS = "gateway.toml"
IDENTITY = "identity"
_NAME = r"^(hot\.duckdb|gateway\.toml|identity/[a-z]+(\.pem)?|segments/\d{8,}-(hour|day|month)\.(raw|roll)\.parquet)$"
"""What a backup may contain, and so what a restore may write."""
_PATH = r"^([a-z]+/)?[0-9A-Za-z_-][0-9A-Za-z._-]*$"

FORM: Final = 1
Progress = Callable[[int], None]
"""Told how many bytes more are done."""
Model = TypeVar("Model", bound=BaseModel)


class Header(BaseModel):
    """What has to be known before anything else: the form of the rest, and its lock; None: nothing is encrypted."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    ambient_gateway_backup: Literal[1] = FORM
    lock: Lock | None


class _Form(BaseModel):
    ambient_gateway_backup: int


class Entry(BaseModel):
    """A file: where it belongs (`name`), where it lies within the backup (`path`), and how it has to read there
    (`stored_…`; sealed where there is a lock) and as it was."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Annotated[str, Field(pattern=_NAME)]
    path: Annotated[str, Field(pattern=_PATH)]
    size: Annotated[int, Field(ge=0)]
    sha256: str
    stored_size: Annotated[int, Field(ge=0)]
    stored_sha256: str


class Manifest(BaseModel):
    """What is in it, taken at `moment`, up to `batch`. `keys`: identity, tokens and node keys are in it. `proof` is
    over all the rest: SHA-256, or HMAC under the passphrase."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: str
    gateway_id: str
    moment: datetime
    batch: int
    schema_number: int
    opens_from: int
    readings: int
    keys: bool
    entries: tuple[Entry, ...]
    proof: str = ""

    def proven(self, key: bytes | None) -> "Manifest":
        """The same with its proof."""
        return self.model_copy(update={"proof": self._proof(key)})

    def is_proven(self, key: bytes | None) -> bool:
        return self.proof == self._proof(key)

    def _proof(self, key: bytes | None) -> str:
        body = json.dumps(self.model_dump(mode="json", exclude={"proof"}), sort_keys=True).encode()
        return hashlib.sha256(body).hexdigest() if key is None else vault.mac(key, body)

    def find(self, name: str) -> Entry | None:
        return next((each for each in self.entries if each.name == name), None)


class Files(Protocol):
    """Where files of a backup are found by their path; KeyError or OSError where one is not."""

    def open(self, path: str) -> BinaryIO: ...


class Archive:
    """A finished backup. What is read from it is proven at its end, so use nothing of a file before."""

    def __init__(self, place: Path, files: Files, header: Header, manifest: Manifest) -> None:
        self.place, self._files, self.header, self.manifest = place, files, header, manifest
        self._key: bytes | None = None

    @property
    def is_locked(self) -> bool:
        """A passphrase is needed to read it."""
        return self.header.lock is not None and self._key is None

    def unlock(self, passphrase: str) -> None:
        """BackupError where it is not the one that it was made with."""
        if self.header.lock is None:
            return
        key = vault.unlock(self.header.lock, passphrase)
        if key is None:
            raise BackupError(f"{self.place}: wrong passphrase: try the one that it was made with")
        if not self.manifest.is_proven(key):
            raise _damaged(self.place, MANIFEST)
        self._key = key

    def read(self, entry: Entry) -> Iterator[bytes]:
        """A file as it was; BackupError where it is not what was written."""
        if self.is_locked:
            raise BackupError(f"{self.place} is encrypted: give its passphrase, as with --passphrase-file")
        plain = hashlib.sha256()
        with self._opened(entry) as file:
            counted = _Counted(file)
            pieces = _pieces(counted) if self._key is None else vault.unseal(counted, self._key, entry.name)
            try:
                for piece in pieces:
                    plain.update(piece)
                    yield piece
            except ValueError as error:
                counted.expect(self.place, entry)
                raise _damaged(self.place, entry.path) from error
            counted.expect(self.place, entry)
        if plain.hexdigest() != entry.sha256:
            raise _damaged(self.place, entry.path)

    def verify(self, progress: Progress) -> None:
        """Read all of it; BackupError names the file that is not what was written. Locked, only what lies there is
        compared with the manifest."""
        for entry in self.manifest.entries:
            for piece in self._stored(entry) if self.is_locked else self.read(entry):
                progress(len(piece))

    def _stored(self, entry: Entry) -> Iterator[bytes]:
        with self._opened(entry) as file:
            counted = _Counted(file)
            yield from _pieces(counted)
            counted.expect(self.place, entry)

    @contextmanager
    def _opened(self, entry: Entry) -> Iterator[BinaryIO]:
        try:
            with self._files.open(entry.path) as file:
                yield file
        except KeyError as error:
            raise BackupError(f"{self.place} lacks {entry.path}: take another backup") from error
        except (OSError, tarfile.TarError) as error:
            raise BackupError(f"{self.place}: {entry.path} cannot be read ({error}): take another backup") from error


@contextmanager
def opened(place: Path) -> Iterator[Archive]:
    """The backup at this place; BackupError where there is none, or not a whole one."""
    with ExitStack() as stack:
        try:
            files = stack.enter_context(_files(place))
            if _parse(place, files, HEADER, _Form).ambient_gateway_backup > FORM:
                raise BackupError(f"{place} was made by a newer version of the gateway: install that one")
            header = _parse(place, files, HEADER, Header)
            manifest = _parse(place, files, MANIFEST, Manifest)
        except FileNotFoundError as error:
            raise BackupError(f"{place}: there is no backup; name the file or folder of one") from error
        except OSError as error:
            raise BackupError(f"{place} cannot be read ({error.strerror}): run this as somebody who may") from error
        except tarfile.TarError as error:
            raise BackupError(
                f"{place} is not a backup of this gateway, or damaged ({error}): take another one"
            ) from error
        if header.lock is None and not manifest.is_proven(None):
            raise _damaged(place, MANIFEST)
        yield Archive(place, files, header, manifest)


def read_header(place: Path) -> Header | None:
    """Of a folder or file, also of an unfinished one; None where there is none."""
    try:
        with _files(place) as files:
            return _parse(place, files, HEADER, Header)
    except (BackupError, OSError, tarfile.TarError):
        return None


class _Folder:
    def __init__(self, place: Path) -> None:
        self._place = place

    def open(self, path: str) -> BinaryIO:
        return open(self._place / path, "rb", opener=_plain)


class _Tar:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def open(self, path: str) -> BinaryIO:
        file = self._tar.extractfile(path)
        if file is None:
            raise KeyError(path)
        return file  # type: ignore[return-value]  # an IO[bytes] with all that is used here


class _Counted:
    """Bytes as they lie there, counted and hashed on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash, self._size = file, hashlib.sha256(), 0

    def read(self, size: int, /) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        self._size += len(data)
        return data

    def expect(self, place: Path, entry: Entry) -> None:
        if self._size < entry.stored_size:
            raise BackupError(f"{place}: {entry.path} is cut off after {self._size} bytes: take another backup")
        if (self._size, self._hash.hexdigest()) != (entry.stored_size, entry.stored_sha256):
            raise _damaged(place, entry.path)


@contextmanager
def _files(place: Path) -> Iterator[Files]:
    if place.is_dir():
        yield _Folder(place)
        return
    with tarfile.open(place, "r:") as tar:
        yield _Tar(tar)


def _parse(place: Path, files: Files, name: str, model: type[Model]) -> Model:
    try:
        with files.open(name) as file:
            return model.model_validate_json(file.read())
    except (KeyError, FileNotFoundError) as error:
        raise BackupError(f"{place} has no {name}: it was never finished, or is no backup; take another one") from error
    except ValidationError as error:
        raise _damaged(place, name) from error


def _pieces(file: _Counted) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece


def _plain(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def _damaged(place: Path, path: str) -> BackupError:
    return BackupError(f"{place}: {path} is not what was written there (its hash differs): take another backup")
