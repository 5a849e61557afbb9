"""Times and spans as assistants write them."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.mcpserver.exceptions import ToolError

from gateway.mcp import times

NOW = datetime(2026, 3, 29, 3, 30, tzinfo=UTC)
ZONE = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("now", NOW),
        ("today", datetime(2026, 3, 28, 23, tzinfo=UTC)),
        ("-24h", NOW - timedelta(hours=24)),
        ("-90s", NOW - timedelta(seconds=90)),
        ("15m", NOW - timedelta(minutes=15)),
        ("-2w", NOW - timedelta(weeks=2)),
        ("2026-03-29T01:59:59+01:00", datetime(2026, 3, 29, 0, 59, 59, tzinfo=UTC)),
        ("2026-03-29T03:00:00+02:00", datetime(2026, 3, 29, 1, tzinfo=UTC)),
        ("2026-03-29T01:00:00Z", datetime(2026, 3, 29, 1, tzinfo=UTC)),
    ],
)
def test_forms_of_a_time(text: str, meant: datetime) -> None:
    assert times.instant(text, "start", NOW, ZONE) == meant


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_a_helpful_error(text: str) -> None:
    said = ""
    moment = NOW
    try:
        moment = times.instant(text, "start", NOW, ZONE)
    except ToolError as error:
        said = str(error)
    assert said.startswith("start: ") or (not said and moment.utcoffset() == timedelta(0))


@pytest.mark.parametrize(
    ("local", "text"),
    [
        (datetime(2026, 3, 29, 0, 59, 59, tzinfo=UTC), "2026-03-29T01:59:59+01:00"),
        (datetime(2026, 3, 29, 1, tzinfo=UTC), "2026-03-29T03:00:00+02:00"),
        (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "2026-10-25T02:30:00+02:00"),
        (datetime(2026, 10, 25, 1, 30, tzinfo=UTC), "2026-10-25T02:30:00+01:00"),
    ],
)
def test_told_with_the_offset_of_that_day(local: datetime, text: str) -> None:
    """The hour that exists twice is told apart by its offset."""
    assert times.local(local, ZONE) == text
    assert times.instant(text, "start", NOW, ZONE) == local


@given(st.floats(1, 10 * 365 * 86400), st.sampled_from([10, 200, 2000]))
def test_the_advised_bucket_is_accepted(seconds: float, most: int) -> None:
    start = NOW - timedelta(seconds=seconds)
    advised = times.shortest(seconds / most)
    assert times.width(advised, start, NOW, most) >= timedelta(seconds=seconds / most) - timedelta(microseconds=1)
