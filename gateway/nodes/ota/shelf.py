"""The firmware that this gateway can give to its nodes: DATA/firmware, one folder a bundle, and whose signatures count.

A folder is named by the SHA-256 of the manifest and holds manifest.json, manifest.sig and each file under its own
SHA-256. It is written under a hidden name, synced, renamed, then listed in the store; what a crash leaves unlisted is
removed at the next start, and what is listed but not whole is dropped. Backups have the keys and the list, not the
files: a bundle can be added again.
"""

import asyncio
import logging
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.clock import Clock
from gateway.nodes.ota import bundle, manifest
from gateway.nodes.ota.bundle import MANIFEST, SIGNATURE, Bundle, BundleError
from gateway.nodes.ota.manifest import Manifest, Part
from gateway.store import commands, firmware_rows
from gateway.store.db import Store
from gateway.store.files import sync_file, sync_folder
from gateway.store.firmware_rows import FirmwareKey, FirmwareRow
from gateway.store.types import Event
from gateway.thread import finished

log = logging.getLogger(__name__)

MOST = 50
"""Bundles that are kept at once."""
MOST_KEYS = 20
HIDDEN = ".new-"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
SHORT = 12
"""Digits of a digest that people are shown, and may give back; fewer do where they are enough."""


class FirmwareMissing(LookupError):
    """There is no such bundle or key here; says what there is."""


@dataclass(frozen=True, slots=True)
class Firmware:
    """A bundle that is here. `trusted` where the key that signed it still is."""

    row: FirmwareRow
    about: Manifest
    trusted: bool

    @property
    def digest(self) -> str:
        return self.row.digest

    @property
    def content(self) -> bytes:
        """The manifest's bytes."""
        return self.row.manifest.encode()


