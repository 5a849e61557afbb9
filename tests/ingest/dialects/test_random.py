"""What strangers may send: a value or a clear refusal, never another exception, and a memory that stays small."""

import json
import string
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.ingest.dialects import DIALECTS, esphome, tasmota, theengs, zigbee2mqtt
from gateway.ingest.dialects.base import EMPTY, MEMORY_LIMIT, Context, Memory, remember
from gateway.ingest.wire import ID, WireError
from tests.ingest.dialects.test_vectors import NOON, context, payload

BATCH = 20
DRAWN = 4  # built piece by piece; the others are random bytes and damaged vectors, which cost less
ZONE = ZoneInfo("Europe/Berlin")
WORDS = sorted(
    {*tasmota.METRICS, *tasmota.IGNORED, *zigbee2mqtt.METRICS, *theengs.METRICS, *esphome.CLASSES, *esphome.WORDS}
    | {"Time", "TempUnit", "PressureUnit", "SCD30", "sn", "t", "dn", "mac", "onln", "last_seen", "state", "type"}
    | {"stat_t", "~", "dev", "dev_cla", "unit_of_meas", "definition", "exposes", "features", "property", "unit"}
    | {"friendly_name", "model_id", "brand", "TIRE", "numeric", "°C", "F", "online", "garagedoor1/sensor/x/state"}
)
TEXTS = st.sampled_from(WORDS) | st.text(max_size=12) | st.just("2026-10-25T02:30:00") | st.just("9999-12-31T23:59:59")
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 1e308, 1795175998500])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=6).map(lambda value: json.dumps(value).encode())
PAYLOADS = (
    st.binary(max_size=64)
    | OBJECTS
    | VALUES.map(lambda v: json.dumps(v).encode())
    | TEXTS.map(lambda text: text.encode(errors="surrogatepass"))
)
LEVELS = st.text(string.ascii_letters + string.digits + ". _-~\u202e\u00e4$", max_size=70)


@cache
def book(name: str) -> list[dict[str, Any]]:
    path = Path(__file__).parent / "vectors" / f"{name}.json"
    cases: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return cases


@cache
def experienced(name: str) -> Memory:
    """What a dialect remembers after its vectors."""
    dialect, memory = DIALECTS[name], EMPTY
    for case in book(name):
        if "error" not in case:
            memory = dialect.decode(dialect.prefix, case["topic"], payload(case), context(case), memory).memory
    return memory


@cache
def topics(name: str) -> st.SearchStrategy[str]:
    """Topics of its vectors, and such as its subscriptions let through with anything for a wildcard."""
    dialect = DIALECTS[name]
    known = st.sampled_from(sorted({case["topic"] for case in book(name)}))

    def filled(pattern: str) -> st.SearchStrategy[str]:
        parts = [LEVELS if level in {"+", "#"} else st.just(level) for level in pattern.split("/")]
        return st.tuples(*parts).map("/".join)

    return known | st.sampled_from(dialect.subscriptions(dialect.prefix)).flatmap(filled)


def batch(name: str, data: st.DataObject) -> list[tuple[str, bytes]]:
    """BATCH messages: built ones, random bytes, and vectors with random bytes somewhere in them."""
    drawn = data.draw(st.lists(st.tuples(topics(name), PAYLOADS), min_size=DRAWN, max_size=DRAWN))
    noise = data.draw(st.binary(min_size=256, max_size=256))
    cases = book(name)
    for number in range(BATCH - DRAWN):
        case, chunk = cases[noise[number] % len(cases)], noise[16 * number : 16 * number + 1 + noise[-number] % 16]
        raw = chunk
        if number % 2:
            whole = payload(case)
            at = noise[100 + number] * (len(whole) + 1) // 256
            raw = whole[:at] + chunk[:3] + whole[at + number % 5 :]
        drawn.append((case["topic"], raw))
    return drawn


@pytest.mark.parametrize("name", sorted(DIALECTS))
@settings(max_examples=10_000 // BATCH, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_anything_is_a_value_or_a_refusal(name: str, data: st.DataObject) -> None:
    dialect, memory = DIALECTS[name], experienced(name)
    live, trusted = data.draw(st.booleans()), data.draw(st.booleans())
    for topic, raw in batch(name, data):
        if not dialect.takes(dialect.prefix, topic):
            continue
        try:
            decoded = dialect.decode(dialect.prefix, topic, raw, Context(NOON, trusted, ZONE, live), memory)
        except WireError:
            continue
        memory = decoded.memory
        for message in decoded.messages:
            assert ID.fullmatch(message.device)
            assert ID.fullmatch(message.sensor)
            assert message.device.startswith(f"{name}-")
            assert message.readings
            metrics = [reading.metric for reading in message.readings]
            assert len(set(metrics)) == len(metrics)
            for reading in message.readings:
                assert reading.value is None or reading.value - reading.value == 0
                assert reading.time.tzinfo is not None
        assert json.dumps(decoded.capabilities).isprintable()
    assert len(memory) <= MEMORY_LIMIT


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_a_deep_payload_is_refused(name: str) -> None:
    dialect = DIALECTS[name]
    case = next(case for case in book(name) if isinstance(case["payload"], dict))
    with pytest.raises(WireError):
        dialect.decode(dialect.prefix, case["topic"], b'{"a":' * 100_000, Context(NOON), EMPTY)
    with pytest.raises(WireError, match="at most"):
        dialect.decode(dialect.prefix, case["topic"], b"{" + b" " * 70_000, Context(NOON), EMPTY)


def test_memory_forgets_the_longest_unchanged() -> None:
    memory = remember(EMPTY, {f"k{number}": number for number in range(MEMORY_LIMIT)})
    assert remember(memory, {"k0": 0}) is memory
    memory = remember(memory, {"k0": -1})
    memory = remember(memory, {"new": 1})
    assert len(memory) == MEMORY_LIMIT
    assert "k0" in memory
    assert "k1" not in memory
