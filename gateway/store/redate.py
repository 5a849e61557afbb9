"""Readings whose time was not known get it afterwards: they move from `reading` to `dated`.

Only rows that still say why they are undated are touched; what was sealed meanwhile stays as it is.
"""

from datetime import datetime, timedelta

import duckdb

from drivers.model import Quality, Reason
from gateway.store import codes
from gateway.store.db import Store
from gateway.store.known import NEWEST_OF

_OF_BOOT = f"""
    quality & 63 = {Reason.TIME_UNKNOWN.value} and uptime_ms is not null
    and boot_ref in (select boot_ref from boot where device_id = $device and boot = $boot)
"""  # noqa: S608
_OF_CLOCK = f"quality & 63 = {Reason.CLOCK_UNTRUSTED.value} and batch between $first and $last"
_MOVE = """
    insert into dated select ts, series_id, value, {quality}, if(abs(lag) <= {limit}, lag, null)::INTEGER, batch
    from (select make_timestamp_ms({ms}) as ts, series_id, value, epoch_ms(received) + ({shift}) - ({ms}) as lag, batch
          from reading where {which})
    returning series_id, epoch_ms(ts), epoch_ms(ts) + coalesce(lag, 0)
"""


async def boot(store: Store, device: str, name: str, start: datetime) -> int:
    """A node's boot turned out to have begun then: date what it sent by its uptime; how many readings that were."""
    ms = f"least({codes.to_ms(start)} + uptime_ms, epoch_ms(received))"
    return await _move(store, ms, 0, _OF_BOOT, {"device": device, "boot": name})


async def clock(store: Store, first_batch: int, last_batch: int, forward: timedelta) -> int:
    """The gateway's clock was wrong by so much while it wrote these batches (both included): move what it dated."""
    shift = forward // timedelta(milliseconds=1)
    return await _move(store, f"epoch_ms(ts) + ({shift})", shift, _OF_CLOCK, {"first": first_batch, "last": last_batch})


async def _move(store: Store, ms: str, shift: int, which: str, arguments: dict[str, object]) -> int:
    query = _MOVE.format(
        quality=codes.pack(Quality.GOOD, Reason.NONE), limit=codes.LAG_LIMIT_MS, ms=ms, shift=shift, which=which
    )

    def change(db: duckdb.DuckDBPyConnection) -> dict[tuple[int, int], int]:
        moved = {(series_id, time): received for series_id, time, received in db.execute(query, arguments).fetchall()}
        rows = db.execute(f"delete from reading where {which} returning series_id", arguments).fetchall()  # noqa: S608
        db.execute("delete from newest where list_contains($1::INTEGER[], series_id)", [[one for (one,) in rows]])
        return moved

    moved = await store.write(change)
    if moved:
        series, since_ms = {one for one, _ in moved}, min(time for _, time in moved)
        newest = await store.ask(
            lambda view: view.db.execute(NEWEST_OF.format(raw=view.raw(series, since_ms))).fetchall()
        )
        await store.write(lambda _db: None, lambda known: known.set_newest(newest, moved))
    return len(moved)
