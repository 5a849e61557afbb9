"""Hours and days by the clock on the site's wall."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store import codes, spans

HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(weeks=1)
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
PLACES = (
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "America/Havana",
    "Asia/Beirut",
    "Pacific/Chatham",
    "UTC",
)


def shown(zone: str, day: str, width: timedelta, days: int = 1) -> list[tuple[str, float]]:
    """The spans of so many days from a local day's noon on: start as the site shows it, length in hours."""
    place = ZoneInfo(zone)
    start = datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=place).astimezone(UTC)
    found = spans.bounds(spans.cut(start, start + days * DAY, width, place))
    return [
        (codes.from_ms(low).astimezone(place).strftime("%d %H:%M %z"), (high - low) / HOUR_MS) for low, high in found
    ]


@pytest.mark.parametrize(
    ("zone", "day", "lengths"),
    [
        ("Europe/Berlin", "2026-03-28", [24, 23]),
        ("Europe/Berlin", "2026-10-24", [24, 25]),
        ("Europe/Berlin", "2026-10-25", [25, 24]),
        ("Asia/Kolkata", "2026-03-28", [24, 24]),
        ("Asia/Kathmandu", "2026-03-28", [24, 24]),
        ("Australia/Lord_Howe", "2026-04-04", [24, 24.5]),
        ("Australia/Lord_Howe", "2026-10-03", [24, 23.5]),
        ("Asia/Beirut", "2026-03-28", [24, 23]),
        ("America/Havana", "2026-10-31", [24, 25]),
        ("Pacific/Apia", "2011-12-29", [24, 24]),
        ("America/St_Johns", "2010-11-06", [24, 25]),  # at 00:01 the day before came back
    ],
)
def test_days_are_as_long_as_the_site_has_them(zone: str, day: str, lengths: list[float]) -> None:
    assert [length for _, length in shown(zone, day, DAY)] == lengths


def test_a_day_begins_at_the_sites_midnight_or_when_the_clock_skips_it() -> None:
    assert shown("Asia/Kathmandu", "2026-03-28", DAY)[0] == ("28 00:00 +0545", 24)
    assert [start for start, _ in shown("Asia/Beirut", "2026-03-28", DAY)] == ["28 00:00 +0200", "29 01:00 +0300"]
    assert [start for start, _ in shown("Pacific/Apia", "2011-12-29", DAY)] == ["29 00:00 -1000", "31 00:00 +1400"]


def test_an_hour_is_never_longer_than_an_hour() -> None:
    night = [part for part in shown("Europe/Berlin", "2026-10-24", HOUR, 1) if part[0][3:5] in {"01", "02", "03"}]
    assert night == [("25 01:00 +0200", 1), ("25 02:00 +0200", 1), ("25 02:00 +0100", 1), ("25 03:00 +0100", 1)]
    night = [part for part in shown("Australia/Lord_Howe", "2026-04-04", HOUR) if part[0][3:5] in {"01", "02"}]
    assert night == [("05 01:00 +1100", 1), ("05 01:30 +1030", 0.5), ("05 02:00 +1030", 1)]
    night = [part for part in shown("Australia/Lord_Howe", "2026-10-03", HOUR) if part[0][3:5] in {"01", "02", "03"}]
    assert night == [("04 01:00 +1030", 1), ("04 02:30 +1100", 0.5), ("04 03:00 +1100", 1)]
    assert {start[5:8] for start, _ in shown("Asia/Kolkata", "2026-03-28", HOUR)} == {":00"}


def test_parts_of_a_day_and_weeks_follow_the_clock_too() -> None:
    parts = shown("Europe/Berlin", "2026-10-25", 6 * HOUR)
    assert parts[0] == ("25 12:00 +0100", 6)
    night = shown("Europe/Berlin", "2026-10-24", 6 * HOUR)
    assert ("25 00:00 +0200", 7) in night
    weeks = shown("Europe/Berlin", "2026-10-24", WEEK, 7)
    assert weeks == [("19 00:00 +0200", 169), ("26 00:00 +0100", 168)]


