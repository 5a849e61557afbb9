"""Nodes without a clock: dated where their boot was seen live, uncertain otherwise, never invented."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from drivers.model import Quality, Quantity, Reason
from gateway.ingest.dating import Boot, Dating, observe
from gateway.reading import Delivery, Message, Reading

START = datetime(2026, 11, 20, 12, tzinfo=UTC)


def message(uptime_s: float, arrival_s: float, seq: int = 1, boot: str = "1-a", timed: bool = False) -> Message:
    received = START + timedelta(seconds=arrival_s)
    reading = Reading("n", "s", "co2", Quantity.CO2, 700.0, received, received, Quality.UNCERTAIN, Reason.TIME_UNKNOWN)
    return Message("n", "s", (reading,), Delivery(boot, seq, 1), int(uptime_s * 1000), timed)


def dated(dating: Dating, uptime_s: float, arrival_s: float, boot: str = "1-a") -> Reading:
    got = dating.date(message(uptime_s, arrival_s, boot=boot), START + timedelta(seconds=arrival_s))
    return got.readings[0]


def test_a_boot_that_was_seen_live_dates_what_it_had_kept() -> None:
    dating = Dating()
    dated(dating, 100, 100.05)
    live = dated(dating, 110, 110.05)
    assert (live.quality, live.reason) == (Quality.GOOD, Reason.NONE)
    kept = dated(dating, 50, 120)  # measured before all that, sent now
    assert kept.time == START + timedelta(seconds=50.05)
    assert kept.quality is Quality.GOOD
    assert kept.received == START + timedelta(seconds=120)


def test_the_first_word_of_a_boot_is_dated_by_its_arrival_and_says_that_this_is_a_guess() -> None:
    reading = dated(Dating(), 100, 100)
    assert (reading.time, reading.reason) == (reading.received, Reason.TIME_UNKNOWN)


def test_a_ring_that_is_being_emptied_is_never_taken_for_live() -> None:
    dating = Dating()
    for n in range(200):  # an hour of measurements, one each 18 s, sent within two seconds
        reading = dated(dating, 18.0 * n, 4000 + n / 100)
        assert reading.reason is Reason.TIME_UNKNOWN
        assert reading.time == reading.received
    dated(dating, 18.0 * 200, 4002.5)
    assert dated(dating, 18.0 * 201, 4020.5).quality is Quality.GOOD


def test_records_of_an_earlier_boot_stay_uncertain_beside_a_live_one() -> None:
    dating = Dating()
    dated(dating, 5, 1000, boot="2-b")
    assert dated(dating, 10, 1005, boot="2-b").quality is Quality.GOOD
    assert dated(dating, 900, 1006, boot="1-a").reason is Reason.TIME_UNKNOWN


def test_a_crystal_that_runs_slow_is_followed() -> None:
    dating = Dating()
    error_s = 0.0
    for n in range(24 * 60):  # a day of minutes, 100 ppm slow
        arrival_s = 60.0 * n
        reading = dated(dating, arrival_s * (1 - 100e-6), arrival_s)
        error_s = max(error_s, abs((reading.time - START).total_seconds() - arrival_s))
    assert error_s < 2 * 3 * 3600 * 100e-6 + 0.1


def test_an_untrusted_clock_dates_nothing_and_teaches_nothing() -> None:
    dating = Dating()
    wrong = datetime(2000, 1, 1, tzinfo=UTC)
    assert dating.date(message(10, 0), wrong, trusted=False) == message(10, 0)
    dated(dating, 20, 20)
    assert dated(dating, 30, 30).time == START + timedelta(seconds=30)


def test_what_its_sender_dated_is_left_alone() -> None:
    timed = message(10, 500, timed=True)
    assert Dating().date(timed, START) is timed


def test_boots_are_bounded() -> None:
    dating = Dating(limit=10)
    for n in range(100):
        dated(dating, 1, n, boot=f"{n}-x")
    assert len(dating._boots) == 10


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e5)), min_size=1, max_size=50, unique_by=lambda pair: pair[0])
)
def test_no_delay_ever_dates_a_measurement_before_it_was_made(pairs: list[tuple[float, float]]) -> None:
    """(uptime, delay) in any order: the estimated start is never before the true one, 0."""
    boot: Boot | None = None
    for uptime_s, delay_s in sorted(pairs, key=sum):
        boot = observe(boot, uptime_s, uptime_s + delay_s)
        assert boot.best_s >= -1e-6


def test_it_is_told_once_that_a_boot_became_known() -> None:
    start = datetime(2026, 11, 20, tzinfo=UTC)
    told: list[tuple[str, str, datetime]] = []
    dating = Dating(on_known=lambda *known: told.append(known))
    for uptime_s, arrival_s in ((10, 60), (70, 70), (75, 75), (80, 80)):
        dating.seen("node", "1-a", uptime_s * 1000, start + timedelta(seconds=arrival_s))
    assert told == [("node", "1-a", start)]
