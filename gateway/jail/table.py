"""A result as columns: what the workers and the gateway hand to each other. Pure, standard library only, never pickle.

Each column is a few flat buffers of little-endian numbers, so that whoever has numpy wraps them without copying.
"""

import json
import math
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Literal, TypeAlias, get_args

Kind = Literal["f8", "i8", "bool", "ts", "text"]
"""float64; int64; one byte 0 or 1; int64 microseconds since 1970 in UTC; UTF-8."""
Cell: TypeAlias = float | int | bool | str | datetime | None

MAX_COLUMNS = 1000
MAX_NAME = 200
_MAGIC = b"AGT1"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999  # the years 1 to 9999
_CODES: dict[Kind, str] = {"f8": "d", "i8": "q", "ts": "q", "bool": "B"}
_KINDS = frozenset(get_args(Kind))


@dataclass(frozen=True, slots=True)
class Column:
    """`data` holds 8 bytes a row (bool: 1), for text the rows+1 int64 offsets into `text`. `valid` has a byte 0 or 1
    for each row; it is empty where nothing is NULL. `type` is the SQL type, for people."""

    name: str
    type: str
    kind: Kind
    data: bytes
    valid: bytes = b""
    text: bytes = b""

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, near enough."""
        return len(self.data) + len(self.valid) + len(self.text)

    def cells(self, start: int, stop: int) -> list[Cell]:
        """The values of these rows; NULL and what is not a number are None, times are aware UTC."""
        return [
            cell if not self.valid or self.valid[row] else None
            for row, cell in zip(range(start, stop), self._values(start, stop), strict=True)
        ]

    def raw_cells(self) -> list[Any]:
        """All values as they are kept: times in microseconds, NaN where it stands; NULL is None."""
        values = self._values(0, self.rows) if self.kind == "text" else _numbers(_CODES[self.kind], self.data)
        return [None if self.valid and not self.valid[row] else cell for row, cell in enumerate(values)]

    @property
    def rows(self) -> int:
        """How many values there are."""
        return len(self.data) // 8 - 1 if self.kind == "text" else len(self.data) // (1 if self.kind == "bool" else 8)

    def _values(self, start: int, stop: int) -> Iterable[Cell]:
        if self.kind == "text":
            at = _numbers("q", self.data[8 * start : 8 * (stop + 1)])
            return [self.text[low:high].decode() for low, high in pairwise(at)]
        width = 1 if self.kind == "bool" else 8
        values = _numbers(_CODES[self.kind], self.data[width * start : width * stop])
        if self.kind == "f8":
            return [value if math.isfinite(value) else None for value in values]
        if self.kind == "ts":
            return [_EPOCH + timedelta(microseconds=value) for value in values]
        return map(bool, values) if self.kind == "bool" else values


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of one length; names may occur twice."""

    columns: tuple[Column, ...]
    rows: int

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, near enough."""
        return sum(column.size_bytes for column in self.columns)

    def head(self, start: int, stop: int) -> list[list[Cell]]:
        """Rows from `start` up to `stop`, excluded, as far as there are any."""
        stop = max(min(stop, self.rows), start)
        return [list(row) for row in zip(*(each.cells(start, stop) for each in self.columns), strict=True)]

    def encode(self) -> bytes:
        """As bytes: a header in JSON, then each column's buffers, every one of them at a multiple of 8."""
        told = [[one.name, one.type, one.kind, len(one.data), len(one.valid), len(one.text)] for one in self.columns]
        header = json.dumps({"rows": self.rows, "columns": told}, separators=(",", ":")).encode()
        parts = [_MAGIC, struct.pack("<I", len(header)), _padded(header)]
        for one in self.columns:
            parts += [_padded(one.data), _padded(one.valid), _padded(one.text)]
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> "Table":
        """Back from bytes, of which nothing is believed: ValueError where they are not a table."""
        try:
            return _decode(data)
        except (KeyError, TypeError, IndexError, struct.error, RecursionError) as error:
            raise ValueError(f"not a table: {error}") from error


class Builder:
    """Makes a table of rows; a cell is None or fits its column's kind (ts: whole microseconds since 1970). A column of
    whole numbers that has one beyond 64 bits becomes float64."""

    def __init__(self, columns: Sequence[tuple[str, str, Kind]]) -> None:
        self._names = [(name, told) for name, told, _ in columns]
        self._kinds = [kind for _, _, kind in columns]
        self._numbers = [array(_CODES.get(kind, "q")) for kind in self._kinds]
        self._texts = [bytearray() for _ in columns]
        self._valid = [bytearray() for _ in columns]
        self.rows = 0
        self.size_bytes = 0

    def size_of(self, rows: Sequence[Sequence[Any]]) -> int:
        """What these rows would take, near enough."""
        texts = [at for at, kind in enumerate(self._kinds) if kind == "text"]
        return 9 * len(rows) * len(self._kinds) + sum(len(row[at] or "") for row in rows for at in texts)

    def extend(self, rows: Sequence[Sequence[Any]]) -> None:
        """Append rows."""
        if not rows:
            return
        self.rows += len(rows)
        self.size_bytes += self.size_of(rows)
        for at, cells in enumerate(zip(*rows, strict=True)):
            self._valid[at] += bytes(cell is not None for cell in cells)
            if self._kinds[at] == "text":
                self._extend_text(at, cells)
            else:
                self._extend_numbers(at, cells)

    def table(self) -> Table:
        """The table of all rows so far."""
        columns = []
        for at, (name, told) in enumerate(self._names):
            numbers, text, valid = self._numbers[at], self._texts[at], self._valid[at]
            whole = array("q", [*numbers, len(text)]) if self._kinds[at] == "text" else numbers
            known = b"" if all(valid) else bytes(valid)
            columns.append(
                Column(name[:MAX_NAME], told[:MAX_NAME], self._kinds[at], _little(whole), known, bytes(text))
            )
        return Table(tuple(columns), self.rows)

    def _extend_text(self, at: int, cells: Sequence[Any]) -> None:
        numbers, text = self._numbers[at], self._texts[at]
        for cell in cells:
            numbers.append(len(text))
            text += (cell or "").encode(errors="replace")

    def _extend_numbers(self, at: int, cells: Sequence[Any]) -> None:
        empty: Any = math.nan if self._kinds[at] == "f8" else 0
        values = [empty if cell is None else cell for cell in cells]
        try:
            self._numbers[at].extend(array(self._numbers[at].typecode, values))
        except OverflowError:
            self._kinds[at] = "f8"
            self._numbers[at] = array("d", [*self._numbers[at], *values])


