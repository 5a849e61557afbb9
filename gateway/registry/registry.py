"""What is known of the house: which devices there are, and whether they are heard."""

import asyncio
import difflib
import json
import math
import unicodedata
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from gateway.clock import Clock
from gateway.reading import Reading
from gateway.store import commands, queries
from gateway.store.db import Store
from gateway.store.types import Device, Sensor

DEFAULT_INTERVAL_S = 60.0
LATE_AFTER = 3
SILENT_AFTER = 10
"""In expected intervals since a device was last heard (tune: facts of the house, not of any standard)."""
LEARN_FROM = 15
"""How many recent intervals of a sensor the median is taken of: a lost message or a burst does not move it."""
WRITE_EVERY = timedelta(minutes=10)
"""How old last_seen in the table may be; memory always knows better."""
MAX_TEXT = 128
MAX_SENSORS = 64
MAX_METADATA = 4096


@dataclass(frozen=True, slots=True)
class Status:
    """Whether a device is heard: online, late or silent, since when and why. `expected_interval_s` between messages."""

    device_id: str
    status: str
    since: datetime
    reason: str
    last_seen: datetime | None
    expected_interval_s: float


@dataclass(slots=True)
class _Entry:
    device: Device
    declared_s: float | None = None
    learned_s: float | None = None
    last_seen: datetime | None = None
    online_since: datetime | None = None
    offline_since: datetime | None = None
    times: dict[str, datetime] = field(default_factory=dict)
    gaps: dict[str, deque[float]] = field(default_factory=dict)
    written: tuple[str, datetime | None] = ("", None)
    unsaved: bool = False

    @property
    def interval_s(self) -> float:
        return self.declared_s or self.learned_s or DEFAULT_INTERVAL_S


