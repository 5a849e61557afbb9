"""Few readings, fetched as they are: figures of those are made in Python, because the engine takes longer to plan its
work on them than to do it. What is made here and by SQL is the same; tests hold both together."""

from collections.abc import Iterable, Sequence
from typing import cast

from drivers.model import Quality
from gateway.store.codes import USABLE_BELOW
from gateway.store.queries.pieces import Ids, Pieces, about
from gateway.store.segments.view import View

FEW = 10_000
"""So many readings are fetched for one answer (tune): beyond, SQL is faster, and keeps no other thread waiting."""
UNCERTAIN_FROM = Quality.UNCERTAIN << 6
"""A usable quality byte from here on is uncertain."""

Row = tuple[int, int, float | None, int]
"""Series, milliseconds, value, quality byte: in this order, of one time the empty value first."""
Used = tuple[int, int, float, int]
"""One that counts in figures."""

_READ = """select series_id, epoch_ms(ts), value, quality from {raw}
    order by series_id, ts, value nulls first, quality limit {most} + 1"""


def few(view: View, series: Ids, of: Pieces) -> Sequence[Row] | None:
    """The readings that the pieces consist of, in order; None where there are more than FEW or rollups among them."""
    if of.rolled is not None or about(view, series, of.raw[0]) > FEW:
        return None
    rows = view.db.execute(_READ.format(raw=view.raw(series, *of.raw[0]), most=FEW)).fetchall()
    return rows if len(rows) <= FEW else None


def part(rows: Sequence[Row], of: Pieces) -> Sequence[Row]:
    """Those that pieces consist of, which are part of what these rows are."""
    start_ms, end_ms = of.raw[0]
    return [row for row in rows if start_ms <= row[1] < end_ms]


def used(rows: Iterable[Row]) -> list[Used]:
    """Those that count in figures, in order."""
    return cast(list[Used], [row for row in rows if row[2] is not None and row[3] < USABLE_BELOW])


def halves(ordered: Sequence[float]) -> float:
    """The median of what is in order."""
    top = len(ordered) - 1
    return (ordered[top // 2] + ordered[top - top // 2]) / 2
