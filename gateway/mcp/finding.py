"""What somebody means who says "the bedroom co2 thing": devices, sensors and series by likeness of words. Pure."""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from gateway.mcp.fitting import clean
from gateway.store.types import Device, Sensor, Series

WORD = re.compile(r"[^\W_]+")
MOST_WORDS = 16
FILLERS: frozenset[str] = frozenset(
    # What people say around what they mean, in English and German.
    """a an and any at by device devices for from get give have how i in is it its me my near of on our please reading
    readings sensor sensors show some that the thing there this to unit value values what whats where which with
    der die das im in den dem ein eine und von""".split()  # noqa: SIM905
)
SYNONYMS: Mapping[str, str] = {
    word: metric
    for metric, words in {
        "co2": "carbon dioxide kohlendioxid stuffy stale air ventilation airing breathe luft",
        "temperature": "temp temps thermometer warm warmth heat hot cold degrees celsius temperatur",
        "humidity": "humid moist moisture damp dry hygrometer rh feuchte luftfeuchtigkeit",
        "pressure": "barometer barometric hpa luftdruck druck",
        "battery": "charge batteries akku",
        "voltage": "volt volts",
        "illuminance": "light lux bright brightness dark",
        "power": "watt watts consumption",
        "energy": "kwh electricity",
        "rssi": "signal wifi reception",
        "pm25": "dust particles smoke particulate",
        "tvoc": "voc smell odour odor",
    }.items()
    for word in words.split()
}
LIKE, EXACT, START, ALIKE, MEANT = 0.72, 1.0, 0.9, 0.8, 0.95
"""How like two words have to be, and what words are worth that are equal, begin alike, are alike, or mean the same."""
INHERITED = {"device": 1.0, "sensor": 0.95, "series": 0.9}
"""What a word is worth that names the device of a sensor or series, not these themselves."""
ENOUGH = 0.3


@dataclass(frozen=True, slots=True)
class Found:
    """One guess: `score` 0..1, `why` names each word that fits and what it fits."""

    kind: str
    device: str
    sensor: str
    metric: str
    score: float
    why: str


@dataclass(frozen=True, slots=True)
class _Candidate:
    kind: str
    device: str
    sensor: str
    metric: str
    own: Mapping[str, Sequence[str]]
    inherited: Mapping[str, Sequence[str]]


def find(text: str, devices: Sequence[Device], sensors: Sequence[Sensor], series: Sequence[Series]) -> list[Found]:
    """The likeliest first; empty where nothing is alike. Words that say nothing (the, thing) do not count."""
    words = [word for word in _words(text) if word not in FILLERS] or _words(text)
    words = list(dict.fromkeys(words))[:MOST_WORDS]
    likeness: dict[tuple[str, str], float] = {}
    found = [_judged(each, words, likeness) for each in _candidates(devices, sensors, series)] if words else []
    order = {"device": 0, "sensor": 1, "series": 2}
    good = [each for each in found if each.score >= ENOUGH]
    return sorted(good, key=lambda each: (-each.score, order[each.kind], each.device, each.sensor, each.metric))


def _candidates(devices: Sequence[Device], sensors: Sequence[Sensor], series: Sequence[Series]) -> Iterator[_Candidate]:
    places = {device.device_id: _of_device(device) for device in devices}
    for device_id, fields in places.items():
        yield _Candidate("device", device_id, "", "", fields, {})
    kinds = {(one.device_id, one.sensor): one.sensor_type for one in sensors}
    for sensor in sensors:
        own = {"name": _words(sensor.sensor), "type": _words(sensor.sensor_type), "place": _words(sensor.location)}
        above = places.get(sensor.device_id) or {"id": _words(sensor.device_id)}
        yield _Candidate("sensor", sensor.device_id, sensor.sensor, "", own, above)
    for one in series:
        own = {"metric": [*_words(one.metric), one.metric.lower()], "unit": _words(one.quantity.unit)}
        chip = {"sensor": _words(one.sensor), "sensor type": _words(kinds.get((one.device, one.sensor), ""))}
        above = places.get(one.device) or {"id": _words(one.device)}
        yield _Candidate("series", one.device, one.sensor, one.metric, own, {**above, **chip})


def _of_device(device: Device) -> dict[str, list[str]]:
    return {
        "id": _words(device.device_id),
        "name": _words(device.device_name),
        "zone": _words(device.zone_id),
        "place": _words(f"{device.location} {device.building} {device.floor}"),
        "type": _words(f"{device.device_type} {device.manufacturer} {device.model}"),
        "firmware": _words(device.firmware_version),
    }


def _judged(candidate: _Candidate, words: Sequence[str], likeness: dict[tuple[str, str], float]) -> Found:
    total, reasons = 0.0, []
    for word in words:
        score, reason = _best(candidate, word, likeness)
        total += score
        reasons += [reason] if reason else []
    why = "; ".join(reasons)
    score = round(total / len(words), 3)
    return Found(candidate.kind, candidate.device, candidate.sensor, candidate.metric, score, why)


def _best(candidate: _Candidate, word: str, likeness: dict[tuple[str, str], float]) -> tuple[float, str]:
    best, reason = 0.0, ""
    own, inherited = candidate.own.items(), candidate.inherited.items()
    for fields, worth in ((own, 1.0), (inherited, INHERITED[candidate.kind])):
        for name, known in fields:
            for other in known:
                pair = (word, other)
                if pair not in likeness:
                    likeness[pair] = _alike(word, other)
                if likeness[pair] * worth > best:
                    best = likeness[pair] * worth
                    how = "is" if likeness[pair] == EXACT else "means" if likeness[pair] == MEANT else "is like"
                    reason = f"{word!r} {how} its {name} {other!r}"
    return best, reason


def _alike(word: str, other: str) -> float:
    if word == other:
        return EXACT
    if SYNONYMS.get(word) == other:
        return MEANT
    if min(len(word), len(other)) >= 3 and (other.startswith(word) or word.startswith(other)):
        return START
    matcher = SequenceMatcher(None, word, other)
    if min(len(word), len(other)) < 3 or matcher.real_quick_ratio() < LIKE:
        return 0.0
    ratio = matcher.ratio()
    return ALIKE * ratio if ratio >= LIKE else 0.0


def _words(text: str) -> list[str]:
    """Lower-case words and numbers; CO\u2082 is co2, and PM2.5 is pm25."""
    plain = unicodedata.normalize("NFKC", clean(text)).casefold().replace("pm2.5", "pm25")
    return WORD.findall(plain)
