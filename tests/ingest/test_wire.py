"""Topics and payloads: what is believed, what is refused by name, and that no stranger can break the decoder."""

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.model import Quality, Quantity, Reason
from gateway.ingest import command_wire, wire
from gateway.ingest.units import MetricError, conversion, metric
from gateway.ingest.wire import Decoded, WireError
from gateway.reading import Delivery, Reading

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
TOPIC = "devices/esp32_ab12/sensors/scd30/data"


def decode(body: Any, topic: str = TOPIC, trusted: bool = True) -> Decoded:
    return wire.decode_data(topic, json.dumps(body).encode(), NOW, trusted)


def only(body: Any, trusted: bool = True) -> Reading:
    (reading,) = decode(body, trusted=trusted).message.readings
    return reading


def test_the_minimal_form() -> None:
    message, problems = decode({"timestamp": 1795176000, "value": {"co2": {"reading": 678}, "temperature": 22.5}})
    co2, temperature = message.readings
    assert not problems
    assert (message.device, message.sensor, message.delivery, message.timed) == ("esp32_ab12", "scd30", None, True)
    assert (co2.metric, co2.quantity, co2.value, co2.received) == ("co2", Quantity.CO2, 678.0, NOW)
    assert (temperature.value, temperature.quality, temperature.reason) == (22.5, Quality.GOOD, Reason.NONE)
    assert co2.time == datetime.fromtimestamp(1795176000, UTC)


def test_the_numbered_form() -> None:
    body = {"value": {"co2": 1}, "boot": "17-9f3a22c1", "seq": 17, "oldest": 3, "uptime_ms": 12345, "clock": "none"}
    message, _ = decode(body)
    assert message.delivery == Delivery("17-9f3a22c1", 17, 3)
    assert message.uptime_ms == 12345
    assert not message.timed


def test_the_device_comes_from_the_topic_never_from_the_payload() -> None:
    message, _ = decode({"device": "other", "sensor": "other", "value": {"co2": 1}})
    assert (message.device, message.sensor) == ("esp32_ab12", "scd30")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "devices",
        "devices//sensors/scd30/data",
        "devices/a b/sensors/scd30/data",
        "devices/../sensors/scd30/data",
        "devices/a/sensors/\n/data",
        f"devices/{'a' * 65}/sensors/s/data",
        "devices/a/sensors/s/data/x",
        "other/a/status",
    ],
)
def test_a_topic_that_is_none_of_ours(topic: str) -> None:
    with pytest.raises(WireError):
        wire.route(topic)


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        (1795176000, 1795176000),
        (1795176000.25, 1795176000.25),
        (1795176000250, 1795176000.25),
        (1704067200, 1704067200),
    ],
)
def test_seconds_and_milliseconds_since_1970(stamp: float, seconds: float) -> None:
    assert only({"timestamp": stamp, "value": {"co2": 1}}).time == datetime.fromtimestamp(seconds, UTC)


@pytest.mark.parametrize("stamp", [0, -1, 946684800, 1704067199, 4102444800, 1e300, math.inf, math.nan, "x", True, {}])
def test_a_clock_that_was_never_set_dates_nothing(stamp: Any) -> None:
    message, problems = decode({"timestamp": stamp, "value": {"co2": 700}})
    (reading,) = message.readings
    assert (reading.time, reading.quality, reading.reason) == (NOW, Quality.UNCERTAIN, Reason.TIME_UNKNOWN)
    assert not message.timed
    assert "timestamp" in problems[0]


def test_five_minutes_ahead_is_the_limit_if_we_know_the_time_ourselves() -> None:
    ahead = (NOW + timedelta(minutes=6)).timestamp()
    assert only({"timestamp": ahead - 120, "value": {"co2": 1}}).reason is Reason.NONE
    assert only({"timestamp": ahead, "value": {"co2": 1}}).reason is Reason.TIME_UNKNOWN
    assert only({"timestamp": ahead, "value": {"co2": 1}}, trusted=False).reason is Reason.NONE


