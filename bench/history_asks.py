"""The questions, put to our store through the functions that the gateway's tools use."""

from collections.abc import Callable, Iterable
from datetime import timedelta

from bench.dataset import names
from bench.peers import ALL, DAY, HOURLY, LATEST, OUTLIERS, POINTS, SIGMAS, YEAR, Ask, Digest
from gateway.store import codes, queries
from gateway.store.db import Store
from gateway.store.queries.anomalies import MAX_LIMIT

SAME = (LATEST, DAY, HOURLY, ALL)
"""What we answer as everybody does. Of a year we keep smallest and largest values of spans, where the others are asked
for smallest, largest and mean; and our anomalies are robust: medians, where the others use means and deviations."""

Later = Callable[[], Digest]
"""What came, summed up: called when the clock has stopped."""


def series_ids(store: Store) -> dict[int, int]:
    """The store's number of each series of the dataset."""
    found = {(each.device, each.sensor, each.metric): each.series_id for each in store.series().values()}
    return {number: found[name.device, name.sensor, name.quantity.value] for number, name in names().items()}


async def answer(store: Store, series_id: int, ask: Ask) -> Later:
    """Ask it."""
    start, end = codes.from_ms(ask.start_ms), codes.from_ms(ask.end_ms)
    if ask.name == LATEST:
        readings = queries.latest(store)
        return lambda: _sum(each.value for each in readings)
    if ask.name in {DAY, YEAR}:
        most = POINTS if ask.name == YEAR else queries.MAX_POINTS
        found = await queries.points(store, series_id, start, end, most)
        return lambda: _sum(each.value for each in found.points)
    if ask.name == OUTLIERS:
        hits = await queries.anomalies(store, start, end, deviations=SIGMAS, limit=MAX_LIMIT)
        return lambda: _sum(each.value for each in hits.hits)
    if ask.name == ALL:
        whole = await queries.totals(store, None, start, end)
        return lambda: _sum(each.mean for each in whole.totals.values())
    spans = await queries.buckets_of_series(store, None, start, end, timedelta(hours=1))
    return lambda: _sum(each.mean for some in spans.buckets.values() for each in some)


async def scan(store: Store) -> None:
    """Look at every reading."""
    query = "select series_id, count(*), avg(value), max(quality) from {} group by series_id"
    await store.ask(lambda view: view.db.execute(query.format(view.raw())).fetchall())


def _sum(values: Iterable[float | None]) -> Digest:
    known = list(values)
    return Digest(len(known), sum(value or 0.0 for value in known))
