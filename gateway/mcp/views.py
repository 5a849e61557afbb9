"""What an assistant sees. No value without its unit, time, age and quality; no answer without `now` and `timezone`.

Fields that say nothing are left unset and not sent (`exclude_unset`); null is only ever a value that is not there.
"""

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from pydantic import BaseModel

from drivers.model import Quality
from gateway.mcp.times import local
from gateway.reading import Reading
from gateway.registry.registry import Status
from gateway.store.types import Bucket, Device, Point, Points, Sensor, Series, Statistics, TableInfo

CEILING_BYTES = 50_000
"""The longest answer; assistants lose their thread, and some clients their connection, over longer ones."""
TEXT_LIMIT = 200

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Frame:
    """What every answer is told against: the moment of asking (aware UTC), the site's zone, the clock's word."""

    now: datetime
    zone: ZoneInfo
    trusted: bool = True

    def fields(self) -> dict[str, Any]:
        """The fields that every answer carries; `clock` only where the gateway's own clock was never set."""
        known = {"now": local(self.now, self.zone), "timezone": str(self.zone)}
        return known if self.trusted else known | {"clock": "not set: all times are doubtful"}

    def local(self, moment: datetime) -> str:
        return local(moment, self.zone)

    def age_s(self, moment: datetime) -> float:
        return round((self.now - moment).total_seconds(), 1)


class Answer(BaseModel):
    """What all answers share."""

    now: str
    timezone: str
    clock: str = ""


class ReadingView(BaseModel):
    """One value of one series."""

    device: str
    sensor: str
    metric: str
    value: float | None
    unit: str
    time: str
    age_s: float
    quality: str
    reason: str = ""

    @classmethod
    def of(cls, reading: Reading, frame: Frame) -> "ReadingView":
        return cls(
            device=reading.device,
            sensor=reading.sensor,
            metric=reading.metric,
            value=rounded(reading.value),
            unit=reading.quantity.unit,
            time=frame.local(reading.time),
            age_s=frame.age_s(reading.time),
            **_quality(reading.quality, str(reading.reason)),
        )


class LatestReadings(Answer):
    readings: list[ReadingView]
    total: int

    @classmethod
    def of(cls, readings: Sequence[Reading], frame: Frame) -> "LatestReadings":
        def make(some: Sequence[Reading]) -> "LatestReadings":
            return cls(**frame.fields(), total=len(readings), readings=[ReadingView.of(r, frame) for r in some])

        return first_that_fit(readings, make)


class DeviceView(BaseModel):
    device: str
    status: str
    last_seen: str | None
    age_s: float | None
    expected_interval_s: float
    reason: str = ""
    since: str = ""
    name: str = ""
    type: str = ""
    location: str = ""
    model: str = ""
    firmware: str = ""
    source: str = ""

    @classmethod
    def of(cls, device: Device, status: Status, frame: Frame) -> "DeviceView":
        said = {
            "reason": "" if status.status == "online" else status.reason,
            "since": "" if status.status == "online" else frame.local(status.since),
            "name": device.device_name,
            "type": device.device_type,
            "location": " / ".join(part for part in (device.building, device.floor, device.location) if part),
            "model": " ".join(part for part in (device.manufacturer, device.model) if part),
            "firmware": device.firmware_version,
            "source": device.source,
        }
        seen = device.last_seen
        return cls(
            device=device.device_id,
            status=status.status,
            expected_interval_s=round(status.expected_interval_s, 1),
            last_seen=frame.local(seen) if seen else None,
            age_s=frame.age_s(seen) if seen else None,
            **{key: clean(text) for key, text in said.items() if text},
        )


class Devices(Answer):
    devices: list[DeviceView]
    total: int

    @classmethod
    def of(cls, devices: Sequence[Device], status: Callable[[str], Status], frame: Frame) -> "Devices":
        def make(some: Sequence[Device]) -> "Devices":
            views = [DeviceView.of(device, status(device.device_id), frame) for device in some]
            return cls(**frame.fields(), total=len(devices), devices=views)

        return first_that_fit(devices, make)


