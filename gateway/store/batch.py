"""One batch on its way to disk: a working copy of what is known, adopted only after its COMMIT."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import duckdb

from drivers.model import Quality, Reason
from gateway.reading import Delivery, Message, Reading
from gateway.store import codes, delivery, views
from gateway.store.delivery import DeliveryState
from gateway.store.known import Boot, BootKey, Known, SeriesKey
from gateway.store.types import Commit, Gap, Sensor, Series

Row = tuple[int, int, float | None]
"""What tells one dated reading from another: series, time in ms, value."""

INSERT_READINGS = """
    insert into reading select make_timestamp_ms(unnest($1::BIGINT[])), unnest($2::INTEGER[]), unnest($3::DOUBLE[]),
        unnest($4::UTINYINT[]), make_timestamp_ms(unnest($5::BIGINT[])), unnest($6::INTEGER[]), unnest($7::BIGINT[]),
        unnest($8::BIGINT[]), $9::BIGINT
"""
# Most rows of wired sensors and minimal senders: three lists fewer to carry over are a quarter of the time.
INSERT_UNNUMBERED = """
    insert into reading select make_timestamp_ms(unnest($1::BIGINT[])), unnest($2::INTEGER[]), unnest($3::DOUBLE[]),
        unnest($4::UTINYINT[]), make_timestamp_ms(unnest($5::BIGINT[])), null, null, null, $6::BIGINT
"""
INSERT_DELIVERY = """
    insert into delivery select unnest($1::INTEGER[]), unnest($2::BIGINT[]), unnest($3::VARCHAR[]),
        unnest($4::BIGINT[]), $5::BIGINT
"""
INSERT_GAPS = "insert into gap select unnest($1::INTEGER[]), unnest($2::BIGINT[]), unnest($3::BIGINT[])"
DELETE_GAPS = """
    delete from gap using (select unnest($1::INTEGER[]) r, unnest($2::BIGINT[]) f, unnest($3::BIGINT[]) l) g
    where boot_ref = g.r and first_seq = g.f and last_seq = g.l
"""
ALREADY_THERE = """
    select distinct c.i
    from (select unnest($1::INTEGER[]) i, unnest($2::INTEGER[]) s, unnest($3::BIGINT[]) t, unnest($4::DOUBLE[]) v) c
    join reading r on r.series_id = c.s and r.ts = make_timestamp_ms(c.t)::TIMESTAMP_MS
        and r.value is not distinct from c.v
    where r.ts between make_timestamp_ms($5::BIGINT)::TIMESTAMP_MS and make_timestamp_ms($6::BIGINT)::TIMESTAMP_MS
