"""What assistants see of the store: views with naive UTC times. They are derived, so no migration speaks of them.

Two of them are not for assistants: all readings, and all that figures are made of (rollups, and readings where there
are none), as files and tables have them now. Only these change when something is sealed; the others stand on them.
"""

import re
from collections.abc import Iterable, Sequence

from gateway.store.cells import of_readings, of_rollups
from gateway.store.codes import USABLE_BELOW
from gateway.store.files import quoted
from gateway.store.segments import parquet
from gateway.store.segments.layout import BUCKET_MS, DAY_MS, HOUR_MS
from gateway.store.segments.view import View
from gateway.store.types import Sensor, Series

MAX_TYPES = 100
MAX_METRICS = 64
"""Bounds on views and their columns: the names come from devices."""

READINGS, CELLS = "every_reading", "every_cell"
HIDDEN = frozenset({READINGS, CELLS})

# The columnar views that exist before their first sensor does, with the columns people expect there.
KNOWN_TYPES: dict[str, tuple[str, ...]] = {
    "scd30": ("co2", "temperature", "humidity"),
    "bmp280": ("pressure", "temperature", "humidity"),
}

BASE = {
    "devices": """
        select device_id, device_name, device_type, zone_id, building, floor, location, manufacturer, model,
               hardware_revision, mac_address, firmware_version, source, status, first_seen, last_seen, metadata
        from device""",
    "sensors": "select sensor_id, device_id, sensor_type, location, metadata from sensor",
    "zones": "select zone_id, name, building, floor, area_sqm, description from zone",
    "events": "select time, kind, device_id, message, detail from event",
    "measurements": f"""
        select r.ts as time, n.sensor_id, n.device_id, n.sensor_type, s.metric as metric_type, r.value, s.unit,
               ['good', 'uncertain', 'bad', 'missing'][(r.quality >> 6) + 1] as quality
        from {READINGS} r join series s using (series_id) join sensor n using (sensor_id)""",  # noqa: S608
}
SPANS = {"measurements_15min": BUCKET_MS, "measurements_hourly": HOUR_MS, "measurements_daily": DAY_MS}

DESCRIPTIONS = {
    "devices": "One row for each device: where it is, what it is, and whether it is heard.",
    "sensors": "One row for each chip of a device.",
    "zones": "The places that devices belong to.",
    "events": "What happened to devices and to the gateway.",
    "measurements": "Every stored value, one row each, also the bad ones: the flexible form.",
    "measurements_15min": "Good and uncertain values in spans of 15 minutes of UTC.",
    "measurements_hourly": "Good and uncertain values in hours of UTC.",
    "measurements_daily": "Good and uncertain values in days of UTC.",
}
COLUMNS = {
    "time": "when it was measured, or happened, UTC",
    "bucket": "start of the span, UTC, included",
    "sensor_id": "which sensor; joins with sensors",
    "device_id": "which device; joins with devices",
    "zone_id": "which zone; joins with zones",
    "sensor_type": "the kind of chip, such as scd30",
    "metric_type": "what was measured, such as co2",
    "value": "in the unit beside it; NULL where nothing usable was said",
    "unit": "unit of the value",
    "quality": "good, uncertain, bad or missing",
    "status": "online, late, silent, degraded, faulty, updating or decommissioned",
    "n": "how many values",
    "min": "smallest value",
    "max": "largest value",
    "mean": "arithmetic mean",
    "stddev": "sample standard deviation; NULL for fewer than two values",
    "last": "the last value of the span",
    "first_seen": "when it was first heard, UTC",
    "last_seen": "when it was last heard, UTC, a few minutes behind",
    "metadata": "JSON text",
    "detail": "JSON text",
    "area_sqm": "area in square metres",
    "co2": "ppm",
    "temperature": "degC",
    "humidity": "%RH",
    "pressure": "hPa, station pressure",
}


def slug(name: str) -> str:
    """A device's word as an SQL identifier; empty if nothing of it can be used."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:48]


def type_metrics(sensors: Iterable[Sensor], series: Iterable[Series]) -> dict[str, tuple[str, ...]]:
    """The metrics of each sensor type, in order of appearance, known types first; bounded."""
    metrics: dict[str, list[str]] = {name: list(columns) for name, columns in KNOWN_TYPES.items()}
    types = {sensor.sensor_id: slug(sensor.sensor_type) for sensor in sensors}
    for each in series:
        kind = types.get(each.sensor_id, "")
        if not kind or (kind not in metrics and len(metrics) >= MAX_TYPES):
            continue
        columns = metrics.setdefault(kind, [])
        if each.metric not in columns and len(columns) < MAX_METRICS:
            columns.append(each.metric)
    return {kind: tuple(columns) for kind, columns in metrics.items()}


def definitions(types: dict[str, tuple[str, ...]], stored: View) -> dict[str, str]:
    """Name and query of every view, those that others stand on first."""
    views = {READINGS: f"select * from {stored.raw()}", CELLS: f"select * from {_cells(stored)}"} | BASE  # noqa: S608
    for name, span in SPANS.items():
        views[name] = _span(span)
    for kind, metrics in types.items():
        views[f"{kind}_measurements"] = _columnar(kind, metrics)
    return views


def describe_view(name: str) -> str:
    """One sentence for assistants."""
    return DESCRIPTIONS.get(name) or f"One row for each measurement of a {name.removesuffix('_measurements')} sensor."


def statement(name: str, query: str) -> str:
    return f'create or replace view "{name}" as {query}'


def _cells(stored: View) -> str:
    """SQL of each value that is stored once: in a rollup where there is one, else as a reading."""
    rolled = [each.roll for each in stored.segments if each.roll]
    bare = tuple(each for each in stored.segments if not each.roll)
    parts = [of_readings(View(stored.db, bare, stored.folder).raw())]
    if rolled:
        parts.append(of_rollups(parquet.scan(stored.folder, rolled, parquet.ROLL_COLUMNS)))
    return parquet.union(parts)


def _span(width_ms: int) -> str:
    return f"""
        select make_timestamp_ms(c.ms - c.ms % {width_ms})::TIMESTAMP as bucket, s.sensor_id, s.metric as metric_type,
               sum(c.n)::BIGINT as n, min(c.lo) as min, sum(c.sum) / sum(c.n) as mean, max(c.hi) as max,
               case when sum(c.n) > 1 then sqrt(greatest(0, sum(c.m2)
                   + (sum(c.sum * c.sum / c.n) - sum(c.sum) ** 2 / sum(c.n))) / (sum(c.n) - 1)) end as stddev,
               (max({{'ms': c.at_ms, 'value': c.at_value}})).value as last
        from {CELLS} c join series s using (series_id) where c.n > 0 group by all"""  # noqa: S608


def _columnar(kind: str, metrics: Sequence[str]) -> str:
    names: dict[str, str] = {}
    for metric in metrics:
        name = slug(metric) or "value"
        if name in {"time", "sensor_id"}:
            name = f"{name}_value"
        names.setdefault(name, metric)
    columns = [
        f'any_value(r.value) filter (where s.metric = {quoted(metric)}) as "{name}"' for name, metric in names.items()
    ]
    return f"""
        select {", ".join(["r.ts as time", "s.sensor_id", *columns])}
        from {READINGS} r join series s using (series_id) join sensor n using (sensor_id)
        where n.slug = {quoted(kind)} and r.quality < {USABLE_BELOW} and r.value is not null
        group by r.ts, s.sensor_id"""  # noqa: S608
