"""Every question the gateway asks of its store. Times are aware; ranges include their start and exclude their end."""

import shutil
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

import duckdb

from gateway.reading import Reading
from gateway.store import codes, delivery, views
from gateway.store.codes import USABLE_BELOW
from gateway.store.db import Store
from gateway.store.known import from_json
from gateway.store.types import (
    AuditRow,
    Bucket,
    ColumnInfo,
    Counts,
    Device,
    Event,
    Gap,
    Point,
    Points,
    Sensor,
    Series,
    Statistics,
    TableInfo,
    TokenRow,
    Zone,
)

MAX_POINTS = 100_000
MAX_BUCKETS = 100_000
MAX_ROWS = 10_000

_RANGE = """
    from reading where series_id = $series and ts >= make_timestamp_ms($start::BIGINT)::TIMESTAMP_MS
        and ts < make_timestamp_ms($end::BIGINT)::TIMESTAMP_MS
"""
_USABLE = f"quality < {USABLE_BELOW} and value is not null"

# Spans of equal length between the first and the last point; each gives its earliest, and the last point joins them.
_POINTS = f"""
    with r as (select epoch_ms(ts) as ms, rowid as id, value, quality {_RANGE}),
    b as (select min(ms) as lo, max(ms) as hi, count(*) as total from r),
    g as (select min({{'ms': ms, 'id': id, 'value': value, 'quality': quality}}) as p
          from r, b group by case when total <= $most then id else (ms - lo) * ($most - 1) // greatest(hi - lo, 1) end),
    e as (select max({{'ms': ms, 'id': id, 'value': value, 'quality': quality}}) as p from r)
    select p.ms, p.id, p.value, p.quality, (select total from b)
    from (select p from g union select p from e where p is not null) order by p.ms, p.id
"""  # noqa: S608
_BUCKETS = f"""
    select start, count(*) filter (where usable) as n, min(value) filter (where usable),
        avg(value) filter (where usable), max(value) filter (where usable),
        max({{'ms': ms, 'id': id, 'value': value}}) filter (where usable),
        count(*) filter (where not usable)
    from (select epoch_ms(ts) as ms, rowid as id, value, {_USABLE} as usable,
              ms - ((ms % $width) + $width) % $width as start {_RANGE})
    group by start having n > 0 order by start
"""  # noqa: S608
_STATISTICS = f"""
    select count(*) filter (where usable), count(*) filter (where usable and quality < 64),
        count(*) filter (where usable and quality >= 64), count(*) filter (where not usable),
        min(value) filter (where usable), max(value) filter (where usable), avg(value) filter (where usable),
        stddev_samp(value) filter (where usable), quantile_cont(value, [0.05, 0.5, 0.95]) filter (where usable),
        min({{'ms': ms, 'id': id, 'value': value, 'quality': quality}}) filter (where usable),
        max({{'ms': ms, 'id': id, 'value': value, 'quality': quality}}) filter (where usable)
    from (select epoch_ms(ts) as ms, rowid as id, value, quality, {_USABLE} as usable {_RANGE})
"""  # noqa: S608
_DEVICES = """
    select device_id, device_name, device_type, zone_id, building, floor, location, manufacturer, model,
        hardware_revision, mac_address, firmware_version, source, status, first_seen, last_seen, metadata
    from device order by device_id
"""
_DEVICE_TEXTS = tuple(each.name for each in fields(Device))[:14]
_BOOTS = """
    select b.device_id, b.boot, b.boot_ref, d.mark, d.above from boot b join delivery d using (boot_ref)
    where $device is null or b.device_id = $device
    qualify row_number() over (partition by b.boot_ref order by d.batch desc) = 1 order by b.device_id, b.boot_ref
"""


def find_series(
    store: Store, *, device: str | None = None, sensor: str | None = None, metric: str | None = None
) -> list[Series]:
    """The series that match everything given, by device, sensor and metric; from memory."""
    found = [
        each
        for each in store.series().values()
        if device in {None, each.device} and sensor in {None, each.sensor} and metric in {None, each.metric}
    ]
    return sorted(found, key=lambda each: (each.device, each.sensor, each.metric, each.series_id))


def latest(
    store: Store, *, device: str | None = None, sensor: str | None = None, metric: str | None = None
) -> list[Reading]:
    """The newest reading of each matching series; from memory."""
    newest = store.newest()
    found = find_series(store, device=device, sensor=sensor, metric=metric)
    return [newest[each.series_id] for each in found if each.series_id in newest]


