"""Which air may be taken as a reference."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from drivers.model import Quality, Reason
from drivers.testing.recording import Recording
from gateway.calibration.guard import COUNT, STABLE_S, WINDOW, air, objections
from gateway.store.types import Point

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
BAD, UNCERTAIN = Quality.BAD, Quality.UNCERTAIN


def points(
    value: Callable[[int], float | None] = lambda n: 420 + n % 3, step_s: float = 2, count: int = 89
) -> list[Point]:
    """The last `count` readings until now."""
    times = [NOW - timedelta(seconds=step_s * (count - n)) for n in range(count)]
    return [Point(time, value(n), Quality.GOOD, Reason.NONE) for n, time in enumerate(times)]


def but(found: Sequence[Point], n: int, quality: Quality, reason: Reason, value: float | None = None) -> list[Point]:
    """The same with another verdict on one of them."""
    odd = Point(found[n].time, found[n].value if value is None else value, quality, reason)
    return [*found[:n], odd, *found[n + 1 :]]


def said(found: Sequence[Point], reference_ppm: int = 420) -> tuple[str, str]:
    result = objections(air(found, NOW), reference_ppm)
    return "; ".join(result.final), "; ".join(result.doubts)


def test_calm_air_is_fit() -> None:
    assert said(points()) == ("", "")
    seen = air(points(), NOW)
    assert (seen.n, seen.span_s, seen.gap_s, seen.median_ppm, seen.spread_ppm) == (89, 176, 2, 421, 2)


def test_warm_up_is_no_objection() -> None:
    assert said([Point(p.time, p.value, UNCERTAIN, Reason.WARM_UP) for p in points()]) == ("", "")


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ([], "no usable CO2 reading"),
        (points(count=59), "59 readings over 116 s"),
        (points(step_s=20, count=9), "9 readings over 160 s"),
        (points()[:-20], "the longest gap 42 s"),
        ([*points()[:20], *points()[36:]], "the longest gap 34 s"),
        (points(lambda n: 420 + n), "the air is not stable: 80 ppm apart in 3 minutes, at most 40"),
        (points(lambda n: 1800 + 2 * n), "160 ppm apart in 3 minutes, at most 94"),
        (but(points(), 40, BAD, Reason.ZERO, 0.0), r"1 readings in 3 minutes are bad (zero)"),
        (but(points(), 40, UNCERTAIN, Reason.WARM_UP, 0.0), "1 readings in 3 minutes are bad"),
        (but(points(), 40, BAD, Reason.SPIKE, 1500.0), "bad (spike)"),
        (but(points(), 40, BAD, Reason.OUT_OF_SERVICE), "bad (out_of_service)"),
        (points(lambda _n: 0.0), "no usable CO2 reading"),
        ([Point(NOW, None, BAD, Reason.NOT_A_NUMBER)], "bad (not_a_number)"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_nobody_can_overrule(found: list[Point], says: str) -> None:
    final, _ = said(found)
    assert says in final


@pytest.mark.parametrize(
    ("found", "reference", "says"),
    [
        (points(), 921, ""),
        (points(), 922, "it reads 421 ppm, over 500 ppm from 922"),
        (points(lambda n: 1400 + n % 5), 420, "over 500 ppm from 420"),
        (but(points(), 7, UNCERTAIN, Reason.UNUSUAL), 420, "1 readings are uncertain (unusual)"),
        (but(points(), 7, UNCERTAIN, Reason.CLOCK_UNTRUSTED), 420, "(clock_untrusted)"),
    ],
)
def test_what_is_a_matter_of_judgement(found: list[Point], reference: int, says: str) -> None:
    final, doubts = said(found, reference)
    assert final == ""
    assert says in doubts
    assert bool(says) is bool(doubts)


def test_a_single_odd_value_does_not_make_air_unstable() -> None:
    assert said(but(points(), 30, Quality.GOOD, Reason.NONE, 700.0)) == ("", "")


def test_a_real_room_is_fit_most_of_the_time_and_never_while_it_drifts() -> None:
    """740,000 samples come from this room; 9,000 of them are packaged."""
    rows = [row for row in Recording.load("plant-room").rows() if row.co2]
    fit = drifting = windows = 0
    for end in range(100, len(rows), 100):
        last_s = rows[end].offset_s
        window = [row for row in rows[: end + 1] if row.offset_s > last_s - WINDOW.total_seconds()]
        found = [
            Point(NOW - timedelta(seconds=last_s - row.offset_s), row.co2, Quality.GOOD, Reason.NONE) for row in window
        ]
        windows += 1
        ok = said(found) == ("", "")
        fit += ok
        third = max(1, len(window) // 3)
        moved = abs(sum(r.co2 or 0 for r in window[:third]) / third - sum(r.co2 or 0 for r in window[-third:]) / third)
        drifting += ok and moved > 40
    assert fit / windows > 0.85
    assert drifting == 0
    assert STABLE_S >= 120
    assert COUNT > 1
