"""Firmware for nodes as commands: keys that are trusted, bundles that are here."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gateway.access.principal import Principal
from gateway.command import ControlError, Done
from gateway.control.base import Handler, Plan
from gateway.nodes.ota.commands import (
    FirmwareAdd,
    FirmwareDistrust,
    FirmwareKeys,
    FirmwareList,
    FirmwareRemove,
    FirmwareTrust,
    FirmwareView,
    FirmwareViews,
    KeyView,
    KeyViews,
)
from gateway.nodes.ota.shelf import SHORT, Firmware, Shelf

InUse = Callable[[str], str]
"""Who needs the bundle with this digest, in words; "" where nobody does."""


def _by_nobody(_digest: str) -> str:
    return ""


class FirmwareCommands:
    """Runs them. `in_use` tells why a bundle cannot go yet."""

    def __init__(self, shelf: Shelf, in_use: InUse = _by_nobody) -> None:
        self._shelf, self._in_use = shelf, in_use

    def handlers(self) -> Mapping[type[Any], Handler]:
        return {
            FirmwareTrust: self._trust,
            FirmwareDistrust: self._distrust,
            FirmwareKeys: self._keys,
            FirmwareAdd: self._add,
            FirmwareList: self._list,
            FirmwareRemove: self._remove,
        }

    async def _trust(self, command: FirmwareTrust, principal: Principal) -> Plan:
        key = self._shelf.expect_new_key(command.key, command.name)

        async def do() -> BaseModel:
            row = await self._shelf.trust(key, command.name, principal.name)
            return Done(done=f"bundles that {row.name} signed are taken from now on")

        return Plan(f"this takes bundles that {key} signed, and calls it {command.name!r}", do)

    async def _distrust(self, command: FirmwareDistrust, _principal: Principal) -> Plan:
        row = self._shelf.key(command.key)
        held = [each.row.version for each in self._shelf.all() if each.row.signed_by == row.key]
        kept = f"; {', '.join(held)} stay here and are given to nobody" if held else ""

        async def do() -> BaseModel:
            await self._shelf.distrust(row.key)
            return Done(done=f"bundles that {row.name} signed are refused from now on{kept}")

        return Plan(f"this refuses bundles that {row.name} signed{kept}", do)

    async def _keys(self, _command: FirmwareKeys, _principal: Principal) -> BaseModel:
        keys = [KeyView(key=row.key, name=row.name, added=row.added, added_by=row.added_by) for row in self._shelf.keys]
        return KeyViews(keys=keys)

    async def _add(self, command: FirmwareAdd, principal: Principal) -> Plan:
        found = await self._shelf.check(Path(command.file))
        about = found.manifest

        async def do() -> BaseModel:
            row = await self._shelf.add(found, principal.name)
            return self._view(self._shelf.get(row.digest))

        what = f"version {about.version} for {', '.join(about.boards)}: {len(about.files)} files"
        return Plan(f"this adds {what}, {about.size_bytes} bytes ({found.digest[:SHORT]})", do)

    async def _list(self, _command: FirmwareList, _principal: Principal) -> BaseModel:
        return FirmwareViews(firmware=[self._view(each) for each in self._shelf.all()])

    async def _remove(self, command: FirmwareRemove, _principal: Principal) -> Plan:
        found = self._shelf.find(command.firmware)
        said = f"{found.row.version} for {', '.join(found.row.boards)} ({found.digest[:SHORT]})"
        self._expect_free(found, said)

        async def do() -> BaseModel:
            self._expect_free(found, said)  # a rollout may have begun meanwhile
            await self._shelf.remove(found.digest)
            return Done(done=f"firmware {said} is removed")

        return Plan(f"this removes firmware {said}", do)

    def _expect_free(self, found: Firmware, said: str) -> None:
        if why := self._in_use(found.digest):
            raise ControlError(f"firmware {said} is in use: {why}")

    def _view(self, found: Firmware) -> FirmwareView:
        row, names = found.row, {each.key: each.name for each in self._shelf.keys}
        return FirmwareView(
            digest=row.digest,
            version=row.version,
            boards=list(row.boards),
            kind=row.kind,
            mpy=row.mpy,
            files=len(found.about.files),
            size_bytes=row.size_bytes,
            created=row.created,
            added=row.added,
            added_by=row.added_by,
            signed_by=names.get(row.signed_by, row.signed_by),
            trusted=found.trusted,
            in_use=self._in_use(row.digest),
        )
