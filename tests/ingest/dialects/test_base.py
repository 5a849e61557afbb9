"""Ids, topics and the set of enabled dialects."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ingest.dialects import is_foreign
from gateway.ingest.dialects.base import device_id, matches, safe_id
from gateway.ingest.foreign import Foreign
from gateway.ingest.wire import ID, WireError

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def test_ids_keep_what_is_allowed() -> None:
    assert device_id("tasmota", "tasmota_80FF6D") == "tasmota-tasmota_80FF6D"
    assert device_id("zigbee2mqtt", "kitchen/air").startswith("zigbee2mqtt-kitchen_air.")


def test_ids_tell_whose_they_are() -> None:
    assert is_foreign(device_id("theengs", "A4C138AABBCC"))
    assert not is_foreign("tasmota")
    assert not is_foreign("office-1")


@given(st.text(max_size=90), st.text(max_size=90))
def test_ids_are_valid_and_differ(one: str, other: str) -> None:
    assert ID.fullmatch(safe_id(one))
    assert safe_id(one).strip(".")
    if one != other:
        assert safe_id(one) != safe_id(other)


def test_an_id_cannot_pose_as_a_shortened_one() -> None:
    shortened = safe_id("kitchen/air")
    assert ID.fullmatch(shortened)
    assert safe_id(shortened) != shortened


@pytest.mark.parametrize(
    ("pattern", "topic", "covered"),
    [
        ("tele/+/SENSOR", "tele/x/SENSOR", True),
        ("tele/+/SENSOR", "tele/x/y/SENSOR", False),
        ("zigbee2mqtt/#", "zigbee2mqtt/a/b", True),
        ("zigbee2mqtt/#", "zigbee2mqtt", True),
        ("zigbee2mqtt/#", "zigbee", False),
        ("+/status", "devices/n1/status", False),
    ],
)
def test_topics(pattern: str, topic: str, covered: bool) -> None:
    assert matches(pattern, topic) is covered


def test_prefixes() -> None:
    foreign = Foreign(
        {"tasmota": "home/%topic%/%prefix%", "esphome": "esphome", "zigbee2mqtt": "z2m", "theengs": "ble"}
    )

    def device(topic: str, payload: bytes) -> str:
        decoded = foreign.decode(topic, payload, NOON, trusted=True, live=True)
        assert decoded is not None
        return decoded.messages[0].device

    assert device("home/plug/tele/SENSOR", b'{"SHT3X":{"Humidity":40}}') == "tasmota-plug"
    assert device("esphome/shed/sensor/air_temperature/state", b"20") == "esphome-shed"
    assert device("z2m/air", b'{"temperature":20}') == "zigbee2mqtt-air"
    assert device("ble/gw/BTtoMQTT/A4C138AABBCC", b'{"tempc":20}') == "theengs-A4C138AABBCC"
    assert foreign.decode("zigbee2mqtt/air", b'{"temperature":20}', NOON, trusted=True, live=True) is None


def test_what_is_not_enabled_is_unwanted() -> None:
    foreign = Foreign({"theengs": ""}, ZoneInfo("Europe/Berlin"))
    assert foreign.subscriptions == ("home/+/BTtoMQTT/+",)
    assert "zigbee2mqtt/#" in foreign.unwanted
    assert not set(foreign.unwanted) & set(foreign.subscriptions)
    with pytest.raises(ValueError, match="unknown dialect 'shelly'"):
        Foreign({"shelly": ""})


def test_a_refusal_leaves_the_memory() -> None:
    foreign = Foreign({"zigbee2mqtt": ""})
    with pytest.raises(WireError):
        foreign.decode("zigbee2mqtt/air", b"{", NOON, trusted=True, live=True)
    decoded = foreign.decode("zigbee2mqtt/air", b'{"temperature":20}', NOON, trusted=False, live=True)
    assert decoded is not None
    assert str(decoded.messages[0].readings[0].reason) == "clock_untrusted"


@pytest.mark.parametrize(
    ("name", "prefix"), [("tasmota", "tele"), ("tasmota", "a-%topic%/%prefix%"), ("theengs", "+"), ("zigbee2mqtt", "#")]
)
def test_a_prefix_that_cannot_work_is_refused(name: str, prefix: str) -> None:
    with pytest.raises(ValueError, match=name):
        Foreign({name: prefix})
