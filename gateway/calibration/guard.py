"""Is the air fit for a forced recalibration? Pure: stored readings in, objections out.

Bounds marked † are engineering judgement; the others are the interface description's (SCD30 1.0, "Field calibration").
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

from drivers.model import Quality, Reason
from gateway.store.types import Point

WINDOW = timedelta(minutes=3)  # †, looked at
STABLE_S = 120.0  # two minutes of stable air at least
COUNT = 10  # †
GAP_S = 30.0  # †, longer unseen air may have changed
SPREAD_PPM = 40.0  # †, 5th to 95th percentile: 97.7 % of all three minutes in the recording `plant-room` hold it
SPREAD_PART = 0.05  # †, of the reading where that is more
FAR_PPM = 500.0  # †, a larger correction is more likely a wrong reference than drift


@dataclass(frozen=True, slots=True)
class Air:
    """What a sensor measured lately: `median` and `spread` (5th to 95th percentile) of its usable values in ppm, the
    longest time without one in `gap_s` (until now included), and what was wrong with the others."""

    n: int
    span_s: float
    gap_s: float
    median_ppm: float | None
    spread_ppm: float | None
    bad: Mapping[Reason, int]
    doubtful: Mapping[Reason, int]


@dataclass(frozen=True, slots=True)
class Objections:
    """Why not: `final` ones nobody can overrule, `doubts` may be forced."""

    final: tuple[str, ...]
    doubts: tuple[str, ...]


def air(points: Sequence[Point], now: datetime) -> Air:
    """The points of one CO2 channel, in order of time."""
    usable = [(point.time, point.value) for point in points if point.value and point.quality < Quality.BAD]
    times, values = [time for time, _ in usable], sorted(value for _, value in usable)
    return Air(
        len(values),
        (times[-1] - times[0]).total_seconds() if times else 0.0,
        max((later - earlier).total_seconds() for earlier, later in pairwise((*times, now))) if times else 0.0,
        median(values) if values else None,
        _percentile(values, 95) - _percentile(values, 5) if values else None,
        Counter(point.reason for point in points if point.quality >= Quality.BAD or not point.value),
        Counter(p.reason for p in points if p.quality is Quality.UNCERTAIN and p.reason is not Reason.WARM_UP),
    )


def objections(seen: Air, reference_ppm: float) -> Objections:
    """What speaks against taking this air as `reference_ppm`; each says the value, the rule and the way out."""
    final: list[str] = []
    if seen.bad:
        final.append(f"{sum(seen.bad.values())} readings in {_minutes()} are bad ({_named(seen.bad)}): mend that first")
    if seen.median_ppm is None or seen.spread_ppm is None:
        final.append(f"no usable CO2 reading in the last {_minutes()}: wait until the sensor is read")
        return Objections(tuple(final), ())
    if seen.span_s < STABLE_S or seen.n < COUNT or seen.gap_s > GAP_S:
        final.append(
            f"{seen.n} readings over {seen.span_s:.0f} s, the longest gap {seen.gap_s:.0f} s: it takes {COUNT} over "
            f"{STABLE_S:.0f} s without a gap over {GAP_S:.0f} s; wait, and read the sensor every few seconds"
        )
    allowed_ppm = max(SPREAD_PPM, SPREAD_PART * seen.median_ppm)
    if seen.spread_ppm > allowed_ppm:
        final.append(
            f"the air is not stable: {seen.spread_ppm:.0f} ppm apart in {_minutes()}, at most {allowed_ppm:.0f} are "
            "allowed; keep people and draughts away and wait"
        )
    doubts: list[str] = []
    if seen.doubtful:
        doubts.append(f"{sum(seen.doubtful.values())} readings are uncertain ({_named(seen.doubtful)})")
    if abs(seen.median_ppm - reference_ppm) > FAR_PPM:
        doubts.append(
            f"it reads {seen.median_ppm:.0f} ppm, over {FAR_PPM:.0f} ppm from {reference_ppm:g}: make sure that this "
            f"air has {reference_ppm:g} ppm"
        )
    return Objections(tuple(final), tuple(doubts))


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[round((len(ordered) - 1) * percent / 100)]


def _minutes() -> str:
    return f"{WINDOW.total_seconds() / 60:.0f} minutes"


def _named(reasons: Mapping[Reason, int]) -> str:
    return ", ".join(sorted(str(reason) for reason in reasons))
