"""What an assistant sees. No value without its unit, time, age and quality; no answer without `now` and `timezone`.

Fields that say nothing are left unset and not sent (`exclude_unset`); null is only ever a value that is not there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel

from drivers.model import Quality
from gateway.mcp.fitting import clean, evenly, first_that_fit, rounded, thinned_to_fit, with_extremes
from gateway.mcp.times import local
from gateway.reading import Reading
from gateway.store.types import Buckets, Point, Points, Series, Statistics, TableInfo


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
            device=clean(reading.device),
            sensor=clean(reading.sensor),
            metric=clean(reading.metric),
            value=rounded(reading.value),
            unit=reading.quantity.unit,
            time=frame.local(reading.time),
            age_s=frame.age_s(reading.time),
            **quality_of(reading.quality, str(reading.reason)),
        )


class LatestReadings(Answer):
    readings: list[ReadingView]
    total: int

    @classmethod
    def of(cls, readings: Sequence[Reading], frame: Frame) -> "LatestReadings":
        def make(some: Sequence[ReadingView]) -> "LatestReadings":
            return cls(**frame.fields(), total=len(readings), readings=list(some))

        return first_that_fit([ReadingView.of(each, frame) for each in readings], make)


class SeriesAnswer(Answer):
    """What answers about one series share; `start` is included, `end` is not. `source` says what it was made of: raw
    readings, rollups of 15 minutes, or both; `resolution` is sent where times are known no better than that."""

    device: str
    sensor: str
    metric: str
    unit: str
    start: str
    end: str
    source: str
    resolution: str = ""


class TimeSeries(SeriesAnswer):
    """Columns of equal length. Points: `values[i]` at `times[i]`, all good where `qualities` is not sent; downsampled
    ones keep the extremes, and `bad_total` counts what was not usable. Buckets: `times` are starts, only buckets that
    hold anything; `bad` values are counted there and left out of the figures."""

    total: int
    returned: int
    downsampled: bool
    bad_total: int = 0
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
        known = head(series, start, end, frame) | origin(points)
        if points.bad:
            known["bad_total"] = points.bad

        def make(some: Sequence[Point]) -> "TimeSeries":
            extra: dict[str, Any] = {}
            if any(p.quality is not Quality.GOOD for p in some):
                extra = {"qualities": [str(p.quality) for p in some], "reasons": [str(p.reason) for p in some]}
            return cls(
                **known,
                **_count([p.time for p in some], points.total, frame),
                times=[frame.local(p.time) for p in some],
                values=[rounded(p.value) for p in some],
                **extra,
            )

        return thinned_to_fit(points.points, make, with_extremes)

    @classmethod
    def of_buckets(
        cls,
        series: Series,
        found: Buckets,
        *,
        width: str,
        start: datetime,
        end: datetime,
        frame: Frame,
    ) -> "TimeSeries":
        known = head(series, start, end, frame) | origin(found)
        columns: dict[str, list[Any]] = {  # written once, however often the view is made until it fits
            "times": [frame.local(b.start) for b in found.buckets],
            "n": [b.n for b in found.buckets],
            "min": [rounded(b.min) for b in found.buckets],
            "mean": [rounded(b.mean) for b in found.buckets],
            "max": [rounded(b.max) for b in found.buckets],
            "bad": [b.bad for b in found.buckets],
        }

        def make(some: Sequence[int]) -> "TimeSeries":
            chosen: dict[str, Any] = {name: [column[at] for at in some] for name, column in columns.items()}
            count = _count([found.buckets[at].start for at in some], len(found.buckets), frame)
            return cls(**known, **count, bucket=width, **chosen)

        return thinned_to_fit(range(len(found.buckets)), make, evenly)


class PointView(BaseModel):
    time: str
    value: float | None
    age_s: float
    quality: str
    reason: str = ""


class Figures(BaseModel):
    """Figures over good and uncertain values, null where there were too few; `bad` values are only counted.
    `percentiles_of` says whether those are of single readings or of means."""

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
    percentiles_of: str
    first: PointView | None
    last: PointView | None

    @staticmethod
    def fields_of(figures: Statistics, frame: Frame) -> dict[str, Any]:
        """All of them by name."""
        numbers = ("min", "max", "mean", "stddev", "p05", "median", "p95")
        return {name: rounded(getattr(figures, name)) for name in numbers} | {
            "n": figures.n,
            "good": figures.good,
            "uncertain": figures.uncertain,
            "bad": figures.bad,
            "percentiles_of": figures.percentiles_of,
            "first": _point(figures.first, frame),
            "last": _point(figures.last, frame),
        }


class StatisticsAnswer(Figures, SeriesAnswer):
    """Figures of one series over one range."""

    @classmethod
    def of(
        cls, series: Series, figures: Statistics, start: datetime, end: datetime, frame: Frame
    ) -> "StatisticsAnswer":
        return cls(**head(series, start, end, frame), **origin(figures), **cls.fields_of(figures, frame))


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


def quality_of(quality: Quality, reason: str) -> dict[str, str]:
    """The fields that tell it; the reason only where it is not good."""
    return {"quality": str(quality)} if quality is Quality.GOOD else {"quality": str(quality), "reason": reason}


def head(series: Series, start: datetime, end: datetime, frame: Frame) -> dict[str, Any]:
    """The fields of an answer about a range of one series."""
    return frame.fields() | {
        "device": clean(series.device),
        "sensor": clean(series.sensor),
        "metric": clean(series.metric),
        "unit": series.quantity.unit,
        "start": frame.local(start),
        "end": frame.local(end),
    }


def origin(answer: Points | Buckets | Statistics) -> dict[str, Any]:
    minutes = answer.resolution // timedelta(minutes=1)
    return {"source": answer.source} | ({"resolution": f"{minutes} minutes"} if minutes else {})


def _count(times: Sequence[datetime], total: int, frame: Frame) -> dict[str, Any]:
    return {
        "total": total,
        "returned": len(times),
        "downsampled": len(times) < total,
        "age_s": frame.age_s(times[-1]) if times else None,
    }


def _point(one: Point | None, frame: Frame) -> PointView | None:
    if one is None:
        return None
    quality = quality_of(one.quality, str(one.reason))
    return PointView(time=frame.local(one.time), value=rounded(one.value), age_s=frame.age_s(one.time), **quality)