class Shelf:
    """Owner of the folder: `async with Shelf(...)`. It leaves the medium `least_free_bytes`."""

    def __init__(self, folder: Path, store: Store, clock: Clock, least_free_bytes: int = 0) -> None:
        self._folder, self._store, self._clock, self._least_free_bytes = folder, store, clock, least_free_bytes
        self._rows: dict[str, FirmwareRow] = {}
        self._about: dict[str, Manifest] = {}
        self._keys: dict[str, FirmwareKey] = {}
        self._changing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        rows = {row.digest: row for row in await firmware_rows.firmware(self._store)}
        self._keys = {each.key: each for each in await firmware_rows.firmware_keys(self._store)}
        whole = await asyncio.to_thread(reconciled, self._folder, rows)
        for digest in sorted(rows.keys() - whole.keys()):
            row = rows.pop(digest)
            text = f"firmware {row.version} ({digest[:SHORT]}) is not whole on the medium: add its bundle again"
            log.warning("%s", text)
            await firmware_rows.remove_firmware(self._store, digest)
            await commands.add_event(self._store, Event(self._clock.now(), "firmware", "", text))
        self._rows, self._about = rows, whole
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is open between two calls."""

    @property
    def keys(self) -> Sequence[FirmwareKey]:
        """Whose bundles are taken, oldest first."""
        return tuple(self._keys.values())

    def all(self) -> Sequence[Firmware]:
        """Every bundle that is here, the newest version first."""
        return sorted(map(self.get, self._rows), key=lambda each: manifest.number(each.row.version), reverse=True)

    def get(self, digest: str) -> Firmware:
        """The bundle with this digest; FirmwareMissing."""
        row = self._rows.get(digest)
        if row is None:
            raise FirmwareMissing(f"there is no firmware {digest[:SHORT]!r}: `gateway firmware list` shows what is")
        return Firmware(row, self._about[digest], row.signed_by in self._keys)

    def find(self, text: str) -> Firmware:
        """The bundle that somebody means by its version or the beginning of its digest; FirmwareMissing."""
        named = [each for each in self.all() if text == each.row.version or (text and each.digest.startswith(text))]
        if len(named) == 1:
            return named[0]
        known = [f"{each.row.version} ({each.digest[:SHORT]})" for each in named or self.all()]
        said = f"there {'are several' if named else 'is no firmware'} {text[:64]!a}"
        raise FirmwareMissing(f"{said}: name one of {', '.join(known[:10]) or 'none; add a bundle first'}")

    def part(self, digest: str, path: str) -> tuple[Path, Part] | None:
        """Where a file of a bundle lies, and what it is; None where it is no part of it, or nobody's signature counts
        for it any more."""
        row = self._rows.get(digest)
        if row is None or row.signed_by not in self._keys:
            return None
        if path == MANIFEST:
            content = row.manifest.encode()
            return self._folder / digest / MANIFEST, Part(MANIFEST, len(content), digest)
        found = next((each for each in self._about[digest].files if each.path == path), None)
        return None if found is None else (self._folder / digest / found.sha256, found)

    async def trust(self, key: str, name: str, by: str) -> FirmwareKey:
        """Take bundles that this key signed; BundleError."""
        known = self.expect_new_key(key, name)
        row = FirmwareKey(known, name, self._clock.now(), by)
        await firmware_rows.save_key(self._store, row)
        self._keys[known] = row
        return row

    def expect_new_key(self, key: str, name: str) -> str:
        """The key as it is kept; BundleError where `trust` would refuse it."""
        known = bundle.expect_key(key)
        if NAME.fullmatch(name) is None:
            raise BundleError(f"{name[:80]!a} is no name: 1 to 64 letters, digits and . _ @ -, no sign first")
        if known in self._keys:
            raise BundleError(f"this key is trusted already, as {self._keys[known].name!r}")
        if any(each.name == name for each in self._keys.values()):
            raise BundleError(f"the name {name!r} is taken by another key: choose another, or distrust that one first")
        if len(self._keys) >= MOST_KEYS:
            raise BundleError(f"{MOST_KEYS} keys are trusted already: distrust one first")
        return known

    def key(self, text: str) -> FirmwareKey:
        """A trusted key by its name or itself; FirmwareMissing."""
        found = next((each for each in self._keys.values() if text.strip() in {each.name, each.key}), None)
        if found is None:
            names = ", ".join(each.name for each in self._keys.values()) or "none"
            raise FirmwareMissing(f"there is no trusted key {text[:64]!a}: there is {names}")
        return found

    async def distrust(self, key: str) -> None:
        """Take no more of its bundles, and give none of those that are here; FirmwareMissing."""
        row = self.key(key)
        await firmware_rows.remove_key(self._store, row.key)
        self._keys.pop(row.key, None)

    async def check(self, file: Path) -> Bundle:
        """The bundle in a file, which `add` would take; BundleError."""
        found = await asyncio.to_thread(bundle.read, file, list(self._keys))
        await asyncio.to_thread(self._expect_room, found)
        return found

    async def add(self, found: Bundle, by: str) -> FirmwareRow:
        """Keep a bundle that was checked, durably; the same one again changes nothing. BundleError."""
        async with self._changing:
            if (known := self._rows.get(found.digest)) is not None:
                return known
            await asyncio.to_thread(self._expect_room, found)
            if found.signed_by not in self._keys:
                raise BundleError("the key that signed it is not trusted any more")
            await finished(self._write, found)
            about = found.manifest
            row = FirmwareRow(
                found.digest,
                about.version,
                about.boards,
                str(about.kind),
                about.size_bytes,
                about.mpy,
                about.created,
                self._clock.now(),
                by,
                found.signed_by,
                found.content.decode("ascii"),
            )
            await firmware_rows.save_firmware(self._store, row)
            self._rows[row.digest], self._about[row.digest] = row, about
            return row

    async def remove(self, digest: str) -> None:
        """Forget a bundle and its files; FirmwareMissing."""
        async with self._changing:
            self.get(digest)
            await firmware_rows.remove_firmware(self._store, digest)
            self._rows.pop(digest)
            self._about.pop(digest)
            await finished(_discard, self._folder / digest)

    def _expect_room(self, found: Bundle) -> None:
        """BundleError where it contradicts what is here, or there is no room for it."""
        if found.digest in self._rows:
            return
        about = found.manifest
        for each in self._rows.values():
            same = each.version == about.version and each.kind == about.kind and set(each.boards) & set(about.boards)
            if same:
                raise BundleError(
                    f"version {about.version} for {', '.join(sorted(same))} is here with other content "
                    f"({each.digest[:SHORT]}): raise the version, or remove that one first"
                )
        if len(self._rows) >= MOST:
            raise BundleError(f"{MOST} bundles are here already: `gateway firmware remove` one first")
        free_bytes = shutil.disk_usage(self._folder).free
        if free_bytes < about.size_bytes + self._least_free_bytes:
            least = self._least_free_bytes >> 20
            raise BundleError(f"{free_bytes >> 20} MB are free and {least} stay free for readings: make room first")

    def _write(self, found: Bundle) -> None:
        """The whole folder or nothing; BundleError where the medium does not take it."""
        hidden = self._folder / f"{HIDDEN}{secrets.token_hex(8)}"
        try:
            hidden.mkdir(mode=0o700)
            _write(hidden / MANIFEST, found.content)
            _write(hidden / SIGNATURE, found.signature)
            for each in found.manifest.files:
                _write(hidden / each.sha256, found.files[each.path])
            sync_folder(hidden)
            target = self._folder / found.digest
            shutil.rmtree(target, ignore_errors=True)  # unlisted, so of no use
            hidden.rename(target)
            sync_folder(self._folder)
        except OSError as error:
            shutil.rmtree(hidden, ignore_errors=True)
            raise BundleError(f"{self._folder}: {error.strerror}: nothing was added; make room first") from error


def reconciled(folder: Path, rows: Mapping[str, FirmwareRow]) -> dict[str, Manifest]:
    """The manifests of those rows that have their files, by length; whatever belongs to no row is removed. Blocks."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = {digest: _whole(folder / digest, row) for digest, row in rows.items()}
    whole = {digest: about for digest, about in found.items() if about is not None}
    for each in list(folder.iterdir()):
        if each.name not in whole:
            _discard(each)
    sync_folder(folder)
    return whole


def _whole(folder: Path, row: FirmwareRow) -> Manifest | None:
    try:
        about = manifest.parse(row.manifest.encode())
        is_whole = (folder / MANIFEST).read_bytes() == row.manifest.encode() and all(
            (folder / each.sha256).stat().st_size == each.size_bytes for each in about.files
        )
    except (OSError, ValueError):
        return None
    return about if is_whole else None


def _discard(path: Path) -> None:
    """Remove what is there, first from sight: a folder that is half gone must not look like one."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    hidden = path if path.name.startswith(HIDDEN) else path.with_name(f"{HIDDEN}{secrets.token_hex(8)}")
    if hidden is not path:
        path.rename(hidden)
    shutil.rmtree(hidden)


def _write(file: Path, content: bytes) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)  # two files may be of one content
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
    sync_file(file)
