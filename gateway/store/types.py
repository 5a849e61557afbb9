"""What the store gives back. Times are aware UTC, values in the unit of their quantity."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from drivers.model import Quality, Quantity, Reason
from gateway.reading import Reading

Source = Literal["raw", "rollup", "raw+rollup"]
"""What an answer was made of: stored readings, rollups of 15 minutes, or both."""


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
    for every boot that the batch mentioned, also where all of its messages were duplicates. `crowded` devices said
    `refused` readings of new series although they have as many as a device may have: these are not stored."""

    batch: int
    stored: int
    duplicates: int
    marks: Mapping[tuple[str, str], int]
    gaps: tuple[Gap, ...]
    fresh: tuple[Reading, ...]
    refused: int = 0
    crowded: frozenset[str] = frozenset()


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


class Point(NamedTuple):
    """One stored value of a series; None where it was bad without a value. A tuple, because answers have thousands."""

    time: datetime
    value: float | None
    quality: Quality
    reason: Reason


@dataclass(frozen=True, slots=True)
class Points:
    """A range of a series in order of time, thinned where it held more than was asked for: then its first and last
    point, and of each span the smallest and the largest usable value, or one bad point where nothing was usable.

    `total` counts before thinning, `bad` how many of them were not usable. Where `resolution` is not zero, rollups
    stood in: all times but the last are starts of 15 minutes, and quality is that of the worst of them.
    """

    points: tuple[Point, ...]
    total: int
    bad: int
    source: Source
    resolution: timedelta


class Bucket(NamedTuple):
    """A span of a series, start included: only good and uncertain values count (n); `bad` says how many did not."""

    start: datetime
    n: int
    min: float
    mean: float
    max: float
    last: float
    uncertain: int
    bad: int


@dataclass(frozen=True, slots=True)
class Buckets:
    """A range of a series in spans, oldest first. Where `resolution` is not zero, readings had expired: then it begins
    with the first whole 15 minutes, and a span that cuts them counts those that begin in it."""

    buckets: tuple[Bucket, ...]
    source: Source
    resolution: timedelta


@dataclass(frozen=True, slots=True)
class BucketsOfSeries:
    """The same for several series, by their ids; those without a usable value are left out."""

    buckets: Mapping[int, tuple[Bucket, ...]]
    source: Source
    resolution: timedelta


class Total(NamedTuple):
    """Good and uncertain values of a series over a whole range (n); `bad` says how many more there were."""

    n: int
    min: float
    mean: float
    max: float
    uncertain: int
    bad: int


@dataclass(frozen=True, slots=True)
class Totals:
    """By the ids of their series; those without a usable value are left out. `resolution` as of Buckets."""

    totals: Mapping[int, Total]
    source: Source
    resolution: timedelta


@dataclass(frozen=True, slots=True)
class Statistics:
    """Figures of a range of a series over its good and uncertain values (n); None where there are none.

    `percentiles_of` says what p05, median and p95 are of: single readings, or means of 15 minutes. With a resolution
    readings had expired: the range begins with the first whole 15 minutes, and `first` is the last reading of those.
    """

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
    percentiles_of: Literal["readings", "15-minute means"]
    source: Source
    resolution: timedelta


@dataclass(frozen=True, slots=True)
class Period:
    """One side of a comparison. `interval` is the usual time between its readings, `coverage` the share of readings
    that are there and usable of those that this interval promises; None where there are too few to tell."""

    start: datetime
    end: datetime
    figures: Statistics
    interval: timedelta | None
    coverage: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two periods of a series; `change` is the second less the first, None where either has no such figure."""

    first: Period
    second: Period
    change: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Hit:
    """A value that stands out. `score` is its signed distance from the median of its series in robust deviations;
    `why` says it in words. `time` is exact unless the answer has a resolution; `quality` then is the worst of its 15
    minutes."""

    series_id: int
    time: datetime
    value: float
    score: float
    why: str
    quality: Quality = Quality.GOOD
    reason: Reason = Reason.NONE


@dataclass(frozen=True, slots=True)
class Anomalies:
    """The worst hits first; `total` counts all of them. Where `source` is not "raw", 15 minutes give at most two hits
    (their extremes), and medians and deviations are those of 15-minute means."""

    hits: tuple[Hit, ...]
    total: int
    source: Source
    resolution: timedelta


@dataclass(frozen=True, slots=True)
class Silence:
    """A time without readings: from the last one before it to the first one after it, or to the end of the range."""

    start: datetime
    end: datetime
    is_over: bool


@dataclass(frozen=True, slots=True)
class Silences:
    """The longest first; `total` counts all. `interval` is the usual time between readings, None for too few."""

    silences: tuple[Silence, ...]
    total: int
    interval: timedelta | None
    source: Source
    resolution: timedelta


@dataclass(frozen=True, slots=True)
class Aged:
    """A newest reading and how old it was when asked; a stale one counts in no figure."""

    reading: Reading
    age: timedelta
    is_stale: bool


@dataclass(frozen=True, slots=True)
class ZoneMetric:
    """What the devices of a zone ("" for those without one) say now of one metric. The figures are over fresh, usable
    values (n); `stale` counts the readings that are too old."""

    zone_id: str
    metric: str
    quantity: Quantity
    newest: tuple[Aged, ...]
    n: int
    min: float | None
    mean: float | None
    max: float | None
    stale: int


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
class GrantRow:
    """What an app was granted without a browser of its own: it holds the token of this id, and renews it. Until it has
    collected that (`refresh_sha256` is None) `until` ends its device code, later its refresh token. Hashes are hex."""

    token_id: str
    client: str
    device_sha256: str
    until: datetime
    family_sha256: str | None = None
    refresh_sha256: str | None = None


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
