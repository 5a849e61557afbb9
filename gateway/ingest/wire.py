"""What nodes and gateway say over MQTT, as pure functions of topic, payload and time of receipt.

Every payload here was written by a stranger: it becomes a value of ours or a WireError, never another exception.
"""

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple

from drivers.model import Quality, Reason
from gateway.clock import AHEAD_S
from gateway.ingest.units import MetricError, conversion, metric
from gateway.mac import is_mac, mac
from gateway.reading import Delivery, Message, Reading

PAYLOAD_LIMIT = 64 * 1024
METRIC_LIMIT = 64
TEXT_LIMIT = 200
SEQ_LIMIT = 2**53
EARLIEST_S = datetime(
    2024, 1, 1, tzinfo=UTC
).timestamp()  # no timestamp from before is: the sender's clock was never set
LATEST_S = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
MILLISECONDS_FROM = 1e11  # as seconds this is the year 5138, as milliseconds 1973

ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_JSON = json.JSONDecoder()
_FINE = (Quality.GOOD, Reason.NONE)

SUBSCRIPTIONS = (
    "devices/+/sensors/+/data",
    "devices/+/capabilities",
    "devices/+/status",
    "devices/+/error",
    "devices/+/update/status",
)


class WireError(Exception):
    """A topic or payload that cannot be used: where it was, which rule it broke, and the value that did."""

    def __init__(self, topic: str, rule: str, value: object = "") -> None:
        self.topic = clean(topic)
        self.rule = rule
        self.value = clean(value if isinstance(value, str) else repr(value), 80)
        super().__init__(f"{self.topic}: {rule}" + (f", not {self.value!r}" if self.value else ""))


class Kind(Enum):
    """What a topic carries."""

    DATA = "data"
    CAPABILITIES = "capabilities"
    STATUS = "status"
    ERROR = "error"
    ACK = "ack"
    COMMAND = "command"
    RESULT = "result"
    UPDATE = "update"


class Route(NamedTuple):
    """A topic taken apart: `name` is the sensor of DATA and the command id of COMMAND and RESULT, else empty."""

    kind: Kind
    device: str
    name: str


