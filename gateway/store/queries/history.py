"""The course of a series: its readings, thinned so that peaks survive, or in spans."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from math import inf
from operator import itemgetter
from zoneinfo import ZoneInfo

from gateway.store import codes, spans
from gateway.store.codes import USABLE_BELOW
from gateway.store.db import Store
from gateway.store.queries.few import Row, few, used
from gateway.store.queries.pieces import Ids, Pieces, about, bounds, cells, known, pieces, point
from gateway.store.segments.layout import BUCKET_MS
from gateway.store.segments.view import View
from gateway.store.types import Bucket, Buckets, BucketsOfSeries, Points, Total, Totals

MAX_POINTS = 100_000
MAX_BUCKETS = 100_000
MS = timedelta(milliseconds=1)
COARSE = 4
"""Rollups may stand in for readings where a span of the answer is at least so many of them long."""

_value = itemgetter(2)
_READINGS = "select epoch_ms(ts), value, quality from {raw} order by ts, value nulls first, quality limit {most} + 1"
# The first and the last (1), and of spans of equal length between them the smallest and the largest, or one that says
# that nothing was usable (0).
_THINNED = """
    with c as materialized (select ms, n, bad, lo, hi, at_ms, at_value, q from {cells}),
    b as (select min(ms) as first_ms, max(ms) as last_ms, sum(n + bad)::BIGINT as total, sum(bad)::BIGINT as bad
          from c),
    g as (select lo, hi, ms, {{'ms': ms, 'value': lo, 'q': q}} as low, {{'ms': ms, 'value': hi, 'q': q}} as high,
              {{'ms': ms, 'value': at_value, 'q': q}} as hole,
              least((ms - first_ms) * {spans} // greatest(last_ms - first_ms, 1), {spans} - 1) as span
          from c, b where {spans} > 0),
    s as (select unnest(case when count(lo) > 0 then [arg_min(low, lo), arg_max(high, hi)] else [arg_min(hole, ms)] end)
              as p from g group by span),
    e as (select {{'ms': ms, 'value': coalesce(lo, at_value), 'q': q}} as p from c, b where ms = first_ms
          union all select {{'ms': at_ms, 'value': at_value, 'q': q}} from c, b where ms = last_ms)
    select p.ms, p.value, p.q, is_end, total, b.bad
    from (select p, 0 as is_end from s union all select p, 1 from e), b order by p.ms, p.value nulls first, p.q
"""
_TOTALS = """
    select series_id, sum(n)::BIGINT, min(lo), sum(sum) / sum(n), max(hi), sum(uncertain)::BIGINT, sum(bad)::BIGINT
    from {cells} group by series_id having sum(n) > 0 order by series_id
"""
_BUCKETS = """
    select series_id, start, sum(n)::BIGINT, min(lo), sum(sum) / sum(n), max(hi),
        (max({{'ms': at_ms, 'value': at_value}}) filter (where n > 0)).value, sum(uncertain)::BIGINT, sum(bad)::BIGINT
    from (select *, {key} as start from {cells}) group by series_id, start having sum(n) > 0 order by series_id, start
"""


async def points(store: Store, series_id: int, start: datetime, end: datetime, max_points: int) -> Points:
    """A range of a series in order of time, bad values included as such; where it holds more than max_points, thinned
    so that its peaks, its first and its last point are kept."""
    if not 2 <= max_points <= MAX_POINTS:
        raise ValueError(f"max_points {max_points} is not within 2..{MAX_POINTS}: ask for buckets to see more at once")
    within, ids = bounds(start, end), [known(store, series_id)]
    is_long = within[1] - within[0] >= COARSE * BUCKET_MS * max_points / 2

    def ask(view: View) -> Points:
        of = pieces(view, ids, within, None if is_long else inf)
        rows = few(view, ids, of)
        if rows is not None:
            return _of_few(rows, of, max_points)
        whole = None
        if of.rolled is None and about(view, ids, within) < 2 * max_points:
            whole = _whole(view, ids, of, max_points)
        return whole or _thinned(view, ids, of, max_points)

    return await store.ask(ask)


async def buckets(
    store: Store, series_id: int, start: datetime, end: datetime, width: timedelta, *, zone: ZoneInfo | None = None
) -> Buckets:
    """A range of a series in spans: hours and days by the clock of a zone if one is given, else of equal length from
    1970-01-01 UTC on. A span without a usable value is left out. Only readings within the range count, also in its
    first and last span."""
    found = await buckets_of_series(store, [series_id], start, end, width, zone=zone)
    return Buckets(found.buckets.get(series_id, ()), found.source, found.resolution)


async def buckets_of_series(
    store: Store,
    series: Collection[int] | None,
    start: datetime,
    end: datetime,
    width: timedelta,
    *,
    zone: ZoneInfo | None = None,
) -> BucketsOfSeries:
    """The same for several series at once, None for all."""
    ids = None if series is None else [known(store, each) for each in series]
    within = bounds(start, end)
    _check(width, (end - start) // max(width, MS) * len(ids or store.series()))
    cut = spans.cut(start, end, width, zone)

    def ask(view: View) -> BucketsOfSeries:
        of = pieces(view, ids, within, None if spans.are_whole_buckets(cut) else inf)
        rows = view.db.execute(_BUCKETS.format(cells=cells(view, ids, of), key=spans.key(cut, "ms"))).fetchall()
        starts = {start_ms: codes.from_ms(start_ms) for start_ms in {row[1] for row in rows}}
        found: dict[int, list[Bucket]] = {}
        for series_id, start_ms, *figures in rows:
            found.setdefault(series_id, []).append(Bucket(starts[start_ms], *figures))
        made = {series_id: tuple(some) for series_id, some in found.items()}
        return BucketsOfSeries(made, of.source, of.resolution)

    return await store.ask(ask)


async def totals(store: Store, series: Collection[int] | None, start: datetime, end: datetime) -> Totals:
    """Figures of several series (None: all) over a whole range."""
    ids = None if series is None else [known(store, each) for each in series]
    within = bounds(start, end)

    def ask(view: View) -> Totals:
        of = pieces(view, ids, within)
        rows = view.db.execute(_TOTALS.format(cells=cells(view, ids, of))).fetchall()
        return Totals({series_id: Total(*figures) for series_id, *figures in rows}, of.source, of.resolution)

    return await store.ask(ask)


def _check(width: timedelta, count: int) -> None:
    if width < MS or width % MS:
        raise ValueError(
            f"bucket width {width} is not a positive number of whole milliseconds: give one, such as 15 minutes"
        )
    if count > MAX_BUCKETS:
        raise ValueError(
            f"width {width} gives more than {MAX_BUCKETS} buckets: take wider ones, or less time or series"
        )


def _of_few(rows: Sequence[Row], of: Pieces, most: int) -> Points:
    """Few readings, thinned as by _THINNED where there are more than so many."""
    bad = len(rows) - len(used(rows))
    kept = rows if len(rows) <= most else _peaks(rows, (most - 2) // 2)
    return Points(tuple(point(*row[1:]) for row in kept), len(rows), bad, of.source, of.of_times)


def _peaks(rows: Sequence[Row], parts: int) -> Sequence[Row]:
    """The first, the last, and of so many spans of equal length the smallest and the largest usable one, or the first
    where none is usable."""
    first_ms, length_ms = rows[0][1], max(rows[-1][1] - rows[0][1], 1)
    inside: dict[int, list[Row]] = {}
    for row in rows if parts else ():
        inside.setdefault(min((row[1] - first_ms) * parts // length_ms, parts - 1), []).append(row)
    kept = {rows[0], rows[-1]}
    for some in inside.values():
        usable = used(some)
        kept |= {min(usable, key=_value), max(usable, key=_value)} if usable else {some[0]}
    return sorted(kept, key=lambda row: _order(row[1:]))


def _whole(view: View, ids: Ids, of: Pieces, most: int) -> Points | None:
    """All readings of a range; None where there are more than so many."""
    rows = view.db.execute(_READINGS.format(raw=view.raw(ids, *of.raw[0]), most=most)).fetchall()
    if len(rows) > most:
        return None
    bad = sum(value is None or quality >= USABLE_BELOW for _, value, quality in rows)
    return Points(tuple(point(*row) for row in rows), len(rows), bad, of.source, of.of_times)


def _thinned(view: View, ids: Ids, of: Pieces, most: int) -> Points:
    query = _THINNED.format(cells=cells(view, ids, of, merge=True), spans=(most - 2) // 2)
    rows = view.db.execute(query).fetchall()
    if not rows:
        return Points((), 0, 0, of.source, of.of_times)
    *_, total, bad = rows[0]
    if of.rolled is None and total <= most and (whole := _whole(view, ids, of, most)):
        return whole
    # Readings of one time are in order of their value, the empty one first: as the rows are.
    ends = [row[:3] for row in rows if row[3]]
    chosen = {*(row[:3] for row in rows if not row[3]), ends[0], ends[-1]}
    return Points(tuple(point(*each) for each in sorted(chosen, key=_order)), total, bad, of.source, of.of_times)


def _order(row: tuple[int, float | None, int]) -> tuple[int, bool, float, int]:
    ms, value, quality = row
    return ms, value is not None, value or 0.0, quality
