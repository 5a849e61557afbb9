"""Who runs what: the firmware that each node says it runs, and whether it is connected; told to whoever rolls out."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from gateway.clock import Clock
from gateway.nodes.ota.offer import OfferError, status_of
from gateway.nodes.ota.rollout import Happened, Offline, Online, Runs, Said
from gateway.registry.described import clean
from gateway.store import rollout_rows
from gateway.store.db import Store
from gateway.store.rollout_rows import NodeFirmware
from gateway.store.together import Together

log = logging.getLogger(__name__)

Listener = Callable[[Happened], Awaitable[None]]


class Fleet:
    """`load` first. Fed by what nodes say; what they say of an update waits until somebody listens, for the broker
    keeps it until it was taken in."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._saving = Together[NodeFirmware](partial(rollout_rows.save_nodes, store))
        self._nodes: dict[str, NodeFirmware] = {}
        self._boots: dict[str, str] = {}
        self._listener: Listener | None = None
        self._listening = asyncio.Event()
        self.refused = 0

    async def load(self) -> None:
        """Read what the nodes said before."""
        self._nodes = await rollout_rows.nodes(self._store)

    def get(self, device: str) -> NodeFirmware | None:
        """What a node says that it runs, None where it never said."""
        return self._nodes.get(device)

    def all(self) -> list[NodeFirmware]:
        """Of every node, by id."""
        return sorted(self._nodes.values(), key=lambda each: each.device_id)

    def boot(self, device: str) -> str:
        """The boot in which a node is connected, "" where it is not."""
        return self._boots.get(device, "")

    def listen(self, listener: Listener) -> None:
        """Tell this one from now on; StoreErrors of it are the caller's."""
        self._listener = listener
        self._listening.set()

    def forget(self, device: str) -> None:
        """A node whose row is gone."""
        self._nodes.pop(device, None)
        self._boots.pop(device, None)

    async def capabilities(self, device: str, said: Mapping[str, Any]) -> None:
        """What a device says of itself; written only where it is news."""
        version = clean(said.get("firmware_version"))
        if not version:
            return
        mpy = said.get("mpy")
        now = NodeFirmware(
            device,
            version,
            clean(said.get("board")),
            mpy if type(mpy) is int and 0 < mpy < 256 else None,
            clean(said.get("slots")),
            self._clock.now(),
        )
        before = self._nodes.get(device)
        if before is not None and before.version == version:
            now = replace(now, since=before.since)
        if now != before:
            await self._saving.add(now)
            self._nodes[device] = now
        await self._tell(Runs(device, version))

    async def status(self, device: str, boot: str | None) -> None:
        """A device is connected in this boot; None: it is not."""
        if boot:
            self._boots[device] = boot
            await self._tell(Online(device, boot))
        elif boot is None and self._boots.pop(device, None) is not None:
            await self._tell(Offline(device))

    async def said(self, device: str, body: Mapping[str, Any]) -> None:
        """What a device says of an update."""
        try:
            status = status_of(body)
        except OfferError as error:
            self.refused += 1
            log.debug("%s: %s", device, error)
            return
        await self._listening.wait()
        await self._tell(Said(device, status.offer, status.phase, status.percent or 0, status.error))

    async def _tell(self, event: Happened) -> None:
        if self._listener is not None:
            await self._listener(event)
