"""Figures of a range of a series, and of two ranges beside each other."""

from collections.abc import Sequence
from datetime import datetime
from math import sqrt
from typing import Any, Literal, NamedTuple

from gateway.store.cells import USABLE
from gateway.store.db import Store
from gateway.store.queries.few import UNCERTAIN_FROM, Row, few, part, used
from gateway.store.queries.pieces import AT_ONCE, Pieces, Range, bounds, cells, known, pieces, point
from gateway.store.queries.silences import interval_of, usual_interval
from gateway.store.segments.layout import BUCKET_MS
from gateway.store.segments.view import View
from gateway.store.types import Comparison, Period, Point, Statistics

EXACT = 10 * AT_ONCE
"""So many readings are looked through, that percentiles may be of readings and not of means (tune)."""
PERCENT = (5, 50, 95)
COMPARED = ("n", "mean", "median", "p95", "min", "max", "stddev")

# A sensor knows few different values: grouped by them, any number of readings fits into memory.
_BY_VALUE = """select lo, lo as hi, sum(n) as n, sum(uncertain) as uncertain, sum(bad) as bad, lo * sum(n) as sum,
    0.0 as m2, min(at_ms) as first_ms, lo as first, arg_min(q, at_ms) as first_q,
    max(at_ms) as last_ms, lo as last, arg_max(q, at_ms) as last_q from {cells} group by lo"""
_BY_ROLLUP = """select lo, hi, n, uncertain, bad, sum, m2, at_ms as first_ms, at_value as first, q as first_q,
    at_ms as last_ms, at_value as last, q as last_q, ms from {cells}"""
_RANKED = {
    _BY_VALUE: "select lo as x, n as weight from c where n > 0",
    _BY_ROLLUP: f"select sum(sum) / sum(n) as x, 1 as weight from c where n > 0 group by ms // {BUCKET_MS}",  # noqa: S608
}
_FIGURES = """
    with c as materialized ({groups}),
    m as (select sum(sum) / sum(n) as mean from c),
    s as (select sum(n)::BIGINT as n, sum(uncertain)::BIGINT as uncertain, sum(bad)::BIGINT as bad, min(lo) as low,
              max(hi) as high, any_value(mean) as mean, sum(m2 + n * (sum / n - mean) ** 2) filter (where n > 0) as m2,
              min({{'ms': first_ms, 'value': first, 'q': first_q}}) filter (where n > 0) as first,
              max({{'ms': last_ms, 'value': last, 'q': last_q}}) filter (where n > 0) as last from c, m),
    w as (select x, sum(weight) over (order by x rows unbounded preceding) as upto,
              (sum(weight) over ())::BIGINT - 1 as top from ({ranked})),
    r as (select any_value(top) as top, {ranks} from w)
    select * from s, r
"""
_ENDS = """select epoch_ms(ts) as ms, value, quality from {raw} where {usable} order by ms {way}, value {way} limit 1"""


class Moments(NamedTuple):
    """How many are usable, uncertain and bad; the smallest, the largest, the mean, squared distances from it."""

    n: int
    uncertain: int
    bad: int
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    m2: float | None = None


async def statistics(store: Store, series_id: int, start: datetime, end: datetime) -> Statistics:
    """Figures of a range of a series; percentiles interpolate between neighbours."""
    within = bounds(start, end)
    known(store, series_id)
    return await store.ask(lambda view: _statistics(view, series_id, within))


async def compare(
    store: Store, series_id: int, first: tuple[datetime, datetime], second: tuple[datetime, datetime]
) -> Comparison:
    """Two periods of a series beside each other, each a start and an end."""
    known(store, series_id)
    ranges = [(period, bounds(*period)) for period in (first, second)]

    def ask(view: View) -> Comparison:
        around = min(start for _, (start, _) in ranges), max(end for _, (_, end) in ranges)
        both = few(view, [series_id], pieces(view, [series_id], around, EXACT))
        before, after = (_period(view, series_id, period, within, both) for period, within in ranges)
        change: dict[str, float | None] = {}
        for name in COMPARED:
            old, new = (getattr(period.figures, name) for period in (before, after))
            change[name] = None if old is None or new is None else new - old
        return Comparison(before, after, change)

    return await store.ask(ask)