def test_a_live_sender_without_any_clock_is_dated_by_its_arrival() -> None:
    assert only({"value": {"co2": 700}}).quality is Quality.GOOD
    assert only({"value": {"co2": 700}}, trusted=False).reason is Reason.CLOCK_UNTRUSTED
    numbered = only({"value": {"co2": 700}, "boot": "1-a", "seq": 1})
    assert numbered.reason is Reason.TIME_UNKNOWN


def test_null_nan_and_infinity_are_bad_readings_without_a_value() -> None:
    for raw in ("null", "NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400):
        payload = b'{"value": {"co2": {"reading": %s}}}' % raw.encode()
        (reading,) = wire.decode_data(TOPIC, payload, NOW).message.readings
        assert (reading.value, reading.quality, reading.reason) == (None, Quality.BAD, Reason.NOT_A_NUMBER), raw


@pytest.mark.parametrize("raw", [True, False, "678", [1], {}, {"reading": True}, {"reading": "678"}, {"value": 1}])
def test_what_is_no_number_is_refused_by_name_and_the_others_are_kept(raw: Any) -> None:
    message, problems = decode({"value": {"co2": raw, "humidity": 40}})
    assert [r.metric for r in message.readings] == ["humidity"]
    assert len(problems) == 1
    assert "'co2'" in problems[0]


def test_unknown_metrics_and_units_are_refused_by_name() -> None:
    message, problems = decode(
        {"value": {"dew_point": 9, "tvoc": {"reading": 3, "unit": "ppb"}, "humidity": {"reading": 40, "unit": "%"}}}
    )
    assert [r.metric for r in message.readings] == ["humidity"]
    assert ["dew_point" in problems[0], "tvoc" in problems[1], "ug/m3" in problems[1]] == [True, True, True]


@pytest.mark.parametrize(
    ("name", "unit", "reading", "value"),
    [
        ("temperature", "degF", 72.5, 22.5),
        ("temperature", "°F", -40, -40),
        ("temperature", "K", 295.65, 22.5),
        ("temperature_probe", "°C", 22.5, 22.5),
        ("pressure", "Pa", 101325, 1013.25),
        ("pressure", "kPa", 101.325, 1013.25),
        ("pressure", "mbar", 1013.25, 1013.25),
        ("pressure", "inHg", 29.92, 1013.207489),
        ("voltage", "mV", 3700, 3.7),
        ("energy", "kWh", 1.5, 1500),
        ("pm25", "\u03bcg/m\u00b3", 12, 12),
        ("humidity", "%RH", 40, 40),
    ],
)
def test_foreign_units_are_converted_at_the_edge(name: str, unit: str, reading: float, value: float) -> None:
    assert only({"value": {name: {"reading": reading, "unit": unit}}}).value == pytest.approx(value, abs=1e-6)


def test_every_quantity_knows_its_own_unit() -> None:
    for quantity in Quantity:
        assert conversion(quantity, quantity.unit) is None
        assert metric(quantity.value).quantity is quantity


def test_names() -> None:
    assert metric("carbon_dioxide").name == "co2"
    assert metric("CO2").name == "co2"
    assert metric("temperature_probe").name == "temperature_probe"
    for name in ("battery_voltage", "dewpoint", "", "temperature probe", "temperature_\u0661", "t" * 65, "co2/x"):
        with pytest.raises(MetricError):
            metric(name)


def test_one_metric_twice_in_a_message_is_taken_once() -> None:
    message, problems = decode({"value": {"co2": 700, "carbon_dioxide": 800}})
    assert [r.value for r in message.readings] == [700]
    assert "twice" in problems[0]


def test_a_numbered_message_counts_as_received_even_if_nothing_in_it_can_be_used() -> None:
    for value in ({"nonsense": 1}, {}, [], "x", None):
        message, problems = decode({"value": value, "boot": "1-a", "seq": 4, "oldest": 4})
        assert message.readings == ()
        assert message.delivery == Delivery("1-a", 4, 4)
        assert problems or value == {}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"seq": 0}, "seq"),
        ({"seq": -1}, "seq"),
        ({"seq": 2**53 + 1}, "seq"),
        ({"seq": 1.5}, "seq"),
        ({"seq": True}, "seq"),
        ({"seq": None}, "seq"),
        ({"boot": None}, "boot"),
        ({"boot": "a b"}, "boot"),
        ({"boot": 17}, "boot"),
        ({"oldest": 6}, "oldest"),
        ({"oldest": 0}, "oldest"),
        ({"uptime_ms": -1}, "uptime_ms"),
    ],
)
def test_broken_numbering_is_refused(change: dict[str, Any], rule: str) -> None:
    with pytest.raises(WireError, match=rule):
        decode({"value": {"co2": 1}, "boot": "1-a", "seq": 5, "oldest": 5, "uptime_ms": 1, **change})


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"\xff",
        b"{}",
        b'{"value":{}}',
        b'{"value":{"co2":{"reading":"x"}}}',
        b"[" * 60_000,
        b'{"value":{"co2":1' + b"0" * 5000 + b"}}",
        json.dumps({"value": {"co2": 1}, "pad": "x" * wire.PAYLOAD_LIMIT}).encode(),
        json.dumps({"value": {f"temperature_{n}": 1 for n in range(65)}}).encode(),
        '{"value":{"co2":1}}'.encode("utf-16"),
    ],
)
def test_what_cannot_be_used_is_one_error(payload: bytes) -> None:
    with pytest.raises(WireError) as caught:
        wire.decode_data(TOPIC, payload, NOW)
    assert caught.value.topic == TOPIC
    assert caught.value.rule
    assert len(str(caught.value)) < 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
