"""Values that stand out: far from what is usual for their series, or beyond a limit."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from drivers.model import Quantity
from gateway.store import codes
from gateway.store.db import Store
from gateway.store.queries.few import Row, Used, few, halves, used
from gateway.store.queries.pieces import AT_ONCE, Ids, Pieces, about, bounds, cells, known, pieces
from gateway.store.segments.view import View
from gateway.store.types import Anomalies, Hit, Series

DEVIATIONS = 6.0
"""In a robust scale: of values that scatter as chance would have it, about two in a thousand million are so far off."""
LIMIT, MAX_LIMIT = 100, 1_000
IN_MEMORY = 2 * AT_ONCE
"""Readings that are kept while the answer is made; of more than these all are read twice."""
MAD_TO_SIGMA = 1.4826
MEAN_TO_SIGMA = 1.2533
"""What makes the median, or the mean, of distances from the middle a standard deviation where those are normal."""
NOISE = {Quantity.CO2: 5.0, Quantity.TEMPERATURE: 0.1, Quantity.HUMIDITY: 0.5, Quantity.PRESSURE: 0.1}
"""Deviations below this say nothing: a room that hardly changes is no alarm (tune: the repeatability of sensors)."""

# A sensor knows few different values: grouped by them, any number of readings fits into memory.
_WORST = """
    with r as {kept} ({values}),
    v as materialized (select series_id, x, count(*)::DOUBLE as k from r group by series_id, x),
    c as materialized ({middle}),
    n as (select series_id, sum(k)::BIGINT - 1 as top from c group by series_id),
    o as (select series_id, x, sum(k) over (partition by series_id order by x rows unbounded preceding) as upto from c),
    m as (select series_id, {half} as median from o join n using (series_id) group by series_id),
    a as (select series_id, abs(x - median) as x, k,
              sum(k) over (partition by series_id order by abs(x - median) rows unbounded preceding) as upto
          from c join m using (series_id)),
    d as (select series_id, {half} as mad, sum(x * k) / sum(k) as mean from a join n using (series_id)
          group by series_id),
    s as (select series_id, median, greatest({mad} * mad, noise) as usual, {mean} * mean as scatter
          from m join d using (series_id)
          join (select unnest($1::INTEGER[]) as series_id, unnest($2::DOUBLE[]) as noise) using (series_id)),
    t as (select series_id, x, k, median, coalesce((x - median) / nullif(coalesce(nullif(usual, 0), scatter), 0), 0)
              as score from v join s using (series_id)),
    w as (select series_id, x, score, median, (sum(k) over ())::BIGINT as total from t where {stands_out}
          order by abs(score) desc, series_id, x limit {limit})
    select series_id, ms, x, score, median, q, total from r join w using (series_id, x)
    order by abs(score) desc, series_id, x, ms, q limit {limit}
