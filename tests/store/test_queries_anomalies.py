"""Values that stand out, against a list in memory; and how they are told."""

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from statistics import fmean, median

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.model import Quality, Quantity
from gateway.store import codes, queries
from gateway.store.db import Store
from gateway.store.keeper import Keeper, Keeping, Retention
from gateway.store.queries import few, pieces
from gateway.store.segments import parquet
from gateway.store.segments.layout import BUCKET_MS
from tests.store.builders import T0, local, reading
from tests.store.test_keeper import SetClock
from tests.store.test_keeper_model import in_process

DAY = timedelta(days=1)
T0_MS = codes.to_ms(T0)
METRICS = {"room": Quantity.CO2, "lamp": Quantity.POWER, "door": Quantity.COUNT}
FLOORS = {"room": 5.0, "lamp": 0.0, "door": 0.0}
Row = tuple[str, int, float, Quality]  # device, ms since T0, value, quality

row = st.tuples(
    st.sampled_from(list(METRICS)),
    st.integers(0, 86_399_999),
    st.one_of(st.integers(-3, 3).map(float), st.sampled_from([-500.0, 40.0, 9e5]), st.floats(-100, 100)),
    st.sampled_from([Quality.GOOD, Quality.GOOD, Quality.UNCERTAIN, Quality.BAD]),
)


