"""What the air was like: recordings of real rooms, and made-up waves, as sources for the simulated chips."""

import csv
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

HOLD_S = 10.0  # rows closer than this are held, so that real zeros and spikes keep their value; else a straight line


@dataclass(frozen=True, slots=True)
class Row:
    """The air at one time: ppm, degC, %RH, hPa; None where nobody measured."""

    offset_s: float = 0.0
    co2: float | None = None
    temperature: float | None = None
    humidity: float | None = None
    pressure: float | None = None


Source = Callable[[float], Row]
"""The air at a time of the bus (seconds)."""

COLUMNS = tuple(f.name for f in fields(Row) if f.name != "offset_s")


@dataclass(frozen=True, slots=True)
class Wave:
    """A source that swings once a period around its middle values; `swing` 0 keeps them constant."""

    co2: float = 600.0
    temperature: float = 21.0
    humidity: float = 45.0
    pressure: float = 1013.25
    swing: float = 0.02
    period_s: float = 600.0

    def __call__(self, t_s: float) -> Row:
        factor = 1 + self.swing * math.sin(2 * math.pi * t_s / self.period_s)
        return Row(t_s, self.co2 * factor, self.temperature * factor, self.humidity * factor, self.pressure)


class Recording:
    """Rows in the order of their offsets, starting at 0, repeated without end."""

    def __init__(self, rows: Sequence[Row]) -> None:
        if len(rows) < 2:
            raise ValueError(f"a recording needs two rows or more, not {len(rows)}")
        self._rows = tuple(rows)
        self._offsets = [r.offset_s for r in rows]
        if self._offsets[0] != 0 or any(b <= a for a, b in zip(self._offsets, self._offsets[1:], strict=False)):
            raise ValueError("a recording's offset_s must start at 0 and rise with every row")
        last = self._offsets[-1]
        self.span_s: float = last + last / (len(rows) - 1)

    @classmethod
    def load(cls, name_or_path: str | Path) -> "Recording":
        """A packaged recording by its bare name, or a CSV by its path.

        The header names offset_s and one or more of co2, temperature, humidity, pressure. FileNotFoundError names the
        packaged ones; ValueError names file and line.
        """
        name, folder = str(name_or_path), resources.files("drivers.testing.recordings")
        packaged: Traversable = folder / f"{name}.csv"
        found: Traversable = packaged if "/" not in name and packaged.is_file() else Path(name)
        if not found.is_file():
            raise FileNotFoundError(f"no recording {name!r}: packaged are {', '.join(names())}; else give a CSV's path")
        return cls(_parse(name, csv.DictReader(found.read_text("utf-8").splitlines())))

    def rows(self) -> tuple[Row, ...]:
        """Every row as recorded."""
        return self._rows

    def at(self, offset_s: float) -> Row:
        """The air at this offset (any number: it wraps around), carrying `offset_s` within the span."""
        offset_s %= self.span_s
        i = bisect_right(self._offsets, offset_s) - 1
        before = self._rows[i]
        if i + 1 == len(self._rows) or self._offsets[i + 1] - before.offset_s <= HOLD_S:
            return Row(offset_s, before.co2, before.temperature, before.humidity, before.pressure)
        after = self._rows[i + 1]
        part = (offset_s - before.offset_s) / (after.offset_s - before.offset_s)
        return Row(offset_s, *(_between(getattr(before, c), getattr(after, c), part) for c in COLUMNS))

    def replay(self, now: Callable[[], float], epoch_s: float = 0.0) -> Source:
        """A source that gives the air at `(now() - epoch_s) mod span_s`, whatever the bus's time is."""
        return lambda _: self.at(now() - epoch_s)


def restless(source: Source, last_digit: float = 0.01) -> Source:
    """The same air with the noise that rounding took out of a recording: a real sensor never repeats itself to the bit,
    and one that does is taken for frozen. Stays below half of the last digit; the same at each start."""
    noise = random.Random(0)  # noqa: S311 - a simulation

    def at(t_s: float) -> Row:
        row = source(t_s)
        said = {c: v for c in COLUMNS if (v := getattr(row, c))}  # an exact zero means something
        return replace(row, **{c: v + noise.uniform(-0.49, 0.49) * last_digit for c, v in said.items()})

    return at


def names() -> list[str]:
    """The packaged recordings."""
    files = resources.files("drivers.testing.recordings").iterdir()
    return sorted(f.name.removesuffix(".csv") for f in files if f.name.endswith(".csv"))


def _parse(name: str, reader: "csv.DictReader[str]") -> list[Row]:
    header = set(reader.fieldnames or ())
    if "offset_s" not in header or not header & set(COLUMNS) or header - {"offset_s", *COLUMNS}:
        raise ValueError(f"{name}: the header must be offset_s and some of {', '.join(COLUMNS)}, not {sorted(header)}")
    rows = []
    for line in reader:
        try:
            rows.append(Row(**{column: float(text) for column, text in line.items()}))
        except (TypeError, ValueError):
            raise ValueError(f"{name}, line {reader.line_num}: not {len(header)} numbers: {line}") from None
    return rows


def _between(a: float | None, b: float | None, part: float) -> float | None:
    return None if a is None or b is None else a + (b - a) * part
