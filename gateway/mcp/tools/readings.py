"""What was measured: newest values, courses, figures."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from mcp_types import CallToolResult
from pydantic import Field

from gateway.mcp import selection, times
from gateway.mcp.findings import AnomaliesAnswer, ComparisonAnswer
from gateway.mcp.overview import ZoneSnapshots
from gateway.mcp.tools.base import Device, End, House, Metric, Sensor, Start, Zone, answer
from gateway.mcp.views import LatestReadings, StatisticsAnswer, TimeSeries
from gateway.store import queries

DEFAULT_POINTS = 200
MOST_POINTS = 2000
MOST_HITS = 100

Most = Annotated[int, Field(ge=2, le=MOST_POINTS, description="beyond, extremes are kept")]
Width = Annotated[str | None, Field(description="e.g. 15m, 1h, 1d: min, mean, max of each")]


Deviations = Annotated[
    float | None, Field(gt=0, le=1e6, allow_inf_nan=False, description="null: only the limits count")
]
Bound = Annotated[float | None, Field(allow_inf_nan=False, description="limit in the metric's unit")]
Hits = Annotated[int, Field(ge=1, le=MOST_HITS)]


class ReadingTools:
    """Tools about readings of series."""

    def __init__(self, house: House) -> None:
        self._house = house

    def functions(self) -> Sequence[Callable[..., Any]]:
        return (
            self.get_latest_readings,
            self.get_time_series,
            self.get_statistics,
            self.detect_anomalies,
            self.get_zone_snapshot,
            self.compare_periods,
        )

    async def get_latest_readings(
        self, device: Device = None, sensor: Sensor = None, metric: Metric = None, zone: Zone = None
    ) -> Annotated[CallToolResult, LatestReadings]:
        """Newest value of each matching series."""
        house = self._house
        inside = house.in_zone(zone)
        readings = queries.latest(house.store, device=device, sensor=sensor, metric=metric)
        if not readings and not (device is sensor is metric is None):
            raise selection.unmatched(house.every(), house.ids(), device, sensor, metric)
        readings = [one for one in readings if inside is None or one.device in inside]
        return answer(LatestReadings.of(readings, house.frame()))

    async def get_time_series(
        self,
        *,
        device: Device = None,
        sensor: Sensor = None,
        metric: Metric = None,
        start: Start = "-24h",
        end: End = "now",
        max_points: Most = DEFAULT_POINTS,
        bucket: Width = None,
    ) -> Annotated[CallToolResult, TimeSeries]:
        """History of one series as columns."""
        house = self._house
        series, frame = house.one(device, sensor, metric), house.frame()
        first, last = times.interval(start, end, frame.now, house.zone)
        if bucket is None:
            points = await queries.points(house.store, series.series_id, first, last, max_points)
            return answer(TimeSeries.of_points(series, points, first, last, frame))
        width = times.width(bucket, first, last, MOST_POINTS)
        found = await queries.buckets(house.store, series.series_id, first, last, width, zone=house.zone)
        return answer(TimeSeries.of_buckets(series, found, width=bucket.strip(), start=first, end=last, frame=frame))

    async def get_statistics(
        self,
        device: Device = None,
        sensor: Sensor = None,
        metric: Metric = None,
        start: Start = "-24h",
        end: End = "now",
    ) -> Annotated[CallToolResult, StatisticsAnswer]:
        """Figures of one series over a range: extremes, mean, percentiles, quality counts."""
        house = self._house
        series, frame = house.one(device, sensor, metric), house.frame()
        first, last = times.interval(start, end, frame.now, house.zone)
        figures = await queries.statistics(house.store, series.series_id, first, last)
        return answer(StatisticsAnswer.of(series, figures, first, last, frame))

    async def detect_anomalies(
        self,
        *,
        device: Device = None,
        sensor: Sensor = None,
        metric: Metric = None,
        zone: Zone = None,
        start: Start = "-24h",
        end: End = "now",
        deviations: Deviations = queries.DEVIATIONS,
        above: Bound = None,
        below: Bound = None,
        limit: Hits = 20,
    ) -> Annotated[CallToolResult, AnomaliesAnswer]:
        """Values far from the usual of their series (robust z-score) or beyond limits, each explained; of all series
        that match."""
        house, frame = self._house, self._house.frame()
        inside = house.in_zone(zone)
        chosen = [one for one in house.some(device, sensor, metric) if inside is None or one.device in inside]
        if (above is not None or below is not None) and len({one.quantity for one in chosen}) > 1:
            raise selection.several("metric", {one.metric for one in chosen}, "limits are in one unit")
        first, last = times.interval(start, end, frame.now, house.zone)
        known = {one.series_id: one for one in chosen}
        found = await queries.anomalies(
            house.store, first, last, series=known, deviations=deviations, above=above, below=below, limit=limit
        )
        return answer(AnomaliesAnswer.of(found, known, (frame.local(first), frame.local(last)), frame))

    async def get_zone_snapshot(self, zone: Zone = None) -> Annotated[CallToolResult, ZoneSnapshots]:
        """What a zone, or each zone, is like now: each metric's figures over its devices, and their newest values."""
        house, frame = self._house, self._house.frame()
        house.in_zone(zone)
        found = await queries.zone_snapshot(house.store, frame.now, house.stale_after, zone)
        return answer(ZoneSnapshots.of(found, frame))

    async def compare_periods(
        self,
        *,
        device: Device = None,
        sensor: Sensor = None,
        metric: Metric = None,
        first_start: Start = "-48h",
        first_end: End = "-24h",
        second_start: Start = "-24h",
        second_end: End = "now",
    ) -> Annotated[CallToolResult, ComparisonAnswer]:
        """Figures of two periods of one series beside each other, and how they changed."""
        house, frame = self._house, self._house.frame()
        series = house.one(device, sensor, metric)
        first = times.interval(first_start, first_end, frame.now, house.zone, names=("first_start", "first_end"))
        second = times.interval(second_start, second_end, frame.now, house.zone, names=("second_start", "second_end"))
        found = await queries.compare(house.store, series.series_id, first, second)
        return answer(ComparisonAnswer.of(series, found, frame))
