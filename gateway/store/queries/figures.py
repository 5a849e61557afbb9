"""Figures of a range of a series, and of two ranges beside each other."""

from collections.abc import Sequence
from datetime import datetime
from math import sqrt
from typing import Any

from gateway.store.cells import USABLE
from gateway.store.db import Store
from gateway.store.queries.pieces import AT_ONCE, Pieces, Range, bounds, cells, known, pieces, point
from gateway.store.queries.silences import usual_interval
from gateway.store.segments.layout import BUCKET_MS
from gateway.store.segments.view import View
from gateway.store.types import Comparison, Period, Point, Statistics

EXACT = 10 * AT_ONCE
"""So many readings are looked through, that percentiles may be of readings and not of means (tune)."""
SHARES = (0.05, 0.5, 0.95)
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
        before, after = (_period(view, series_id, period, within) for period, within in ranges)
        change: dict[str, float | None] = {}
        for name in COMPARED:
            old, new = (getattr(period.figures, name) for period in (before, after))
            change[name] = None if old is None or new is None else new - old
        return Comparison(before, after, change)

    return await store.ask(ask)


def _period(view: View, series_id: int, period: tuple[datetime, datetime], within: Range) -> Period:
    figures = _statistics(view, series_id, within)
    interval = usual_interval(view, series_id, within)
    coverage = None if interval is None else min(1.0, figures.n * interval / (period[1] - period[0]))
    return Period(*period, figures, interval, coverage)


def _statistics(view: View, series_id: int, within: Range) -> Statistics:
    of = pieces(view, [series_id], within, EXACT)
    groups = _BY_VALUE if of.rolled is None else _BY_ROLLUP
    query = _FIGURES.format(
        groups=groups.format(cells=cells(view, [series_id], of, merge=True)),
        ranked=_RANKED[groups],
        ranks=", ".join(_rank(share, side) for share in SHARES for side in ("floor", "ceil")),
    )
    n, uncertain, bad, low, high, mean, m2, first, last, top, *ranks = view.db.execute(query).fetchall()[0]
    n, uncertain, bad = n or 0, uncertain or 0, bad or 0
    p05, median, p95 = _percentiles(top, ranks)
    return Statistics(
        n,
        n - uncertain,
        uncertain,
        bad,
        low,
        high,
        mean,
        sqrt(m2 / (n - 1)) if n > 1 else None,
        p05,
        median,
        p95,
        _end(view, series_id, of, first, "asc"),
        _end(view, series_id, of, last, "desc"),
        "readings" if of.rolled is None else "15-minute means",
        of.source,
        of.resolution,
    )


def _rank(share: float, side: str) -> str:
    """SQL of the value at a share of the way from the first (0) to the last (top), at the place below or above."""
    return f"min(x) filter (where upto > {side}({share} * top))"


def _percentiles(top: int | None, ranks: Sequence[float]) -> list[float | None]:
    """Between the values below and above each share's place, as far as the place is from the one below."""
    if top is None:
        return [None for _ in SHARES]
    pairs = zip(SHARES, ranks[::2], ranks[1::2], strict=True)
    return [below + (above - below) * (share * top % 1) for share, below, above in pairs]


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
