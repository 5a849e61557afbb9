"""What code may hand back, as JSON: numbers, texts, times, lists, tables; bounded. In the jail, beside the code."""

import datetime as dt
import decimal
import json
import math
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

RESULT_BYTES = 40_000
ROWS = (2000, 200, 60, 20, 5)
"""So many rows or items of each table or list are tried, until the text fits."""
_DEPTH = 12
_TEXT = 10_000
_SHORT = 1000


class _TooMany(Exception):
    """More values than RESULT_BYTES can hold."""


def bounded(value: Any) -> tuple[Any, str]:
    """(as JSON of at most RESULT_BYTES, what was left out or "")."""
    for most in ROWS:
        shaper = _Shaper(most)
        try:
            shaped = shaper.shape(value)
        except _TooMany:
            continue
        if len(json.dumps(shaped, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")) <= RESULT_BYTES:
            return shaped, "; ".join(dict.fromkeys(shaper.cut))[:300]
    return _shortened(value), "the result is too large: only its beginning as text"


class _Shaper:
    """`shape` makes JSON; of each table and list the first `most`; `cut` says where there are more."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = RESULT_BYTES // 2  # a value and its comma
        self.cut: list[str] = []

    def shape(self, value: Any, depth: int = 0) -> Any:  # noqa: PLR0911 - a table of cases
        """One value."""
        self._left -= 1
        if self._left < 0:
            raise _TooMany
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            if len(value) > _TEXT:
                self.cut.append(f"a text of {len(value)} characters, cut to {_TEXT}")
            return str(value)[:_TEXT]
        if depth > _DEPTH:
            self.cut.append(f"deeper than {_DEPTH} levels")
            return _shortened(value)
        if isinstance(value, int | float | complex | decimal.Decimal):
            return _number(value)
        if isinstance(value, dt.datetime | dt.date | dt.time):
            return None if value != value else value.isoformat()  # noqa: PLR0124 - NaT is not itself
        if isinstance(value, Mapping):
            items = self._first(value.items(), len(value), "entries")
            return {_key(key): self.shape(each, depth + 1) for key, each in items}
        if isinstance(value, list | tuple | set | frozenset | range):
            return [self.shape(each, depth + 1) for each in self._first(value, len(value), "items")]
        return self._foreign(value, depth)

    def _foreign(self, value: Any, depth: int) -> Any:  # noqa: PLR0911 - a table of cases
        """numpy's and pandas' own, known by their names and by what they can do: this file loads neither."""
        kind = type(value).__name__
        if kind == "DataFrame":
            return self._frame(value, depth)
        if kind == "Series":
            return self._series(value, depth)
        if kind in {"NaTType", "NAType"}:
            return None
        if kind in {"Period", "Timedelta"}:
            return str(value)
        if not hasattr(value, "tolist"):
            return _shortened(value)
        if not getattr(value, "shape", ()):  # a number of numpy
            plain = value.tolist()
            return _shortened(value) if type(plain) is type(value) else self.shape(plain, depth + 1)
        self._first((), len(value), "items")
        return self.shape(value[: self._most].tolist(), depth)

    def _frame(self, frame: Any, depth: int) -> dict[str, Any]:
        head = frame.head(self._most)
        self._first((), len(frame), "rows")
        names: list[Any] = []
        rows: list[Any] = list(head.itertuples(index=False, name=None))
        if type(frame.index).__name__ != "RangeIndex":
            names = [name if name is not None else "index" for name in frame.index.names]
            labels = [label if isinstance(label, tuple) else (label,) for label in head.index]
            rows = [(*label, *row) for label, row in zip(labels, rows, strict=True)]
        return {
            "columns": [_key(name) for name in (*names, *frame.columns)],
            "rows": [[self.shape(cell, depth + 2) for cell in row] for row in rows],
            "total": len(frame),
        }

    def _series(self, series: Any, depth: int) -> Any:
        """A list where nothing but the position stands beside the values, else by label (pairs, if one comes twice)."""
        head = series.head(self._most)
        self._first((), len(series), "values")
        values = [self.shape(each, depth + 1) for each in head]
        if type(series.index).__name__ == "RangeIndex":
            return values
        labels = [_key(label) for label in head.index]
        if len(set(labels)) == len(labels):
            return dict(zip(labels, values, strict=True))
        return [[label, value] for label, value in zip(labels, values, strict=True)]

    def _first(self, values: Iterable[Any], total: int, what: str) -> list[Any]:
        if total > self._most:
            self.cut.append(f"the first {self._most} of {total} {what}")
        return list(islice(values, self._most))


def _number(value: complex | decimal.Decimal) -> Any:
    if isinstance(value, int):
        return int(value) if value.bit_length() < 64 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, complex):
        return [_number(value.real), _number(value.imag)]
    number = float(value)
    return number if math.isfinite(number) else None


def _key(label: Any) -> str:
    if isinstance(label, tuple):
        return " ".join(map(_key, label[:8]))
    return label.isoformat() if hasattr(label, "isoformat") else str(label)[:200]


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHORT else text[:_SHORT] + "…"
