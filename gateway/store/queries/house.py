"""Questions about what is small: devices and sensors, newest values, tokens, events, how much is stored."""

import shutil
from dataclasses import fields
from datetime import datetime
from typing import Any

import duckdb

from gateway.reading import Reading
from gateway.store import codes, delivery, views
from gateway.store.db import Store
from gateway.store.known import from_json
from gateway.store.segments.view import HOT, View
from gateway.store.types import (
    AuditRow,
    ColumnInfo,
    Counts,
    Device,
    Event,
    Gap,
    GrantRow,
    Sensor,
    Series,
    TableInfo,
    TokenRow,
    Zone,
)

MAX_ROWS = 10_000

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

    def count(view: View) -> int:
        hot: int = view.db.execute(f"select count(*) from {HOT}").fetchall()[0][0]  # noqa: S608
        return hot + sum(each.rows for each in view.segments)

    readings = await store.ask(count)
    used = sum(file.stat().st_size for file in store.folder.glob("hot.*") if file.is_file())
    used += sum(each.raw_bytes + each.roll_bytes for each in store.segments)
    free = shutil.disk_usage(store.folder).free
    return Counts(readings, store.batch, len(store.series()), used, free)


async def tokens(store: Store) -> list[TokenRow]:
    """Every token, also revoked ones, oldest first."""
    query = """select token_id, name, scope, sha256, created, expires, revoked, last_used from token
               order by created, token_id"""
    rows = await store.read(lambda db: db.execute(query).fetchall())
    return [TokenRow(*row[:4], *(codes.from_db(time) for time in row[4:])) for row in rows]


async def grants(store: Store) -> list[GrantRow]:
    """What apps were granted, also what ended meanwhile."""
    query = "select token_id, client, device_sha256, until, family_sha256, refresh_sha256 from token_grant"
    rows = await store.read(lambda db: db.execute(query).fetchall())
    return [GrantRow(row[0], row[1], row[2], codes.made_aware(row[3]), row[4], row[5]) for row in rows]


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


def _limit(limit: int) -> int:
    if not 1 <= limit <= MAX_ROWS:
        raise ValueError(f"limit {limit} is not within 1..{MAX_ROWS}: ask for fewer rows")
    return limit
