"""One batch on its way to disk: a working copy of what is known, adopted only after its COMMIT."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from operator import sub

import duckdb

from drivers.model import Quality, Reason
from gateway.reading import Delivery, Message, Reading
from gateway.store import codes, delivery, views
from gateway.store.codes import LAG_LIMIT_MS, UNDATED
from gateway.store.delivery import DeliveryState
from gateway.store.known import AHEAD_MS, Boot, BootKey, Known, SeriesKey, replaces
from gateway.store.types import Commit, Gap, Sensor, Series

MAX_SERIES, MAX_SERIES_OF_DEVICE = 100_000, 1000
"""Each is a row for good and a place in memory: whoever makes up names must not fill either."""

Raw = Callable[[Collection[int], int, int], str]
"""SQL of the stored readings (series_id, ts, value, quality) of these series from a time on and before another, in
milliseconds, to stand after FROM; what does not fit may be in it too."""


Row = tuple[int, int, float | None, int, int, int | None, int | None, int | None]
"""What becomes a row: time in ms, series, value, quality, received in ms, boot, seq, uptime in ms."""

# A column goes to DuckDB as one text that it parses itself, outside of Python's lock: as a list parameter each element
# costs a microsecond.
INSERT_DATED = """
    insert into dated select make_timestamp_ms(unnest($1::BIGINT[])), unnest($2::INTEGER[]), unnest($3::DOUBLE[]),
        unnest($4::UTINYINT[]), unnest($5::INTEGER[]), $6::INTEGER
"""
INSERT_UNDATED = """
    insert into reading select make_timestamp_ms(unnest($1::BIGINT[])), unnest($2::INTEGER[]), unnest($3::DOUBLE[]),
        unnest($4::UTINYINT[]), make_timestamp_ms(unnest($5::BIGINT[])), unnest($6::INTEGER[]), unnest($7::BIGINT[]),
        unnest($8::BIGINT[]), $9::BIGINT
"""
# A house that comes back is a thousand new boots at once: by executemany each took half a millisecond.
INSERT_DEVICES = """
    insert into device (device_id, first_seen) select unnest($1::VARCHAR[]), make_timestamp_ms(unnest($2::BIGINT[]))
"""
INSERT_SENSORS = """
    insert into sensor (sensor_id, device_id, sensor, sensor_type, slug) select unnest($1::INTEGER[]),
        unnest($2::VARCHAR[]), unnest($3::VARCHAR[]), unnest($4::VARCHAR[]), unnest($5::VARCHAR[])
"""
INSERT_SERIES = """
    insert into series select unnest($1::INTEGER[]), unnest($2::INTEGER[]), unnest($3::VARCHAR[]),
        unnest($4::VARCHAR[]), unnest($5::VARCHAR[])
"""
INSERT_BOOTS = "insert into boot select unnest($1::INTEGER[]), unnest($2::VARCHAR[]), unnest($3::VARCHAR[])"
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
    join {raw} r on r.series_id = c.s and r.ts = make_timestamp_ms(c.t)::TIMESTAMP_MS
        and r.value is not distinct from c.v
    where r.ts between make_timestamp_ms($5::BIGINT)::TIMESTAMP_MS and make_timestamp_ms($6::BIGINT)::TIMESTAMP_MS
"""


