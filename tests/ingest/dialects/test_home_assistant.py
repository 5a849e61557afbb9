"""What Home Assistant is told, against its published rules."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.model import Quality, Quantity, Reason
from gateway.ingest import wire
from gateway.ingest.dialects import home_assistant as words
from gateway.ingest.dialects.home_assistant import Channel, Exported, Origin
from gateway.reading import Reading
from gateway.store.types import Device
from tests.ingest.dialects.discovery_rules import check_discovery, render

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
ORIGIN = Origin("agw-0a1b2c3d", "0.1.0")
OFFICE = Exported(
    Device("office", "Office", manufacturer="Espressif", model="ESP32", firmware_version="1.2.0", location="1st floor"),
    (
        Channel("scd30", "co2", Quantity.CO2),
        Channel("scd30", "temperature", Quantity.TEMPERATURE),
        Channel("bmp280", "temperature", Quantity.TEMPERATURE),
        Channel("bmp280", "pressure", Quantity.PRESSURE),
    ),
    interval_s=5.0,
)


def reading(metric: str, quantity: Quantity, value: float | None, ago_s: float = 0) -> Reading:
    time = NOON - timedelta(seconds=ago_s)
    return Reading("office", "scd30", metric, quantity, value, time, time)


def test_a_device_follows_the_published_rules() -> None:
    config = words.discovery(OFFICE, ORIGIN)
    assert config.topic == "homeassistant/device/ambient_agw-0a1b2c3d_office/config"
    assert config.retain
    entities = check_discovery(config.topic, config.payload)
    assert entities["ambient_agw-0a1b2c3d_office_scd30_co2"] == {
        "platform": "sensor",
        "name": "CO2",
        "unique_id": "ambient_agw-0a1b2c3d_office_scd30_co2",
        "state_topic": "devices/office/sensors/scd30/state",
        "value_template": "{{ value_json.value.co2.reading }}",
        "state_class": "measurement",
        "expire_after": 60,
        "device_class": "carbon_dioxide",
        "unit_of_measurement": "ppm",
    }
    assert [entity["name"] for entity in entities.values()] == [
        "CO2",
        "Temperature scd30",
        "Temperature bmp280",
        "Pressure",
    ]
    assert json.loads(config.payload)["dev"] == {
        "ids": ["ambient_agw-0a1b2c3d_office"],
        "name": "Office",
        "mf": "Espressif",
        "mdl": "ESP32",
        "sw": "1.2.0",
        "sa": "1st floor",
    }


@pytest.mark.parametrize("quantity", list(Quantity))
def test_every_quantity_has_a_class_and_a_unit_that_belong_together(quantity: Quantity) -> None:
    channels = (Channel("s", quantity.value, quantity), Channel("s", f"{quantity.value}_probe_2", quantity))
    config = words.discovery(replace(OFFICE, channels=channels), ORIGIN)
    assert len(check_discovery(config.topic, config.payload)) == 2


IDS = st.from_regex(wire.ID, fullmatch=True).filter(lambda text: text.strip("."))


@given(IDS, IDS, IDS, st.text(max_size=300), st.floats(0.01, 1e6))
def test_any_device_follows_them(device: str, other: str, sensor: str, name: str, interval_s: float) -> None:
    channels = (Channel(sensor, "humidity", Quantity.HUMIDITY),)
    about = Device(device, name, manufacturer=name, mac_address="AA:BB:CC:00:11:22")
    config = words.discovery(Exported(about, channels, interval_s, says_status=True), ORIGIN)
    check_discovery(config.topic, config.payload)
    assert ORIGIN.is_ours(config.topic)
    assert not Origin("agw-00000000", "0.1.0").is_ours(config.topic)
    if device != other:
        assert ORIGIN.config_topic(device) != ORIGIN.config_topic(other)


def test_availability_is_the_gateways_and_the_devices_own_status() -> None:
    body = json.loads(words.discovery(replace(OFFICE, says_status=True), ORIGIN).payload)
    assert [each["t"] for each in body["avty"]] == ["gateway/agw-0a1b2c3d/status", "devices/office/status"]
    assert {each["val_tpl"] for each in body["avty"]} == {"{{ value_json.status if value_json is defined else value }}"}
    assert body["avty_mode"] == "all"
    for online in (True, False):
        said = words.status(ORIGIN, online)
        assert said.retain
        assert wire.decode_status(said.topic, said.payload).online is online


def test_states_carry_the_newest_values_and_null_for_a_bad_one() -> None:
    bad = Reading("office", "scd30", "humidity", Quantity.HUMIDITY, None, NOON, NOON, Quality.BAD, Reason.NOT_A_NUMBER)
    told = words.state("office", "scd30", [reading("co2", Quantity.CO2, 678.5, ago_s=3), bad])
    assert told is not None
    assert not told.retain
    assert json.loads(told.payload) == {
        "timestamp": NOON.timestamp(),
        "value": {"co2": {"reading": 678.5}, "humidity": {"reading": None}},
    }
    config = words.discovery(OFFICE, ORIGIN)
    entity = check_discovery(config.topic, config.payload)["ambient_agw-0a1b2c3d_office_scd30_co2"]
    assert entity["state_topic"] == told.topic
    assert render(entity, told.payload) == 678.5
    assert words.state("office", "scd30", []) is None


def test_the_gateway_does_not_hear_itself() -> None:
    with pytest.raises(wire.WireError):
        wire.route(words.state_topic("office", "scd30"))
    with pytest.raises(wire.WireError):
        wire.route(ORIGIN.status_topic)


def test_a_removal_is_empty_and_retained() -> None:
    topic = ORIGIN.config_topic("office")
    assert words.removal(topic) == (topic, b"", True)


@pytest.mark.parametrize(
    ("interval_s", "last", "expires_s"),
    [(5, None, 60), (60, None, 180), (61, 180, 180), (300, 180, 900), (299.5, 900, 900), (5, 900, 60)],
)
def test_expiry_follows_the_interval_and_not_its_noise(interval_s: float, last: int | None, expires_s: int) -> None:
    assert words.expire_after(interval_s, last) == expires_s


def test_after_a_birth_everything_is_told_again_spread_out() -> None:
    draws = iter([0.9, 0.1, 0.5])
    assert words.spread(["a", "b", "c"], 10, lambda: next(draws)) == [(1.0, "b"), (5.0, "c"), (9.0, "a")]
    assert words.is_birth(ORIGIN, "homeassistant/status", b"online")
    assert not words.is_birth(ORIGIN, "homeassistant/status", b"offline")