METRICS = st.sampled_from(["co2", "temperature", "battery_voltage", "pm2_5", "\ud800", ""])
READING = JSON | st.fixed_dictionaries({}, optional={"reading": JSON, "unit": JSON})
BODY = JSON | st.fixed_dictionaries(
    {},
    optional={
        "value": JSON | st.dictionaries(METRICS | st.text(), READING, max_size=4),
        "timestamp": JSON | st.floats(),
        "boot": JSON | st.just("1-a"),
        "seq": JSON | st.integers(),
        "oldest": JSON | st.integers(),
        "uptime_ms": JSON | st.integers(),
        "clock": JSON,
        "status": JSON,
        "sensors": JSON | st.lists(JSON),
        "metadata": JSON,
        "ok": st.booleans(),
        "name": JSON,
        "args": JSON,
    },
)


def everything(topic: str, payload: bytes) -> None:
    """Every decoder on the same bytes: a value or WireError."""
    for decoder in (
        lambda: wire.decode_data(TOPIC, payload, NOW),
        lambda: wire.decode_data(topic, payload, NOW),
        lambda: wire.decode_capabilities(topic, payload),
        lambda: wire.decode_status(topic, payload),
        lambda: wire.decode_error(topic, payload),
        lambda: wire.verify_ack("devices/a/ack", payload, b"key"),
        lambda: command_wire.decode_command(topic, payload),
        lambda: command_wire.decode_result(topic, payload),
    ):
        try:
            decoded = decoder()
        except WireError as error:
            str(error).encode()
        else:
            repr(decoded).encode()
            if isinstance(decoded, Decoded):
                for reading in decoded.message.readings:
                    assert reading.value is None or math.isfinite(reading.value)
                    assert reading.time.tzinfo is UTC
                " ".join(decoded.problems).encode()


@settings(max_examples=300, deadline=None)
@given(topic=st.text(), payload=st.binary())
def test_random_bytes_give_a_value_or_a_wire_error(topic: str, payload: bytes) -> None:
    everything(topic, payload)


@settings(max_examples=500, deadline=None)
@given(body=BODY)
def test_random_json_gives_a_value_or_a_wire_error(body: Any) -> None:
    everything("devices/a/status", json.dumps(body).encode())


def test_capabilities_are_cleaned() -> None:
    body = {
        "device_name": "Kitchen\n\u202eignore all rules\x00" + "x" * 300,
        "sensors": ["scd30", {"name": "bmp280"}],
        "metadata": {"scd30": {"range": [400, 10000], "note": "a\tb"}},
        "deep": {"a": 1},
    }
    told = wire.decode_capabilities("devices/a/capabilities", json.dumps(body).encode())
    assert told["device_name"].startswith("Kitchen ignore all rules")
    assert len(told["device_name"]) == wire.TEXT_LIMIT
    assert told["sensors"] == ["scd30", "bmp280"]
    assert told["metadata"] == {"scd30": {"range": [400, 10000], "note": "a b"}}
    assert "deep" not in told
    with pytest.raises(WireError, match="sensor's name"):
        wire.decode_capabilities("devices/a/capabilities", b'{"sensors": ["a/b"]}')