"""


@dataclass(slots=True)
class Columns:
    """The rows of `reading`, as DuckDB wants them: by column."""

    ts: list[int] = field(default_factory=list)
    series_id: list[int] = field(default_factory=list)
    value: list[float | None] = field(default_factory=list)
    quality: list[int] = field(default_factory=list)
    received: list[int] = field(default_factory=list)
    boot_ref: list[int | None] = field(default_factory=list)
    seq: list[int | None] = field(default_factory=list)
    uptime_ms: list[int | None] = field(default_factory=list)


class Batch:
    """Rows, names and delivery states that one COMMIT makes true. `take` each message, `write`, COMMIT, `adopt`."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self.number = known.batch + 1
        self._columns = Columns()
        self._fresh: list[Reading] = []
        self._newest: dict[int, tuple[int, Reading]] = {}
        self._duplicates = 0
        self._states: dict[BootKey, DeliveryState] = {}
        self._refs: dict[BootKey, int] = {}
        self._new_boots = 0
        self._series: dict[SeriesKey, Series] = {}
        self._sensors: dict[tuple[str, str], Sensor] = {}
        self._devices: dict[str, int] = {}
        self._dated: set[Row] = set()

    @property
    def is_empty(self) -> bool:
        """Nothing to write: all of it was there already."""
        return not self._columns.ts and not self._moved()

    @property
    def new_names(self) -> bool:
        """A series appears for the first time, so views may have to change."""
        return bool(self._series)

    def take(self, message: Message, stored: frozenset[Row] = frozenset()) -> None:
        """Add what of a message is not on disk yet; `stored` are dated readings that are.

        ValueError (nothing changed) where its numbering breaks the rules of `delivery.check`.
        """
        boot_ref = seq = None
        if message.delivery is not None:
            if not self._receive(message.device, message.delivery):
                self._duplicates += len(message.readings)
                return
            boot_ref, seq = self._refs[message.device, message.delivery.boot], message.delivery.seq
        dated = message.timed and message.delivery is None
        columns = self._columns
        for given in message.readings:
            reading = _finite(given)
            series_id, ms = self._series_id(reading), codes.to_ms(reading.time)
            if dated:
                row = (series_id, ms, reading.value)
                if row in stored or row in self._dated:
                    self._duplicates += 1
                    continue
                self._dated.add(row)
            columns.ts.append(ms)
            columns.series_id.append(series_id)
            columns.value.append(reading.value)
            columns.quality.append(codes.pack(reading.quality, reading.reason))
            columns.received.append(ms if reading.received is reading.time else codes.to_ms(reading.received))
            columns.boot_ref.append(boot_ref)
            columns.seq.append(seq)
            columns.uptime_ms.append(message.uptime_ms)
            self._fresh.append(reading)
            self._see(series_id, ms, reading)

    def write(self, db: duckdb.DuckDBPyConnection) -> None:
        """All of it into the open transaction."""
        if self._series:
            self._write_names(db)
        self._write_delivery(db)
        c = self._columns
        if c.ts:
            numbered = any(ref is not None for ref in c.boot_ref)
            columns = [c.ts, c.series_id, c.value, c.quality, c.received]
            if numbered or any(ms is not None for ms in c.uptime_ms):
                db.execute(INSERT_READINGS, [*columns, c.boot_ref, c.seq, c.uptime_ms, self.number])
            else:
                db.execute(INSERT_UNNUMBERED, [*columns, self.number])

    def outcome(self) -> Commit:
        """What the caller learns once this is committed."""
        marks = {key: state.mark for key, state in self._states.items()}
        number = self._known.batch if self.is_empty else self.number
        return Commit(number, len(self._fresh), self._duplicates, marks, tuple(self._gaps()), tuple(self._fresh))

    def adopt(self) -> None:
        """Make it known; only after its COMMIT."""
        known = self._known
        known.batch = self.number
        known.boot_refs += self._new_boots
        for key, state in self._states.items():
            known.boots[key] = Boot(self._refs[key], delivery.trim(state))
        if self._series:
            known.devices.update(self._devices)
            known.add(list(self._sensors.values()), list(self._series.values()))
        known.refresh(self._newest)

    def _receive(self, device: str, numbers: Delivery) -> bool:
        key = (device, numbers.boot)
        state = self._states.get(key)
        if state is None:
            boot = self._known.boots.get(key)
            state = DeliveryState() if boot is None else boot.state
            delivery.check(numbers.seq, numbers.oldest)
            if boot is None:
                self._new_boots += 1
            self._refs[key] = self._known.boot_refs + self._new_boots if boot is None else boot.boot_ref
        received = delivery.receive(state, numbers.seq, numbers.oldest)
        self._states[key] = received.state
        return received.fresh

    def _series_id(self, reading: Reading) -> int:
        key = (reading.device, reading.sensor, reading.metric, reading.quantity)
        series_id = self._known.series_ids.get(key)
        if series_id is not None:
            return series_id
        new = self._series.get(key)
        return new.series_id if new is not None else self._new_series(key, reading).series_id

    def _new_series(self, key: SeriesKey, reading: Reading) -> Series:
        place = (reading.device, reading.sensor)
        sensor = self._known.sensors.get(place) or self._sensors.get(place)
        if sensor is None:
            sensor_id = self._known.next_sensor_id + len(self._sensors)
            sensor = Sensor(sensor_id, reading.device, reading.sensor, reading.sensor)
            self._sensors[place] = sensor
            if reading.device not in self._known.devices:
                self._devices.setdefault(reading.device, codes.to_ms(reading.received))
        series_id = self._known.next_series_id + len(self._series)
        series = Series(series_id, sensor.sensor_id, *place, reading.metric, reading.quantity)
        self._series[key] = series
        return series

    def _see(self, series_id: int, ms: int, reading: Reading) -> None:
        best = self._newest.get(series_id)
        newest_ms = best[0] if best is not None else self._known.newest_ms.get(series_id)
        if newest_ms is None or ms >= newest_ms:
            self._newest[series_id] = (ms, reading)

    def _before(self, key: BootKey) -> DeliveryState:
        boot = self._known.boots.get(key)
        return DeliveryState() if boot is None else boot.state

    def _moved(self) -> list[BootKey]:
        return [key for key, state in self._states.items() if state != self._before(key)]

    def _gaps(self) -> list[Gap]:
        """What this batch gave up and did not fill again."""
        found = []
        for (device, boot), state in self._states.items():
            mark = self._before((device, boot)).mark
            found += [Gap(device, boot, max(first, mark + 1), last) for first, last in state.gaps if last > mark]
        return found

    def _write_names(self, db: duckdb.DuckDBPyConnection) -> None:
        if self._devices:
            db.executemany(
                "insert into device (device_id, first_seen) values (?, make_timestamp_ms(?))",
                [list(pair) for pair in self._devices.items()],
            )
        if self._sensors:
            db.executemany(
                "insert into sensor (sensor_id, device_id, sensor, sensor_type, slug) values (?, ?, ?, ?, ?)",
                [
                    [s.sensor_id, s.device_id, s.sensor, s.sensor_type, views.slug(s.sensor_type)]
                    for s in self._sensors.values()
                ],
            )
        db.executemany(
            "insert into series values (?, ?, ?, ?, ?)",
            [[s.series_id, s.sensor_id, s.metric, s.quantity.value, s.quantity.unit] for s in self._series.values()],
        )

    def _write_delivery(self, db: duckdb.DuckDBPyConnection) -> None:
        moved = self._moved()
        if not moved:
            return
        new = [key for key in moved if key not in self._known.boots]
        if new:
            db.executemany("insert into boot values (?, ?, ?)", [[self._refs[key], *key] for key in new])
        gone, come = [], []
        for key in moved:
            before, after = set(self._before(key).gaps), set(self._states[key].gaps)
            gone += [(self._refs[key], *gap) for gap in before - after]
            come += [(self._refs[key], *gap) for gap in sorted(after - before)]
        for query, gaps in ((DELETE_GAPS, gone), (INSERT_GAPS, come)):
            if gaps:
                db.execute(query, [list(column) for column in zip(*gaps, strict=True)])
        states = [delivery.trim(self._states[key]) for key in moved]
        db.execute(
            INSERT_DELIVERY,
            [
                [self._refs[key] for key in moved],
                [state.mark for state in states],
                [delivery.encode(state.above) or None for state in states],
                [state.final for state in states],
                self.number,
            ],
        )


