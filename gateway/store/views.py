"""What assistants see of the store: views with naive UTC times. They are derived, so no migration speaks of them."""

import re
from collections.abc import Iterable, Sequence

from gateway.store.codes import USABLE_BELOW
from gateway.store.types import Sensor, Series

MAX_TYPES = 100
MAX_METRICS = 64
"""Bounds on views and their columns: the names come from devices."""

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
    "measurements": """
        select r.ts as time, n.sensor_id, n.device_id, n.sensor_type, s.metric as metric_type, r.value, s.unit,
               ['good', 'uncertain', 'bad', 'missing'][(r.quality >> 6) + 1] as quality
        from reading r join series s using (series_id) join sensor n using (sensor_id)""",
}
SPANS = {"measurements_15min": "15 minutes", "measurements_hourly": "1 hour", "measurements_daily": "1 day"}

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
    "time": "when it was measured, UTC",
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


def definitions(types: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Name and query of every view."""
    views = dict(BASE)
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


def _span(span: str) -> str:
    # The origin is named: DuckDB's own depends on the width.
    return f"""
        select time_bucket(interval '{span}', r.ts::TIMESTAMP, TIMESTAMP '1970-01-01') as bucket, s.sensor_id,
               s.metric as metric_type, count(*) as n, min(r.value) as min, avg(r.value) as mean, max(r.value) as max,
               stddev_samp(r.value) as stddev, arg_max(r.value, r.ts) as last
        from reading r join series s using (series_id)
        where r.quality < {USABLE_BELOW} and r.value is not null group by all"""  # noqa: S608


def _columnar(kind: str, metrics: Sequence[str]) -> str:
    names: dict[str, str] = {}
    for metric in metrics:
        name = slug(metric) or "value"
        if name in {"time", "sensor_id"}:
            name = f"{name}_value"
        names.setdefault(name, metric)
    columns = [
        f'any_value(r.value) filter (where s.metric = {_text(metric)}) as "{name}"' for name, metric in names.items()
    ]
    return f"""
        select {", ".join(["r.ts as time", "s.sensor_id", *columns])}
        from reading r join series s using (series_id) join sensor n using (sensor_id)
        where n.slug = {_text(kind)} and r.quality < {USABLE_BELOW} and r.value is not null
        group by r.ts, s.sensor_id"""  # noqa: S608


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