def _decode(data: bytes) -> Table:
    if data[:4] != _MAGIC:
        raise ValueError("not a table: another beginning")
    (length,) = struct.unpack_from("<I", data, 4)
    header = json.loads(data[8 : 8 + length])
    rows, at, columns = header["rows"], 8 + _rounded(length), []
    if not isinstance(rows, int) or rows < 0 or len(header["columns"]) > MAX_COLUMNS:
        raise ValueError("not a table: no count of rows, or too many columns")
    for name, told, kind, *sizes in header["columns"]:
        if not isinstance(name, str) or not isinstance(told, str) or kind not in _KINDS or len(sizes) != 3:
            raise ValueError("not a table: a column without name, type or kind")
        (name + told).encode()  # JSON can say what no text may hold: UnicodeEncodeError is a ValueError
        buffers = []
        for size in sizes:
            if not isinstance(size, int) or not 0 <= size <= len(data) - at:
                raise ValueError("not a table: it ends early")
            buffers.append(data[at : at + size])
            at += _rounded(size)
        columns.append(_checked(Column(name[:MAX_NAME], told[:MAX_NAME], kind, *buffers), rows))
    if at != len(data):
        raise ValueError("not a table: there is more behind it")
    return Table(tuple(columns), rows)


def _checked(column: Column, rows: int) -> Column:
    """The column, if each of its buffers can be what it says."""
    kind, width = column.kind, 1 if column.kind == "bool" else 8
    if len(column.data) != width * (rows + (kind == "text")) or len(column.valid) not in {0, rows}:
        raise ValueError(f"not a table: {kind} column of another length")
    if column.text and kind != "text":
        raise ValueError(f"not a table: {kind} column with text")
    numbers = _numbers(_CODES.get(kind, "q"), column.data)
    if kind == "text":
        text = column.text.decode()  # UnicodeDecodeError is a ValueError
        if numbers[0] != 0 or numbers[-1] != len(column.text) or any(b < a for a, b in pairwise(numbers)):
            raise ValueError("not a table: texts overlap")
        if len(text) != len(column.text):  # no offset may lie within a character
            for low in numbers[:-1]:
                if low < len(column.text) and column.text[low] & 0xC0 == 0x80:
                    raise ValueError("not a table: a text begins within a character")
    if kind == "ts" and rows and not (min(numbers) >= _FIRST_US and max(numbers) <= _LAST_US):
        raise ValueError("not a table: a time outside the years 1 to 9999")
    return column


def _numbers(code: str, data: bytes) -> "array[Any]":
    numbers = array(code)
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _little(numbers: "array[Any]") -> bytes:
    if sys.byteorder == "big":
        numbers = array(numbers.typecode, numbers)
        numbers.byteswap()
    return numbers.tobytes()


def _rounded(size: int) -> int:
    return -(-size // 8) * 8


def _padded(data: bytes) -> bytes:
    return data + bytes(_rounded(len(data)) - len(data))


def csv_lines(table: Table, chunk: int = 1000) -> Iterator[str]:
    """The table as CSV (RFC 4180), a chunk of rows at a time; NULL is nothing, an empty text is quoted."""
    yield ",".join(_quoted(column.name) for column in table.columns) + "\r\n"
    for start in range(0, table.rows, chunk):
        yield "".join(",".join(map(_cell, row)) + "\r\n" for row in table.head(start, start + chunk))


def as_csv(table: Table) -> bytes:
    """The whole table as CSV in UTF-8."""
    return "".join(csv_lines(table)).encode()


def _cell(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, datetime):
        return cell.isoformat().replace("+00:00", "Z")
    return _quoted(cell) if isinstance(cell, str) else repr(cell)


def _quoted(text: str) -> str:
    """Quoted where a reader could take it for something else. Spreadsheets: a text that begins like a formula is data,
    and gets an apostrophe before it."""
    if text[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        text = "'" + text
    plain = text and not set(text) & set(',"\r\n') and text == text.strip()
    return text if plain else '"' + text.replace('"', '""') + '"'
