"""What people said of a device (table `device_edit`), and zones and devices that are to be forgotten."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.store import codes
from gateway.store.db import Connection, Store
from gateway.store.known import Known

NAMING = (
    "boot",
    "sensor",
    "device",
    "device_edit",
    "node_key",
    "broker_login",
    "event",
    "rollout_device",
    "node_firmware",
)
"""Tables whose rows name a device; the audit keeps its own."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One field of a device as somebody set it, and why; the last one of a field counts."""

    device_id: str
    field: str
    value: str
    reason: str
    principal: str
    time: datetime


async def save_edits(store: Store, edits: Sequence[Edit]) -> None:
    """Insert or replace some, in one transaction."""

    def change(db: Connection) -> None:
        for each in edits:
            db.execute("delete from device_edit where device_id = ? and field = ?", [each.device_id, each.field])
            time = codes.from_ms(codes.to_ms(each.time)).replace(tzinfo=None)
            row = [each.device_id, each.field, each.value, each.reason, each.principal, time]
            db.execute("insert into device_edit values (?, ?, ?, ?, ?, ?)", row)

    if edits:
        await store.write(change)


async def device_edits(store: Store) -> list[Edit]:
    """All of them."""
    query = "select device_id, field, value, reason, principal, time from device_edit order by device_id, field"
    rows = await store.read(lambda db: db.execute(query).fetchall())
    return [Edit(row[0], row[1], row[2], row[3] or "", row[4] or "", codes.made_aware(row[5])) for row in rows]


async def delete_zone(store: Store, zone_id: str) -> None:
    """Forget a zone; what its devices say of theirs is not touched."""
    await store.write(lambda db: db.execute("delete from zone where zone_id = ?", [zone_id]))


async def delete_device(store: Store, device_id: str, series: Collection[int]) -> None:
    """Forget everything that names a device but the audit. Its readings have to be gone from the segments already;
    those of `series` that came in meanwhile go as well."""
    ids = sorted(series)

    def change(db: Connection) -> None:
        boots = [row[0] for row in db.execute("select boot_ref from boot where device_id = ?", [device_id]).fetchall()]
        for table in ("dated", "reading", "newest", "series"):
            db.execute(f"delete from {table} where list_contains(?::INTEGER[], series_id)", [ids])  # noqa: S608
        for table in ("delivery", "gap"):
            db.execute(f"delete from {table} where list_contains(?::INTEGER[], boot_ref)", [boots])  # noqa: S608
        for table in NAMING:
            db.execute(f"delete from {table} where device_id = ?", [device_id])  # noqa: S608

    def adopt(known: Known) -> None:
        known.forget_device(device_id)

    await store.rearrange(change, adopt=adopt)  # which notes the last batch, for its rows may be among those