def test_other_widths_are_counted_from_1970() -> None:
    start = datetime(2026, 11, 20, 12, 3, tzinfo=UTC)
    (run,) = spans.cut(start, start + HOUR, timedelta(minutes=7), ZoneInfo("Asia/Kathmandu"))
    assert (run.start_ms % (7 * MINUTE_MS), run.width_ms, run.count) == (0, 7 * MINUTE_MS, 9)
    assert run.start_ms <= codes.to_ms(start) < run.start_ms + run.width_ms
    (utc,) = spans.cut(start, start + HOUR, HOUR)
    assert (utc.start_ms % HOUR_MS, utc.count) == (0, 2)


@pytest.mark.parametrize(
    ("now", "day"),
    [
        (datetime(2026, 3, 29, 21, 59, 59, 999999, tzinfo=UTC), "29 00:00 +0100"),
        (datetime(2026, 3, 29, 22, tzinfo=UTC), "30 00:00 +0200"),
        (datetime(2026, 3, 28, 23, tzinfo=UTC), "29 00:00 +0100"),
    ],
)
def test_today_is_the_sites(now: datetime, day: str) -> None:
    place = ZoneInfo("Europe/Berlin")
    start, end = spans.today(now, place)
    assert start <= now < end
    assert start.astimezone(place).strftime("%d %H:%M %z") == day


@given(
    zone=st.sampled_from(PLACES),
    start=st.datetimes(datetime(2019, 1, 1), datetime(2031, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    length=st.timedeltas(timedelta(milliseconds=1), 5 * DAY),
    width=st.sampled_from([HOUR, 3 * HOUR, 12 * HOUR, DAY, 3 * DAY, WEEK]),
)
def test_spans_cover_the_range_and_change_with_the_clock(
    zone: str, start: datetime, length: timedelta, width: timedelta
) -> None:
    place = ZoneInfo(zone)
    found = list(spans.bounds(cut := spans.cut(start, start + length, width, place)))
    assert all(one[1] == other[0] for one, other in pairwise(found))
    assert found[0][0] <= codes.bound_ms(start) < found[0][1]
    assert found[-1][0] < codes.bound_ms(start + length) <= found[-1][1]
    assert spans.are_whole_buckets(cut)

    def shows(ms: int) -> datetime:
        return codes.from_ms(ms).astimezone(place).replace(tzinfo=None)

    for low, high in found:
        if width <= DAY:
            assert {shows(ms).date() for ms in range(low, high, 15 * MINUTE_MS)} == {shows(low).date()}
        if width == HOUR:
            assert high - low <= HOUR_MS
            assert {shows(ms).hour for ms in range(low, high, 15 * MINUTE_MS)} == {shows(low).hour}
            assert shows(low).minute == 0 or shows(low) != shows(low - 1) + timedelta(milliseconds=1)
        elif width == DAY:
            assert shows(low - 1).date() < shows(low).date()
            assert shows(high).date() > shows(low).date()


def test_arithmetic_finds_the_span_of_every_moment() -> None:
    start = datetime(2026, 10, 23, tzinfo=UTC)
    for width, runs in ((DAY, 3), (HOUR, 1)):
        cut = spans.cut(start, start + 4 * DAY, width, ZoneInfo("Europe/Berlin"))
        assert len(cut) == runs
        found = list(spans.bounds(cut))
        moments = [ms for low, high in found for ms in (low, low + 1, high - 1)]
        with duckdb.connect() as db:
            query = f"select {spans.key(cut, 'ms')} from (select unnest($1::BIGINT[]) as ms)"
            keys = [key for (key,) in db.execute(query, [moments]).fetchall()]
        assert keys == [low for low, _ in found for _ in range(3)]