@pytest.fixture(autouse=True)
def rollups(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Rollup files for few rows, and where a test is told so their use wherever possible; few rows are many."""
    rolls = bool(getattr(request, "param", False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "DENSE_FROM", 1)
        patch.setattr(sys.modules["gateway.store.queries.anomalies"], "IN_MEMORY", 0)
        if rolls:
            patch.setattr(pieces, "AT_ONCE", 0)
        yield rolls


@pytest.fixture(autouse=True, params=[few.FEW, -1], ids=["python", "sql"])
def ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of readings that were fetched, and by SQL."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(few, "FEW", request.param)
        yield


def message(device: str, ms: int, value: float, quality: Quality = Quality.GOOD) -> object:
    return local(reading(value, ms / 1000, device=device, quantity=METRICS[device], quality=quality))


def scores(values: Sequence[float], middles: Sequence[float], floor: float) -> list[float]:
    """How far each value is from the middle."""
    middle = median(middles)
    distances = [abs(each - middle) for each in middles]
    scale = max(1.4826 * median(distances), floor) or 1.2533 * fmean(distances)
    return [(each - middle) / scale if scale else 0.0 for each in values]


def naive(rows: Sequence[Row], *, rolled: bool) -> list[tuple[str, int, float, float]]:
    """(device, ms, value, score) of every value that may be a hit."""
    found = []
    for device in METRICS:
        usable = [(ms, value) for who, ms, value, quality in rows if who == device and quality < Quality.BAD]
        if not usable:
            continue
        middles, seen = [value for _, value in usable], usable
        if rolled:
            buckets: dict[int, list[float]] = {}
            for ms, value in usable:
                buckets.setdefault(ms - ms % BUCKET_MS, []).append(value)
            middles = [fmean(some) for some in buckets.values()]
            seen = [(ms, value) for ms, some in buckets.items() for value in sorted({min(some), max(some)})]
        scored = scores([value for _, value in seen], middles, FLOORS[device])
        found += [(device, ms, value, score) for (ms, value), score in zip(seen, scored, strict=True)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("rollups", [False, True], ids=["readings", "rollups"], indirect=True)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(row, min_size=1, max_size=60),
    sealed=st.booleans(),
    limits=st.fixed_dictionaries(
        {
            "deviations": st.sampled_from([None, 2.0, 6.0]),
            "above": st.sampled_from([None, 2.0, 50.0]),
            "below": st.sampled_from([-2.5, -90.0]),
        }
    ),
)
async def test_hits_equal_the_model(rollups: bool, rows: list[Row], sealed: bool, limits: dict[str, float]) -> None:
    deviations, above, below = limits["deviations"], limits["above"], limits["below"]
    with tempfile.TemporaryDirectory() as folder:
        async with Store(Path(folder)) as store:
            await store.append([message(*each) for each in rows])  # type: ignore[misc]
            if sealed:
                await Keeper(store, SetClock(T0 + DAY), merge=in_process).seal(everything=True)
            found = await queries.anomalies(store, T0, T0 + DAY, limit=1000, **limits)  # type: ignore[arg-type]
            devices = {series_id: each.device for series_id, each in store.series().items()}
            few = await queries.anomalies(store, T0, T0 + DAY, limit=3, **limits)  # type: ignore[arg-type]
    assert (found.source == "rollup") is (rollups and sealed)
    want = Counter(
        (device, T0_MS + ms, value)
        for device, ms, value, score in naive(rows, rolled=rollups and sealed)
        if (deviations is not None and abs(score) >= deviations - 1e-9)
        or (above is not None and value > above)
        or value < below
    )
    got = Counter((devices[hit.series_id], codes.to_ms(hit.time), hit.value) for hit in found.hits)
    assert got == want
    assert found.total == few.total == want.total()
    told = [abs(hit.score) for hit in found.hits]
    assert told == sorted(told, reverse=True)
    assert few.hits == found.hits[:3]


async def test_why_is_said_in_words(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        rows = [message("room", 60_000 * n, 600.0 + n % 2) for n in range(60)]
        await store.append(
            [*rows, message("room", 61 * 60_000, 1500.0), message("room", 62 * 60_000, 9e9, Quality.BAD)]
        )  # type: ignore[list-item]
        found = await queries.anomalies(store, T0, T0 + DAY, above=1400)
        (hit,) = found.hits
        assert (hit.time, hit.value, found.total, found.source) == (T0 + timedelta(minutes=61), 1500.0, 1, "raw")
        # Half of the values are 601 and none is further away, so the noise of such sensors is what counts.
        assert hit.score == pytest.approx((1500 - 601) / 5)
        assert hit.why == "above the limit of 1400 ppm, and 179.8 robust deviations above the median of 601 ppm"
        assert (await queries.anomalies(store, T0, T0 + DAY, series=[1], deviations=200)).hits == ()
        low = await queries.anomalies(store, T0, T0 + DAY, deviations=None, below=600.5, limit=5)
        assert (low.total, len(low.hits)) == (30, 5)
        assert low.hits[0].why == "below the limit of 600.5 ppm"
        assert low.hits[0].score == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("values", "score"),
    [
        ([0.0, 1.0, 2.0, 10.0], (10 - 1.5) / 1.4826),  # median 1.5, median distance 1
        ([0.0] * 9 + [5.0], 5 / (1.2533 * 0.5)),  # median distance 0, mean distance 0.5
    ],
)
async def test_the_scale_of_a_score(tmp_path: Path, values: list[float], score: float) -> None:
    async with Store(tmp_path) as store:
        await store.append([message("lamp", n, value) for n, value in enumerate(values)])  # type: ignore[list-item]
        (hit,) = (await queries.anomalies(store, T0, T0 + DAY, deviations=5)).hits
        assert (hit.value, hit.score) == (values[-1], pytest.approx(score))


async def test_what_never_changes_has_no_outliers(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.append([message("lamp", n, 7.0) for n in range(50)])  # type: ignore[list-item]
        assert (await queries.anomalies(store, T0, T0 + DAY, deviations=0.1)).total == 0
        assert [hit.score for hit in (await queries.anomalies(store, T0, T0 + DAY, above=6, limit=2)).hits] == [
            0.0,
            0.0,
        ]


async def test_where_readings_have_expired_15_minutes_are_told(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        values = [20.0 + n % 5 for n in range(600)]
        values[333] = 900.0
        await store.append([message("lamp", n * 60_000, value) for n, value in enumerate(values)])  # type: ignore[list-item]
        keeper = Keeper(store, SetClock(T0 + 40 * DAY), Keeping(retention=(Retention(3),)), merge=in_process)
        await keeper.seal(everything=True)
        assert await keeper.expire() == 1
        found = await queries.anomalies(store, T0, T0 + timedelta(hours=10), deviations=20)
        assert (found.total, found.source, found.resolution) == (1, "rollup", timedelta(minutes=15))
        assert (found.hits[0].value, found.hits[0].time) == (900.0, T0 + timedelta(minutes=330))


async def test_questions_that_make_no_sense(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        assert (await queries.anomalies(store, T0, T0 + DAY)).hits == ()
        with pytest.raises(ValueError, match="nothing to look for: give deviations, above or below"):
            await queries.anomalies(store, T0, T0 + DAY, deviations=None)
        with pytest.raises(ValueError, match="deviations -1 is not above 0"):
            await queries.anomalies(store, T0, T0 + DAY, deviations=-1)
        with pytest.raises(ValueError, match=r"limit 0 is not within 1\.\.1000"):
            await queries.anomalies(store, T0, T0 + DAY, limit=0)
        with pytest.raises(LookupError, match="series 7 does not exist"):
            await queries.anomalies(store, T0, T0 + DAY, series=[7])
        with pytest.raises(ValueError, match="is not before end"):
            await queries.anomalies(store, T0, T0)
