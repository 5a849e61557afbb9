"""Readings as they stand in a CSV or Parquet file: the columns, and what a row must say. Pure."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import NamedTuple

from drivers.model import Quality, Quantity, Reason
from gateway.store import codes
from gateway.store.codes import UNDATED

COLUMNS = ("time", "device", "sensor", "metric", "quantity", "value", "unit", "quality", "reason")
NEEDED = ("time", "device", "sensor", "metric", "value")
BUCKET_COLUMNS = (
    "start",
    "device",
    "sensor",
    "metric",
    "quantity",
    "unit",
    "n",
    "uncertain",
    "bad",
    "min",
    "mean",
    "max",
    "last",
)
AHEAD_MS = 86_400_000
NAME_LETTERS = 128
MOST_SERIES = 10_000

Key = tuple[str, str, str, Quantity]
"""Device, sensor, metric, quantity: what a series is."""


class Row(NamedTuple):
    """One reading: `quality` as it is stored, value None where nothing usable was said."""

    ms: int
    key: Key
    value: float | None
    quality: int


class BadRow(ValueError):
    """What is wrong with a row: the value, the rule, the way out."""


class Reader:
    """Makes rows out of texts; remembers the names it has checked. `now_ms` bounds the times."""

    def __init__(self, header: Sequence[str], now_ms: int) -> None:
        names = [name.strip().lower() for name in header]
        missing = [name for name in NEEDED if name not in names]
        if missing:
            hint = " (a file of --bucket cannot be imported)" if "mean" in names else ""
            raise BadRow(f"no column {missing[0]!r} among {', '.join(names)}: needed are {', '.join(NEEDED)}{hint}")
        strange = [name for name in names if name not in COLUMNS or names.count(name) > 1]
        if strange:
            raise BadRow(f"column {strange[0]!r} is unknown or there twice: known are {', '.join(COLUMNS)}")
        # Columns that are missing point at an empty text behind the last one.
        self._pick = itemgetter(*(names.index(name) if name in names else len(names) for name in COLUMNS))
        self._width, self._now_ms = len(names), now_ms
        self._time, self._ms = "", 0
        self._keys: dict[tuple[str, ...], Key] = {}
        self._qualities: dict[tuple[str, str], int] = {}

    def row(self, fields: Sequence[str]) -> Row:
        """One row; BadRow says what is wrong with it."""
        if len(fields) != self._width:
            raise BadRow(f"{len(fields)} fields where the header has {self._width}: mend or remove the line")
        fields = (*fields, "")
        time, device, sensor, metric, quantity, value, unit, quality, reason = self._pick(fields)
        names = (device, sensor, metric, quantity, unit)
        key = self._keys.get(names)
        if key is None:
            key = self._keys[names] = _key(*names)
            if len(self._keys) > MOST_SERIES:
                raise BadRow(f"series {key[:3]} is one of more than {MOST_SERIES}: is a column in another's place?")
        number = _number(value)
        byte = self._qualities.get((quality, reason))
        if byte is None:
            byte = self._qualities[quality, reason] = _quality(quality, reason)
        if number is None and byte < codes.USABLE_BELOW:
            if quality:
                raise BadRow(f"value is empty, so quality {quality!r} cannot be: give a value, or bad")
            byte = codes.pack(Quality.BAD, Reason.NOT_A_NUMBER)
        if time != self._time:
            self._time, self._ms = time, _time(time)
        ms = self._ms
        if ms > self._now_ms + AHEAD_MS and byte & 63 not in UNDATED:
            raise BadRow(f"time {time!r} is more than a day ahead of this machine's clock: correct one of them")
        return Row(ms, key, number, byte)


def quality_words(byte: int) -> tuple[str, str]:
    """Quality and reason as they stand in a file; no reason is an empty text."""
    quality, reason = codes.unpack(byte)
    return str(quality), "" if reason is Reason.NONE else str(reason)


def _time(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text.strip())
        ms = codes.to_ms(moment) if moment.tzinfo is not None else -1
    except (ValueError, OverflowError):
        raise BadRow(f"time {text!r} is no time: give it as in 2026-11-20T12:00:00.000Z") from None
    if moment.tzinfo is None:
        raise BadRow(f"time {text!r} has no zone: add Z for UTC, or an offset such as +01:00")
    if ms < 0:
        raise BadRow(f"time {text!r} is before 1970: give it as in 2026-11-20T12:00:00.000Z")
    return ms


def _number(text: str) -> float | None:
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadRow(f"value {text!r} is not a number: write it as in 21.5, or leave it empty where there is none")
    return number


def _key(device: str, sensor: str, metric: str, quantity: str, unit: str) -> Key:
    for column, name in (("device", device), ("sensor", sensor), ("metric", metric)):
        if not 0 < len(name) <= NAME_LETTERS or not name.isprintable() or name != name.strip():
            raise BadRow(
                f"{column} {name!r}: a name has 1 to {NAME_LETTERS} printable characters, no space at its ends"
            )
    meant = _QUANTITIES.get(quantity or metric)
    if quantity and meant is None:
        raise BadRow(f"quantity {quantity!r} is unknown: known are {', '.join(_QUANTITIES)}")
    if meant is None:
        able = [each for each in Quantity if each.unit == unit]
        if len(able) != 1:
            raise BadRow(f"metric {metric!r} in {unit!r} does not tell what is measured: add a column quantity")
        meant = able[0]
    if unit and unit != meant.unit:
        raise BadRow(f"unit {unit!r}: {meant} is kept in {meant.unit!r}: convert the values")
    return device, sensor, metric, meant


def _quality(quality: str, reason: str) -> int:
    if quality not in _QUALITIES:
        raise BadRow(
            f"quality {quality!r} is unknown: known are {', '.join(filter(None, _QUALITIES))}, or empty for good"
        )
    if reason not in _REASONS:
        raise BadRow(f"reason {reason!r} is unknown: known are {', '.join(filter(None, _REASONS))}, or empty for none")
    return codes.pack(_QUALITIES[quality], _REASONS[reason])


_QUANTITIES: Mapping[str, Quantity] = {each.value: each for each in Quantity}
_QUALITIES: Mapping[str, Quality] = {"": Quality.GOOD} | {str(each): each for each in Quality}
_REASONS: Mapping[str, Reason] = {"": Reason.NONE} | {str(each): each for each in Reason}