def stored_already(db: duckdb.DuckDBPyConnection, known: Known, messages: Sequence[Message]) -> frozenset[Row]:
    """Which dated readings of unnumbered messages are on disk; nothing is asked for those newer than all of theirs."""
    suspects = [
        (series_id, ms, reading.value)
        for message in messages
        if message.timed and message.delivery is None
        for reading in map(_finite, message.readings)
        if (series_id := _series_id_of(known, reading)) is not None
        and (ms := codes.to_ms(reading.time)) <= known.newest_ms.get(series_id, ms - 1)
    ]
    if not suspects:
        return frozenset()
    times = [ms for _, ms, _ in suspects]
    rows = db.execute(
        ALREADY_THERE,
        [
            list(range(len(suspects))),
            [series_id for series_id, _, _ in suspects],
            times,
            [value for _, _, value in suspects],
            min(times),
            max(times),
        ],
    ).fetchall()
    return frozenset(suspects[index] for (index,) in rows)


def _series_id_of(known: Known, reading: Reading) -> int | None:
    return known.series_ids.get((reading.device, reading.sensor, reading.metric, reading.quantity))


def _finite(reading: Reading) -> Reading:
    if reading.value is None or math.isfinite(reading.value):
        return reading
    return replace(reading, value=None, quality=Quality.BAD, reason=Reason.NOT_A_NUMBER)