class DeviceStatus(DeviceView, Answer):
    """One device with its newest values."""

    readings: list[ReadingView]

    @classmethod
    def of_device(cls, device: Device, status: Status, readings: Iterable[Reading], frame: Frame) -> "DeviceStatus":
        view = DeviceView.of(device, status, frame).model_dump(exclude_unset=True)
        return cls(**frame.fields(), **view, readings=[ReadingView.of(r, frame) for r in readings])


class MetricView(BaseModel):
    metric: str
    unit: str


class SensorView(BaseModel):
    device: str
    sensor: str
    sensor_id: int
    type: str
    metrics: list[MetricView]
    location: str = ""


class Sensors(Answer):
    sensors: list[SensorView]
    total: int

    @classmethod
    def of(cls, sensors: Sequence[Sensor], series: Iterable[Series], frame: Frame) -> "Sensors":
        metrics: dict[int, list[MetricView]] = {}
        for one in series:
            metrics.setdefault(one.sensor_id, []).append(MetricView(metric=one.metric, unit=one.quantity.unit))

        def view(sensor: Sensor) -> SensorView:
            place = {"location": clean(sensor.location)} if sensor.location else {}
            return SensorView(
                device=sensor.device_id,
                sensor=sensor.sensor,
                sensor_id=sensor.sensor_id,
                type=clean(sensor.sensor_type),
                metrics=metrics.get(sensor.sensor_id, []),
                **place,
            )

        def make(some: Sequence[Sensor]) -> "Sensors":
            return cls(**frame.fields(), total=len(sensors), sensors=[view(s) for s in some])

        return first_that_fit(sensors, make)


class SeriesAnswer(Answer):
    """What answers about one series share; `start` is included, `end` is not."""

    device: str
    sensor: str
    metric: str
    unit: str
    start: str
    end: str


class TimeSeries(SeriesAnswer):
    """Columns of equal length. Points: `values[i]` at `times[i]`, all good where `qualities` is not sent. Buckets:
    `times` are starts, only buckets that hold anything; `bad` values are counted there and left out of the figures."""

    total: int
    returned: int
    downsampled: bool
    age_s: float | None
    times: list[str]
    values: list[float | None] = []
    qualities: list[str] = []
    reasons: list[str] = []
    bucket: str = ""
    n: list[int] = []
    min: list[float | None] = []
    mean: list[float | None] = []
    max: list[float | None] = []
    bad: list[int] = []

    @classmethod
    def of_points(cls, series: Series, points: Points, start: datetime, end: datetime, frame: Frame) -> "TimeSeries":
        head = _head(series, start, end, frame)

        def make(some: Sequence[Point]) -> "TimeSeries":
            extra: dict[str, Any] = {}
            if any(p.quality is not Quality.GOOD for p in some):
                extra = {"qualities": [str(p.quality) for p in some], "reasons": [str(p.reason) for p in some]}
            return cls(
                **head,
                **_count([p.time for p in some], points.total, frame),
                values=[rounded(p.value) for p in some],
                **extra,
            )

        return thinned_to_fit(points.points, make)

    @classmethod
    def of_buckets(
        cls,
        series: Series,
        buckets: Sequence[Bucket],
        *,
        width: timedelta,
        start: datetime,
        end: datetime,
        frame: Frame,
    ) -> "TimeSeries":
        head = _head(series, start, end, frame)

        def make(some: Sequence[Bucket]) -> "TimeSeries":
            return cls(
                **head,
                **_count([b.start for b in some], len(buckets), frame),
                bucket=f"{int(width.total_seconds())}s",
                n=[b.n for b in some],
                min=[rounded(b.min) for b in some],
                mean=[rounded(b.mean) for b in some],
                max=[rounded(b.max) for b in some],
                bad=[b.bad for b in some],
            )

        return thinned_to_fit(buckets, make)


class PointView(BaseModel):
    time: str
    value: float | None
    age_s: float
    quality: str
    reason: str = ""


