"""The messages that each project documents or that its devices were seen to send, in the order of the file."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from drivers.model import Quantity
from gateway.ingest.dialects import DIALECTS
from gateway.ingest.dialects.base import EMPTY, Context, Decoded, Dialect, Memory
from gateway.ingest.wire import ID, WireError

VECTORS = sorted((Path(__file__).parent / "vectors").glob("*.json"))
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def context(case: dict[str, Any]) -> Context:
    zone = ZoneInfo(case["zone"]) if "zone" in case else None
    received = datetime.fromisoformat(case["received"]) if "received" in case else NOON
    return Context(received, zone=zone, live=case.get("live", True))


def payload(case: dict[str, Any]) -> bytes:
    given = case["payload"]
    return given.encode() if isinstance(given, str) else json.dumps(given).encode()


def check(case: dict[str, Any], decoded: Decoded, given: Context) -> None:
    found = [reading for message in decoded.messages for reading in message.readings]
    wanted = case.get("readings", [])
    assert [[r.device, r.sensor, r.metric, r.quantity.value, r.value] for r in found] == [row[:5] for row in wanted]
    for reading, row in zip(found, wanted, strict=True):
        assert ID.fullmatch(reading.device)
        assert ID.fullmatch(reading.sensor)
        assert isinstance(reading.quantity, Quantity)
        assert reading.received == given.received
        assert reading.time == (datetime.fromisoformat(row[5]) if len(row) > 5 else given.received)
        quality = row[6] if len(row) > 6 else "bad" if row[4] is None else "good"
        assert str(reading.quality) == quality
    assert [[device, told] for device, told in decoded.capabilities] == case.get("capabilities", [])
    assert [list(each) for each in decoded.statuses] == case.get("statuses", [])
    rules = "; ".join(rule for _device, rule in decoded.problems)
    for name in case.get("problems", []):
        assert repr(name) in rules
    assert bool(rules) == bool(case.get("problems"))


def run(dialect: Dialect, prefix: str, case: dict[str, Any], memory: Memory) -> Memory:
    given = context(case)
    assert dialect.takes(prefix, case["topic"])
    if "error" in case:
        with pytest.raises(WireError, match=case["error"]):
            dialect.decode(prefix, case["topic"], payload(case), given, memory)
        return memory
    before = json.dumps(memory, sort_keys=True)
    decoded = dialect.decode(prefix, case["topic"], payload(case), given, memory)
    check(case, decoded, given)
    assert json.dumps(memory, sort_keys=True) == before, "a memory is never changed in place"
    return decoded.memory


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vectors(path: Path) -> None:
    book = json.loads(path.read_text(encoding="utf-8"))
    assert book["source"]
    dialect, memory = DIALECTS[book["dialect"]], EMPTY
    for case in book["cases"]:
        try:
            memory = run(dialect, book["prefix"] or dialect.prefix, case, memory)
        except Exception as error:
            error.add_note(f"{path.name}: {case['name']}")
            raise


def test_every_dialect_has_vectors() -> None:
    assert {json.loads(path.read_text(encoding="utf-8"))["dialect"] for path in VECTORS} == set(DIALECTS)
