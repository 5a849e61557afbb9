"""What an assistant sees of the house as a whole: open conditions, zones, a device's day."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from pydantic import BaseModel

from gateway.mcp.fitting import clean, first_that_fit, rounded
from gateway.mcp.tools.base import Condition, House
from gateway.mcp.views import Answer, Frame, ReadingView
from gateway.store.types import Bucket, BucketsOfSeries, Series, ZoneMetric

SEVERITY = {"late": "info", "degraded": "warning", "silent": "warning", "faulty": "critical"}
"""How bad it is that a device is in such a state; others are no alert."""


def conditions(house: House) -> list[Condition]:
    """What the gateway knows to be wrong, the worst first."""
    found = list(house.troubles())
    for device in house.registry.devices():
        status = house.registry.status(device.device_id)
        if severity := SEVERITY.get(status.status):
            who = (device.device_id, device.zone_id, status.status)
            found.append(Condition("device", severity, status.reason, status.since, *who))
    if not house.clock.trusted():
        found.append(Condition("clock", "warning", "the gateway's clock is not set: all times are doubtful"))
    order = {"critical": 0, "warning": 1, "info": 2}
    return sorted(found, key=lambda one: (order.get(one.severity, 3), one.kind, one.device))


def fingerprint(house: House) -> frozenset[tuple[str, str, str]]:
    """What changes when a condition begins or ends, and not while it lasts."""
    return frozenset((one.kind, one.device, one.status) for one in conditions(house))


class AlertView(BaseModel):
    kind: str
    severity: str
    reason: str
    since: str | None
    age_s: float | None
    device: str = ""
    zone: str = ""
    status: str = ""

    @classmethod
    def of(cls, one: Condition, frame: Frame) -> "AlertView":
        said = {"device": clean(one.device), "zone": clean(one.zone), "status": one.status}
        return cls(
            kind=one.kind,
            severity=one.severity,
            reason=clean(one.reason),
            since=frame.local(one.since) if one.since else None,
            age_s=frame.age_s(one.since) if one.since else None,
            **{key: text for key, text in said.items() if text},
        )


class Alerts(Answer):
    alerts: list[AlertView]
    total: int

    @classmethod
    def of(cls, found: Sequence[Condition], frame: Frame) -> "Alerts":
        def make(some: Sequence[Condition]) -> "Alerts":
            views = [AlertView.of(one, frame) for one in some]
            return cls(**frame.fields(), total=len(found), alerts=views)

        return first_that_fit(found, make)


class ZoneMetricView(BaseModel):
    """Figures over the newest usable values that are not too old; `stale` counts those that are."""

    zone: str
    metric: str
    unit: str
    n: int
    min: float | None
    mean: float | None
    max: float | None
    stale: int
    readings: list[ReadingView]

    @classmethod
    def of(cls, one: ZoneMetric, frame: Frame) -> "ZoneMetricView":
        return cls(
            zone=clean(one.zone_id),
            metric=clean(one.metric),
            unit=one.quantity.unit,
            n=one.n,
            min=rounded(one.min),
            mean=rounded(one.mean),
            max=rounded(one.max),
            stale=one.stale,
            readings=[ReadingView.of(aged.reading, frame) for aged in one.newest],
        )


class ZoneSnapshots(Answer):
    metrics: list[ZoneMetricView]
    total: int

    @classmethod
    def of(cls, found: Sequence[ZoneMetric], frame: Frame) -> "ZoneSnapshots":
        def make(some: Sequence[ZoneMetric]) -> "ZoneSnapshots":
            views = [ZoneMetricView.of(one, frame) for one in some]
            return cls(**frame.fields(), total=len(found), metrics=views)

        return first_that_fit(found, make)


class CourseView(BaseModel):
    """One series in spans: columns of equal length, `times` are starts."""

    sensor: str
    metric: str
    unit: str
    age_s: float | None
    times: list[str]
    n: list[int]
    min: list[float | None]
    mean: list[float | None]
    max: list[float | None]
    uncertain: list[int]
    bad: list[int]

    @classmethod
    def of(cls, series: Series, buckets: Sequence[Bucket], frame: Frame) -> "CourseView":
        return cls(
            sensor=clean(series.sensor),
            metric=clean(series.metric),
            unit=series.quantity.unit,
            age_s=frame.age_s(buckets[-1].start) if buckets else None,
            times=[frame.local(one.start) for one in buckets],
            n=[one.n for one in buckets],
            min=[rounded(one.min) for one in buckets],
            mean=[rounded(one.mean) for one in buckets],
            max=[rounded(one.max) for one in buckets],
            uncertain=[one.uncertain for one in buckets],
            bad=[one.bad for one in buckets],
        )


class History(Answer):
    """A device's last day; `uncertain` values are among n, `bad` ones are not."""

    device: str
    start: str
    end: str
    bucket: str
    source: str
    series: list[CourseView]
    total: int

    @classmethod
    def of(
        cls, device: str, series: Iterable[Series], found: BucketsOfSeries, start: datetime, frame: Frame
    ) -> "History":
        views = [CourseView.of(one, found.buckets.get(one.series_id, ()), frame) for one in series]

        def make(some: Sequence[CourseView]) -> "History":
            head = {
                "device": clean(device),
                "start": frame.local(start),
                "end": frame.local(frame.now),
                "bucket": "30m",
            }
            return cls(**frame.fields(), **head, source=found.source, total=len(views), series=list(some))

        return first_that_fit(views, make)