class Decoded(NamedTuple):
    """A data message and what of it had to be refused, one line each. `message.readings` may be empty where it is
    numbered: it still counts as received, or its node would send it for ever."""

    message: Message
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """A device says that it is there, or its last will says that it is gone; `boot` and `uptime_ms` where it told, and
    what it said last of an update."""

    online: bool
    boot: str = ""
    uptime_ms: int | None = None
    update: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class DeviceError:
    """A device's own complaint, cleaned."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Ack:
    """Everything of this boot up to and including `seq` is on disk."""

    boot: str
    seq: int


@lru_cache(maxsize=4096)
def route(topic: str) -> Route:
    """Take a topic apart; WireError where it is none of ours or an id breaks the rule."""
    match topic.split("/"):
        case ["devices", device, "sensors", name, "data"]:
            return Route(Kind.DATA, _id(topic, device), _id(topic, name))
        case ["devices", device, ("capabilities" | "status" | "error" | "ack") as kind]:
            return Route(Kind(kind), _id(topic, device), "")
        case ["devices", device, "commands", command]:
            return Route(Kind.COMMAND, _id(topic, device), _id(topic, command))
        case ["devices", device, "commands", command, "result"]:
            return Route(Kind.RESULT, _id(topic, device), _id(topic, command))
        case ["devices", device, "update", "status"]:
            return Route(Kind.UPDATE, _id(topic, device), "")
    raise WireError(topic, "a topic is devices/{id}/… as the wire document lists them")


def decode_data(topic: str, payload: bytes, received: datetime, trusted: bool = True) -> Decoded:
    """One message of readings. What carries no usable time gets `received`; `trusted` says whether that clock was set.

    Refused metrics are named in `problems` and the others kept; null, NaN and infinity become bad readings.
    """
    kind, device, sensor = route(topic)
    if kind is not Kind.DATA:
        raise WireError(topic, "not a data topic")
    body = object_of(topic, payload)
    delivery = _delivery(topic, body)
    uptime_ms = whole_number(topic, body, "uptime_ms")
    problems: list[str] = []
    time, timed = _time(body, received, trusted, problems)
    quality, reason = _doubt(body, delivery, uptime_ms, timed, trusted)
    readings: list[Reading] = []
    renamed = False
    for name, raw in _values(topic, sensor, body, delivery, problems).items():
        try:
            known = metric(name)
            value = _value(raw, known.quantity)
        except (MetricError, LookupError, TypeError) as refusal:
            problems.append(f"metric {clean(name, 64)!r}: {refusal}")
            continue
        renamed = renamed or known.name != name  # two names of one metric: one of them at least is not its own
        if renamed and any(known.name == reading.metric for reading in readings):
            problems.append(f"metric {clean(name, 64)!r}: {known.name} was given twice in one message")
            continue
        if value is None:
            worst = (None, time, received, Quality.BAD, Reason.NOT_A_NUMBER)
            readings.append(Reading(device, sensor, known.name, known.quantity, *worst))
        else:
            readings.append(Reading(device, sensor, known.name, known.quantity, value, time, received, quality, reason))
    if not readings and delivery is None:
        raise WireError(topic, problems[0] if problems else "nothing was measured in this message")
    return Decoded(Message(device, sensor, tuple(readings), delivery, uptime_ms, timed), tuple(problems))


def decode_capabilities(topic: str, payload: bytes) -> dict[str, Any]:
    """What a device says of itself, cleaned: short printable strings, `sensors` a list of ids, `metadata` by sensor."""
    body = object_of(topic, payload)
    told = {key: value for key, value in clean_value(body).items() if isinstance(value, str | int | float | bool)}
    sensors = body.get("sensors", [])
    if not isinstance(sensors, list) or len(sensors) > METRIC_LIMIT:
        raise WireError(topic, f"sensors is a list of at most {METRIC_LIMIT} names", sensors)
    names = [item.get("name") if isinstance(item, dict) else item for item in sensors]
    for name in names:
        if not isinstance(name, str) or ID.fullmatch(name) is None:
            raise WireError(topic, "a sensor's name is 1 to 64 of A-Z a-z 0-9 . _ -", name)
    metadata = body.get("metadata", {})
    if not isinstance(metadata, dict):
        raise WireError(topic, "metadata is an object by sensor", metadata)
    return {**told, "sensors": names, "metadata": clean_value(metadata)}


def decode_status(topic: str, payload: bytes) -> Status:
    """{"status": "online"|"offline", …}, or the bare word."""
    if payload in (b"online", b"offline"):
        return Status(payload == b"online")
    body = object_of(topic, payload)
    said = body.get("status")
    if said not in ("online", "offline"):
        raise WireError(topic, "status is online or offline", said)
    boot = body.get("boot", "")
    if boot != "" and (not isinstance(boot, str) or ID.fullmatch(boot) is None):
        raise WireError(topic, "boot is 1 to 64 of A-Z a-z 0-9 . _ -", boot)
    update = body.get("update")
    told = clean_value(update) if isinstance(update, dict) else None
    return Status(said == "online", boot, whole_number(topic, body, "uptime_ms"), told)


def decode_update(topic: str, payload: bytes) -> dict[str, Any]:
    """What a device says of its update, cleaned; whether it makes sense is for who offered it."""
    return clean_value(object_of(topic, payload))  # type: ignore[no-any-return]


def decode_error(topic: str, payload: bytes) -> DeviceError:
    """{"code", "message", …}: text of a stranger, cleaned, never to be followed."""
    body = object_of(topic, payload)
    return DeviceError(clean(str(body.get("code", "")), 64), clean(str(body.get("message", ""))))


def encode_ack(device: str, boot: str, seq: int, key: bytes | None) -> bytes:
    """The gateway's acknowledgement: everything of `boot` up to `seq` is on disk; signed where the device has a key."""
    body: dict[str, Any] = {"boot": boot, "seq": seq}
    if key is not None:
        body["mac"] = mac(key, device, boot, seq)
    return json.dumps(body, separators=(",", ":")).encode()


def verify_ack(topic: str, payload: bytes, key: bytes | None) -> Ack:
    """What an acknowledgement covers; WireError where a device with a key gets one that the key did not sign."""
    device = route(topic).device
    body = object_of(topic, payload)
    delivery = _delivery(topic, {**body, "oldest": 1})
    if delivery is None:
        raise WireError(topic, "an acknowledgement names boot and seq")
    if key is not None and not is_mac(body.get("mac"), key, device, delivery.boot, delivery.seq):
        raise WireError(topic, "the mac is not that of this device's key", body.get("mac"))
    return Ack(delivery.boot, delivery.seq)


