"""A year of 200 series, the same rows for every store: made by SQL in a DuckDB of its own, day by day, as they arrive.

66 devices measure CO2, temperature and humidity, two of them pressure too; what a device measures at one time shares
its timestamp. Noise and steps of the scale are those of recorded SCD30 and BME280 sensors; now and then somebody
breathes at one.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Self

import duckdb

from drivers.model import Quality, Quantity, Reason
from gateway.store import codes

DEVICES = 66
DAY_MS = 86_400_000
SERIES = 200
METRICS = (Quantity.CO2, Quantity.TEMPERATURE, Quantity.HUMIDITY)
BAROMETERS = (0, 33)
JITTER_MS = 10
ONE_BREATH_IN = 4000
MEMORY_MB, THREADS = 512, 2


class Name(NamedTuple):
    """Who measured a series, and what."""

    device: str
    sensor: str
    quantity: Quantity


class Row(NamedTuple):
    """One reading: its series (1 to 200), milliseconds since 1970, value (None: bad without one), quality byte."""

    series: int
    ms: int
    value: float | None
    quality: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """About `rows` readings of the days before `end`, evenly spread; equal for equal numbers, shifted by end.

    Half a percent is uncertain or bad. In a year there are about 120 outages of a device, of one to six hours, whose
    readings arrive late, at once.
    """

    rows: int
    end: datetime
    days: int = 365
    seed: int = 4

    @classmethod
    def until_today(cls, rows: int, days: int = 365) -> Self:
        """It ends with yesterday, in UTC."""
        return cls(rows, datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0), days)

    @property
    def began_ms(self) -> int:
        return codes.to_ms(self.end - timedelta(days=self.days))

    @property
    def end_ms(self) -> int:
        return codes.to_ms(self.end)

    @property
    def interval_ms(self) -> int:
        """How often each device measures."""
        return self.days * DAY_MS * SERIES // self.rows

    def day(self, number: int) -> str:
        """SQL of a day (from 0; it goes on after the last) in order of arrival: series, ms, value, quality."""
        return _DAY.format(
            salt=self.seed << 32,  # the places of _uniform are small numbers beside it
            began=self.began_ms,
            interval=self.interval_ms,
            first=number * DAY_MS,
            behind=(number + 1) * DAY_MS,
            day=number,
        )


class Source:
    """A dataset and the engine that makes it. `Source.of(dataset)` in a `with`."""

    def __init__(self, dataset: Dataset, db: duckdb.DuckDBPyConnection) -> None:
        self.dataset, self._db = dataset, db

    @classmethod
    @contextmanager
    def of(cls, dataset: Dataset) -> "Iterator[Source]":
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{MEMORY_MB}MB",
            "threads": THREADS,
        }
        with closing(duckdb.connect(config=config)) as db:
            yield cls(dataset, db)

    def rows(self, day: int) -> list[Row]:
        """The readings of a day in order of arrival."""
        return [Row(*row) for row in self._db.execute(self.dataset.day(day)).fetchall()]

    def text(self, day: int, file: Path, line: str = "concat_ws(',', series, ms, value, quality)") -> None:
        """The same into a file, a line each; `line` is an expression over series, ms, value and quality."""
        query = f"copy (select {line} as line from ({self.dataset.day(day)})) to '{file}'"
        self._db.execute(f"{query} (format csv, header false, quote '', escape '', delimiter '\x01')")


def names() -> dict[int, Name]:
    """Who measures each series, by its number."""
    found = {
        1 + 3 * at + metric: Name(device(at), "scd30", quantity)
        for at in range(DEVICES)
        for metric, quantity in enumerate(METRICS)
    }
    for number, at in enumerate(BAROMETERS):
        found[1 + 3 * DEVICES + number] = Name(device(at), "bmp280", Quantity.PRESSURE)
    return found


def device(at: int) -> str:
    return f"room-{at:02}"


def _uniform(salt: int, *of: str) -> str:
    """SQL: a number from 0 to 1 that follows from these columns."""
    return f"(hash(({{salt}} + {salt})::BIGINT, {', '.join(of)}) / 18446744073709551616.0)"


def _wander(salt: int, every_h: int) -> str:
    """SQL: from -1 to 1, on straight lines between knots so many hours apart."""
    at = f"(ms / {every_h * 3_600_000}.0)"
    here, there = (_uniform(salt, "number", f"floor({at})::BIGINT + {step}") for step in (0, 1))
    return f"(2 * ({here} + ({there} - {here}) * ({at} - floor({at}))) - 1)"


# The sum of four evenly spread numbers, scaled to a standard deviation of one: near enough to a bell.
_NOISE = """(((h & 65535) + ((h >> 16) & 65535) + ((h >> 32) & 65535) + (h >> 48)) / 65536.0 - 2) * 1.7320508"""
_OCCUPIED = "greatest(0, sin(pi() * (hour - 7 + 3 * room) / 12)) * (case when day % 7 < 5 then 1 else 0.3 end)"
_CO2 = f"round(425 + (150 + 500 * room) * {_OCCUPIED} + 60 * {_wander(3, 1)} + 1.5 * noise + 1500 * breath)"
_TEMPERATURE = f"""round(20 + 3 * room + 1.2 * sin(pi() * (hour - 9) / 12) + 3 * cos(2 * pi() * day / 365)
    + 0.5 * {_wander(3, 1)} + 0.018 * noise + 4 * breath, 2)"""
_HUMIDITY = f"""round(46 - 8 * room - 4 * sin(pi() * (hour - 9) / 12) + 9 * cos(2 * pi() * (day - 200) / 365)
    + 4 * {_wander(3, 3)} + 0.06 * noise + 20 * breath, 1)"""
_PRESSURE = f"round(1009 + 14 * {_wander(3, 18)} + 0.02 * noise, 2)"

_UNCERTAIN = codes.pack(Quality.UNCERTAIN, Reason.RATE)
_BAD, _EMPTY = codes.pack(Quality.BAD, Reason.SPIKE), codes.pack(Quality.BAD, Reason.NOT_A_NUMBER)

_DAY = f"""
    with turn as (
        select unnest(range({{first}} // {{interval}} - 1, {{behind}} // {{interval}} + 1)) as turn
    ), nominal as (
        select turn, place, turn * {{interval}} + place * {{interval}} // {DEVICES} as nominal_ms
        from turn, (select unnest(range({DEVICES})) as place)
    ), moment as (
        select turn, place,
            nominal_ms + (hash({{salt}}, place, turn) % {JITTER_MS + 1})::BIGINT as ms
        from nominal where nominal_ms >= {{first}} and nominal_ms < {{behind}} and nominal_ms >= 0
    ), outage as (
        select unnest(range({DEVICES})) as out_at, {_uniform(1, "{day}", "out_at")} < 1 / 200 as is_out,
            {{first}} + 3600000 * floor({_uniform(2, "{day}", "out_at")} * 17)::BIGINT as out_ms,
            out_ms + 3600000 * (1 + floor({_uniform(5, "{day}", "out_at")} * 6)::BIGINT) as back_ms
    ), arrived as (
        select turn, place, ms,
            case when is_out and ms between out_ms and back_ms then back_ms else ms end as arrived_ms
        from moment join outage on place = out_at
    ), series as (
        select *, case metric when 3 then {1 + 3 * DEVICES} + place // {BAROMETERS[1]} else 1 + 3 * place + metric end
            as number
        from arrived, (select unnest(range(4)) as metric) where metric < 3 or place in {BAROMETERS}
    ), drawn as (
        select *, hash({{salt}} + 9, number, turn) as h, {_NOISE} as noise, {_uniform(4, "place")} as room,
            (ms % {DAY_MS}) / 3600000.0 as hour, ms // {DAY_MS} as day,
            floor({_uniform(6, "number", "turn // 6")} * 1000)::INTEGER as luck,
            if(hash({{salt}} + 10, place, turn) % {ONE_BREATH_IN} = 0, 1, 0) as breath
        from series
    ), judged as (
        select *, case when luck < 3 then {_UNCERTAIN} when luck = 3 then {_BAD} when luck = 4 then {_EMPTY} else 0 end
            as quality
        from drawn
    )
    select number::INTEGER as series, {{began}} + ms as ms, case when quality = {_EMPTY} then null else case metric
        when 0 then {_CO2} when 1 then {_TEMPERATURE} when 2 then {_HUMIDITY} else {_PRESSURE} end end as value,
        quality::UTINYINT as quality
    from judged order by arrived_ms, place, {{began}} + ms, number
"""
