"""The verdicts of facts and data sheets on single series, and that keeping state costs no one anything."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.model import Channel, Quality, Quantity, Reason
from drivers.testing.recording import Recording
from gateway.ingest.quality import DEFAULTS, Judge, Limits, calm_of, judge, limits_of, mark, unremarkable
from gateway.reading import Message, Reading

START = datetime(2026, 11, 20, 12, tzinfo=UTC)


def reading(value: float | None, at_s: float = 0, quantity: Quantity = Quantity.CO2, **more: object) -> Reading:
    time = START + timedelta(seconds=at_s)
    return Reading("d", "s", quantity.value, quantity, value, time, time, **more)  # type: ignore[arg-type]


def judged(
    values: Iterable[float | None],
    quantity: Quantity = Quantity.CO2,
    step_s: float = 2,
    channel: Channel | None = None,
) -> list[Reading]:
    judge = Judge(lambda *_: channel)
    said = [Message("d", "s", (reading(v, n * step_s, quantity),)) for n, v in enumerate(values)]
    return [judge.message(message).readings[0] for message in said]


def reasons(*args: object, **more: object) -> list[Reason]:
    return [r.reason for r in judged(*args, **more)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("quantity", "value", "quality", "reason"),
    [
        (Quantity.CO2, 678.25, Quality.GOOD, Reason.NONE),
        (Quantity.CO2, 0.0, Quality.BAD, Reason.ZERO),
        (Quantity.CO2, -0.0, Quality.BAD, Reason.ZERO),
        (Quantity.CO2, -3.0, Quality.BAD, Reason.OUT_OF_RANGE),
        (Quantity.CO2, 40_000.0, Quality.BAD, Reason.OUT_OF_RANGE),
        (Quantity.CO2, 379.9, Quality.UNCERTAIN, Reason.UNUSUAL),
        (Quantity.CO2, 5_001.0, Quality.UNCERTAIN, Reason.UNUSUAL),
        (Quantity.HUMIDITY, 101.5, Quality.UNCERTAIN, Reason.CLAMPED),
        (Quantity.HUMIDITY, 102.1, Quality.BAD, Reason.OUT_OF_RANGE),
        (Quantity.HUMIDITY, -0.1, Quality.BAD, Reason.OUT_OF_RANGE),
        (Quantity.HUMIDITY, 2.9, Quality.UNCERTAIN, Reason.UNUSUAL),
        (Quantity.PRESSURE, 299.9, Quality.BAD, Reason.OUT_OF_RANGE),
        (Quantity.PRESSURE, 1100.1, Quality.BAD, Reason.OUT_OF_RANGE),
        (Quantity.PRESSURE, 1090.0, Quality.UNCERTAIN, Reason.UNUSUAL),
        (Quantity.TEMPERATURE, -41.0, Quality.BAD, Reason.OUT_OF_RANGE),
    ],
)
def test_ranges(quantity: Quantity, value: float, quality: Quality, reason: Reason) -> None:
    (got,) = judged([value], quantity)
    assert (got.quality, got.reason) == (quality, reason)
    assert got.value == (100.0 if reason is Reason.CLAMPED else value)


def test_a_known_sensors_own_range_counts() -> None:
    scd30 = Channel(Quantity.TEMPERATURE, -40, 70, 0, 50)
    assert reasons([80.0], Quantity.TEMPERATURE) == [Reason.NONE]
    assert reasons([80.0], Quantity.TEMPERATURE, channel=scd30) == [Reason.OUT_OF_RANGE]
    assert reasons([55.0], Quantity.TEMPERATURE, channel=scd30) == [Reason.UNUSUAL]


def test_every_quantity_has_limits() -> None:
    assert set(DEFAULTS) == set(Quantity)


def test_what_says_nothing_stays_bad() -> None:
    said = reading(None, quality=Quality.BAD, reason=Reason.NOT_A_NUMBER)
    message = Message("d", "s", (said,))
    assert Judge().message(message) is message


def test_the_drivers_own_verdict_is_never_made_better() -> None:
    said = reading(678.0, quality=Quality.BAD, reason=Reason.DEVICE_FAILURE)
    assert Judge().message(Message("d", "s", (said,))).readings == (said,)
    warm = reading(0.0, quality=Quality.UNCERTAIN, reason=Reason.WARM_UP)
    assert Judge().message(Message("d", "s", (warm,))).readings[0].reason is Reason.ZERO


def test_a_single_spike_is_bad_and_what_follows_is_not() -> None:
    assert reasons([600.0, 604.0, 1800.0, 606.0, 603.0])[:5] == [
        Reason.NONE,
        Reason.NONE,
        Reason.SPIKE,
        Reason.NONE,
        Reason.NONE,
    ]


def test_a_jump_that_stays_was_a_step() -> None:
    got = reasons([600.0, 1800.0, 1810.0, 1805.0])
    assert got[:3] == [Reason.NONE, Reason.SPIKE, Reason.RATE]
    assert Reason.SPIKE not in got[3:]


def test_a_zero_is_never_a_base_to_measure_from() -> None:
    assert reasons([0.0, 612.0, 0.0, 615.0]) == [Reason.ZERO, Reason.NONE, Reason.ZERO, Reason.NONE]


def test_noise_between_two_second_samples_is_no_rush() -> None:
    assert set(reasons([600.0 + 40 * (n % 2) for n in range(200)])) == {Reason.NONE}


def test_a_sustained_rush_is_uncertain() -> None:
    assert Reason.RATE in reasons([600.0 + 12 * n for n in range(60)])  # 360 ppm a minute
    assert set(reasons([600.0 + 8 * n for n in range(60)])) == {Reason.NONE}  # 240


def test_an_hour_of_silence_says_nothing_about_speed() -> None:
    assert reasons([20.0, 28.0], Quantity.TEMPERATURE, step_s=3600) == [Reason.NONE, Reason.NONE]


def test_bit_identical_floats_mean_a_sensor_that_hangs() -> None:
    got = reasons([678.123456] * 12 + [678.2])
    assert got == [Reason.NONE] * 9 + [Reason.FROZEN] * 3 + [Reason.NONE]


def test_rounded_values_may_stay_the_same() -> None:
    assert set(reasons([22.5] * 500, Quantity.TEMPERATURE)) == {Reason.NONE}
    exactly = Channel(Quantity.TEMPERATURE, -40, 85, frozen_after=20)
    assert reasons([22.5] * 20, Quantity.TEMPERATURE, channel=exactly)[-1] is Reason.FROZEN


def test_a_reading_that_comes_late_gets_the_range_checks_only() -> None:
    judge = Judge()
    for value, at_s in ((600.0, 0), (610.0, 100)):
        judge.message(Message("d", "s", (reading(value, at_s),)))
    late = judge.message(Message("d", "s", (reading(1500.0, 99), reading(0.0, 98)))).readings
    assert [r.reason for r in late] == [Reason.NONE, Reason.ZERO]
    after = judge.message(Message("d", "s", (reading(612.0, 102),))).readings[0]
    assert after.reason is Reason.NONE


def test_warm_up_counts_from_each_start() -> None:
    channel = Channel(Quantity.CO2, 0, 40_000, warm_up_s=120)
    judge = Judge(lambda *_: channel)
    judge.restarted("d", "s", START.timestamp())

    def reason(at_s: float) -> Reason:
        return judge.message(Message("d", "s", (reading(600.0 + at_s / 10, at_s),))).readings[0].reason

    assert [reason(2), reason(60), reason(119), reason(121)] == [Reason.WARM_UP] * 3 + [Reason.NONE]
    judge.restarted("d", "s", (START + timedelta(seconds=200)).timestamp())
    assert [reason(210), reason(330)] == [Reason.WARM_UP, Reason.NONE]


def test_a_good_message_costs_no_copy() -> None:
    message = Message("d", "s", (reading(600.0),))
    assert Judge().message(message) is message


def test_series_are_bounded() -> None:
    judge = Judge(limit=5)
    for n in range(50):
        r = Reading("d", "s", f"count_{n}", Quantity.COUNT, 1.0, START, START)
        judge.message(Message("d", "s", (r,)))
    assert len(judge._series) == 5


def test_marking_only_makes_worse() -> None:
    good = reading(600.0)
    bad = mark(good, Quality.BAD, Reason.FROZEN)
    assert mark(bad, Quality.UNCERTAIN, Reason.CLOCK_UNTRUSTED) is bad
    assert mark(good, Quality.UNCERTAIN, Reason.CLOCK_UNTRUSTED).reason is Reason.CLOCK_UNTRUSTED


USUAL = {
    Quantity.CO2: 640.0,
    Quantity.TEMPERATURE: 21.5,
    Quantity.HUMIDITY: 43.25,
    Quantity.PRESSURE: 1001.0,
    Quantity.COUNT: 7.0,
}


@st.composite
def series(draw: st.DrawFn) -> tuple[Quantity, Limits, list[tuple[float, float]]]:
    """A quantity, limits, and (seconds, value) of a series that keeps to its bounds, grazes them and breaks them."""
    quantity = draw(st.sampled_from(list(USUAL)))
    limits = limits_of(quantity, None)
    if draw(st.booleans()):
        usual = (limits.low, limits.high) if draw(st.booleans()) else (None, None)
        channel = Channel(quantity, limits.low, limits.high, *usual, 10, draw(st.sampled_from([0.0, 100.0])))
        limits = limits_of(quantity, channel)
    limits = replace(limits, frozen_after=draw(st.sampled_from([0, 3])))
    bounds = [limits.low, limits.high, limits.usual_low, limits.usual_high, limits.high + limits.clamp]
    change = st.sampled_from([0.0, 0.0, 0.003, limits.rate, limits.spike]).flatmap(
        lambda size: st.sampled_from([size, -size, 0.999 * size, 1.001 * size, -1.5 * size])
    )
    at_s, value = 0.0, draw(st.sampled_from([USUAL[quantity], limits.low + limits.rate, limits.high - limits.rate]))
    found = [(at_s, value)]
    for step_s in draw(st.lists(st.sampled_from([0, 1, 2, 2, 4, 20, 59, 60, 61, 300, 700]), max_size=15)):
        at_s, value = at_s + step_s, value + draw(change)
        odd = draw(st.integers(0, 15))
        found.append((at_s, (bounds[odd] or 0.0) if odd < len(bounds) else value))
    return quantity, limits, found


@settings(max_examples=1500, deadline=None)
@given(series(), st.booleans())
def test_a_quick_look_finds_what_the_judge_finds(
    given: tuple[Quantity, Limits, list[tuple[float, float]]], started: bool
) -> None:
    quantity, limits, steps = given
    calm, state = calm_of(limits, quantity), None
    for at_s, value in steps:
        said = reading(value, at_s, quantity)
        verdict, after = judge(limits, quantity, state, said)
        quick = None if state is None else unremarkable(calm, state, value, said.time.timestamp())
        if quick is not None:
            assert (verdict, after) == ((value, Quality.GOOD, Reason.NONE), quick)
        if state is None and after is not None and started:
            after = after._replace(since_s=START.timestamp())
        state = after


@pytest.mark.parametrize("name", ["living-room", "plant-room", "station"])
def test_a_quick_look_is_nearly_always_enough(name: str) -> None:
    usual = seen = 0
    for quantity, metric in ((Quantity.CO2, "co2"), (Quantity.TEMPERATURE, "temperature")):
        limits, state = limits_of(quantity, None), None
        for row in Recording.load(name).rows():
            if (value := getattr(row, metric)) is None:
                continue
            said = reading(value, row.offset_s, quantity)
            quick = state and unremarkable(calm_of(limits, quantity), state, value, said.time.timestamp())
            usual, seen = usual + (quick is not None), seen + 1
            state = judge(limits, quantity, state, said)[1]
    assert usual > 0.9 * seen > 0
