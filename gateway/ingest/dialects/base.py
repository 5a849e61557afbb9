"""What a dialect is: topic, payload and a bounded memory in; readings, news of devices and a new memory out. Pure.

Device ids. A foreign device `x` of a dialect `d` is our `d-x`, so that two dialects never share an id. What our id
rule does not allow becomes `_`, and the first 8 hexadecimal digits of the SHA-256 of the whole foreign name follow
after a dot, so that two names never become one ("kitchen/air" and "kitchen_air" stay two devices).

News of a device (capabilities, status) is told only once it has given a reading: a house is full of lamps and phones
that speak the same dialect and measure nothing.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any, NamedTuple

from drivers.model import Quality, Quantity, Reason
from gateway.clock import AHEAD_S
from gateway.ingest.units import conversion
from gateway.ingest.wire import EARLIEST_S, ID, LATEST_S, PAYLOAD_LIMIT, WireError, clean
from gateway.reading import Message, Reading

MEMORY_LIMIT = 4096
ID_LIMIT = 64
MILLISECONDS_FROM = 1e11
_HASHED = re.compile(r".*\.[0-9a-f]{8}")

Memory = Mapping[str, Any]
"""What a dialect must not forget, as plain JSON values by key; never changed in place, at most MEMORY_LIMIT keys."""

EMPTY: Memory = {}


@dataclass(frozen=True, slots=True)
class Context:
    """How a message came. `trusted`: our clock was set. `zone`: the site's, where it is configured.

    `live` says that it came straight from its sender, not from what the broker kept.
    """

    received: datetime
    trusted: bool = True
    zone: tzinfo | None = None
    live: bool = True


class Decoded(NamedTuple):
    """What one message meant. `problems` name by device what had to be refused, each once while remembered."""

    memory: Memory
    messages: tuple[Message, ...] = ()
    capabilities: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    statuses: tuple[tuple[str, bool], ...] = ()
    problems: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Dialect:
    """A dialect by name. `prefix` is the default of what a site may change; `subscriptions` and `takes` depend on it.

    `decode(prefix, topic, payload, context, memory)` is called for topics that it `takes`; it raises WireError for a
    message that cannot be used at all, and nothing else.
    """

    name: str
    prefix: str
    subscriptions: Callable[[str], tuple[str, ...]]
    takes: Callable[[str, str], bool]
    decode: Callable[[str, str, bytes, Context, Memory], Decoded]


class Stamp(NamedTuple):
    """When it was, how far that may be believed, and whether the sender said so."""

    time: datetime
    received: datetime
    quality: Quality = Quality.GOOD
    reason: Reason = Reason.NONE
    timed: bool = False


class Known(NamedTuple):
    """What a foreign name measures, and the unit it is in ("" where it is the quantity's own)."""

    quantity: Quantity
    unit: str = ""
    metric: str = ""

    @property
    def name(self) -> str:
        return self.metric or self.quantity.value


def device_id(dialect: str, name: str) -> str:
    """Our id of a foreign device: always valid, and another for another name."""
    return safe_id(f"{dialect}-{name}")


def safe_id(name: str) -> str:
    """An id of 1 to 64 of A-Z a-z 0-9 . _ -, equal only for equal names."""
    if ID.fullmatch(name) and name.strip(".") and not _HASHED.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)[: ID_LIMIT - 9]}.{digest}"


def matches(pattern: str, topic: str) -> bool:
    """Whether a subscription covers a topic (MQTT 3.1.1, 4.7)."""
    wanted, given = pattern.split("/"), topic.split("/")
    if wanted[-1] == "#":
        return len(given) >= len(wanted) - 1 and all(w in {"+", g} for w, g in zip(wanted[:-1], given, strict=False))
    return len(wanted) == len(given) and all(w in {"+", g} for w, g in zip(wanted, given, strict=True))


def text(topic: str, payload: bytes, limit: int = PAYLOAD_LIMIT) -> str:
    """A payload as text; WireError where it is too large or no UTF-8."""
    if len(payload) > limit:
        raise WireError(topic, f"a payload has at most {limit} bytes", len(payload))
    try:
        return payload.decode()
    except ValueError:
        raise WireError(topic, "a payload is text in UTF-8") from None


def parse(topic: str, payload: bytes, limit: int = PAYLOAD_LIMIT) -> Any:
    """A payload as JSON; WireError where it is none."""
    try:
        return json.loads(text(topic, payload, limit))
    except RecursionError:
        raise WireError(topic, "a payload is not nested that deeply") from None
    except ValueError as error:
        raise WireError(topic, f"a payload is JSON ({clean(str(error), 80)})") from None


def parse_object(topic: str, payload: bytes) -> dict[str, Any]:
    """A payload as one JSON object; WireError where it is none."""
    body = parse(topic, payload)
    if type(body) is not dict:
        raise WireError(topic, "a payload is one JSON object", body)
    return body


