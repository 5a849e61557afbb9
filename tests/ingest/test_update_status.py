"""What a node says of an update, on its topic and in its online status: cleaned here, judged by who offered it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.ingest import wire
from gateway.ingest.wire import Kind, WireError
from gateway.nodes.ota.fleet import Fleet
from gateway.nodes.ota.offer import Phase
from gateway.nodes.ota.rollout import Happened, Said
from gateway.store.db import Store
from tests.web.house import HandClock

TOPIC = "devices/attic/update/status"
OFFER = "0123456789abcdef"


def test_the_topic_is_subscribed_and_known() -> None:
    assert "devices/+/update/status" in wire.SUBSCRIPTIONS
    assert wire.route(TOPIC) == (Kind.UPDATE, "attic", "")
    for wrong in ("devices/attic/update", "devices/attic/update/status/x", "devices/a b/update/status"):
        with pytest.raises(WireError):
            wire.route(wrong)


def test_an_update_is_cleaned() -> None:
    said = wire.decode_update(TOPIC, b'{"offer": "ab", "phase": "failed", "error": "a\\u202eb\\nc"}')
    assert said == {"offer": "ab", "phase": "failed", "error": "ab c"}
    for wrong in (b"[]", b"{", b'{"a": 1} x', b"\xff", b"[" * 70_000):
        with pytest.raises(WireError):
            wire.decode_update(TOPIC, wrong)


@pytest.mark.parametrize("update", [None, "done", [1], 7])
def test_a_status_without_a_usable_word_on_updates_is_still_a_status(update: object) -> None:
    body = json.dumps({"status": "online", "boot": "1-a", "update": update}).encode()
    assert wire.decode_status("devices/attic/status", body) == wire.Status(True, "1-a")


def test_the_last_outcome_comes_with_the_status() -> None:
    last = {"offer": OFFER, "phase": "confirmed", "version": "1.4.0", "error": ""}
    body = json.dumps({"status": "online", "boot": "1-a", "update": last}).encode()
    assert wire.decode_status("devices/attic/status", body).update == last


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ({"offer": OFFER, "phase": "downloading", "percent": 40}, (Phase.DOWNLOADING, 40)),
        ({"offer": OFFER, "phase": "downloading", "percent": 400}, (Phase.DOWNLOADING, 0)),
        ({"offer": OFFER, "phase": "dancing"}, None),
        ({"offer": OFFER.upper(), "phase": "failed"}, None),
        ({"phase": "failed"}, None),
        ({"offer": None, "phase": []}, None),
    ],
)
async def test_what_makes_no_sense_is_counted_and_told_to_nobody(
    tmp_path: Path, said: Mapping[str, Any], heard: tuple[Phase, int] | None
) -> None:
    told: list[Happened] = []

    async def listener(event: Happened) -> None:
        told.append(event)

    async with Store(tmp_path) as store:
        fleet = Fleet(store, HandClock())
        fleet.listen(listener)
        await fleet.said("attic", said)
    found = [(each.phase, each.percent) for each in told if isinstance(each, Said)]
    assert found == ([heard] if heard else [])
    assert fleet.refused == (heard is None)
