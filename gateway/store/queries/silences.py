"""How often a series speaks, and when it did not."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median_low

from gateway.store import codes
from gateway.store.db import Store
from gateway.store.queries.few import Row
from gateway.store.queries.pieces import Range, bounds, cells, known, pieces
from gateway.store.segments.view import View
from gateway.store.types import Silence, Silences

FACTOR = 3.0
LIMIT, MAX_LIMIT = 100, 10_000

# Time passes from the last reading of one cell to the begin of the next, so a silence is never told longer than it was:
# what is bad in a rollup may be its last. The interval is that in the middle when all are put in order.
_INTERVAL = """
    with c as (select ms, width_ms, n + bad as k, at_ms, case when bad > 0 then ms + width_ms else at_ms end as to_ms
               from {cells}),
    d as materialized (select ms, to_ms,
              max(to_ms) over (order by ms, at_ms rows between unbounded preceding and 1 preceding) as before_ms,
              case when k > 1 then width_ms / k else at_ms - lag(at_ms) over (order by ms, at_ms) end as step_ms
          from c),
    h as (select step_ms, count(*) as k from d where step_ms > 0 group by step_ms),
    w as (select step_ms, sum(k) over (order by step_ms rows unbounded preceding) as upto, sum(k) over () as total
          from h),
    i as (select min(step_ms) as interval_ms from w where 2 * upto >= total)"""
_LONGEST = """
    s as (select before_ms, ms from d, i where ms - before_ms > {factor} * interval_ms),
    l as (select before_ms, ms, count(*) over () as total from s order by ms - before_ms desc, before_ms limit {limit})
    select interval_ms, last_ms, before_ms, ms, total from i cross join (select max(to_ms) as last_ms from d)
        left join l on true
"""


async def silences(
    store: Store, series_id: int, start: datetime, end: datetime, *, factor: float = FACTOR, limit: int = LIMIT
) -> Silences:
    """Times without any reading, longer than `factor` times the usual interval: between two readings of the range, and
    after the last one (then `end` should not be ahead of now). What was before the first one is not judged."""
    if factor < 1:
        raise ValueError(f"factor {factor} is less than 1, so every interval would be a silence: give 2 or more")
    if not 1 <= limit <= MAX_LIMIT:
        raise ValueError(f"limit {limit} is not within 1..{MAX_LIMIT}: ask for fewer silences")
    within, ids = bounds(start, end), [known(store, series_id)]

    def ask(view: View) -> Silences:
        of = pieces(view, ids, within)
        query = f"{_INTERVAL}, {_LONGEST}".format(cells=cells(view, ids, of, merge=True), factor=factor, limit=limit)
        rows = view.db.execute(query).fetchall()
        interval_ms, last_ms = rows[0][:2]
        found = [Silence(codes.from_ms(row[2]), codes.from_ms(row[3]), True) for row in rows if row[2] is not None]
        total = rows[0][4] or 0
        if interval_ms is not None and within[1] - last_ms > factor * interval_ms:
            found.append(Silence(codes.from_ms(last_ms), end, False))
            total += 1
        found.sort(key=lambda each: (each.start - each.end, each.start))
        return Silences(tuple(found[:limit]), total, _span(interval_ms), of.source, of.of_times)

    return await store.ask(ask)


def usual_interval(view: View, series_id: int, within: Range) -> timedelta | None:
    """The usual time between readings of a range; None where there are too few."""
    of = pieces(view, [series_id], within)
    query = f"{_INTERVAL} select interval_ms from i"  # noqa: S608
    rows = view.db.execute(query.format(cells=cells(view, [series_id], of, merge=True))).fetchall()
    return _span(rows[0][0])


def interval_of(rows: Sequence[Row]) -> timedelta | None:
    """The same of few readings of one series, which are in order."""
    steps = [after - before for before, after in pairwise(row[1] for row in rows) if after > before]
    return _span(median_low(steps) if steps else None)


def _span(ms: float | None) -> timedelta | None:
    return None if ms is None else timedelta(milliseconds=ms)
