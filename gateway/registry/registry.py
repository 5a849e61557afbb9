"""What is known of the house: which devices there are, and whether they are heard."""

import asyncio
import difflib
import json
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from statistics import median
from typing import Any

from gateway.clock import Clock
from gateway.reading import Reading
from gateway.registry.described import MAX_SENSORS, clean, described, told_interval_s
from gateway.registry.state import (
    DECOMMISSIONED,
    EVENTS_AN_HOUR,
    LATE_AFTER,
    LEARN_FROM,
    LOOK_AT_MOST_EVERY_S,
    SILENT_AFTER,
    Entry,
    Fault,
    Said,
    Status,
    change_of,
    edited,
    merged,
    older,
    words,
)
from gateway.store import commands, edit_rows, queries
from gateway.store.db import Store
from gateway.store.edit_rows import Edit
from gateway.store.errors import StoreError
from gateway.store.together import Together
from gateway.store.types import Device, Sensor

__all__ = ["EVENTS_AN_HOUR", "Registry", "Status"]

log = logging.getLogger(__name__)

SENSORS_LIMIT = 256
SETTLED = ("device_id", "device_name", "zone_id", "location", "building", "floor", "device_type")
"""What the settings may say of a device."""


class Registry:
    """Devices and their state, over the store. `load` first; `seen` after each commit; `run` writes back, and tells of
    each change of a status in an event."""

    def __init__(self, store: Store, clock: Clock, known_after_s: float = 0.0) -> None:
        self._store = store
        self._clock = clock
        self._known_after = timedelta(seconds=known_after_s)
        self._entries: dict[str, Entry] = {}
        self._edits: dict[str, dict[str, Edit]] = {}
        self._started: datetime = clock.now()
        self._changed = asyncio.Event()
        self._saving = Together[Device](partial(commands.save_devices, store))
        self._saving_sensors = Together[Sensor](partial(commands.save_sensors, store))

    async def load(self) -> None:
        """Read what the store knows."""
        self._started = self._clock.now()
        learned = json.loads(await queries.get_setting(self._store, "intervals") or "{}")
        for edit in await edit_rows.device_edits(self._store):
            self._edits.setdefault(edit.device_id, {})[edit.field] = edit
        for device in await queries.devices(self._store):
            entry = self._new(device, learned_s=learned.get(device.device_id), last_seen=device.last_seen)
            entry.written = (device.status, device.last_seen)
            entry.said.status = device.status
            self._entries[device.device_id] = entry

    async def learn_of_others(self) -> None:
        """Devices that are in the store since an import."""
        for device in await queries.devices(self._store):
            self._entries.setdefault(device.device_id, self._new(device, last_seen=device.last_seen))

    def ids(self) -> list[str]:
        """Of every device, in order."""
        return sorted(self._entries)

    def devices(self) -> list[Device]:
        """Every device by id, with its status and last_seen as of now."""
        return [self.device(device_id) for device_id in self.ids()]

    def device(self, device_id: str) -> Device:
        """One device; LookupError names the nearest id."""
        entry = self._entry(device_id)
        metadata = entry.device.metadata
        if (claimed := entry.edits.get("claimed")) is not None:
            metadata = {**metadata, "claimed": claimed.time.isoformat(timespec="seconds")}
        status = self.status(device_id).status
        return replace(entry.device, status=status, last_seen=entry.last_seen, metadata=metadata)

    def settled(self, device_id: str) -> frozenset[str]:
        """What of a device the settings say, so that nobody else can; "device_id" itself for one that they name."""
        return self._entry(device_id).settled

    def claimed(self, device_id: str) -> datetime | None:
        """When somebody said that this device is ours; None where nobody did."""
        edit = self._entry(device_id).edits.get("claimed")
        return edit.time if edit is not None else None

    async def edit(self, device_id: str, fields: Mapping[str, str], by: str, reason: str = "") -> Device:
        """What people say of a device: it wins over what the device says of itself, also after a restart. `status` is
        active or decommissioned, `claimed` says whose it is; the other fields are those of Device."""
        entry, now = self._entry(device_id), self._clock.now()
        edits = [Edit(device_id, name, value, reason, by, now) for name, value in fields.items()]
        await edit_rows.save_edits(self._store, edits)
        entry.edits |= {each.field: each for each in edits}
        entry.unsaved = True
        await self._save(entry, entry.device)
        self._look(entry)
        return self.device(device_id)

    def forget(self, device_id: str) -> None:
        """A device whose rows are gone; where it speaks again it is a new one."""
        self._entries.pop(device_id, None)
        self._edits.pop(device_id, None)

    def status(self, device_id: str) -> Status:
        """Whether a device is heard, as of now; LookupError names the nearest id."""
        entry = self._entry(device_id)
        status, since, reason = self._judge(entry)
        return Status(device_id, status, since, reason, entry.last_seen, entry.interval_s)

    def late_after(self, device_id: str) -> timedelta:
        """How old what a device said last may be before it is late; LookupError names the nearest id."""
        return self._late_after(self._entry(device_id))

    async def declare(self, device: Device, sensors: Sequence[Sensor], interval_s: float | None) -> None:
        """A device of the configuration, which wins over what was known; the ids of `sensors` do not matter."""
        if interval_s is not None and not interval_s > 0:
            raise ValueError(f"{device.device_id}: interval {interval_s} s is not positive: say how often it is read")
        entry = self._entries.setdefault(device.device_id, self._new(device, unsaved=True))
        entry.declared_s = interval_s
        entry.wired = frozenset(sensor.sensor for sensor in sensors)
        entry.settled = frozenset(name for name in SETTLED if getattr(device, name))
        await self._save(entry, merged(entry.device, device))
        await self._save_sensors(device.device_id, sensors)

    async def capabilities(self, device_id: str, payload: Mapping[str, Any]) -> None:
        """What a device says of itself (design of the topics: all optional); written only where it is news."""
        entry = self._entries.setdefault(device_id, self._new(Device(device_id, source="mqtt"), unsaved=True))
        said = Device(
            device_id,
            device_name=clean(payload.get("device_name")),
            device_type=clean(payload.get("device_type")),
            location=clean(payload.get("device_location")),
            manufacturer=clean(payload.get("manufacturer")),
            model=clean(payload.get("model")),
            hardware_revision=clean(payload.get("hardware_revision")),
            mac_address=clean(payload.get("mac_address")),
            firmware_version=clean(payload.get("firmware_version")),
        )
        await self._save(entry, merged(entry.device, said))
        details = payload.get("metadata")
        listed = payload.get("sensors")
        before_s, entry.told_s = entry.interval_s, told_interval_s(listed, details)
        if entry.interval_s != before_s:
            self._look(entry)
        told = list(listed)[:MAX_SENSORS] if isinstance(listed, list | tuple) else []
        found = [described(device_id, each, details) for each in told]
        await self._save_sensors(device_id, [sensor for sensor in found if sensor is not None])

    async def reported_status(self, device_id: str, online: bool) -> None:
        """What a device, or the broker in its name (last will), says of its connection."""
        entry = self._entries.get(device_id)
        if entry is None:
            entry = self._entries[device_id] = self._new(Device(device_id, source="mqtt"), unsaved=True)
        if online:
            entry.offline_since = None
        elif entry.offline_since is None:
            entry.offline_since = self._clock.now()
        self._look(entry)

    def sensor_status(self, device_id: str, sensor: str, fault: str | None) -> None:
        """What the task that reads a wired sensor says of it: why it fails, or None with its first good reading."""
        entry = self._entry(device_id)
        if fault is not None:
            known = entry.faults.get(sensor)
            entry.faults[sensor] = Fault(fault, known.since if known else self._clock.now())
        elif entry.faults.pop(sensor, None) is not None:
            self._hear(entry, self._clock.now())  # its reading is on its way to the disk
        self._look(entry)

    def updating(self, device_id: str, how: str | None) -> None:
        """How far an update of a device's firmware is, None where there is none; of whoever is not known nothing."""
        entry = self._entries.get(device_id)
        if entry is None or (how is None and entry.updating is None):
            return
        since = entry.updating.since if entry.updating is not None else self._clock.now()
        entry.updating = None if how is None else Fault(how, since)
        self._look(entry)

    def seen(self, readings: Sequence[Reading]) -> None:
        """Readings that were committed just now: who was heard, and how often each speaks."""
        spoke: dict[str, Entry] = {}
        time, place = None, ("", "")
        for reading in readings:
            if reading.time is time and reading[:2] == place:
                continue  # of the same message
            time, place = reading.time, reading[:2]
            entry = self._entries.get(reading.device)
            if entry is None:
                device = Device(reading.device, source="mqtt", first_seen=reading.received)
                entry = self._entries[reading.device] = self._new(device, unsaved=True)
            before = entry.times.get(reading.sensor)
            if before is None or time > before:
                entry.times[reading.sensor] = time
                if before is not None:
                    recent = entry.gaps.setdefault(reading.sensor, deque(maxlen=LEARN_FROM))
                    recent.append((time - before).total_seconds())
                    spoke[reading.device] = entry
            if entry.last_seen is None or reading.received > entry.last_seen:
                self._hear(entry, reading.received)
        for entry in spoke.values():
            self._learn(entry)

    async def flush(self) -> None:
        """Write down what changed: new devices, status, and last_seen where it is older than WRITE_EVERY."""
        new = [entry for entry in self._entries.values() if entry.unsaved]
        await commands.save_devices(self._store, [self.device(entry.device.device_id) for entry in new])
        for entry in new:
            entry.unsaved = False
        touched: dict[str, tuple[str, datetime | None]] = {}
        for device_id, entry in self._entries.items():
            now = (self.status(device_id).status, entry.last_seen)
            if now[0] != entry.written[0] or older(entry.written[1], now[1]):
                touched[device_id] = now
        if not touched:
            return
        await commands.touch_devices(self._store, touched)
        for device_id, now in touched.items():
            self._entries[device_id].written = now
        learned = {name: entry.learned_s for name, entry in self._entries.items() if entry.learned_s is not None}
        await commands.set_setting(self._store, "intervals", json.dumps(learned))

    async def announce(self) -> None:
        """Write one event for each device whose status changed since the last one, all of them at once."""
        now = self._clock.now()
        told: list[tuple[Said, Status, frozenset[str]]] = []
        for device_id, entry in list(self._entries.items()):
            said = entry.said
            if not said.look and (said.look_at is None or now < said.look_at):
                continue
            said.look, said.look_at = False, self._next_change(entry, now)
            status, failing = self.status(device_id), frozenset(entry.faults)
            if status.status == said.status and (said.failing is None or said.failing == failing):
                said.failing = failing
            elif self._too_early(entry, status.status, now):
                said.look_at = self._started + self._silent_after(entry)
            elif len(said.times) == EVENTS_AN_HOUR and now - said.times[0] < timedelta(hours=1):
                said.held_back, said.look_at = said.held_back + 1, said.times[0] + timedelta(hours=1)
            else:
                told.append((said, status, failing))
        if not told:
            return
        await commands.add_events(self._store, [change_of(said, status, now) for said, status, _ in told])
        for said, status, failing in told:
            said.status, said.failing, said.held_back = status.status, failing, 0
            said.times.append(now)

    async def run(self, every_s: float = 60.0) -> None:
        """Announce what changes and flush now and then, for ever; what cannot be written now is written later."""
        loop = asyncio.get_running_loop()
        flush_s = loop.time() + every_s
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._quiet_s(flush_s - loop.time())):
                    await self._changed.wait()
            self._changed.clear()
            try:
                await self.announce()
                if loop.time() >= flush_s:
                    flush_s = loop.time() + every_s
                    await self.flush()
            except StoreError as error:
                log.warning("what is known of the devices is not written down: %s", error)
                self._look_again()
                await asyncio.sleep(every_s)

    def _new(self, device: Device, **known: Any) -> Entry:
        """An entry with what people said of the device, also before it was heard (its edits came back alone)."""
        entry = Entry(device, edits=self._edits.setdefault(device.device_id, {}), **known)
        entry.device = edited(device, entry)
        return entry

    def _entry(self, device_id: str) -> Entry:
        entry = self._entries.get(device_id)
        if entry is None:
            near = difflib.get_close_matches(device_id, self._entries, 1, 0.4)
            hint = f"did you mean {near[0]!r}?" if near else "the list of devices names those that are"
            raise LookupError(f"no device {clean(device_id)!r}: {hint}")
        return entry

    def _look(self, entry: Entry) -> None:
        entry.said.look = True
        self._changed.set()

    def _look_again(self) -> None:
        for entry in self._entries.values():
            entry.said.look = True

    def _quiet_s(self, flush_in_s: float) -> float:
        """How long nothing will change by itself."""
        due = min((e.said.look_at for e in self._entries.values() if e.said.look_at is not None), default=None)
        if due is None:
            return max(0.0, flush_in_s)
        return max(0.0, min(flush_in_s, max(LOOK_AT_MOST_EVERY_S, (due - self._clock.now()).total_seconds())))

    def _next_change(self, entry: Entry, now: datetime) -> datetime | None:
        """When silence alone will change the status."""
        moments = [self._started + self._silent_after(entry)]
        if entry.last_seen is not None:
            moments += [entry.last_seen + self._late_after(entry), entry.last_seen + self._silent_after(entry)]
        return min((moment for moment in moments if moment > now), default=None)

    def _too_early(self, entry: Entry, status: str, now: datetime) -> bool:
        """Whether a device had no time yet to be heard since the start."""
        unheard = entry.last_seen is None or entry.last_seen < self._started
        waiting = now - self._started < self._silent_after(entry)
        return status in {"late", "silent"} and entry.offline_since is None and unheard and waiting

    def _late_after(self, entry: Entry) -> timedelta:
        return LATE_AFTER * timedelta(seconds=entry.interval_s) + self._known_after

    def _silent_after(self, entry: Entry) -> timedelta:
        return SILENT_AFTER * timedelta(seconds=entry.interval_s) + self._known_after

    def _judge(self, entry: Entry) -> tuple[str, datetime, str]:
        ended = entry.edits.get("status")
        if ended is not None and ended.value == DECOMMISSIONED:
            return DECOMMISSIONED, ended.time, ended.reason
        if entry.updating is not None:
            return "updating", entry.updating.since, entry.updating.reason
        if not entry.faults:
            return self._heard(entry)
        reason = "; ".join(f"{sensor}: {fault.reason}" for sensor, fault in sorted(entry.faults.items()))
        since = [fault.since for fault in entry.faults.values()]
        if entry.wired <= entry.faults.keys():
            return "faulty", max(since), reason
        return "degraded", min(since), reason

    def _heard(self, entry: Entry) -> tuple[str, datetime, str]:
        now, late_after, silent_after = self._clock.now(), self._late_after(entry), self._silent_after(entry)
        if entry.offline_since is not None:
            return "silent", entry.offline_since, "its connection to the broker ended"
        if entry.last_seen is None:
            return "silent", self._started, "waiting: never heard yet"
        age = now - entry.last_seen
        if age < late_after:
            return "online", entry.online_since or entry.last_seen, f"heard within {LATE_AFTER} intervals"
        said = f"nothing for {words(age)}, expected every {entry.interval_s:g} s"
        if age < silent_after:
            return "late", entry.last_seen + late_after, said
        if now - self._started < silent_after and entry.last_seen < self._started:
            # We were not listening: the device may have spoken to nobody.
            return "late", self._started, f"{said}; the gateway started {words(now - self._started)} ago"
        return "silent", entry.last_seen + silent_after, said

    def _hear(self, entry: Entry, received: datetime) -> None:
        pause = None if entry.last_seen is None else (received - entry.last_seen).total_seconds()
        if entry.online_since is None or pause is None or pause >= self._late_after(entry).total_seconds():
            entry.online_since = received
        first = entry.last_seen is None or entry.last_seen < self._started
        entry.last_seen = received
        if first or (entry.said.status != "online" and not entry.faults):
            self._look(entry)
        if entry.offline_since is not None and received > entry.offline_since:
            entry.offline_since, entry.online_since = None, received

    def _learn(self, entry: Entry) -> None:
        """Take the newest gaps between its messages into account."""
        learned = [median(recent) for recent in entry.gaps.values() if len(recent) >= 3]
        if learned:
            # The most talkative sensor decides: as long as it speaks, the device is heard.
            before_s = entry.interval_s
            entry.learned_s = min(learned)
            if entry.interval_s < before_s / 2:  # it will be late sooner than was thought
                self._look(entry)

    async def _save(self, entry: Entry, device: Device) -> None:
        if edited(device, entry) == entry.device and not entry.unsaved:
            return
        entry.device = edited(device, entry)
        await self._saving.add(self.device(device.device_id))
        entry.unsaved = False

    async def _save_sensors(self, device_id: str, told: Sequence[Sensor]) -> None:
        """Those that are news, as long as there is room: who tells of others every time must not fill the table."""
        known = self._store.known.sensors
        room = SENSORS_LIMIT - sum(device == device_id for device, _ in known)
        news: list[Sensor] = []
        for sensor in told:
            old = known.get((device_id, sensor.sensor))
            if old is None and room <= 0:
                continue
            room -= old is None
            if old is None or replace(sensor, device_id=device_id, sensor_id=old.sensor_id) != old:
                news.append(replace(sensor, device_id=device_id))
        await self._saving_sensors.add(*news)
