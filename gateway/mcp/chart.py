"""A chart of series as data: what the page draws, what a reader is told, and the rows for a picture. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel

from drivers.model import Quality
from gateway.jail.table import Builder, Table
from gateway.mcp.fitting import evenly, rounded, with_extremes
from gateway.mcp.views import Answer, Frame
from gateway.store.types import Point, Points, Series, Silence

MOST_SERIES = 8
DRAWN_POINTS = 400
"""What the page gets, of all series together."""
TOLD_POINTS = 120
MOST_GAPS = 20


@dataclass(frozen=True, slots=True)
class Line:
    """One series of a chart, thinned to what is drawn; `mean` is that of all usable values."""

    series: Series
    points: Points
    gaps: Sequence[Silence]
    mean: float | None

    @property
    def usable(self) -> list[Point]:
        return [each for each in self.points.points if each.value is not None and each.quality < Quality.BAD]


class SeriesView(BaseModel):
    """Columns of equal length: `values[i]` at `times[i]`, all good where `qualities` is not sent. `gaps` are times
    without readings."""

    device: str
    sensor: str
    metric: str
    unit: str
    total: int
    bad_total: int = 0
    downsampled: bool
    source: str
    times: list[str]
    values: list[float | None]
    qualities: list[str] = []
    gaps: list[tuple[str, str]] = []


class Chart(Answer):
    """`picture` is the path of a PNG on this gateway, "" where none can be drawn, with the reason in `no_picture`;
    plot://{plot} is the same picture."""

    title: str
    start: str
    end: str
    series: list[SeriesView]
    plot: str = ""
    picture: str = ""
    no_picture: str = ""


