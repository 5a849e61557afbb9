"""What the zones of the house are like now."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from statistics import fmean

from drivers.model import Quality, Quantity
from gateway.reading import Reading
from gateway.store.db import Store
from gateway.store.types import Aged, ZoneMetric


async def zone_snapshot(
    store: Store, now: datetime, stale_after: Callable[[str], timedelta], zone_id: str | None = None
) -> list[ZoneMetric]:
    """The newest readings of each zone and metric and figures over them, by zone and metric; of one zone, or of all.
    `stale_after` tells by its id how old a device's newest reading may be."""
    rows = await store.read(lambda db: db.execute("select device_id, zone_id from device").fetchall())
    zones = {device: zone or "" for device, zone in rows}
    found: dict[tuple[str, str, Quantity], list[Aged]] = {}
    for reading in list(store.newest().values()):
        zone = zones.get(reading.device, "")
        if zone_id in {None, zone}:
            age = now - reading.time
            aged = Aged(reading, age, age > stale_after(reading.device))
            found.setdefault((zone, reading.metric, reading.quantity), []).append(aged)
    return [_told(*key, found[key]) for key in sorted(found)]


def _told(zone_id: str, metric: str, quantity: Quantity, newest: Sequence[Aged]) -> ZoneMetric:
    values = [value for aged in newest if not aged.is_stale and (value := _usable(aged.reading)) is not None]
    ordered = sorted(newest, key=lambda aged: (aged.reading.device, aged.reading.sensor))
    stale = sum(aged.is_stale for aged in newest)
    if not values:
        return ZoneMetric(zone_id, metric, quantity, tuple(ordered), 0, None, None, None, stale)
    figures = (len(values), min(values), fmean(values), max(values))
    return ZoneMetric(zone_id, metric, quantity, tuple(ordered), *figures, stale)


def _usable(reading: Reading) -> float | None:
    return reading.value if reading.quality < Quality.BAD else None
