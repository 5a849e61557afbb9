"""What the store remembers of its file between batches."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import duckdb

from drivers.model import Quantity
from gateway.clock import AHEAD_S
from gateway.reading import Reading
from gateway.store import codes, delivery
from gateway.store.delivery import DeliveryState
from gateway.store.segments.layout import Segment
from gateway.store.types import Sensor, Series

AHEAD_MS = int(AHEAD_S * 1000)
MAX_BOOTS = 4096
"""Boots whose delivery state is kept in memory; others are read again when they speak."""

BootKey = tuple[str, str]
SeriesKey = tuple[str, str, str, Quantity]


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot of a device: its number in the tables and what of it is on disk."""

    boot_ref: int
    state: DeliveryState


def replaces(reading: Reading, shown: Reading | None) -> bool:
    """Whether a reading is newer than the one that counts as the newest so far. That one does not count where it is
    from further in the future of this one's receipt than any clock is believed: one of both clocks was wrong."""
    if shown is None or shown.time <= reading.time:
        return True
    return shown.time > reading.received + timedelta(seconds=AHEAD_S)


class Known:
    """Series, newest values and delivery states as they are on disk, changed only after a COMMIT, on one thread.

    Mappings that other threads iterate (`sensors`, `series`, `newest`) are replaced when they grow.
    """

    def __init__(self) -> None:
        self.batch = 0
        self.devices: set[str] = set()
        self.sensors: Mapping[tuple[str, str], Sensor] = {}
        self.series: Mapping[int, Series] = {}
        self.series_ids: dict[SeriesKey, int] = {}
        self.series_of: Counter[str] = Counter()
        self.newest: dict[int, Reading] = {}
        self.newest_ms: dict[int, int] = {}
        self.boots: dict[BootKey, Boot] = {}
        self.boot_refs = 0
        self.next_sensor_id = 1
        self.next_series_id = 1
        self.newest_batch = 0
        self.hot_rows = 0

    @classmethod
    def load(cls, db: duckdb.DuckDBPyConnection, segments: Sequence[Segment] = ()) -> "Known":
        """Read it back; of the readings only those of batches after the newest values were last written down. Numbers
        of series that stand in `segments` are never given again, whatever the file has forgotten."""
        known = cls()
        known._load_names(db)
        known.newest_batch = int(_value(db, "select value from setting where name = 'newest_batch'") or 0)
        known._load_newest(db, "select series_id, epoch_ms(ts), value, quality, epoch_ms(received) from newest", [])
        known._load_newest(db, SINCE, [known.newest_batch, AHEAD_MS])
        last = _value(db, LAST_BATCH, [known.newest_batch])
        known.batch = max(known.newest_batch, int(last or 0))
        known.boot_refs = int(_value(db, "select max(boot_ref) from boot") or 0)
        known.next_sensor_id = int(_value(db, "select max(sensor_id) from sensor") or 0) + 1
        sealed = max((each.last_series for each in segments), default=0)
        known.next_series_id = max(sealed, int(_value(db, "select max(series_id) from series") or 0)) + 1
        known.hot_rows = int(_value(db, HOT_ROWS) or 0)
        return known

    def load_boots(self, db: duckdb.DuckDBPyConnection, keys: list[BootKey]) -> None:
        """Make the states of these boots known, where they exist; `keys` are all that the batch mentions."""
        if len(self.boots) + len(keys) > MAX_BOOTS:
            self.boots = {}
        found = db.execute(BOOTS, [[device for device, _ in keys], [boot for _, boot in keys]]).fetchall()
        if not found:
            return
        gaps: dict[int, list[delivery.Range]] = {}
        for boot_ref, first, last in db.execute(GAPS, [[row[2] for row in found]]).fetchall():
            gaps.setdefault(boot_ref, []).append((first, last))
        for device, boot, boot_ref, mark, above, final in found:
            still_open = tuple(gap for gap in gaps.get(boot_ref, ()) if gap[1] > (final or 0))
            state = DeliveryState(mark or 0, delivery.decode(above), still_open, final or 0)
            self.boots[device, boot] = Boot(boot_ref, state)

    def see_sealed(self, db: duckdb.DuckDBPyConnection, raw: str, segments: Sequence[Segment]) -> None:
        """Take segments into account that the file did not know: `raw` are their rows, to stand after FROM."""
        self.batch = max([self.batch, *(seal.batch for each in segments for seal in each.seals)])
        if any(each.raw for each in segments):
            self._load_newest(db, NEWEST_OF.format(raw=raw), [])

    def forget_values(self, series: Collection[int]) -> None:
        """These series have no readings any more."""
        self.newest = {one: reading for one, reading in self.newest.items() if one not in series}
        self.newest_ms = {one: ms for one, ms in self.newest_ms.items() if one not in series}

    def forget_device(self, device_id: str) -> None:
        """Its rows are gone; numbers of its sensors and series are not given again as long as this lives."""
        gone = [one for one, series in self.series.items() if series.device == device_id]
        self.forget_values(gone)
        self.devices.discard(device_id)
        self.sensors = {key: sensor for key, sensor in self.sensors.items() if key[0] != device_id}
        self.series = {one: series for one, series in self.series.items() if series.device != device_id}
        self.series_ids = {key: one for key, one in self.series_ids.items() if key[0] != device_id}
        self.series_of.pop(device_id, None)
        self.boots = {key: boot for key, boot in self.boots.items() if key[0] != device_id}

    def set_newest(
        self, rows: Sequence[tuple[int, int, float | None, int, int]], received: Mapping[tuple[int, int], int]
    ) -> None:
        """Of these series (NEWEST_OF) these are the newest readings, whatever was taken for it; `received` by (series,
        time) where that is known."""
        for series_id, *_ in rows:
            self.newest_ms.pop(series_id, None)
        self._see([(*row[:4], received.get((row[0], row[1]), row[1])) for row in rows])

    def requalify(self, marks: Sequence[tuple[int, int, int, int]]) -> None:
        """Readings of (series, start ms, end ms) got another quality byte."""
        for series_id, start_ms, end_ms, quality in marks:
            newest = self.newest.get(series_id)
            if newest is not None and start_ms <= codes.to_ms(newest.time) < end_ms:
                quality_, reason = codes.unpack(quality)
                self.newest[series_id] = newest._replace(quality=quality_, reason=reason)

    def save(self, db: duckdb.DuckDBPyConnection) -> None:
        """Into the open transaction: the newest values, valid up to `batch`; superseded delivery states are dropped."""
        ids = list(self.newest)
        rows = [self.newest[series_id] for series_id in ids]
        db.execute("delete from newest")
        db.execute(
            SAVE_NEWEST,
            [
                ids,
                [codes.to_ms(row.time) for row in rows],
                [row.value for row in rows],
                [codes.pack(row.quality, row.reason) for row in rows],
                [codes.to_ms(row.received) for row in rows],
            ],
        )
        db.execute(DROP_SUPERSEDED)
        save_setting(db, "newest_batch", str(self.batch))

    def add(self, sensors: list[Sensor], series: list[Series]) -> None:
        """New or changed sensors and series, after their COMMIT."""
        self.devices.update(sensor.device_id for sensor in sensors)
        self.sensors = {**self.sensors, **{(sensor.device_id, sensor.sensor): sensor for sensor in sensors}}
        self.series = {**self.series, **{each.series_id: each for each in series}}
        self.series_of.update(s.device for s in series)
        self.series_ids.update({(s.device, s.sensor, s.metric, s.quantity): s.series_id for s in series})
        self.next_sensor_id = max([self.next_sensor_id, *(sensor.sensor_id + 1 for sensor in sensors)])
        self.next_series_id = max([self.next_series_id, *(each.series_id + 1 for each in series)])

    def refresh(self, fresh: Mapping[int, tuple[int, Reading]], tops: Mapping[int, int]) -> None:
        """Newest readings by series, after their COMMIT; `tops` are greater times that came with them."""
        if any(series_id not in self.newest for series_id in fresh):
            self.newest = {**self.newest, **{series_id: reading for series_id, (_, reading) in fresh.items()}}
        else:
            for series_id, (_, reading) in fresh.items():
                self.newest[series_id] = reading
        # The greatest time that was ever seen, also where that is not believed: what is newer cannot be there yet.
        top = self.newest_ms
        top.update({series_id: max(ms, top.get(series_id, ms)) for series_id, (ms, _) in fresh.items()})
        top.update({series_id: max(ms, top[series_id]) for series_id, ms in tops.items()})

    def _load_names(self, db: duckdb.DuckDBPyConnection) -> None:
        self.devices = {row[0] for row in db.execute("select device_id from device").fetchall()}
        rows = db.execute(
            "select sensor_id, device_id, sensor, sensor_type, location, metadata from sensor order by sensor_id"
        ).fetchall()
        sensors = [Sensor(row[0], row[1], row[2], row[3], row[4] or "", from_json(row[5])) for row in rows]
        by_id = {sensor.sensor_id: sensor for sensor in sensors}
        series = []
        for row in db.execute(
            "select series_id, sensor_id, metric, quantity from series order by series_id"
        ).fetchall():
            # A quantity that only a newer version knows stays on disk and is not shown.
            if row[1] in by_id and row[3] in set(Quantity):
                sensor = by_id[row[1]]
                series.append(Series(row[0], row[1], sensor.device_id, sensor.sensor, row[2], Quantity(row[3])))
        self.add(sensors, series)

    def _load_newest(self, db: duckdb.DuckDBPyConnection, query: str, arguments: list[Any]) -> None:
        self._see(db.execute(query, arguments).fetchall())

    def _see(self, rows: Iterable[tuple[int, int, float | None, int, int]]) -> None:
        for series_id, ms, value, quality, received in rows:
            series = self.series.get(series_id)
            top_ms = self.newest_ms.get(series_id, ms)
            if series is None or (ms < top_ms and (received is None or top_ms <= received + AHEAD_MS)):
                continue
            self.newest_ms[series_id] = max(ms, top_ms)
            self.newest[series_id] = Reading(
                series.device,
                series.sensor,
                series.metric,
                series.quantity,
                value,
                codes.from_ms(ms),
                codes.from_ms(ms if received is None else received),
                *codes.unpack(quality),
            )


