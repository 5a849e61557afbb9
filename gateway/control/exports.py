"""Exports as tasks: a snapshot, a file made of it beside everything else, and a link to that."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from typing import Any

from pydantic import BaseModel

from gateway.access.principal import Principal
from gateway.clock import Clock
from gateway.command import ControlError
from gateway.control.base import Handler, Plan, nearest
from gateway.control.started import started
from gateway.files.entry import link
from gateway.files.files import Files
from gateway.store.backups import snapshot
from gateway.store.db import Store
from gateway.store.exchange import export
from gateway.store.exchange.commands import ExportData
from gateway.store.exchange.export import Exported, Wanted
from gateway.tasks import Progress, Tasks

LIVES_S = 24 * 3600.0
MEDIA_TYPES = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}


class _CalledOff(Exception):
    """The export's task was cancelled."""


class ExportCommands:
    """Runs them as tasks, one at a time: each takes a share of the memory."""

    def __init__(self, store: Store, clock: Clock, files: Files, tasks: Tasks) -> None:
        self._store, self._clock, self._files, self._tasks = store, clock, files, tasks
        self._alone = asyncio.Lock()

    def handlers(self) -> Mapping[type[Any], Handler]:
        return {ExportData: self._export}

    async def _export(self, command: ExportData, principal: Principal) -> Plan:
        self._expect(command)
        owner = principal.key

        async def work(progress: Progress) -> dict[str, Any]:
            async with self._alone:
                return await self._make(command, owner, progress)

        async def do() -> BaseModel:
            task_id = self._tasks.start("export_data", owner, work)
            return await started(self._tasks, task_id, principal)

        what = "figures" if command.bucket_minutes else "readings"
        return Plan(f"this writes {what} ({command.detail}) into a file for {LIVES_S / 3600:.0f} hours", do)

    def _expect(self, command: ExportData) -> None:
        if command.start and command.end and command.start >= command.end:
            raise ControlError(f"start {command.start.isoformat()} is not before end: swap them")
        every = self._store.series().values()
        for name in ("device", "metric"):
            value, known = getattr(command, name), {str(getattr(each, name)) for each in every}
            if value is not None and value not in known:
                raise ControlError(f"{name}: there is no {value!r}; {nearest(value, known)}")

    async def _make(self, command: ExportData, owner: str, progress: Progress) -> dict[str, Any]:
        progress(0.0, "taking a snapshot")
        async with _lent(self._store.folder) as place:
            await snapshot.take(self._store, place.name, self._clock.now(), keys=False)
            file = self._files.scratch(f".{command.format}")
            done = await _in_thread(place, file, command.wanted, progress)
        name = f"{command.device or 'readings'}-{self._clock.now():%Y%m%d-%H%M%S}.{command.format}"
        kept = await self._files.put(name, MEDIA_TYPES[command.format], file, owner=owner, lives_s=LIVES_S)
        told: dict[str, Any] = {"link": link(kept.file_id), "name": kept.name, "rows": done.rows}
        told |= {
            "size_bytes": kept.size_bytes,
            "sha256": kept.sha256,
            "expires": kept.expires.isoformat(timespec="seconds"),
        }
        if done.expired_until is not None:
            told["expired_until"] = done.expired_until.isoformat(timespec="seconds")
        return told


@asynccontextmanager
async def _lent(data: Path) -> AsyncIterator[Path]:
    """A folder for a snapshot, which goes also where this is cancelled while it is made."""
    lent = snapshot.lend(data)
    entering = asyncio.ensure_future(asyncio.to_thread(lent.__enter__))
    try:
        yield await asyncio.shield(entering)
    finally:
        await asyncio.wait([entering])
        if entering.exception() is None:
            await asyncio.to_thread(lent.__exit__, None, None, None)


async def _in_thread(place: Path, file: Path, wanted: Wanted, progress: Progress) -> Exported:
    """The export; a cancelled one ends between two windows of time and leaves no file."""
    stop = Event()

    def told(fraction: float) -> None:
        if stop.is_set():
            raise _CalledOff
        progress(fraction, "writing")

    running = asyncio.ensure_future(asyncio.to_thread(export.export, place, file, wanted, told))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([running])
        if running.exception() is None:
            await asyncio.to_thread(file.unlink)
        raise