def _period(
    view: View, series_id: int, period: tuple[datetime, datetime], within: Range, both: Sequence[Row] | None
) -> Period:
    """`both` are all readings around this period, if those are few."""
    of = pieces(view, [series_id], within, EXACT)
    rows = few(view, [series_id], of) if both is None else part(both, of)
    if rows is None:
        figures, interval = _by_sql(view, series_id, of), usual_interval(view, series_id, within)
    else:
        figures, interval = _by_hand(rows, of), interval_of(rows)
    coverage = None if interval is None else min(1.0, figures.n * interval / (period[1] - period[0]))
    return Period(*period, figures, interval, coverage)


def _statistics(view: View, series_id: int, within: Range) -> Statistics:
    of = pieces(view, [series_id], within, EXACT)
    rows = few(view, [series_id], of)
    return _by_sql(view, series_id, of) if rows is None else _by_hand(rows, of)


def _by_hand(rows: Sequence[Row], of: Pieces) -> Statistics:
    """Of few readings."""
    usable = used(rows)
    values = sorted(row[2] for row in usable)
    n, uncertain = len(values), sum(row[3] >= UNCERTAIN_FROM for row in usable)
    if not n:
        return _told(of, Moments(0, 0, len(rows)), _percentiles(None, []), (None, None))
    top, mean = n - 1, sum(values) / n
    m2 = sum((value - mean) * (value - mean) for value in values)
    ranks = [values[place] for percent in PERCENT for place in (percent * top // 100, (percent * top + 99) // 100)]
    ends = (point(*usable[0][1:]), point(*usable[-1][1:]))
    moments = Moments(n, uncertain, len(rows) - n, values[0], values[-1], mean, m2)
    return _told(of, moments, _percentiles(top, ranks), ends)


def _by_sql(view: View, series_id: int, of: Pieces) -> Statistics:
    """Of any number of readings, and of rollups."""
    groups = _BY_VALUE if of.rolled is None else _BY_ROLLUP
    query = _FIGURES.format(
        groups=groups.format(cells=cells(view, [series_id], of, merge=True)),
        ranked=_RANKED[groups],
        ranks=", ".join(_rank(percent, rounding) for percent in PERCENT for rounding in (0, 99)),
    )
    n, uncertain, bad, *moments, first, last, top = (row := view.db.execute(query).fetchall()[0])[:10]
    ends = (_end(view, series_id, of, first, "asc"), _end(view, series_id, of, last, "desc"))
    return _told(of, Moments(n or 0, uncertain or 0, bad or 0, *moments), _percentiles(top, row[10:]), ends)


def _told(
    of: Pieces, moments: Moments, percentiles: Sequence[float | None], ends: tuple[Point | None, Point | None]
) -> Statistics:
    n, uncertain, bad, low, high, mean, m2 = moments
    p05, median, p95 = percentiles
    stddev = sqrt(m2 / (n - 1)) if m2 is not None and n > 1 else None
    ranked: Literal["readings", "15-minute means"] = "readings" if of.rolled is None else "15-minute means"
    figures = (low, high, mean, stddev, p05, median, p95)
    return Statistics(n, n - uncertain, uncertain, bad, *figures, *ends, ranked, of.source, of.resolution)


def _rank(percent: int, rounding: int) -> str:
    """SQL of the value at a share of the way from the first (0) to the last (top), at the place below (0) or above
    (99)."""
    return f"min(x) filter (where upto > ({percent} * top + {rounding}) // 100)"


def _percentiles(top: int | None, ranks: Sequence[float]) -> list[float | None]:
    """Between the values below and above each share's place, as far as the place is from the one below."""
    if top is None:
        return [None for _ in PERCENT]
    pairs = zip(PERCENT, ranks[::2], ranks[1::2], strict=True)
    return [below + (above - below) * (percent * top % 100 / 100) for percent, below, above in pairs]


def _end(view: View, series_id: int, of: Pieces, found: dict[str, Any] | None, way: str) -> Point | None:
    """The first or last usable point; a rollup's is looked up among the readings where those are still there."""
    if found is None:
        return None
    bucket_ms = found["ms"] - found["ms"] % BUCKET_MS
    if of.rolled is not None and of.rolled[0] <= bucket_ms < of.rolled[1] and bucket_ms >= of.gone_ms:
        raw = view.raw([series_id], bucket_ms, bucket_ms + BUCKET_MS)
        rows = view.db.execute(_ENDS.format(raw=raw, usable=USABLE, way=way)).fetchall()
        return point(*rows[0])
    return point(found["ms"], found["value"], found["q"])
