"""Temporary files in DATA/files: put by the gateway or uploaded in pieces, had by their owner until they expire.

The bytes of a file lie under its id; whether they are all there says its row in the store, so a kill at any point
leaves a file that is complete, one whose upload goes on where it was, or bytes without a row that the next start
removes.
"""

import asyncio
import logging
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Never, Self, TypeVar

from gateway.clock import Clock
from gateway.files import content
from gateway.files.entry import FileEntry, Limits, in_words, safe_name, safe_type
from gateway.files.errors import (
    FileMissing,
    FileNotComplete,
    FileTooLarge,
    Interrupted,
    UploadComplete,
    WrongHash,
    WrongLength,
    WrongOffset,
)
from gateway.files.ledger import Ledger
from gateway.store.db import Store
from gateway.store.errors import StoreError
from gateway.store.file_rows import files, remove_files, save_file
from gateway.store.files import sync_file
from gateway.thread import finished

log = logging.getLogger(__name__)

SWEEP_S = 600.0
MOST_PROMISES = 500
SHA256 = re.compile(r"[0-9a-f]{64}")

Make = Callable[[], Awaitable[Path | bytes]]
Done = TypeVar("Done")


@dataclass(slots=True)
class _Promise:
    """A file that is made when somebody wants it."""

    entry: FileEntry
    make: Make
    making: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(slots=True)