def clean(text: str, limit: int = TEXT_LIMIT) -> str:
    """Text of a stranger without control, formatting and surrogate characters, spaces collapsed, cut at `limit`."""
    text = text[: 4 * limit]
    if not (text.isascii() and text.isprintable()):
        text = "".join(" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    return " ".join(text.split())[:limit]


def _id(topic: str, text: str) -> str:
    if ID.fullmatch(text) is None or not text.strip("."):
        raise WireError(topic, "an id is 1 to 64 of A-Z a-z 0-9 . _ -", text)
    return text


def object_of(topic: str, payload: bytes) -> dict[str, Any]:
    if len(payload) > PAYLOAD_LIMIT:
        raise WireError(topic, f"a payload has at most {PAYLOAD_LIMIT} bytes", len(payload))
    try:
        text = payload.decode().strip(" \t\r\n")
        body, end = _JSON.raw_decode(text)  # json.loads looks twice for space and for other encodings
    except RecursionError:
        raise WireError(topic, "a payload is not nested that deeply") from None
    except ValueError as error:
        raise WireError(topic, f"a payload is JSON in UTF-8 ({clean(str(error), 80)})") from None
    if end != len(text):
        raise WireError(topic, "a payload is JSON in UTF-8 and nothing after it", text[end : end + 40])
    if type(body) is not dict:
        raise WireError(topic, "a payload is one JSON object", body)
    return body


def whole_number(topic: str, body: dict[str, Any], key: str, lowest: int = 0) -> int | None:
    value = body.get(key)
    if value is None:
        return None
    if type(value) is not int or not lowest <= value <= SEQ_LIMIT:
        raise WireError(topic, f"{key} is a whole number from {lowest} to 2^53", value)
    return value


def _delivery(topic: str, body: dict[str, Any]) -> Delivery | None:
    boot = body.get("boot")
    seq = whole_number(topic, body, "seq", 1)
    if boot is None and seq is None:
        return None
    if type(boot) is not str or ID.fullmatch(boot) is None:
        raise WireError(topic, "boot is 1 to 64 of A-Z a-z 0-9 . _ -", boot)
    if seq is None:
        raise WireError(topic, "a message with boot has a seq")
    oldest = whole_number(topic, body, "oldest", 1)
    if oldest is None:
        return Delivery(boot, seq, 1)  # nothing is known to be given up
    if oldest > seq:
        raise WireError(topic, f"oldest is at most seq ({seq}): a node still holds what it sends", oldest)
    return Delivery(boot, seq, oldest)


def _time(body: dict[str, Any], received: datetime, trusted: bool, problems: list[str]) -> tuple[datetime, bool]:
    """(time, whether the sender dated it)."""
    stamp = body.get("timestamp")
    if stamp is None or body.get("clock") == "none":
        return received, False
    if type(stamp) in {int, float}:
        seconds = stamp / 1000 if MILLISECONDS_FROM < stamp < MILLISECONDS_FROM * 1000 else stamp
        if EARLIEST_S <= seconds < LATEST_S and (not trusted or seconds <= received.timestamp() + AHEAD_S):
            return datetime.fromtimestamp(seconds, UTC), True
    problems.append(f"timestamp: Unix seconds or milliseconds since 2024 and not ahead, not {clean(repr(stamp), 40)}")
    return received, False


def _doubt(
    body: dict[str, Any], delivery: Delivery | None, uptime_ms: int | None, timed: bool, trusted: bool
) -> tuple[Quality, Reason]:
    """How far the time may be believed: a live sender without any clock is dated well enough by its arrival."""
    if timed:
        return _FINE
    if delivery is not None or uptime_ms is not None or body.get("timestamp") is not None:
        return Quality.UNCERTAIN, Reason.TIME_UNKNOWN
    return _FINE if trusted else (Quality.UNCERTAIN, Reason.CLOCK_UNTRUSTED)


def _values(
    topic: str, sensor: str, body: dict[str, Any], delivery: Delivery | None, problems: list[str]
) -> dict[str, Any]:
    value = body.get("value")
    if type(value) in {int, float}:
        return {sensor: value}
    rule = f"value is an object of 1 to {METRIC_LIMIT} metrics"
    if type(value) is dict and len(value) <= METRIC_LIMIT:
        return value
    if delivery is None:
        raise WireError(topic, rule, "absent" if value is None else value)
    problems.append(rule)
    return {}


def _value(raw: Any, quantity: Any) -> float | None:
    """The number in the quantity's unit, None for what is no number; TypeError for what is none of the forms."""
    unit = None
    if type(raw) is dict:
        unit = raw.get("unit")
        raw = raw.get("reading", "absent")
    kind = type(raw)
    if kind is not float and kind is not int:
        if raw is None:
            return None
        raise TypeError(f"a reading is a number, not {clean(repr(raw), 40)}")
    try:
        value = float(raw)
    except OverflowError:
        return None
    if unit is not None and unit != quantity.unit:
        if type(unit) is not str:
            raise TypeError(f"a unit is text, not {clean(repr(unit), 40)}")
        change = conversion(quantity, unit[:16])
        if change is not None:
            value = round(value * change[0] + change[1], 6)
    return value if value - value == 0.0 else None  # infinity and NaN differ from themselves


def clean_value(value: Any, depth: int = 4) -> Any:
    """A stranger's JSON with clean strings, at most 64 entries a level and four levels."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        some = list(value.items())[:METRIC_LIMIT]
        return {clean(str(k), 64): clean_value(v, depth - 1) for k, v in some} if depth else {}
    if isinstance(value, list):
        return [clean_value(v, depth - 1) for v in value[:METRIC_LIMIT]] if depth else []
    if isinstance(value, float) and value - value != 0.0:
        return None
    return value