SAVE_NEWEST = """
    insert into newest select unnest($1::INTEGER[]), make_timestamp_ms(unnest($2::BIGINT[])), unnest($3::DOUBLE[]),
        unnest($4::UTINYINT[]), make_timestamp_ms(unnest($5::BIGINT[]))
"""
DROP_SUPERSEDED = """
    delete from delivery d using (select boot_ref, max(batch) as batch from delivery group by boot_ref) l
    where d.boot_ref = l.boot_ref and d.batch < l.batch
"""
SINCE = """
    select series_id, epoch_ms(ts), value, quality, epoch_ms(ts) + lag
    from (select *, last_value(epoch_ms(ts) + lag ignore nulls) over (partition by series_id order by batch, id
                rows between unbounded preceding and unbounded following) as heard
          from (select ts, series_id, value, quality, lag, batch, rowid as id from dated where batch > $1
                union all
                select ts, series_id, value, quality, epoch_ms(received) - epoch_ms(ts), batch, rowid from reading
                where batch > $1))
    qualify row_number() over (partition by series_id
        order by coalesce(epoch_ms(ts) > heard + $2, false), ts desc, batch desc, id desc) = 1
"""
NEWEST_OF = """
    select series_id, epoch_ms(ts), value, quality, epoch_ms(ts) from {raw}
    qualify row_number() over (partition by series_id order by ts desc, value desc nulls last) = 1
"""
LAST_BATCH = """
    select max(b) from (select max(batch) b from dated where batch > $1
                        union all select max(batch) from reading where batch > $1
                        union all select max(batch) from delivery where batch > $1)
"""
HOT_ROWS = "select (select count(*) from dated) + (select count(*) from reading)"
BOOTS = """
    select b.device_id, b.boot, b.boot_ref, d.mark, d.above, d.final
    from boot b join (select unnest($1::VARCHAR[]) device_id, unnest($2::VARCHAR[]) boot) k using (device_id, boot)
    left join delivery d on d.boot_ref = b.boot_ref
    qualify row_number() over (partition by b.boot_ref order by d.batch desc) = 1
"""
GAPS = "select boot_ref, first_seq, last_seq from gap where list_contains($1::INTEGER[], boot_ref) order by first_seq"


def save_setting(db: duckdb.DuckDBPyConnection, name: str, value: str) -> None:
    """Into the open transaction."""
    db.execute("delete from setting where name = ?", [name])
    db.execute("insert into setting values (?, ?)", [name, value])


def from_json(text: str | None) -> dict[str, Any]:
    """A metadata column as a mapping; empty where there is none."""
    loaded = json.loads(text) if text else {}
    return loaded if isinstance(loaded, dict) else {}


def _value(db: duckdb.DuckDBPyConnection, query: str, arguments: list[Any] | None = None) -> Any:
    row = db.execute(query, arguments or []).fetchone()
    return row[0] if row else None
