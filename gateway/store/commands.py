"""Every change of the small tables; readings come in by `Store.append` alone."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import duckdb

from gateway.store import codes, views
from gateway.store.db import Store
from gateway.store.queries import audit_rows, events, get_setting, grants, node_keys, tokens
from gateway.store.types import AuditRow, Device, Event, GrantRow, Sensor, TokenRow, Zone

__all__ = [
    "add_event",
    "add_events",
    "audit",
    "audit_rows",
    "drop_grants",
    "drop_node_key",
    "events",
    "get_setting",
    "grants",
    "node_keys",
    "revoke_token",
    "save_device",
    "save_grant",
    "save_node_key",
    "save_sensor",
    "save_sensors",
    "save_token",
    "save_tokens",
    "save_zone",
    "set_setting",
    "tokens",
    "touch_devices",
    "touch_tokens",
]

_TEXTS = (
    "device_name",
    "device_type",
    "zone_id",
    "building",
    "floor",
    "location",
    "manufacturer",
    "model",
    "hardware_revision",
    "mac_address",
    "firmware_version",
    "source",
    "status",
)


# A whole house comes and goes at once: by executemany a thousand rows would keep readings waiting for a second.
INSERT_DEVICES = f"""
    insert into device select unnest($1::VARCHAR[]),
        {", ".join(f"unnest(${at}::VARCHAR[])" for at in range(5, len(_TEXTS) + 5))},
        make_timestamp_ms(unnest($2::BIGINT[])), make_timestamp_ms(unnest($3::BIGINT[])), unnest($4::VARCHAR[])
"""
FIRST_SEEN = "select device_id, epoch_ms(first_seen) from device where list_contains($1::VARCHAR[], device_id)"
TOUCH_DEVICES = """
    update device set status = t.status, last_seen = t.last_seen
    from (select unnest($1::VARCHAR[]) device_id, unnest($2::VARCHAR[]) status,
                 make_timestamp_ms(unnest($3::BIGINT[])) last_seen) t
    where device.device_id = t.device_id
"""
INSERT_SENSORS = f"""
    insert into sensor select unnest($1::INTEGER[]), {", ".join(f"unnest(${at}::VARCHAR[])" for at in range(2, 8))}
"""
INSERT_EVENTS = """
    insert into event select make_timestamp_ms(unnest($1::BIGINT[])), unnest($2::VARCHAR[]), unnest($3::VARCHAR[]),
        unnest($4::VARCHAR[]), unnest($5::VARCHAR[])
