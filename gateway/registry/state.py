"""What the registry remembers of each device, and what can be said of it without asking anybody."""

from collections import deque
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from gateway.store.edit_rows import Edit
from gateway.store.types import Device, Event

DECOMMISSIONED = "decommissioned"
DEFAULT_INTERVAL_S = 60.0
LATE_AFTER = 3
SILENT_AFTER = 10
"""In expected intervals since a device was last heard (tune: facts of the house, not of any standard)."""
LEARN_FROM = 15
"""How many recent intervals of a sensor the median is taken of: a lost message or a burst does not move it."""
WRITE_EVERY = timedelta(minutes=10)
"""How old last_seen in the table may be; memory always knows better."""
EVENTS_AN_HOUR = 12
"""Of one device: what comes and goes all the time tells nothing new, and each event is written to the card."""
LOOK_AT_MOST_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Status:
    """How a device is: online, late, silent; updating while its firmware is replaced; degraded or faulty where the
    gateway itself fails to read some or all of its sensors. `since` when and why (`reason`); `expected_interval_s`
    between messages."""

    device_id: str
    status: str
    since: datetime
    reason: str
    last_seen: datetime | None
    expected_interval_s: float


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a wired sensor cannot be read, or what is being done to a device."""

    reason: str
    since: datetime


@dataclass(slots=True)
class Said:
    """The status that the last event told, and which sensors failed (None: not known, it was before the start)."""

    status: str = ""
    failing: frozenset[str] | None = None
    times: deque[datetime] = field(default_factory=lambda: deque(maxlen=EVENTS_AN_HOUR))
    held_back: int = 0
    look: bool = True
    look_at: datetime | None = None


@dataclass(slots=True)
class Entry:
    """One device: what was said of it and when it was heard. `settled` names what the settings say of it."""

    device: Device
    declared_s: float | None = None
    told_s: float | None = None
    learned_s: float | None = None
    last_seen: datetime | None = None
    online_since: datetime | None = None
    offline_since: datetime | None = None
    times: dict[str, datetime] = field(default_factory=dict)
    gaps: dict[str, deque[float]] = field(default_factory=dict)
    wired: frozenset[str] = frozenset()
    faults: dict[str, Fault] = field(default_factory=dict)
    updating: Fault | None = None
    said: Said = field(default_factory=Said)
    written: tuple[str, datetime | None] = ("", None)
    unsaved: bool = False
    settled: frozenset[str] = frozenset()
    edits: dict[str, Edit] = field(default_factory=dict)

    @property
    def interval_s(self) -> float:
        """How often it is expected: as the settings say, as the device itself says, as it was heard."""
        return self.declared_s or self.told_s or self.learned_s or DEFAULT_INTERVAL_S


def change_of(said: Said, status: Status, now: datetime) -> Event:
    """The event that tells of another status."""
    before = said.status or "new"
    detail = {"from": before, "to": status.status, "reason": status.reason, "since": status.since.isoformat()}
    if said.held_back:
        detail["held_back"] = str(said.held_back)
    return Event(now, "status", status.device_id, f"{before} -> {status.status}: {status.reason}", detail)


def merged(old: Device, new: Device) -> Device:
    """The old one with everything the new one says; what it leaves empty stays."""
    said = {
        name: value
        for name in Device.__dataclass_fields__
        if name not in {"status", "first_seen", "last_seen"} and (value := getattr(new, name))
    }
    return replace(old, **said)


def edited(device: Device, entry: Entry) -> Device:
    """With what people said of it, where the settings leave that to them."""
    said: dict[str, Any] = {
        name: edit.value
        for name, edit in entry.edits.items()
        if name in Device.__dataclass_fields__ and name != "status" and name not in entry.settled
    }
    return replace(device, **said) if said else device


def older(written: datetime | None, now: datetime | None) -> bool:
    """Whether what is written of last_seen is too old."""
    return now is not None and (written is None or now - written >= WRITE_EVERY)


def words(span: timedelta) -> str:
    """How people say it."""
    seconds = int(span.total_seconds())
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
