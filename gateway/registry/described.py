"""What devices say of themselves, as harmless values."""

import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.store.types import Sensor

MAX_TEXT = 128
MAX_SENSORS = 64
MAX_METADATA = 4096
MOST_INTERVAL_S = 86_400.0


def clean(value: object) -> str:
    """A device's word as harmless text: no control or formatting characters, at most 128 long; "" if it is no text."""
    if not isinstance(value, str):
        return ""
    kept = (c for c in value[: 4 * MAX_TEXT] if unicodedata.category(c)[0] != "C" and c not in "\u2028\u2029")
    return "".join(kept).strip()[:MAX_TEXT]


def described(device_id: str, each: object, details: object) -> Sensor | None:
    """One of `sensors`: a name, or an object with a name; its metadata may name type and place. None: nameless."""
    given: Mapping[str, Any] = each if isinstance(each, Mapping) else {"name": each}
    name = clean(given.get("name") or given.get("id"))
    if not name:
        return None
    found = details.get(name) if isinstance(details, Mapping) else None
    more: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    kind = clean(given.get("type") or more.get("type") or more.get("sensor_type")) or name
    place = clean(given.get("location") or more.get("location"))
    kept = {clean(key): _plain(value) for key, value in list(more.items())[:MAX_SENSORS]}
    if len(json.dumps(kept)) > MAX_METADATA:
        kept = {}
    return Sensor(0, device_id, name, kind, place, kept)


def told_interval_s(sensors: object, details: object) -> float | None:
    """How often a device says that it measures, by its most talkative sensor; None where it does not say."""
    if not isinstance(sensors, list | tuple) or not isinstance(details, Mapping):
        return None
    told = [details[name].get("interval_s") for name in _names(sensors) if isinstance(details.get(name), Mapping)]
    sane = [each for each in told if type(each) in {int, float} and 0 < each <= MOST_INTERVAL_S]
    return float(min(sane)) if sane else None


def _names(sensors: Sequence[object]) -> list[str]:
    return [each for each in sensors[:MAX_SENSORS] if isinstance(each, str)]


def _plain(value: object) -> Any:
    """Metadata keeps numbers and cleaned text; anything deeper becomes text."""
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return clean(value if isinstance(value, str) else json.dumps(value, default=str))