def test_status_in_both_forms() -> None:
    assert wire.decode_status("devices/a/status", b"offline") == wire.Status(False)
    body = b'{"status": "online", "boot": "3-1f", "uptime_ms": 20}'
    assert wire.decode_status("devices/a/status", body) == wire.Status(True, "3-1f", 20)
    with pytest.raises(WireError, match="online or offline"):
        wire.decode_status("devices/a/status", b'{"status": "on"}')


def test_an_error_of_a_device_is_text_and_no_more() -> None:
    error = wire.decode_error("devices/a/error", b'{"code": 7, "message": "bus\\u0007 stuck"}')
    assert error == wire.DeviceError("7", "bus stuck")


def test_acknowledgements_are_signed_with_the_devices_key() -> None:
    key, topic = b"k" * 32, "devices/a/ack"
    signed = wire.encode_ack("a", "1-f", 9, key)
    # printf 'a\n1-f\n9' | openssl dgst -sha256 -hmac kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk | first 32 digits
    assert json.loads(signed) == {"boot": "1-f", "seq": 9, "mac": "4d1ea6e5019d4e44d6773447c515a5b9"}
    assert wire.verify_ack(topic, signed, key) == wire.Ack("1-f", 9)
    plain = wire.encode_ack("a", "1-f", 9, None)
    assert json.loads(plain) == {"boot": "1-f", "seq": 9}
    assert wire.verify_ack(topic, plain, None) == wire.Ack("1-f", 9)
    for payload, other in ((plain, topic), (signed, "devices/b/ack"), (signed.replace(b"9", b"8", 1), topic)):
        with pytest.raises(WireError, match="mac"):
            wire.verify_ack(other, payload, key)


def test_commands_and_results_come_back_as_they_were_sent() -> None:
    command = command_wire.encode_command("devices/a/commands/c1", "set_interval", {"interval_s": 30})
    assert command_wire.decode_command("devices/a/commands/c1", command) == ("set_interval", {"interval_s": 30})
    topic = "devices/a/commands/c1/result"
    assert command_wire.decode_result(topic, command_wire.encode_result({"n": 1})) == (True, {"n": 1})
    assert command_wire.decode_result(topic, command_wire.encode_result(error="no such command")) == (
        False,
        "no such command",
    )
    assert wire.route(topic) == wire.Route(wire.Kind.RESULT, "a", "c1")


@pytest.mark.parametrize("names", [("co2", "carbon_dioxide"), ("carbon_dioxide", "co2"), ("CO2", "Co2")])
def test_of_two_names_of_one_metric_the_first_usable_one_counts(names: tuple[str, str]) -> None:
    message, problems = decode({"value": {"humidity": 40, **dict(zip(names, (700, 800), strict=True))}})
    assert [(r.metric, r.value) for r in message.readings] == [("humidity", 40.0), ("co2", 700.0)]
    assert len(problems) == 1
    assert "given twice" in problems[0]
    message, problems = decode({"value": dict(zip(names, ("none", 800), strict=True))})
    assert [r.value for r in message.readings] == [800.0]
    assert len(problems) == 1


def test_space_around_a_payload_is_fine_and_anything_else_is_not() -> None:
    body = b'{"value": {"co2": 700}}'
    for payload in (b" \r\n\t" + body, body + b"\n \t\r"):
        assert wire.decode_data(TOPIC, payload, NOW).message.readings[0].value == 700
    for payload in (body + b"{}", body + b",", b"\xef\xbb\xbf" + body, "\u00a0".encode() + body, body + b"\x0b", b""):
        with pytest.raises(WireError, match="JSON in UTF-8"):
            wire.decode_data(TOPIC, payload, NOW)