class _Appending:
    """The request that appends to a file at this moment, and how to end it."""

    over: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Files:
    """`async with Files(folder, store, clock)`. `owner` is who has a file; None stands for an admin, who has them all.

    Call `run` in a task, so that expired files go. All methods belong to the event loop; bytes move in threads.
    """

    def __init__(self, folder: Path, store: Store, clock: Clock, limits: Limits | None = None) -> None:
        self._folder, self._store, self._clock = folder, store, clock
        self._ledger = Ledger(limits or Limits())
        self._promises: dict[str, _Promise] = {}
        self._appending: dict[str, _Appending] = {}

    async def __aenter__(self) -> Self:
        """Take the folder over: rows without their bytes, and bytes without a row, are removed."""
        rows = await files(self._store)
        kept, offsets = await asyncio.to_thread(content.reconciled, self._folder, rows)
        self._ledger.entries, self._ledger.offsets = kept, offsets
        await remove_files(self._store, {row.file_id for row in rows} - set(kept))
        await self.sweep()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End uploads; they go on after the next start."""
        for file_id in list(self._appending):
            await self._take_over(file_id)
        self._promises.clear()

    async def run(self) -> Never:
        """Remove what has expired, now and then, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await self.sweep()
            except (StoreError, OSError) as error:
                log.warning("expired files were not removed: %s", error)

    @property
    def limits(self) -> Limits:
        return self._ledger.limits

    @property
    def stored_bytes(self) -> int:
        """What all files take, uploads counted with their declared length."""
        return self._ledger.taken()

    @property
    def count(self) -> int:
        """Files that are kept, uploads included."""
        return len(self._ledger.entries)

    def scratch(self, suffix: str = "") -> Path:
        """A new name on the same medium, for a file to be made there and `put`; the next start removes what is left."""
        return self._folder / f".{secrets.token_hex(8)}{suffix}"

    def room_bytes(self, owner: str) -> int:
        """How long a file of this owner may be, as things are."""
        return self._ledger.room(owner, self._free_bytes())

    def get(self, file_id: str, owner: str | None) -> FileEntry:
        """A file, also one that is promised or being uploaded. FileMissing where this owner has none of this id."""
        promise = self._promises.get(file_id)
        entry = promise.entry if promise else self._ledger.entries.get(file_id)
        if entry is None or owner not in {None, entry.owner} or entry.expires <= self._clock.now():
            raise FileMissing("there is no such file, or not any more; ask for it anew")
        return entry

    async def fetch(self, file_id: str, owner: str | None) -> tuple[FileEntry, Path]:
        """A complete file and where its bytes are; what was promised is made first."""
        entry = self.get(file_id, owner)
        if promise := self._promises.get(file_id):
            entry = await self._keep_promise(promise)
        if not entry.complete:
            here = self._ledger.offsets[file_id]
            raise FileNotComplete(f"{here} bytes are here, and more are to come; finish the upload first", here)
        return entry, self._folder / file_id

    async def put(self, name: str, media_type: str, source: Path | bytes, *, owner: str, lives_s: float) -> FileEntry:
        """Keep these bytes for so long. FileTooLarge and NoRoom say what does not fit. A Path is taken: moved here
        (which costs nothing from `scratch`), or removed where it does not fit."""
        return await self._put(self._new(name, media_type, owner, lives_s), source)

    def promise(self, name: str, media_type: str, make: Make, *, owner: str, lives_s: float) -> FileEntry:
        """A link to a file that `make` gives when it is first asked for: until then nothing is written. Not kept over a
        restart; of too many the oldest is forgotten."""
        entry = self._new(name, media_type, owner, lives_s)
        while len(self._promises) >= MOST_PROMISES:
            del self._promises[next(iter(self._promises))]
        self._promises[entry.file_id] = _Promise(entry, make)
        return entry

    async def begin(
        self, name: str, media_type: str, *, owner: str, size_bytes: int | None = None, sha256: str = ""
    ) -> FileEntry:
        """An upload, to be filled by `append`; with its length (set aside at once) and SHA-256 where they are known."""
        if sha256 and not SHA256.fullmatch(sha256):
            raise WrongHash(f"{sha256[:80]!r} is no SHA-256: give 64 hexadecimal digits")
        entry = self._new(name, media_type, owner, self.limits.upload_lives_s)
        entry = replace(entry, size_bytes=size_bytes, sha256=sha256, complete=False)
        self._admit(owner, size_bytes or 0, files=1)
        self._ledger.keep(entry)
        try:
            await save_file(self._store, entry)
            await finished(content.create, self._folder / entry.file_id)
        except BaseException:
            self._forget(entry.file_id)
            raise
        return entry

    async def offset(self, file_id: str, owner: str | None) -> tuple[FileEntry, int]:
        """A file, and how many of its bytes are here and durable. A request that still appends is ended: who asks this
        has lost it."""
        self.get(file_id, owner)
        await self._take_over(file_id)
        entry = self.get(file_id, owner)
        return entry, self._ledger.offsets.get(file_id, entry.size_bytes or 0)

    async def append(
        self,
        file_id: str,
        owner: str | None,
        offset: int,
        chunks: AsyncIterator[bytes],
        *,
        complete: bool,
        size_bytes: int | None = None,
    ) -> FileEntry:
        """Add bytes at the end; with `complete` they are the last ones, and length and hash are checked.

        What came is kept, durably, also where `chunks` ends with an error. WrongOffset, WrongLength, UploadComplete,
        FileTooLarge, NoRoom, WrongHash; Interrupted where another request took over.
        """
        self.get(file_id, owner)
        await self._take_over(file_id)
        entry = self.get(file_id, owner)
        if entry.complete:
            raise UploadComplete("this file is complete; begin another upload")
        here = self._ledger.offsets[file_id]
        if offset != here:
            raise WrongOffset(f"{here} bytes are here, so go on at {here}, not at {offset}", here, offset)
        appending = self._appending[file_id] = _Appending()
        try:
            entry = await self._declared(entry, size_bytes)
            await self._add(entry, chunks, appending.over)
            return await self._finish(entry) if complete else entry
        finally:
            appending.done.set()
            del self._appending[file_id]

    async def remove(self, file_id: str, owner: str | None) -> None:
        """End a file or an upload before its time."""
        self.get(file_id, owner)
        await self._take_over(file_id)
        self.get(file_id, owner)
        await self._drop([file_id])

    async def sweep(self) -> int:
        """Remove what has expired; how many files that were."""
        now = self._clock.now()
        for file_id in [each for each, promise in self._promises.items() if promise.entry.expires <= now]:
            del self._promises[file_id]
        old = [each.file_id for each in self._ledger.entries.values() if each.expires <= now]
        for file_id in old:
            await self._take_over(file_id)
        await self._drop(old)
        return len(old)

    async def _put(self, entry: FileEntry, source: Path | bytes) -> FileEntry:
        file = self._folder / entry.file_id
        try:
            size = len(source) if isinstance(source, bytes) else content.size_bytes(source)
            self._admit(entry.owner, size, files=1)
            entry = self._ledger.keep(replace(entry, size_bytes=size))  # counted while it is being written
            entry = replace(entry, sha256=await finished(content.take, file, source))
            await save_file(self._store, entry)
        except BaseException:
            self._forget(entry.file_id)
            if isinstance(source, Path):
                content.discard(source)
            raise
        return self._ledger.keep(entry)

    async def _keep_promise(self, promise: _Promise) -> FileEntry:
        file_id = promise.entry.file_id
        async with promise.making:
            if file_id not in self._promises:  # somebody else waited for it too
                return self.get(file_id, None)
            entry = await self._put(promise.entry, await promise.make())
            self._promises.pop(file_id, None)
            return entry

    async def _add(self, entry: FileEntry, chunks: AsyncIterator[bytes], over: asyncio.Event) -> None:
        """Write what comes until it ends or somebody takes over."""
        file, here = self._folder / entry.file_id, self._ledger.offsets[entry.file_id]
        try:
            async for chunk in _until(over, chunks):
                self._check(entry, here, len(chunk))
                await finished(content.append, file, here, chunk)
                here += len(chunk)
                self._ledger.offsets[entry.file_id] = here
        except WrongLength:
            await self._drop([entry.file_id])
            raise
        finally:
            if entry.file_id in self._ledger.entries:
                await finished(sync_file, file)
        if over.is_set():
            raise Interrupted(f"another request took this upload over at byte {here}", here)

    def _check(self, entry: FileEntry, here: int, more_bytes: int) -> None:
        if entry.size_bytes is not None and here + more_bytes > entry.size_bytes:
            raise WrongLength(
                f"more than the {entry.size_bytes} bytes that were declared: all were discarded, send again"
            )
        if here + more_bytes > self.limits.file_bytes:
            raise FileTooLarge(f"a file has at most {in_words(self.limits.file_bytes)}; send it in parts")
        if entry.size_bytes is None:
            self._admit(entry.owner, more_bytes)

    async def _finish(self, entry: FileEntry) -> FileEntry:
        here = self._ledger.offsets[entry.file_id]
        if entry.size_bytes is not None and here != entry.size_bytes:
            raise WrongLength(f"{here} bytes are here and {entry.size_bytes} were declared; send the rest, then end it")
        found = await finished(content.digest, self._folder / entry.file_id)
        if entry.sha256 and found != entry.sha256:
            await self._drop([entry.file_id])
            raise WrongHash(f"SHA-256 is {found}, declared was {entry.sha256}: all bytes were discarded, send again")
        expires = self._clock.now() + timedelta(seconds=self.limits.upload_lives_s)
        entry = replace(entry, size_bytes=here, sha256=found, complete=True, expires=expires)
        await save_file(self._store, entry)
        return self._ledger.keep(entry)

    async def _declared(self, entry: FileEntry, size_bytes: int | None) -> FileEntry:
        """The entry with a length that was declared late; it must not contradict what is known."""
        if size_bytes is None or size_bytes == entry.size_bytes:
            return entry
        if entry.size_bytes is not None or size_bytes < self._ledger.offsets[entry.file_id]:
            raise WrongLength(f"a length of {size_bytes} contradicts what is known of this upload; begin another one")
        self._admit(entry.owner, size_bytes - self._ledger.takes(entry))
        entry = self._ledger.keep(replace(entry, size_bytes=size_bytes))
        await save_file(self._store, entry)
        return entry

    async def _take_over(self, file_id: str) -> None:
        """End the request that appends to this file, if there is one, and wait until it is through."""
        while appending := self._appending.get(file_id):
            appending.over.set()
            await appending.done.wait()

    async def _drop(self, file_ids: Collection[str]) -> None:
        await remove_files(self._store, [each for each in file_ids if each in self._ledger.entries])
        for file_id in file_ids:
            self._promises.pop(file_id, None)
            self._forget(file_id)

    def _forget(self, file_id: str) -> None:
        self._ledger.forget(file_id)
        content.discard(self._folder / file_id)

    def _new(self, name: str, media_type: str, owner: str, lives_s: float) -> FileEntry:
        now = self._clock.now()
        expires = now + timedelta(seconds=lives_s)
        file_id = secrets.token_urlsafe(16)
        return FileEntry(file_id, owner, safe_name(name), safe_type(media_type), None, "", True, now, expires)

    def _admit(self, owner: str, more_bytes: int, *, files: int = 0) -> None:
        self._ledger.admit(owner, more_bytes, self._free_bytes(), files=files)

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self._folder).free


async def _until(over: asyncio.Event, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks until there are no more, or until somebody says that it is over."""
    ending = asyncio.ensure_future(over.wait())
    try:
        while not over.is_set():
            coming = asyncio.ensure_future(_next(chunks))
            await asyncio.wait([coming, ending], return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                return
            if (chunk := coming.result()) is None:
                return
            if chunk:
                yield chunk
    finally:
        ending.cancel()


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    return await anext(chunks, None)