async def points(store: Store, series_id: int, start: datetime, end: datetime, max_points: int) -> Points:
    """A range of a series in order of time; where it holds more than max_points, evenly thinned over time, with its
    first and last point kept. Bad values are included, as such."""
    if not 2 <= max_points <= MAX_POINTS:
        raise ValueError(f"max_points {max_points} is not within 2..{MAX_POINTS}: ask for buckets to see more at once")
    arguments = _range(store, series_id, start, end) | {"most": max_points}
    rows = await store.read(lambda db: db.execute(_POINTS, arguments).fetchall())
    return Points(tuple(_point(ms, value, quality) for ms, _, value, quality, _ in rows), rows[0][4] if rows else 0)


async def buckets(store: Store, series_id: int, start: datetime, end: datetime, width: timedelta) -> list[Bucket]:
    """A range of a series in spans aligned to 1970-01-01 UTC; a span without a usable value is left out. Only readings
    within the range count, also in its first and last span."""
    width_ms = width // timedelta(milliseconds=1)
    if width_ms < 1 or width % timedelta(milliseconds=1):
        raise ValueError(
            f"bucket width {width} is not a positive number of whole milliseconds: give one, such as 15 minutes"
        )
    arguments = _range(store, series_id, start, end) | {"width": width_ms}
    if (arguments["end"] - arguments["start"]) // width_ms > MAX_BUCKETS:
        raise ValueError(
            f"{width} from {start} to {end} is more than {MAX_BUCKETS} buckets: take wider ones or less time"
        )
    rows = await store.read(lambda db: db.execute(_BUCKETS, arguments).fetchall())
    return [
        Bucket(codes.from_ms(start_ms), n, low, mean, high, last["value"], bad)
        for start_ms, n, low, mean, high, last, bad in rows
    ]


async def statistics(store: Store, series_id: int, start: datetime, end: datetime) -> Statistics:
    """Figures of a range of a series; quantiles interpolate between neighbours."""
    arguments = _range(store, series_id, start, end)
    row = await store.read(lambda db: _one(db, _STATISTICS, arguments))
    n, good, uncertain, bad, low, high, mean, deviation, quantiles, *ends = row
    p05, median, p95 = quantiles or (None, None, None)
    first, last = (None if p is None else _point(p["ms"], p["value"], p["quality"]) for p in ends)
    return Statistics(n, good, uncertain, bad, low, high, mean, deviation, p05, median, p95, first, last)


async def devices(store: Store) -> list[Device]:
    """Every device by id; `last_seen` from its newest reading, `status` as last written (the registry knows better)."""
    rows = await store.read(lambda db: db.execute(_DEVICES).fetchall())
    seen: dict[str, datetime] = {}
    for reading in list(store.newest().values()):
        if reading.device not in seen or seen[reading.device] < reading.received:
            seen[reading.device] = reading.received
    found = []
    for row in rows:
        texts: dict[str, Any] = {name: text or "" for name, text in zip(_DEVICE_TEXTS, row, strict=False)}
        written = codes.from_db(row[15])
        last = max((time for time in (written, seen.get(row[0])) if time is not None), default=None)
        first = codes.from_db(row[14])
        found.append(Device(**texts, first_seen=first, last_seen=last, metadata=from_json(row[16])))
    return found


def sensors(store: Store) -> list[Sensor]:
    """Every sensor by device and name; from memory."""
    return sorted(store.known.sensors.values(), key=lambda each: (each.device_id, each.sensor))


async def zones(store: Store) -> list[Zone]:
    """Every zone by id."""
    query = "select zone_id, name, building, floor, area_sqm, description from zone order by zone_id"
    rows = await store.read(lambda db: db.execute(query).fetchall())
    return [Zone(row[0], row[1], row[2] or "", row[3] or "", row[4], row[5] or "") for row in rows]


async def gaps(store: Store, device: str | None = None) -> list[Gap]:
    """Messages that are missing: given up by their node, or absent within a boot that a later one followed."""
    return await store.read(lambda db: _gaps(db, device))