class Registry:
    """Devices and their state, over the store. `load` first; `seen` after each commit; `run` or `flush` writes back."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._started: datetime = clock.now()

    async def load(self) -> None:
        """Read what the store knows."""
        self._started = self._clock.now()
        learned = json.loads(await queries.get_setting(self._store, "intervals") or "{}")
        for device in await queries.devices(self._store):
            entry = _Entry(device, learned_s=learned.get(device.device_id), last_seen=device.last_seen)
            entry.written = (device.status, device.last_seen)
            self._entries[device.device_id] = entry

    def devices(self) -> list[Device]:
        """Every device by id, with its status and last_seen as of now."""
        return [self.device(device_id) for device_id in sorted(self._entries)]

    def device(self, device_id: str) -> Device:
        """One device; LookupError names the nearest id."""
        entry = self._entry(device_id)
        return replace(entry.device, status=self.status(device_id).status, last_seen=entry.last_seen)

    def status(self, device_id: str) -> Status:
        """Whether a device is heard, as of now; LookupError names the nearest id."""
        entry = self._entry(device_id)
        status, since, reason = self._judge(entry)
        return Status(device_id, status, since, reason, entry.last_seen, entry.interval_s)

    async def declare(self, device: Device, sensors: Sequence[Sensor], interval_s: float | None) -> None:
        """A device of the configuration, which wins over what was known; the ids of `sensors` do not matter."""
        if interval_s is not None and not interval_s > 0:
            raise ValueError(f"{device.device_id}: interval {interval_s} s is not positive: say how often it is read")
        entry = self._entries.setdefault(device.device_id, _Entry(device, unsaved=True))
        entry.declared_s = interval_s
        await self._save(entry, _merged(entry.device, device))
        for sensor in sensors:
            await self._save_sensor(replace(sensor, device_id=device.device_id))

    async def capabilities(self, device_id: str, payload: Mapping[str, Any]) -> None:
        """What a device says of itself (design of the topics: all optional); written only where it is news."""
        entry = self._entries.setdefault(device_id, _Entry(Device(device_id, source="mqtt"), unsaved=True))
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
        await self._save(entry, _merged(entry.device, said))
        details = payload.get("metadata")
        listed = payload.get("sensors")
        for each in list(listed)[:MAX_SENSORS] if isinstance(listed, list | tuple) else []:
            if (sensor := _described(device_id, each, details)) is not None:
                await self._save_sensor(sensor)

    async def reported_status(self, device_id: str, online: bool) -> None:
        """What a device, or the broker in its name (last will), says of its connection."""
        entry = self._entries.get(device_id)
        if entry is None:
            entry = self._entries[device_id] = _Entry(Device(device_id, source="mqtt"), unsaved=True)
        if online:
            entry.offline_since = None
        elif entry.offline_since is None:
            entry.offline_since = self._clock.now()

    def seen(self, readings: Sequence[Reading]) -> None:
        """Readings that were committed just now: who was heard, and how often each speaks."""
        for reading in readings:
            entry = self._entries.get(reading.device)
            if entry is None:
                device = Device(reading.device, source="mqtt", first_seen=reading.received)
                entry = self._entries[reading.device] = _Entry(device, unsaved=True)
            before = entry.times.get(reading.sensor)
            if before is None or reading.time > before:
                entry.times[reading.sensor] = reading.time
                if before is not None:
                    self._learn(entry, reading.sensor, (reading.time - before).total_seconds())
            if entry.last_seen is None or reading.received > entry.last_seen:
                self._hear(entry, reading.received)

    async def flush(self) -> None:
        """Write down what changed: new devices, status, and last_seen where it is older than WRITE_EVERY."""
        for entry in [entry for entry in self._entries.values() if entry.unsaved]:
            await commands.save_device(self._store, self.device(entry.device.device_id))
            entry.unsaved = False
        touched: dict[str, tuple[str, datetime | None]] = {}
        for device_id, entry in self._entries.items():
            now = (self.status(device_id).status, entry.last_seen)
            if now[0] != entry.written[0] or _older(entry.written[1], now[1]):
                touched[device_id] = now
        if not touched:
            return
        await commands.touch_devices(self._store, touched)
        for device_id, now in touched.items():
            self._entries[device_id].written = now
        learned = {name: entry.learned_s for name, entry in self._entries.items() if entry.learned_s is not None}
        await commands.set_setting(self._store, "intervals", json.dumps(learned))

    async def run(self, every_s: float = 60.0) -> None:
        """Flush now and then, for ever."""
        while True:
            await asyncio.sleep(every_s)
            await self.flush()

    def _entry(self, device_id: str) -> _Entry:
        entry = self._entries.get(device_id)
        if entry is None:
            near = difflib.get_close_matches(device_id, self._entries, 1, 0.4)
            hint = f"did you mean {near[0]!r}?" if near else "the list of devices names those that are"
            raise LookupError(f"no device {clean(device_id)!r}: {hint}")
        return entry

    def _judge(self, entry: _Entry) -> tuple[str, datetime, str]:
        now, interval = self._clock.now(), timedelta(seconds=entry.interval_s)
        if entry.offline_since is not None:
            return "silent", entry.offline_since, "its connection to the broker ended"
        if entry.last_seen is None:
            return "silent", self._started, "waiting: never heard yet"
        age = now - entry.last_seen
        if age < LATE_AFTER * interval:
            return "online", entry.online_since or entry.last_seen, f"heard within {LATE_AFTER} intervals"
        said = f"nothing for {_words(age)}, expected every {entry.interval_s:g} s"
        if age < SILENT_AFTER * interval:
            return "late", entry.last_seen + LATE_AFTER * interval, said
        if now - self._started < SILENT_AFTER * interval and entry.last_seen < self._started:
            # We were not listening: the device may have spoken to nobody.
            return "late", self._started, f"{said}; the gateway started {_words(now - self._started)} ago"
        return "silent", entry.last_seen + SILENT_AFTER * interval, said

    def _hear(self, entry: _Entry, received: datetime) -> None:
        pause = None if entry.last_seen is None else (received - entry.last_seen).total_seconds()
        if entry.online_since is None or pause is None or pause >= LATE_AFTER * entry.interval_s:
            entry.online_since = received
        entry.last_seen = received
        if entry.offline_since is not None and received > entry.offline_since:
            entry.offline_since, entry.online_since = None, received

    @staticmethod
    def _learn(entry: _Entry, sensor: str, interval_s: float) -> None:
        recent = entry.gaps.setdefault(sensor, deque(maxlen=LEARN_FROM))
        recent.append(interval_s)
        if len(recent) >= 3:
            # The most talkative sensor decides: as long as it speaks, the device is heard.
            entry.learned_s = min(median(each) for each in entry.gaps.values() if len(each) >= 3)

    async def _save(self, entry: _Entry, device: Device) -> None:
        if device == entry.device and not entry.unsaved:
            return
        entry.device = device
        await commands.save_device(self._store, self.device(device.device_id))
        entry.unsaved = False

    async def _save_sensor(self, sensor: Sensor) -> None:
        known = self._store.known.sensors.get((sensor.device_id, sensor.sensor))
        if known is not None and replace(sensor, sensor_id=known.sensor_id) == known:
            return
        await commands.save_sensor(
            self._store,
            sensor.device_id,
            sensor.sensor,
            sensor_type=sensor.sensor_type,
            location=sensor.location,
            metadata=sensor.metadata,
        )


def clean(value: object) -> str:
    """A device's word as harmless text: no control or formatting characters, at most 128 long; "" if it is no text."""
    if not isinstance(value, str):
        return ""
    kept = (c for c in value[: 4 * MAX_TEXT] if unicodedata.category(c)[0] != "C" and c not in "\u2028\u2029")
    return "".join(kept).strip()[:MAX_TEXT]


def _described(device_id: str, each: object, details: object) -> Sensor | None:
    """One element of `sensors`: a name, or an object with a name; its metadata may name its type and place."""
    given: Mapping[str, Any] = each if isinstance(each, Mapping) else {"name": each}
    name = clean(given.get("name") or given.get("id"))
    if not name:
        return None
    found = details.get(name) if isinstance(details, Mapping) else None
    more: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    kind = clean(given.get("type") or more.get("type") or more.get("sensor_type")) or name
    place = clean(given.get("location") or more.get("location"))
    kept = {clean(key): _plain(value) for key, value in list(more.items())[:MAX_SENSORS]}
    if len(json.dumps(kept)) > MAX_METADATA:
        kept = {}
    return Sensor(0, device_id, name, kind, place, kept)


def _plain(value: object) -> Any:
    """Metadata keeps numbers and cleaned text; anything deeper becomes text."""
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return clean(value if isinstance(value, str) else json.dumps(value, default=str))


def _merged(old: Device, new: Device) -> Device:
    """The old one with everything the new one says; what it leaves empty stays."""
    said = {
        name: value
        for name in Device.__dataclass_fields__
        if name not in {"status", "first_seen", "last_seen"} and (value := getattr(new, name))
    }
    return replace(old, **said)


def _older(written: datetime | None, now: datetime | None) -> bool:
    return now is not None and (written is None or now - written >= WRITE_EVERY)


def _words(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