class StatisticsAnswer(SeriesAnswer):
    """Figures over good and uncertain values, null where there were too few; `bad` values are only counted."""

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
    first: PointView | None
    last: PointView | None

    @classmethod
    def of(
        cls, series: Series, figures: Statistics, start: datetime, end: datetime, frame: Frame
    ) -> "StatisticsAnswer":
        def point(one: Point | None) -> PointView | None:
            if one is None:
                return None
            quality = _quality(one.quality, str(one.reason))
            return PointView(
                time=frame.local(one.time), value=rounded(one.value), age_s=frame.age_s(one.time), **quality
            )

        return cls(
            **_head(series, start, end, frame),
            n=figures.n,
            good=figures.good,
            uncertain=figures.uncertain,
            bad=figures.bad,
            first=point(figures.first),
            last=point(figures.last),
            min=rounded(figures.min),
            max=rounded(figures.max),
            mean=rounded(figures.mean),
            stddev=rounded(figures.stddev),
            p05=rounded(figures.p05),
            median=rounded(figures.median),
            p95=rounded(figures.p95),
        )


class ColumnView(BaseModel):
    name: str
    type: str
    description: str


class TableView(BaseModel):
    name: str
    description: str
    columns: list[ColumnView]


class Schema(Answer):
    tables: list[TableView]

    @classmethod
    def of(cls, tables: Iterable[TableInfo], frame: Frame) -> "Schema":
        def view(table: TableInfo) -> TableView:
            columns = [ColumnView(name=c.name, type=c.type, description=c.description) for c in table.columns]
            return TableView(name=table.name, description=table.description, columns=columns)

        return cls(**frame.fields(), tables=[view(table) for table in tables])


View = TypeVar("View", bound=BaseModel)


def compact(view: BaseModel) -> str:
    """The view as JSON without blanks; unset fields are left out."""
    return view.model_dump_json(exclude_unset=True)


def first_that_fit(items: Sequence[Item], make: Callable[[Sequence[Item]], View]) -> View:
    """The view of as many leading items as stay below the ceiling."""
    view = make(items)
    while len(items) > 1 and (size := len(compact(view).encode())) > CEILING_BYTES:
        items = items[: max(1, min(len(items) - 1, int(len(items) * CEILING_BYTES / size)))]
        view = make(items)
    return view


def thinned_to_fit(items: Sequence[Item], make: Callable[[Sequence[Item]], View]) -> View:
    """The view of as many items as stay below the ceiling, evenly chosen, first and last kept."""
    view, kept = make(items), len(items)
    while kept > 2 and (size := len(compact(view).encode())) > CEILING_BYTES:
        kept = max(2, min(kept - 1, int(kept * CEILING_BYTES / size)))
        view = make([items[round(i * (len(items) - 1) / (kept - 1))] for i in range(kept)])
    return view


def clean(text: str) -> str:
    """A device's words as data: one line, no control or direction characters, at most 200 characters."""
    kept = "".join(" " if unicodedata.category(c) in {"Cc", "Cf", "Zl", "Zp"} else c for c in text[: 4 * TEXT_LIMIT])
    return " ".join(kept.split())[:TEXT_LIMIT]


def rounded(value: float | None) -> float | None:
    """Six significant digits (above a million: one decimal): more than any sensor here resolves, half the text."""
    if value is None or not math.isfinite(value):
        return None  # JSON knows neither NaN nor infinity
    return float(f"{value:.6g}") if abs(value) < 1e6 else round(value, 1)


def _quality(quality: Quality, reason: str) -> dict[str, str]:
    return {"quality": str(quality)} if quality is Quality.GOOD else {"quality": str(quality), "reason": reason}


def _head(series: Series, start: datetime, end: datetime, frame: Frame) -> dict[str, Any]:
    return frame.fields() | {
        "device": series.device,
        "sensor": series.sensor,
        "metric": series.metric,
        "unit": series.quantity.unit,
        "start": frame.local(start),
        "end": frame.local(end),
    }


def _count(times: Sequence[datetime], total: int, frame: Frame) -> dict[str, Any]:
    return {
        "total": total,
        "returned": len(times),
        "downsampled": len(times) < total,
        "age_s": frame.age_s(times[-1]) if times else None,
        "times": [frame.local(time) for time in times],
    }