async def schema(store: Store) -> list[TableInfo]:
    """The views that assistants may query, and no others."""
    rows = await store.read(
        lambda db: db.execute(
            "select table_name, column_name, data_type from duckdb_columns() where schema_name = 'main' "
            "and not internal order by table_name, column_index"
        ).fetchall()
    )
    columns: dict[str, list[ColumnInfo]] = {}
    for table, column, kind in rows:
        columns.setdefault(table, []).append(ColumnInfo(column, kind, views.COLUMNS.get(column, "")))
    names = [*views.BASE, *views.SPANS, *sorted(store.view_names - set(views.BASE) - set(views.SPANS))]
    return [TableInfo(name, views.describe_view(name), tuple(columns[name])) for name in names if name in columns]


async def counts(store: Store) -> Counts:
    """How much is stored and how much room is left."""
    (readings,) = await store.read(lambda db: _one(db, "select count(*) from reading", {}))
    used = sum(file.stat().st_size for file in store.folder.glob("hot.*") if file.is_file())
    free = shutil.disk_usage(store.folder).free
    return Counts(readings, store.batch, len(store.series()), used, free)


async def tokens(store: Store) -> list[TokenRow]:
    """Every token, also revoked ones, oldest first."""
    query = """select token_id, name, scope, sha256, created, expires, revoked, last_used from token
               order by created, token_id"""
    rows = await store.read(lambda db: db.execute(query).fetchall())
    return [TokenRow(*row[:4], *(codes.from_db(time) for time in row[4:])) for row in rows]


async def audit_rows(store: Store, limit: int = 100) -> list[AuditRow]:
    """The latest verdicts, newest first."""
    query = """select time, principal, action, target, allowed, reason, detail from audit
               order by time desc, rowid desc limit $1"""
    rows = await store.read(lambda db: db.execute(query, [_limit(limit)]).fetchall())
    return [AuditRow(codes.made_aware(row[0]), *row[1:]) for row in rows]


async def events(store: Store, limit: int = 100, device: str | None = None) -> list[Event]:
    """The latest events, newest first."""
    query = """select time, kind, device_id, message, detail from event where $2 is null or device_id = $2
               order by time desc, rowid desc limit $1"""
    rows = await store.read(lambda db: db.execute(query, [_limit(limit), device]).fetchall())
    return [Event(codes.made_aware(row[0]), row[1], row[2] or "", row[3] or "", from_json(row[4])) for row in rows]


async def node_keys(store: Store) -> dict[str, bytes]:
    """The shared key of each node that has one."""
    rows = await store.read(lambda db: db.execute("select device_id, key from node_key").fetchall())
    return dict(rows)


async def get_setting(store: Store, name: str) -> str | None:
    """What was kept under this name, None if nothing was."""
    query = "select value from setting where name = $1"
    row = await store.read(lambda db: db.execute(query, [f"user:{name}"]).fetchone())
    return row[0] if row else None


def _gaps(db: duckdb.DuckDBPyConnection, device: str | None) -> list[Gap]:
    recorded: dict[int, list[delivery.Range]] = {}
    for boot_ref, first, last in db.execute(
        "select boot_ref, first_seq, last_seq from gap order by first_seq"
    ).fetchall():
        recorded.setdefault(boot_ref, []).append((first, last))
    rows = db.execute(_BOOTS, {"device": device}).fetchall()
    current = {row[0]: row[2] for row in rows}
    found = []
    for who, boot, boot_ref, mark, above in rows:
        ranges = recorded.get(boot_ref, [])
        if boot_ref != current[who]:
            state = delivery.DeliveryState(mark, delivery.decode(above))
            ranges = [*ranges, *delivery.holes(state)]
        found += [Gap(who, boot, first, last) for first, last in ranges]
    return found


def _range(store: Store, series_id: int, start: datetime, end: datetime) -> dict[str, int]:
    if series_id not in store.series():
        raise LookupError(f"series {series_id} does not exist: find_series names those that do")
    low, high = codes.bound_ms(start), codes.bound_ms(end)
    if start >= end:
        raise ValueError(f"start {start.isoformat()} is not before end {end.isoformat()}: swap them or widen the range")
    return {"series": series_id, "start": low, "end": high}


def _limit(limit: int) -> int:
    if not 1 <= limit <= MAX_ROWS:
        raise ValueError(f"limit {limit} is not within 1..{MAX_ROWS}: ask for fewer rows")
    return limit


def _point(ms: int, value: float | None, quality: int) -> Point:
    return Point(codes.from_ms(ms), value, *codes.unpack(quality))


def _one(db: duckdb.DuckDBPyConnection, query: str, arguments: dict[str, int]) -> tuple[Any, ...]:
    row = db.execute(query, arguments).fetchone()
    assert row is not None, "an aggregate always answers with one row"
    return row