"""


async def save_device(store: Store, device: Device) -> None:
    """Insert or replace what is known of a device; its first_seen, once known, is kept."""
    await save_devices(store, [device])


async def save_devices(store: Store, devices: Sequence[Device]) -> None:
    """The same for some, in one transaction; of one that is named twice the last word counts."""
    devices = list({each.device_id: each for each in devices}.values())
    ids = [each.device_id for each in devices]

    def change(db: duckdb.DuckDBPyConnection) -> None:
        known = dict(db.execute(FIRST_SEEN, [ids]).fetchall())
        db.execute("delete from device where list_contains($1::VARCHAR[], device_id)", [ids])
        texts = [[getattr(each, name) for each in devices] for name in _TEXTS]
        first = [
            _ms(each.first_seen) if known.get(each.device_id) is None else known[each.device_id] for each in devices
        ]
        last, metadata = [_ms(each.last_seen) for each in devices], [_json(each.metadata) for each in devices]
        db.execute(INSERT_DEVICES, [ids, first, last, metadata, *texts])

    if devices:
        await store.write(change, lambda known: known.devices.update(ids))


async def touch_devices(store: Store, seen: Mapping[str, tuple[str, datetime | None]]) -> None:
    """Write down status and last_seen of some devices; for the registry, now and then."""
    if seen:
        columns = [list(seen), [status for status, _ in seen.values()], [_ms(last) for _, last in seen.values()]]
        await store.write(lambda db: db.execute(TOUCH_DEVICES, columns))


async def save_sensor(
    store: Store,
    device_id: str,
    sensor: str,
    *,
    sensor_type: str,
    location: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> Sensor:
    """Insert a sensor, or change what is known of it; its id stays. The view of a new type appears with its series."""
    return (await save_sensors(store, [Sensor(0, device_id, sensor, sensor_type, location, dict(metadata or {}))]))[0]


async def save_sensors(store: Store, sensors: Sequence[Sensor]) -> list[Sensor]:
    """The same for some, in one transaction, whatever their ids; returns them with those that they have. Of one that is
    named twice the last word counts."""
    wanted = {(each.device_id, each.sensor): each for each in sensors}

    def change(db: duckdb.DuckDBPyConnection) -> list[Sensor]:
        known, fresh = store.known, itertools.count(store.known.next_sensor_id)
        old = {key: known.sensors[key].sensor_id for key in wanted if key in known.sensors}
        adopted[:] = [replace(each, sensor_id=old.get(key) or next(fresh)) for key, each in wanted.items()]
        db.execute("delete from sensor where list_contains($1::INTEGER[], sensor_id)", [list(old.values())])
        rows = [
            (new.sensor_id, *key, new.sensor_type, views.slug(new.sensor_type), new.location, _json(new.metadata))
            for key, new in zip(wanted, adopted, strict=True)
        ]
        db.execute(INSERT_SENSORS, codes.columns(rows))
        strangers = sorted({device for device, _ in wanted} - known.devices)
        if strangers:
            db.execute("insert into device (device_id) select unnest($1::VARCHAR[])", [strangers])
        return adopted

    adopted: list[Sensor] = []
    return await store.write(change, lambda known: known.add(adopted, [])) if wanted else []


async def save_zone(store: Store, zone: Zone) -> None:
    """Insert or replace a zone."""

    def change(db: duckdb.DuckDBPyConnection) -> None:
        db.execute("delete from zone where zone_id = ?", [zone.zone_id])
        row = [zone.zone_id, zone.name, zone.building, zone.floor, zone.area_sqm, zone.description]
        db.execute("insert into zone values (?, ?, ?, ?, ?, ?)", row)

    await store.write(change)


async def save_token(store: Store, token: TokenRow) -> None:
    """Insert or replace a token by its id."""
    await save_tokens(store, [token])


async def save_tokens(store: Store, rows: Sequence[TokenRow]) -> None:
    """The same for several, all or none."""
    await store.write(lambda db: _put_tokens(db, rows))


async def save_grant(store: Store, grant: GrantRow, token: TokenRow) -> None:
    """Insert or replace a grant and its token, both or none."""

    def change(db: duckdb.DuckDBPyConnection) -> None:
        _put_tokens(db, [token])
        db.execute("delete from token_grant where token_id = ?", [grant.token_id])
        hashes = [grant.device_sha256, grant.family_sha256, grant.refresh_sha256]
        row = [grant.token_id, grant.client, *hashes, _naive(grant.until)]
        db.execute("insert into token_grant values (?, ?, ?, ?, ?, ?)", row)

    await store.write(change)


async def drop_grants(store: Store, token_ids: Sequence[str]) -> None:
    """Forget grants that ended."""
    if token_ids:
        await store.write(
            lambda db: db.executemany("delete from token_grant where token_id = ?", [[each] for each in token_ids])
        )


def _put_tokens(db: duckdb.DuckDBPyConnection, rows: Sequence[TokenRow]) -> None:
    for token in rows:
        db.execute("delete from token where token_id = ?", [token.token_id])
        times = [_naive(time) for time in (token.created, token.expires, token.revoked, token.last_used)]
        row = [token.token_id, token.name, token.scope, token.sha256, *times]
        db.execute("insert into token values (?, ?, ?, ?, ?, ?, ?, ?)", row)


async def revoke_token(store: Store, token_id: str, when: datetime) -> bool:
    """Mark a token as revoked; False if there is none that still was valid."""

    def change(db: duckdb.DuckDBPyConnection) -> bool:
        query = "update token set revoked = ? where token_id = ? and revoked is null returning token_id"
        return db.execute(query, [_naive(when), token_id]).fetchone() is not None

    return await store.write(change)


async def touch_tokens(store: Store, used: Mapping[str, datetime]) -> None:
    """Write down when tokens were last used; gather them, this is a transaction."""

    def change(db: duckdb.DuckDBPyConnection) -> None:
        for token_id, when in used.items():
            db.execute("update token set last_used = ? where token_id = ?", [_naive(when), token_id])

    if used:
        await store.write(change)


async def audit(store: Store, rows: Sequence[AuditRow]) -> None:
    """Append verdicts."""
    values = [[_naive(r.time), r.principal, r.action, r.target, r.allowed, r.reason, r.detail] for r in rows]
    if values:
        await store.write(lambda db: db.executemany("insert into audit values (?, ?, ?, ?, ?, ?, ?)", values))


async def add_event(store: Store, event: Event) -> None:
    """Append an event."""
    await add_events(store, [event])


async def add_events(store: Store, events: Sequence[Event]) -> None:
    """Append some events in one transaction: each one costs the card as much as a batch of readings."""
    rows = [(_ms(each.time), each.kind, each.device, each.message, _json(each.detail)) for each in events]
    if rows:
        await store.write(lambda db: db.execute(INSERT_EVENTS, codes.columns(rows)))


async def save_node_key(store: Store, device_id: str, key: bytes) -> None:
    """Insert or replace the key shared with a node."""

    def change(db: duckdb.DuckDBPyConnection) -> None:
        db.execute("delete from node_key where device_id = ?", [device_id])
        db.execute("insert into node_key values (?, ?)", [device_id, key])

    await store.write(change)


async def drop_node_key(store: Store, device_id: str) -> None:
    """Forget the key of a node."""
    await store.write(lambda db: db.execute("delete from node_key where device_id = ?", [device_id]))


async def set_setting(store: Store, name: str, value: str | None) -> None:
    """Keep a text under a name; None forgets it."""
    kept = f"user:{name}"  # apart from the store's own

    def change(db: duckdb.DuckDBPyConnection) -> None:
        db.execute("delete from setting where name = ?", [kept])
        if value is not None:
            db.execute("insert into setting values (?, ?)", [kept, value])

    await store.write(change)


def _ms(time: datetime | None) -> int | None:
    return None if time is None else codes.to_ms(time)


def _naive(time: datetime | None) -> datetime | None:
    """What DuckDB takes for a TIMESTAMP_MS: naive UTC of whole milliseconds."""
    return None if time is None else codes.from_ms(codes.to_ms(time)).replace(tzinfo=None)


def _json(value: Mapping[str, Any]) -> str | None:
    return json.dumps(value, separators=(",", ":")) if value else None
