"""Tables go through bytes unchanged, and bytes that are no table are refused."""

import csv
import io
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.jail.table import Builder, Column, Kind, Table, as_csv

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WHOLE = st.integers(-(2**63), 2**63 - 1)
CELLS: dict[Kind, st.SearchStrategy[Any]] = {
    "f8": st.floats(allow_nan=False, allow_infinity=False),
    "i8": WHOLE,
    "bool": st.booleans(),
    "ts": st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999),
    "text": st.text(),
}


@st.composite
def filled(draw: st.DrawFn) -> tuple[Table, list[list[Any]]]:
    """A table and the rows it was made of."""
    kinds = draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=6))
    row = st.tuples(*(st.none() | CELLS[kind] for kind in kinds))
    rows = [list(each) for each in draw(st.lists(row, max_size=20))]
    builder = Builder([(draw(st.text(max_size=20)), "SOME TYPE", kind) for kind in kinds])
    at = draw(st.integers(0, len(rows)))
    builder.extend(rows[:at])
    builder.extend(rows[at:])
    return builder.table(), rows


@given(filled())
def test_a_table_is_the_rows_it_was_made_of(made: tuple[Table, list[list[Any]]]) -> None:
    table, rows = made
    assert Table.decode(table.encode()) == table
    times = [one.kind == "ts" for one in table.columns]
    expected = [
        [
            EPOCH + timedelta(microseconds=cell) if time and cell is not None else cell
            for time, cell in zip(times, row, strict=True)
        ]
        for row in rows
    ]
    assert table.head(0, len(rows) + 5) == expected
    assert table.head(1, 3) == expected[1:3]
    assert [list(row) for row in zip(*(one.raw_cells() for one in table.columns), strict=True)] == rows


@given(filled(), st.data())
def test_broken_bytes_are_a_value_error_or_a_sound_table(made: tuple[Table, Any], data: st.DataObject) -> None:
    """They come from a process that ran an assistant's SQL."""
    whole = bytearray(made[0].encode())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))]) if data.draw(st.booleans()) else bytes(whole)
    try:
        table = Table.decode(cut)
    except ValueError:
        return
    assert len(table.head(0, table.rows)) == table.rows
    as_csv(table)


@given(st.binary(max_size=200))
def test_random_bytes_are_no_table(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a table"):
        Table.decode(data)


@pytest.mark.parametrize(
    "column",
    [
        Column("a", "t", "f8", bytes(7)),
        Column("a", "t", "i8", bytes(8), valid=bytes(2)),
        Column("a", "t", "i8", bytes(8), text=b"x"),
        Column("a", "t", "ts", b"\xff" * 7 + b"\x7f"),
        Column("a", "t", "text", bytes(8) + (5).to_bytes(8, "little"), text=b"four"),
        Column("a", "t", "text", (1).to_bytes(8, "little") + (4).to_bytes(8, "little"), text=b"four"),
        Column("a", "t", "text", bytes(8) + (1).to_bytes(8, "little"), text=b"\xff"),
        Column("a", "t", "object", bytes(8)),  # type: ignore[arg-type]
    ],
)
def test_a_column_that_cannot_be_is_refused(column: Column) -> None:
    with pytest.raises(ValueError, match=r"not a table|decode"):
        Table.decode(Table((column,), 1).encode())


def test_a_text_may_not_begin_within_a_character() -> None:
    ends = b"".join(at.to_bytes(8, "little") for at in (0, 1, 2))
    with pytest.raises(ValueError, match="within a character"):
        Table.decode(Table((Column("a", "t", "text", ends, text="é".encode()),), 2).encode())


def test_numbers_beyond_64_bits_make_the_column_float() -> None:
    builder = Builder([("a", "HUGEINT", "i8")])
    builder.extend([[1], [None]])
    builder.extend([[2**70]])
    table = builder.table()
    assert (table.columns[0].kind, table.head(0, 3)) == ("f8", [[1.0], [None], [2.0**70]])


def test_what_is_not_a_number_is_nothing() -> None:
    builder = Builder([("a", "DOUBLE", "f8")])
    builder.extend([[math.nan], [math.inf], [1.5]])
    assert builder.table().head(0, 3) == [[None], [None], [1.5]]


@given(st.lists(st.none() | st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"])), min_size=1, max_size=10))
def test_csv_reads_back(texts: list[str | None]) -> None:
    builder = Builder([("name, with comma", "VARCHAR", "text"), ("n", "BIGINT", "i8")])
    builder.extend([[text, 1] for text in texts])
    found = list(csv.reader(io.StringIO(as_csv(builder.table()).decode(), newline="")))
    assert found[0] == ["name, with comma", "n"]
    formula = tuple("=+-@")
    assert [row[0] for row in found[1:]] == [
        "" if text is None else "'" + text if text.startswith(formula) else text for text in texts
    ]


def test_csv_of_every_kind() -> None:
    builder = Builder([("f", "", "f8"), ("i", "", "i8"), ("b", "", "bool"), ("t", "", "ts"), ("s", "", "text")])
    builder.extend([[1.5, -2, True, 0, 'say "hi"'], [None] * 5])
    assert as_csv(builder.table()) == b'f,i,b,t,s\r\n1.5,-2,true,1970-01-01T00:00:00Z,"say ""hi"""\r\n,,,,\r\n'
