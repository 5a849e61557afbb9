"""What an assistant sees of questions about more than one moment: what stands out, two periods, what happened."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from gateway.mcp.fitting import clean, first_that_fit, rounded
from gateway.mcp.views import Answer, Figures, Frame, quality_of
from gateway.store.types import Anomalies, AuditRow, Comparison, Event, Hit, Period, Series

COMPARED = ("n", "mean", "median", "p95", "min", "max", "stddev")
DETAILS = 16


class AnomalyView(BaseModel):
    """One value; `score` is its signed distance from the median of its series in robust deviations."""

    device: str
    sensor: str
    metric: str
    value: float | None
    unit: str
    time: str
    age_s: float
    quality: str
    reason: str = ""
    score: float | None
    explanation: str

    @classmethod
    def of(cls, hit: Hit, series: Series, frame: Frame) -> "AnomalyView":
        value, unit, time = rounded(hit.value), series.quantity.unit, frame.local(hit.time)
        doubt = "" if not hit.quality else f"; its quality is {hit.quality} ({hit.reason})"
        return cls(
            device=clean(series.device),
            sensor=clean(series.sensor),
            metric=clean(series.metric),
            value=value,
            unit=unit,
            time=time,
            age_s=frame.age_s(hit.time),
            score=rounded(hit.score),
            explanation=clean(f"{clean(series.metric)} of {value:g} {unit} at {time} is {hit.why}{doubt}", 400),
            **quality_of(hit.quality, str(hit.reason)),
        )


class AnomaliesAnswer(Answer):
    """The worst first; `total` counts all."""

    anomalies: list[AnomalyView]
    total: int
    start: str
    end: str
    source: str
    resolution: str = ""

    @classmethod
    def of(
        cls, found: Anomalies, series: Mapping[int, Series], period: tuple[str, str], frame: Frame
    ) -> "AnomaliesAnswer":
        minutes = found.resolution // timedelta(minutes=1)
        more: dict[str, Any] = {"resolution": f"{minutes} minutes"} if minutes else {}

        def make(some: Sequence[Hit]) -> "AnomaliesAnswer":
            views = [AnomalyView.of(hit, series[hit.series_id], frame) for hit in some]
            head: dict[str, Any] = {"total": found.total, "start": period[0], "end": period[1], "source": found.source}
            return cls(**frame.fields(), **head, **more, anomalies=views)

        return first_that_fit(found.hits, make)


class PeriodView(Figures):
    """`coverage` is the share of readings that are there and usable, of those that the usual interval promises."""

    start: str
    end: str
    source: str
    interval_s: float | None
    coverage: float | None

    @classmethod
    def of(cls, period: Period, frame: Frame) -> "PeriodView":
        interval = period.interval
        return cls(
            **cls.fields_of(period.figures, frame),
            start=frame.local(period.start),
            end=frame.local(period.end),
            source=period.figures.source,
            interval_s=None if interval is None else interval.total_seconds(),
            coverage=None if period.coverage is None else round(period.coverage, 4),
        )


class ComparisonAnswer(Answer):
    """`change` is the second less the first, in the unit (n: readings); null where either has no such figure."""

    device: str
    sensor: str
    metric: str
    unit: str
    first: PeriodView
    second: PeriodView
    change: dict[str, float | None]

    @classmethod
    def of(cls, series: Series, found: Comparison, frame: Frame) -> "ComparisonAnswer":
        return cls(
            **frame.fields(),
            device=clean(series.device),
            sensor=clean(series.sensor),
            metric=clean(series.metric),
            unit=series.quantity.unit,
            first=PeriodView.of(found.first, frame),
            second=PeriodView.of(found.second, frame),
            change={name: rounded(found.change.get(name)) for name in COMPARED},
        )


class EventView(BaseModel):
    time: str
    age_s: float
    kind: str
    message: str
    device: str = ""
    detail: dict[str, Any] = {}


class Events(Answer):
    """Newest first."""

    events: list[EventView]
    returned: int

    @classmethod
    def of(cls, found: Sequence[Event], frame: Frame) -> "Events":
        def view(one: Event) -> EventView:
            more: dict[str, Any] = {"device": clean(one.device)} if one.device else {}
            if one.detail:
                shown = list(one.detail.items())[:DETAILS]
                more["detail"] = {clean(key): clean(_text(value)) for key, value in shown}
            more |= {"kind": clean(one.kind), "message": clean(one.message, 400)}
            return EventView(time=frame.local(one.time), age_s=frame.age_s(one.time), **more)

        def make(some: Sequence[Event]) -> "Events":
            return cls(**frame.fields(), returned=len(some), events=[view(one) for one in some])

        return first_that_fit(found, make)


class AuditView(BaseModel):
    time: str
    age_s: float
    principal: str
    action: str
    target: str
    allowed: bool
    reason: str
    detail: str = ""


class AuditAnswer(Answer):
    """Newest first."""

    rows: list[AuditView]
    returned: int

    @classmethod
    def of(cls, found: Sequence[AuditRow], frame: Frame) -> "AuditAnswer":
        def view(one: AuditRow) -> AuditView:
            texts = {name: clean(str(getattr(one, name) or "")) for name in ("principal", "action", "target", "reason")}
            texts |= {"detail": clean(one.detail)} if one.detail else {}
            when = frame.local(one.time), frame.age_s(one.time)
            return AuditView.model_validate({"time": when[0], "age_s": when[1], "allowed": one.allowed, **texts})

        def make(some: Sequence[AuditRow]) -> "AuditAnswer":
            return cls(**frame.fields(), returned=len(some), rows=[view(one) for one in some])

        return first_that_fit(found, make)


def _text(value: Any) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else to_json(value).decode()
