"""What the store gives back. Times are aware UTC, values in the unit of their quantity."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from drivers.model import Quality, Quantity, Reason
from gateway.reading import Reading


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages of a node that it no longer holds and that never arrived: first_seq..last_seq, both included."""

    device: str
    boot: str
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class Commit:
    """What one committed batch changed. `marks` maps (device, boot) to the contiguous high-water mark now on disk,
    for every boot that the batch mentioned, also where all of its messages were duplicates."""

    batch: int
    stored: int
    duplicates: int
    marks: Mapping[tuple[str, str], int]
    gaps: tuple[Gap, ...]
    fresh: tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """One quantity of one sensor: what a point belongs to."""

    series_id: int
    sensor_id: int
    device: str
    sensor: str
    metric: str
    quantity: Quantity


@dataclass(frozen=True, slots=True)
class Device:
    """What is known of a device. `source` is local (read by the gateway itself) or mqtt."""

    device_id: str
    device_name: str = ""
    device_type: str = ""
    zone_id: str = ""
    building: str = ""
    floor: str = ""
    location: str = ""
    manufacturer: str = ""
    model: str = ""
    hardware_revision: str = ""
    mac_address: str = ""
    firmware_version: str = ""
    source: str = ""
    status: str = ""
    first_seen: datetime | None = None
    last_seen: datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sensor:
    """One chip of a device. `sensor` is its name within the device (the topic's), `sensor_type` the chip's kind."""

    sensor_id: int
    device_id: str
    sensor: str
    sensor_type: str
    location: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Point:
    """One stored value of a series; None where it was bad without a value."""

    time: datetime
    value: float | None
    quality: Quality
    reason: Reason


@dataclass(frozen=True, slots=True)
class Points:
    """A range of a series, evenly thinned where it held more than was asked for. `total` counts before thinning."""

    points: tuple[Point, ...]
    total: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """A span of a series, start included: only good and uncertain values count; `bad` says how many did not."""

    start: datetime
    n: int
    min: float
    mean: float
    max: float
    last: float
    bad: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """Figures of a range of a series over its good and uncertain values (n); None where there are none."""

    n: int
    good: int
    uncertain: int
    bad: int
    min: float | None
    max: float | None
    mean: float | None
    stddev: float | None
    p05: float | None
    median: float | None
    p95: float | None
    first: Point | None
    last: Point | None


@dataclass(frozen=True, slots=True)
class Zone:
    """A place that devices belong to. `area_sqm` in square metres."""

    zone_id: str
    name: str
    building: str = ""
    floor: str = ""
    area_sqm: float | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token as it is kept: `sha256` (hex) of the secret, never the secret. `scope` is the number of a Scope."""

    token_id: str
    name: str
    scope: int
    sha256: str
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None
    last_used: datetime | None = None


@dataclass(frozen=True, slots=True)
class AuditRow:
    """Who wanted what of which target, the verdict and why."""

    time: datetime
    principal: str
    action: str
    target: str
    allowed: bool
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a device (or to the gateway itself: device is empty)."""

    time: datetime
    kind: str
    device: str
    message: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ColumnInfo:
    """One column of a view; `type` as DuckDB names it."""

    name: str
    type: str
    description: str


@dataclass(frozen=True, slots=True)
class TableInfo:
    """One view that assistants may query."""

    name: str
    description: str
    columns: tuple[ColumnInfo, ...]


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is stored: readings, number of the last batch, bytes of the data files, free bytes beside them."""

    readings: int
    batches: int
    series: int
    bytes_on_disk: int
    bytes_free: int