def share(count: int) -> int:
    """How many points each of so many series gets."""
    return max(2, DRAWN_POINTS // max(2, count))


def thinned(points: Sequence[Point], most: int) -> Sequence[Point]:
    """At most so many points: those that keep the extremes, and with them doubtful ones, at most a quarter."""
    if len(points) <= most:
        return points
    doubtful = [each for each in points if each.quality is not Quality.GOOD]
    if len(doubtful) > most // 4:
        doubtful = list(evenly(doubtful, most // 4)) if most >= 8 else []
    kept = {*with_extremes(points, most - len(doubtful)), *doubtful}
    return [each for each in points if each in kept][:most]


def view(line: Line, frame: Frame) -> SeriesView:
    """A series as the page draws it."""
    points, series = line.points.points, line.series
    more: dict[str, Any] = {"bad_total": line.points.bad} if line.points.bad else {}
    if any(each.quality is not Quality.GOOD for each in points):
        more["qualities"] = [str(each.quality) for each in points]
    if line.gaps:
        more["gaps"] = [(frame.local(each.start), frame.local(each.end)) for each in line.gaps[:MOST_GAPS]]
    return SeriesView(
        device=series.device,
        sensor=series.sensor,
        metric=series.metric,
        unit=series.quantity.unit,
        total=line.points.total,
        downsampled=len(points) < line.points.total,
        source=line.points.source,
        times=[frame.local(each.time) for each in points],
        values=[rounded(each.value) for each in points],
        **more,
    )


def told(lines: Sequence[Line], title: str, first: datetime, last: datetime, frame: Frame) -> str:
    """The chart in words: figures of each series, and at most 120 points, in local time, that keep its extremes."""
    each_most = max(2, TOLD_POINTS // max(1, len(lines)))
    units = ", ".join(dict.fromkeys(line.series.quantity.unit for line in lines))
    parts = [f"{title} in {units}: {frame.local(first)} to {frame.local(last)} ({frame.zone})"]
    short = offset_of(first, last, frame.zone) == first.astimezone(frame.zone).utcoffset()
    for line in lines:
        points = line.points.points
        kept = thinned(points, each_most)
        parts += ["", _figures(line, frame), *(_told_point(point, frame, short=short) for point in kept)]
    return "\n".join(parts)


def _figures(line: Line, frame: Frame) -> str:
    series, usable, unit = line.series, line.usable, line.series.quantity.unit
    name = f"{series.device} {series.sensor} {series.metric}"
    if not usable:
        return f"{name}: nothing usable in this range ({line.points.total} values)"

    def at(point: Point) -> str:
        return f"{rounded(point.value):g} {unit} at {frame.local(point.time)}"

    low = min(usable, key=lambda each: each.value or 0.0)
    high = max(usable, key=lambda each: each.value or 0.0)
    said = f"{name}: {line.points.total} values, min {at(low)}, max {at(high)}, last {at(usable[-1])}"
    if line.mean is not None:
        said += f", mean {rounded(line.mean):g} {unit}"
    if line.points.bad:
        said += f"; {line.points.bad} bad values are no part of the line"
    if line.points.resolution:
        said += f"; from rollups of {line.points.resolution // timedelta(minutes=1)} minutes"
    for gap in line.gaps[:1]:
        said += f"; {len(line.gaps)} gaps, the longest {frame.local(gap.start)} to {frame.local(gap.end)}"
    return said


def _told_point(point: Point, frame: Frame, *, short: bool) -> str:
    """Without the offset where the whole range has one: it is half of the text."""
    value = "-" if point.value is None else f"{rounded(point.value):g}"
    doubt = "" if point.quality is Quality.GOOD else f" ({point.quality}: {point.reason})"
    return f"{frame.local(point.time)[: 19 if short else None]} {value}{doubt}"


def offset_of(first: datetime, last: datetime, zone: ZoneInfo) -> timedelta:
    """What local time is ahead of UTC over a whole range; zero where it changes within, so that no hour comes twice."""
    ends = {moment.astimezone(zone).utcoffset() for moment in (first, (first + (last - first) / 2), last)}
    found = ends.pop() if len(ends) == 1 else None
    return found or timedelta(0)


def rows(lines: Sequence[Line], ahead: timedelta) -> Table:
    """The lines as a table of series, time (local by `ahead`), value, quality; an empty value breaks a line."""
    made = Builder([("series", "VARCHAR", "text"), ("time", "TIMESTAMP", "ts"), ("value", "DOUBLE", "f8"),
                    ("quality", "VARCHAR", "text")])  # fmt: skip
    names = _names([line.series for line in lines])
    for line, name in zip(lines, names, strict=True):
        breaks = [(each.start + (each.end - each.start) / 2, None, "gap") for each in line.gaps]
        found = [(each.time, each.value, str(each.quality)) for each in line.points.points]
        cells = sorted([*found, *breaks], key=lambda each: each[0])
        made.extend([(name, _micros(time + ahead), value, quality) for time, value, quality in cells])
    return made.table()


def _names(series: Sequence[Series]) -> list[str]:
    """What tells series apart."""
    devices = {each.device for each in series}
    return [each.device if len(devices) == len(series) else f"{each.device} {each.sensor}" for each in series]


def _micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def drawing(title: str, unit: str, clock: str, first: datetime, last: datetime) -> str:
    """Code for the jail that draws `rows` from `first` to `last` (as shifted as they are): lines with breaks, rings for
    uncertain values, crosses for bad ones."""
    ends = [f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}" for moment in (first, last)]
    return DRAWING.format(title=repr(title), unit=repr(unit), clock=repr(clock), ends=ends)


DRAWING = """
fig, ax = plt.subplots(figsize=(9, 4.2))
df["time"] = df["time"].dt.tz_localize(None)
for name, part in df.groupby("series", sort=False):
    bad = part["quality"].isin(["bad", "missing"])
    line = part["value"].mask(bad)
    drawn, = ax.plot(part["time"], line, label=name, linewidth=1.4, marker="." if len(part) < 30 else None)
    doubt = part["quality"] == "uncertain"
    if doubt.any():
        ax.scatter(part["time"][doubt], line[doubt], s=28, facecolors="none", edgecolors="#b07000", zorder=3)
    if bad.any():
        low = ax.get_ylim()[0]
        ax.scatter(part["time"][bad], [low] * int(bad.sum()), s=28, marker="x", color="#b3372f", zorder=3)
ax.set_xlim(*pd.to_datetime({ends}))
ax.set_title({title})
ax.set_ylabel({unit})
ax.set_xlabel({clock})
ax.grid(True, alpha=0.3)
if df["series"].nunique() > 1:
    ax.legend(loc="best", fontsize=9)
fig.autofmt_xdate()
fig.tight_layout()
"""
