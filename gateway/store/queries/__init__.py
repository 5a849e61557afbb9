"""Every question the gateway asks of its store. Times are aware; ranges include their start and exclude their end."""

from gateway.store.queries.anomalies import DEVIATIONS, anomalies
from gateway.store.queries.figures import compare, statistics
from gateway.store.queries.history import MAX_BUCKETS, MAX_POINTS, buckets, buckets_of_series, points, totals
from gateway.store.queries.house import (
    MAX_ROWS,
    audit_rows,
    counts,
    devices,
    events,
    find_series,
    gaps,
    get_setting,
    grants,
    latest,
    node_keys,
    schema,
    sensors,
    tokens,
    zones,
)
from gateway.store.queries.silences import silences
from gateway.store.queries.snapshot import zone_snapshot

__all__ = [
    "DEVIATIONS",
    "MAX_BUCKETS",
    "MAX_POINTS",
    "MAX_ROWS",
    "anomalies",
    "audit_rows",
    "buckets",
    "buckets_of_series",
    "compare",
    "counts",
    "devices",
    "events",
    "find_series",
    "gaps",
    "get_setting",
    "grants",
    "latest",
    "node_keys",
    "points",
    "schema",
    "sensors",
    "silences",
    "statistics",
    "tokens",
    "totals",
    "zone_snapshot",
    "zones",
]
