"""Rollouts that run: the machine is fed with what nodes say, its state is on disk before its effects are carried out.

A gateway that was killed goes on where it was: what nodes said meanwhile waits in the broker, downloads go on by the
same offers, and an offer that may never have left is made again when nobody answered it.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Never

from drivers.model import Quality
from gateway.clock import Clock
from gateway.nodes.ota import ledger
from gateway.nodes.ota.fleet import Fleet
from gateway.nodes.ota.offer import OfferError, Offers
from gateway.nodes.ota.rollout import (
    ENDED,
    UNDER_WAY,
    Cancel,
    Effect,
    Fresh,
    Happened,
    Note,
    Offer,
    Offline,
    Online,
    Open,
    Pause,
    Rollout,
    Runs,
    Settings,
    State,
    Target,
    Tick,
    Unfit,
    Unsent,
)
from gateway.nodes.ota.shelf import Firmware, FirmwareMissing, Shelf
from gateway.nodes.ota.stepping import steps
from gateway.registry.journal import Journal
from gateway.registry.registry import Registry
from gateway.store import rollout_rows
from gateway.store.db import Store
from gateway.store.errors import StoreError
from gateway.store.types import Commit, Event

log = logging.getLogger(__name__)

TICK_S = 1.0
MOST_ELAPSED_S = 10.0
"""A tick that comes later than this does not count in full: the machine slept, and nobody was heard."""
WAITING_LIMIT = 1024


class UnknownRollout(LookupError):
    """There is no such rollout; says what there is."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What rollouts work with. `publish` (topic, payload) raises ConnectionError where the broker is away; `connected`
    says whether nodes can be heard."""

    store: Store
    clock: Clock
    registry: Registry
    journal: Journal
    shelf: Shelf
    offers: Offers
    fleet: Fleet
    publish: Callable[[str, bytes], Awaitable[None]]
    connected: Callable[[], bool]


@dataclass(slots=True)
class _Live:
    """A running rollout: as it is, as it was written last, and what waits for the next writing."""

    rollout: Rollout
    words: str
    written: Rollout | None = None
    effects: list[Effect] = field(default_factory=list)
    revision: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Rollouts:
    """`load` first, then `run` for as long as the gateway runs; `committed` hears of every commit."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._live: dict[str, _Live] = {}
        self._of: dict[str, str] = {}
        self._awaited: set[str] = set()
        self._todo: asyncio.Queue[tuple[str, Effect]] = asyncio.Queue(WAITING_LIMIT)
        self._begun = asyncio.Event()

    async def load(self) -> None:
        """Take up what an earlier start began."""
        for row in await rollout_rows.rollouts(self._parts.store, active=True):
            rollout = await ledger.read(self._parts.store, row)
            self._live[rollout.rollout_id] = _Live(rollout, row.targets, rollout)
            self._index(rollout)

    async def run(self) -> Never:
        """Go on with them, for ever; once downloads are served."""
        parts = self._parts
        for live in self._live.values():
            self._reopen(live.rollout)
        parts.fleet.listen(self.heard)
        for live in list(self._live.values()):
            await self._greet(live)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._carry_out(), name="rollouts.effects")
            group.create_task(self._tick(), name="rollouts.time")
        raise AssertionError("both tasks run for ever")

    # What people ask.

    def running(self) -> list[Rollout]:
        """Those that have not ended, the newest last."""
        return [each.rollout for each in self._live.values()]

    def busy(self, device: str) -> str:
        """The rollout that a device is in and not done with, "" for none."""
        return self._of.get(device, "")

    def in_use(self, digest: str) -> str:
        """Which rollout needs this bundle, "" where none does."""
        found = [each.rollout_id for each in self.running() if each.manifest_sha256 == digest]
        return f"rollout {found[0]} is not over" if found else ""

    async def get(self, rollout_id: str) -> tuple[Rollout, str, int]:
        """(a rollout, its targets in words, its revision, which grows with each change); UnknownRollout."""
        live = self._live.get(rollout_id)
        if live is not None:
            return live.rollout, live.words, live.revision
        rows = await rollout_rows.rollouts(self._parts.store)
        for row in rows:
            if row.rollout_id == rollout_id:
                return await ledger.read(self._parts.store, row), row.targets, -1
        there = ", ".join(row.rollout_id for row in rows[:5]) or "none yet"
        raise UnknownRollout(f"there is no rollout {rollout_id[:32]!a}; the last are {there}")

    async def follow(self, rollout_id: str, after: int, within_s: float) -> None:
        """Return when the rollout is beyond this revision, has ended, or after so many seconds."""
        live = self._live.get(rollout_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while live is not None and live.rollout.is_active and live.revision <= after:
                    live.changed.clear()
                    await live.changed.wait()

    async def start(
        self, firmware: Firmware, targets: Sequence[Target], settings: Settings, words: str, by: str
    ) -> Rollout:
        """Begin a rollout to these devices, in this order; it is kept before anything is offered."""
        now = self._parts.clock.now()
        rollout_id = secrets.token_hex(4)
        every = {each.device: replace(each, ended=now if each.state in ENDED else None) for each in targets}
        rollout = Rollout(rollout_id, firmware.digest, firmware.row.version, by, now, every, settings)
        live = _Live(rollout, words)
        await ledger.write(self._parts.store, rollout, words, None)
        live.written = rollout
        await rollout_rows.forget_old(self._parts.store)
        self._live[rollout_id] = live
        self._begun.set()
        self._index(rollout)
        waiting = rollout.count(State.WAITING)
        await self._later(live, [Note("", f"started by {by} for {words}: {waiting} to update")])
        await self._greet(live)
        return self._live[rollout_id].rollout if rollout_id in self._live else rollout

    async def tell(self, rollout_id: str, event: Happened) -> Rollout:
        """A person's word to a running rollout; UnknownRollout where it has ended."""
        live = self._live.get(rollout_id)
        if live is None:
            rollout, _, _ = await self.get(rollout_id)
            raise UnknownRollout(f"rollout {rollout.rollout_id} has ended: it is {rollout.course}")
        await self._happened(live, event)
        return live.rollout

    # What nodes say.

    async def heard(self, event: Happened) -> None:
        """From the fleet; returns when it is on disk, or will be tried again."""
        rollout_id = self._of.get(getattr(event, "device", ""))
        if rollout_id is not None:
            await self._happened(self._live[rollout_id], event)

    async def committed(self, commit: Commit) -> None:
        """Good readings of devices that have to show that they still measure."""
        if not self._awaited:
            return
        newest = {
            each.device: each.time
            for each in sorted(commit.fresh, key=lambda one: one.time)
            if each.device in self._awaited and each.value is not None and each.quality < Quality.BAD
        }
        told: dict[str, list[Fresh]] = {}
        for device, time in newest.items():
            told.setdefault(self._of.get(device, ""), []).append(Fresh(device, time))
        for rollout_id, events in told.items():
            if (live := self._live.get(rollout_id)) is not None:
                await self._happened(live, *events)

    # The machine.

    async def _happened(self, live: _Live, *events: Happened) -> None:
        before = live.rollout
        live.rollout, effects = steps(before, events, self._parts.clock.now())
        if live.rollout is not before:
            self._settle(before, live)
        live.effects += effects
        if live.effects or live.rollout is not live.written:
            await self._write(live)

    async def _write(self, live: _Live) -> None:
        """First the disk, then the effects: whatever was done is known after a restart. What the disk does not take now
        is tried again with the next event."""
        async with live.writing:
            now, due = live.rollout, live.effects
            live.effects = []
            try:
                await ledger.write(self._parts.store, now, live.words, live.written)
            except StoreError as error:
                live.effects = due + live.effects
                log.warning("rollout %s is not written down: %s", now.rollout_id, error)
                return
            live.written = now
        await self._later(live, due)
        if not live.rollout.is_active and live.rollout is live.written:
            self._live.pop(now.rollout_id, None)

    async def _later(self, live: _Live, effects: Sequence[Effect]) -> None:
        """Notes at once, the others in their turn: a broker that is slow must not hold up who hears the nodes."""
        for each in effects:
            if isinstance(each, Note):
                self._note(live.rollout, each)
            else:
                await self._todo.put((live.rollout.rollout_id, each))

    def _note(self, rollout: Rollout, note: Note) -> None:
        text = f"rollout {rollout.rollout_id} of {rollout.version}: {note.text}"
        log.info("%s%s", f"{note.device}: " if note.device else "", text)
        detail = {"rollout": rollout.rollout_id, "version": rollout.version}
        self._parts.journal.note(Event(self._parts.clock.now(), "firmware", note.device, text, detail))

    def _settle(self, before: Rollout, live: _Live) -> None:
        """Everything in memory that follows from where the devices are now."""
        has_moved = live.rollout.course is not before.course
        for device, target in live.rollout.targets.items():
            old = before.targets[device]
            if target is not old and (target.state, target.percent) != (old.state, old.percent):
                has_moved = True
                if target.state is not old.state:
                    self._place(live.rollout, target)
        if has_moved or not live.rollout.is_active:
            live.revision += 1
            live.changed.set()

    def _index(self, rollout: Rollout) -> None:
        for target in rollout.targets.values():
            self._place(rollout, target)

    def _place(self, rollout: Rollout, target: Target) -> None:
        device, under_way = target.device, target.state in UNDER_WAY
        if target.state in ENDED:
            if self._of.get(device) == rollout.rollout_id:
                del self._of[device]
            if target.offer:
                self._parts.offers.close(target.offer)
        else:
            self._of[device] = rollout.rollout_id
        (self._awaited.add if target.state is State.CONFIRMED else self._awaited.discard)(device)
        told = f"version {rollout.version}: {target.state}" if under_way else None
        self._parts.registry.updating(device, told)

    # Beginning and going on.

    def _reopen(self, rollout: Rollout) -> None:
        """Downloads that were under way go on by the offer that their nodes know."""
        for target in rollout.targets.values():
            if target.state in UNDER_WAY:
                self._open(rollout, target, target.offer)

    async def _greet(self, live: _Live) -> None:
        """What is known of its devices at this moment."""
        fleet, known = self._parts.fleet, list[Happened]()
        for device, target in live.rollout.targets.items():
            if target.state not in ENDED:
                node, boot = fleet.get(device), fleet.boot(device)
                known += [Runs(device, node.version)] if node is not None else []
                known.append(Online(device, boot) if boot else Offline(device))
        await self._happened(live, *known)

    # Time and effects.

    async def _tick(self) -> Never:
        loop = asyncio.get_running_loop()
        last_s = loop.time()
        while True:
            if not self._live:  # no time passes for nobody
                self._begun.clear()
                await self._begun.wait()
                last_s = loop.time()
            await asyncio.sleep(TICK_S)
            elapsed_s, last_s = min(loop.time() - last_s, MOST_ELAPSED_S), loop.time()
            if not self._parts.connected():
                continue
            for live in list(self._live.values()):
                await self._happened(live, Tick(elapsed_s))

    async def _carry_out(self) -> Never:
        while True:
            rollout_id, effect = await self._todo.get()
            live = self._live.get(rollout_id)
            try:
                if live is not None and isinstance(effect, Offer | Open):
                    await self._offer(live, effect)
                elif isinstance(effect, Cancel):
                    await self._cancel(effect)
            except ConnectionError as error:  # nobody answers, so it is done again
                log.warning("rollout %s: %s: %s", rollout_id, effect, error)

    async def _offer(self, live: _Live, effect: Offer | Open) -> None:
        target = live.rollout.targets[effect.device]
        if target.offer != effect.offer or target.state not in UNDER_WAY:
            return  # it went on meanwhile
        payload = self._open(live.rollout, target, effect.offer)
        if isinstance(payload, bytes) and isinstance(effect, Offer):
            await self._parts.publish(f"devices/{effect.device}/update", payload)
        elif not isinstance(payload, bytes):
            await self._happened(live, payload)
            await self._happened(live, Unsent(effect.device, effect.offer))

    def _open(self, rollout: Rollout, target: Target, offer: str) -> bytes | Unfit | Pause:
        """The payload to publish, or what came between."""
        parts = self._parts
        try:
            firmware = parts.shelf.get(rollout.manifest_sha256)
            if not firmware.trusted:
                return Pause("the gateway", f"nobody trusts the key any more that signed {rollout.version}")
            return parts.offers.open(target.device, target.offer_boot, firmware.content, offer=offer)[1]
        except FirmwareMissing as error:
            return Pause("the gateway", str(error))
        except OfferError as error:
            return Unfit(target.device, str(error))

    async def _cancel(self, effect: Cancel) -> None:
        parts = self._parts
        with suppress(OfferError):  # without a key there is nothing that it would believe
            payload = parts.offers.cancel(effect.device, parts.fleet.boot(effect.device), effect.offer)
            await parts.publish(f"devices/{effect.device}/update", payload)
