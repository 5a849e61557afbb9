"""Times and spans as assistants write them. Pure."""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from mcp.server.mcpserver.exceptions import ToolError

from gateway.store import spans

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
RELATIVE = re.compile(r"-?(\d{1,9})([smhdw])")
FORMS = "ISO-8601 with an offset, 'now', 'today', or a relative time such as '-24h', '-15m', '-7d'"


def instant(text: str, argument: str, now: datetime, zone: ZoneInfo) -> datetime:
    """The aware UTC moment meant by ISO-8601 with an offset, `now`, `today` (when the site's day began), or `-24h`
    (s m h d w); ToolError names the argument, the rule and a valid form."""
    text = text.strip()
    if text.lower() == "now":
        return now
    if text.lower() == "today":
        return spans.today(now, zone)[0]
    if match := RELATIVE.fullmatch(text):
        try:
            return now - timedelta(seconds=int(match[1]) * UNITS[match[2]])
        except OverflowError as error:
            raise ToolError(f"{argument}: {text!r} lies before the calendar; give {FORMS}") from error
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ToolError(f"{argument}: {text!r} is no time; give {FORMS}") from error
    if moment.tzinfo is None:
        meant = moment.replace(tzinfo=zone).isoformat()
        raise ToolError(f"{argument}: {text!r} has no offset; if the site's time is meant, give {meant!r}")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ToolError(f"{argument}: {text!r} lies outside the calendar; give {FORMS}") from error


def interval(
    start: str, end: str, now: datetime, zone: ZoneInfo, *, names: tuple[str, str] = ("start", "end")
) -> tuple[datetime, datetime]:
    """Start and end as UTC, start before end; ToolError names the argument otherwise."""
    first, last = instant(start, names[0], now, zone), instant(end, names[1], now, zone)
    if first >= last:
        raise ToolError(f"{names[0]}: {start!r} is not before {names[1]} {end!r}; swap them or widen the range")
    return first, last


def width(text: str, start: datetime, end: datetime, most: int) -> timedelta:
    """The span of one bucket; ToolError where it is malformed or would give more than `most` buckets."""
    match = RELATIVE.fullmatch(text.strip())
    if match is None or text.startswith("-") or int(match[1]) == 0:
        raise ToolError(f"bucket: {text!r} is no span; give a number and s, m, h, d or w, such as '15m' or '1h'")
    seconds = int(match[1]) * UNITS[match[2]]
    total = (end - start).total_seconds()
    if total / seconds > most:
        raise ToolError(
            f"bucket: {text!r} would give {int(total / seconds)} buckets, {most} is the most; "
            f"give {shortest(total / most)!r} or longer, or a shorter range"
        )
    return timedelta(seconds=min(seconds, 10**9))


def shortest(seconds: float) -> str:
    """The nearest round span that is at least so long, as text."""
    for size, text in SPANS:
        if size >= seconds:
            return text
    return f"{-int(-seconds // 86400)}d"


SPANS = tuple(
    (int(text[:-1]) * UNITS[text[-1]], text)
    for text in ("1s", "5s", "10s", "30s", "1m", "5m", "10m", "15m", "30m", "1h", "3h", "6h", "12h", "1d", "7d", "30d")
)


def local(moment: datetime, zone: ZoneInfo) -> str:
    """ISO-8601 to the second with the site's offset."""
    return moment.astimezone(zone).isoformat(timespec="seconds")