"""
_HALF = "(min(x) filter (where upto > top // 2) + min(x) filter (where upto > top - top // 2)) / 2"


class Limits(NamedTuple):
    """What stands out: a score of at least `deviations`, a value beyond `above` or `below`; None: not asked."""

    deviations: float | None
    above: float | None
    below: float | None

    def stands_out(self, value: float, score: float) -> bool:
        """Whether this is a hit."""
        return (
            (self.deviations is not None and abs(score) >= self.deviations)
            or (self.above is not None and value > self.above)
            or (self.below is not None and value < self.below)
        )


Outlier = tuple[int, int, float, float, float, int]
"""Series, milliseconds, value, score, median, quality byte."""


async def anomalies(
    store: Store,
    start: datetime,
    end: datetime,
    *,
    series: Collection[int] | None = None,
    deviations: float | None = DEVIATIONS,
    above: float | None = None,
    below: float | None = None,
    limit: int = LIMIT,
) -> Anomalies:
    """Usable values of a range that are at least so many robust deviations (1.4826 times the median distance, at least
    the noise of such sensors) from the median of their series, or above or below a limit in their unit; of all series,
    or of these."""
    limits = Limits(deviations, above, below)
    _check(limits, limit)
    within = bounds(start, end)
    chosen = store.series() if series is None else {each: store.series()[known(store, each)] for each in series}
    ids = None if series is None else list(chosen)

    def ask(view: View) -> Anomalies:
        of = pieces(view, ids, within)
        noise = {each.series_id: NOISE.get(each.quantity, 0.0) for each in chosen.values()}
        readings = few(view, ids, of)
        if readings is not None:
            found, total = _by_hand(readings, noise, limits)
        else:
            query = _by_sql(view, ids, of, limits, limit)
            rows = view.db.execute(query, [list(noise), list(noise.values())]).fetchall()
            found, total = [row[:6] for row in rows], rows[0][6] if rows else 0
        hits = tuple(_hit(chosen[row[0]], limits, row) for row in found[:limit])
        return Anomalies(hits, total, of.source, of.of_times)

    return await store.ask(ask)


def _by_hand(rows: Sequence[Row], noise: Mapping[int, float], limits: Limits) -> tuple[list[Outlier], int]:
    """Those of few readings, the worst first, and how many they are."""
    found: list[Outlier] = []
    for series_id, inside in groupby(rows, key=itemgetter(0)):
        usable = used(inside)
        if usable and series_id in noise:
            found += _outliers(usable, noise[series_id], limits)
    return sorted(found, key=lambda row: (-abs(row[3]), row[0], row[2], row[1], row[5])), len(found)


def _outliers(rows: Sequence[Used], noise: float, limits: Limits) -> Iterable[Outlier]:
    """Those of one series."""
    values = sorted(row[2] for row in rows)
    median = halves(values)
    distances = sorted(abs(value - median) for value in values)
    usual = max(MAD_TO_SIGMA * halves(distances), noise) or MEAN_TO_SIGMA * (sum(distances) / len(distances))

    def score(value: float) -> float:
        return (value - median) / usual if usual else 0.0

    if any(limits.stands_out(value, score(value)) for value in (values[0], values[-1])):
        for series_id, ms, value, quality in rows:
            if limits.stands_out(value, score(value)):
                yield series_id, ms, value, score(value), median, quality


def _by_sql(view: View, ids: Ids, of: Pieces, limits: Limits, limit: int) -> str:
    """The question about any number of readings, and about rollups."""
    found = cells(view, ids, of, merge=True)
    kept = of.rolled is not None or about(view, ids, of.raw[0]) <= IN_MEMORY
    values, middle = f"select series_id, ms, lo as x, q from {found} where n > 0", "from v"  # noqa: S608
    if of.rolled is not None:
        extremes = "unnest(case when lo < hi then [lo, hi] else [lo] end)"
        values = f"select series_id, ms, {extremes} as x, q from {found} where n > 0"  # noqa: S608
        middle = f"select series_id, sum / n as x, count(*) as k from {found} where n > 0 group by series_id, x"  # noqa: S608
    terms = ["abs(score) >= {deviations!r}", "x > {above!r}", "x < {below!r}"]
    asked = [term.format(**limits._asdict()) for term, value in zip(terms, limits, strict=True) if value is not None]
    return _WORST.format(
        kept="materialized" if kept else "not materialized",
        values=values,
        middle=middle,
        half=_HALF,
        mad=MAD_TO_SIGMA,
        mean=MEAN_TO_SIGMA,
        stands_out=" or ".join(asked),
        limit=limit,
    )


def _hit(series: Series, limits: Limits, row: Outlier) -> Hit:
    series_id, ms, value, score, median, quality = row
    unit = series.quantity.unit
    why = []
    if limits.above is not None and value > limits.above:
        why.append(f"above the limit of {limits.above:g} {unit}")
    if limits.below is not None and value < limits.below:
        why.append(f"below the limit of {limits.below:g} {unit}")
    if limits.deviations is not None and abs(score) >= limits.deviations:
        side = "above" if score > 0 else "below"
        why.append(f"{abs(score):.1f} robust deviations {side} the median of {median:.6g} {unit}")
    return Hit(series_id, codes.from_ms(ms), value, score, ", and ".join(why), *codes.unpack(quality))


def _check(limits: Limits, limit: int) -> None:
    if all(each is None for each in limits):
        raise ValueError("nothing to look for: give deviations, above or below")
    if limits.deviations is not None and not limits.deviations > 0:
        raise ValueError(f"deviations {limits.deviations} is not above 0: give such as {DEVIATIONS:g}")
    if not 1 <= limit <= MAX_LIMIT:
        raise ValueError(f"limit {limit} is not within 1..{MAX_LIMIT}: ask for fewer hits")