def word(body: Mapping[str, Any], key: str) -> str:
    """A stranger's text under that key, cleaned; "" where there is none."""
    value = body.get(key)
    return clean(value, 128) if isinstance(value, str) else ""


def number(raw: Any, known: Known) -> float | None:
    """A value in its quantity's unit, None for null, NaN and infinity; TypeError or LookupError says what is wrong."""
    if raw is None:
        return None
    if type(raw) not in {int, float}:
        raise TypeError(f"a reading is a number, not {clean(repr(raw), 40)}")
    try:
        value = float(raw)
    except OverflowError:
        return None
    change = conversion(known.quantity, known.unit[:16]) if known.unit else None
    if change is not None:
        value = round(value * change[0] + change[1], 6)
    return value if value - value == 0.0 else None


def reading(device: str, sensor: str, known: Known, raw: Any, stamp: Stamp) -> Reading:
    """One reading; null, NaN and infinity are bad. TypeError or LookupError where it cannot be one."""
    value = number(raw, known)
    if value is None:
        bad = (Quality.BAD, Reason.NOT_A_NUMBER)
        return Reading(device, sensor, known.name, known.quantity, None, stamp.time, stamp.received, *bad)
    return Reading(
        device, sensor, known.name, known.quantity, value, stamp.time, stamp.received, stamp.quality, stamp.reason
    )


def message(device: str, sensor: str, readings: Iterable[Reading], stamp: Stamp) -> Message:
    """What one sensor said at one time."""
    return Message(device, sensor, tuple(readings), timed=stamp.timed)


def arrived(context: Context) -> Stamp:
    """The stamp of what carries no usable time."""
    if context.trusted:
        return Stamp(context.received, context.received)
    return Stamp(context.received, context.received, Quality.UNCERTAIN, Reason.CLOCK_UNTRUSTED)


def plausible(seconds: float, context: Context) -> datetime | None:
    """An instant (Unix seconds) that a set clock may show, else None."""
    if not EARLIEST_S <= seconds < LATEST_S:
        return None
    if context.trusted and seconds > context.received.timestamp() + AHEAD_S:
        return None
    return datetime.fromtimestamp(seconds, UTC)


def instant(raw: Any, context: Context) -> Stamp | None:
    """The stamp of an ISO 8601 text with its offset or of Unix seconds or milliseconds; None where it is neither."""
    try:
        if isinstance(raw, str):
            told = datetime.fromisoformat(raw[:40])
            if told.tzinfo is None:
                return None
            seconds = told.timestamp()
        elif type(raw) in {int, float}:
            seconds = raw / 1000 if raw > MILLISECONDS_FROM else raw
        else:
            return None
        time = plausible(seconds, context)
    except (ValueError, OverflowError):
        return None
    return None if time is None else Stamp(time, context.received, timed=True)


def remember(memory: Memory, news: Mapping[str, Any]) -> Memory:
    """The memory with news in it, the longest unchanged forgotten first; the same object where nothing is new."""
    fresh = {key: value for key, value in news.items() if memory.get(key) != value}
    if not fresh:
        return memory
    kept = {key: value for key, value in memory.items() if key not in fresh} | fresh
    for key in list(kept)[: max(0, len(kept) - MEMORY_LIMIT)]:
        del kept[key]
    return kept


def once(memory: Memory, device: str, refusals: Mapping[str, str]) -> tuple[Memory, tuple[tuple[str, str], ...]]:
    """Refusals by name that were not reported before, and the memory that they are reported now."""
    named = {clean(name, 64): rule for name, rule in refusals.items()}
    fresh = {name: rule for name, rule in named.items() if f"refused:{device}:{name}" not in memory}
    told = remember(memory, {f"refused:{device}:{name}": 1 for name in fresh})
    return told, ((device, "; ".join(f"{name!r}: {rule}" for name, rule in fresh.items())),) if fresh else ()


def introduce(
    memory: Memory, device: str, about: Mapping[str, Any]
) -> tuple[Memory, tuple[tuple[str, Mapping[str, Any]], ...]]:
    """A device that gave a reading: its capabilities where they are news."""
    key = f"told:{device}"
    if memory.get(key) == about:
        return memory, ()
    return remember(memory, {key: about}), ((device, about),)


def is_known(memory: Memory, device: str) -> bool:
    """Whether a device gave a reading."""
    return f"told:{device}" in memory


def about(sensors: Mapping[str, str], **facts: Any) -> dict[str, Any]:
    """Capabilities as the registry takes them: sensors with their types, and cleaned texts that are not empty."""
    texts = {key: clean(value, 128) for key, value in facts.items() if isinstance(value, str) and clean(value, 128)}
    return {**texts, "sensors": list(sensors), "metadata": {name: {"type": kind} for name, kind in sensors.items()}}