class Batch:
    """Rows, names and delivery states that one COMMIT makes true. `take` each message, `settle`, `write`, COMMIT,
    `adopt`."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self.number = known.batch + 1
        self._rows: list[Row] = []
        self._fresh: list[Reading] = []
        self._newest: dict[int, tuple[int, Reading]] = {}
        self._duplicates = 0
        self._states: dict[BootKey, DeliveryState] = {}
        self._refs: dict[BootKey, int] = {}
        self._new_boots = 0
        self._series: dict[SeriesKey, Series] = {}
        self._grown: Counter[str] = Counter()
        self._refused = 0
        self._crowded: set[str] = set()
        self._sensors: dict[tuple[str, str], Sensor] = {}
        self._devices: dict[str, int] = {}
        self._dated: set[tuple[int, int, float | None]] = set()
        self._suspects: list[int] = []
        self._undated = False
        self._tops: dict[int, int] = {}

    @property
    def is_empty(self) -> bool:
        """Nothing to write: all of it was there already."""
        return not self._rows and not self._moved()

    @property
    def new_names(self) -> bool:
        """A series appears for the first time, so views may have to change."""
        return bool(self._series)

    def take(self, message: Message) -> None:
        """Add a message, unless its number or an equal dated reading is there already.

        ValueError (nothing changed) where its numbering breaks the rules of `delivery.check`, or (the batch is spoilt)
        where a time has no zone.
        """
        device, _, readings, numbers, uptime_ms, timed = message
        boot_ref = seq = None
        if numbers is not None:
            if not self._receive(device, numbers):
                self._duplicates += len(readings)
                return
            boot_ref, seq = self._refs[device, numbers.boot], numbers.seq
        dated = timed and numbers is None
        known, rows = self._known, self._rows
        time, ms, heard, heard_ms = None, 0, None, 0
        for given in readings:
            value = given.value
            reading = given if value is None or value - value == 0.0 else _bad(given)
            series_id = known.series_ids.get(reading[:4]) or self._new_series_id(reading)
            if not series_id:
                self._refused += 1
                continue
            if reading.time is not time:
                time, ms = reading.time, codes.to_ms(reading.time)
            if dated:
                seen = len(self._dated)
                self._dated.add((series_id, ms, reading.value))
                if len(self._dated) == seen:
                    self._duplicates += 1
                    continue
                if ms <= known.newest_ms.get(series_id, ms - 1):
                    self._suspects.append(len(rows))
            if reading.received is not heard:
                heard, heard_ms = reading.received, codes.to_ms(reading.received)
            byte = codes.pack(reading.quality, reading.reason) if reading.quality or reading.reason else 0
            if byte and byte & 63 in UNDATED:
                self._undated = True
            rows.append((ms, series_id, reading.value, byte, heard_ms, boot_ref, seq, uptime_ms))
            self._fresh.append(reading)

    def settle(self, db: duckdb.DuckDBPyConnection, raw: Raw) -> None:
        """After the last message: forget the dated readings of unnumbered messages that are in `raw` already. Nothing
        is asked for those newer than everything of their series."""
        if self._suspects:
            stored = _stored(db, raw, {index: self._rows[index] for index in self._suspects})
            self._rows = [row for index, row in enumerate(self._rows) if index not in stored]
            self._fresh = [reading for index, reading in enumerate(self._fresh) if index not in stored]
            self._duplicates += len(stored)
        newest, known = self._newest, self._known
        for row, reading in zip(self._rows, self._fresh, strict=True):
            ms, series_id = row[:2]
            best = newest.get(series_id)
            best_ms = best[0] if best is not None else known.newest_ms.get(series_id, ms)
            if ms >= best_ms or (
                best_ms > row[4] + AHEAD_MS
                and replaces(reading, best[1] if best is not None else known.newest.get(series_id))
            ):
                newest[series_id] = (ms, reading)
                if ms < best_ms:  # not believed, but there: an equal one may come again
                    self._tops[series_id] = max(best_ms, self._tops.get(series_id, best_ms))

    def write(self, db: duckdb.DuckDBPyConnection) -> None:
        """All of it into the open transaction."""
        if self._series:
            self._write_names(db)
        self._write_delivery(db)
        undated = [row for row in self._rows if row[3] & 63 in UNDATED] if self._undated else []
        dated = [row for row in self._rows if row[3] & 63 not in UNDATED] if undated else self._rows
        if dated:
            ts, series, value, quality, received, *_ = zip(*dated, strict=True)
            lag = [late if -LAG_LIMIT_MS <= late <= LAG_LIMIT_MS else None for late in map(sub, received, ts)]
            db.execute(INSERT_DATED, [*map(_text, (ts, series, value, quality, lag)), self.number])
        if undated:
            db.execute(INSERT_UNDATED, [*map(_text, zip(*undated, strict=True)), self.number])

    def outcome(self) -> Commit:
        """What the caller learns once this is committed."""
        marks = {key: state.mark for key, state in self._states.items()}
        number = self._known.batch if self.is_empty else self.number
        fresh, gaps = tuple(self._fresh), tuple(self._gaps())
        return Commit(number, len(fresh), self._duplicates, marks, gaps, fresh, self._refused, frozenset(self._crowded))

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
        known.refresh(self._newest, self._tops)

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

    def _new_series_id(self, reading: Reading) -> int:
        """0 where its device, or the store, has as many as there may be."""
        key = (reading.device, reading.sensor, reading.metric, reading.quantity)
        new = self._series.get(key)
        if new is not None:
            return new.series_id
        device, known = reading.device, self._known
        full = len(known.series_ids) + len(self._series) >= MAX_SERIES
        if full or known.series_of[device] + self._grown[device] >= MAX_SERIES_OF_DEVICE:
            self._crowded.add(device)
            return 0
        self._grown[device] += 1
        return self._new_series(key, reading).series_id

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
            db.execute(INSERT_DEVICES, [list(self._devices), list(self._devices.values())])
        if self._sensors:
            sensors = [
                (s.sensor_id, s.device_id, s.sensor, s.sensor_type, views.slug(s.sensor_type))
                for s in self._sensors.values()
            ]
            db.execute(INSERT_SENSORS, codes.columns(sensors))
        series = [
            (s.series_id, s.sensor_id, s.metric, s.quantity.value, s.quantity.unit) for s in self._series.values()
        ]
        db.execute(INSERT_SERIES, codes.columns(series))

    def _write_delivery(self, db: duckdb.DuckDBPyConnection) -> None:
        moved = self._moved()
        if not moved:
            return
        new = [key for key in moved if key not in self._known.boots]
        if new:
            db.execute(INSERT_BOOTS, codes.columns([(self._refs[key], *key) for key in new]))
        gone, come = [], []
        for key in moved:
            before, after = set(self._before(key).gaps), set(self._states[key].gaps)
            gone += [(self._refs[key], *gap) for gap in before - after]
            come += [(self._refs[key], *gap) for gap in sorted(after - before)]
        for query, gaps in ((DELETE_GAPS, gone), (INSERT_GAPS, come)):
            if gaps:
                db.execute(query, codes.columns(gaps))
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


def _stored(db: duckdb.DuckDBPyConnection, raw: Raw, rows: Mapping[int, Row]) -> set[int]:
    """Which of these rows are in `raw`."""
    times, series, values, *_ = zip(*rows.values(), strict=True)
    query = ALREADY_THERE.format(raw=raw(set(series), min(times), max(times) + 1))
    given = [*map(_text, (rows, series, times, values)), min(times), max(times)]
    found = db.execute(query, given).fetchall()
    return {index for (index,) in found}


def _text(column: Iterable[float | None]) -> str:
    """A column as DuckDB reads a list. Floats come out as they went in: repr writes the digits that tell them apart."""
    return repr(list(column)).replace("None", "NULL")


def _bad(reading: Reading) -> Reading:
    return reading._replace(value=None, quality=Quality.BAD, reason=Reason.NOT_A_NUMBER)
