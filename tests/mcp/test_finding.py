"""What people call their things, and which of them is meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.model import Quantity
from gateway.mcp.finding import Found, find
from gateway.store.types import Device, Sensor, Series

DEVICES = [
    Device("esp32-7f3a", "Bedroom node", "esp32", "bedroom", "Main house", "1", "beside the bed", model="C3"),
    Device("attic", "Attic", "raspberry", "roof", "Main house", "2", "under the roof", manufacturer="Raspberry Pi"),
    Device("living-room-2", "Wohnzimmer", "esp32", "living_room", "Main house", "0"),
    Device("ess-0a1b", "Thingy", "beacon", "cellar", "Annex", "-1", "wine rack", firmware_version="2.1.0"),
    Device("garage-door", "", "esp32", "garage", "Annex", "0"),
]
SENSORS = [
    Sensor(1, "esp32-7f3a", "scd30", "scd30"),
    Sensor(2, "attic", "bmp280", "bmp280", "north wall"),
    Sensor(3, "attic", "scd30", "scd30"),
    Sensor(4, "living-room-2", "scd30", "scd30"),
    Sensor(5, "ess-0a1b", "env", "ess"),
    Sensor(6, "garage-door", "pms", "pms5003"),
]
MEASURED = {
    "esp32-7f3a": ("scd30", "co2 temperature humidity"),
    "attic": ("bmp280", "pressure temperature"),
    "living-room-2": ("scd30", "co2 temperature humidity"),
    "ess-0a1b": ("env", "temperature humidity battery"),
    "garage-door": ("pms", "pm25"),
}
SERIES = [
    Series(n, 0, device, sensor, metric, Quantity(metric))
    for n, (device, sensor, metric) in enumerate(
        (device, sensor, metric) for device, (sensor, metrics) in MEASURED.items() for metric in metrics.split()
    )
]


def first(text: str) -> tuple[str, str, str, str]:
    found = find(text, DEVICES, SENSORS, SERIES)
    assert found, text
    return found[0].kind, found[0].device, found[0].sensor, found[0].metric


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("the bedroom co2 thing", ("series", "esp32-7f3a", "scd30", "co2")),
        ("How stuffy is it in the bedroom?", ("series", "esp32-7f3a", "scd30", "co2")),
        ("CO\N{SUBSCRIPT TWO} living room", ("series", "living-room-2", "scd30", "co2")),
        ("barometer", ("series", "attic", "bmp280", "pressure")),
        ("barometer upstairs under the roof", ("series", "attic", "bmp280", "pressure")),
        ("temp in the cellar", ("series", "ess-0a1b", "env", "temperature")),
        ("wine rack", ("device", "ess-0a1b", "", "")),
        ("battery of the beacon", ("series", "ess-0a1b", "env", "battery")),
        ("Wohnzimmer", ("device", "living-room-2", "", "")),
        ("Temperatur im Wohnzimmer", ("series", "living-room-2", "scd30", "temperature")),
        ("bedrom humidty", ("series", "esp32-7f3a", "scd30", "humidity")),
        ("esp32-7f3a", ("device", "esp32-7f3a", "", "")),
        ("PM2.5", ("series", "garage-door", "pms", "pm25")),
        ("dust in the garage", ("series", "garage-door", "pms", "pm25")),
        ("north wall", ("sensor", "attic", "bmp280", "")),
        ("scd30 living room", ("sensor", "living-room-2", "scd30", "")),
        ("raspberry", ("device", "attic", "", "")),
    ],
)
def test_the_first_is_what_was_meant(text: str, meant: tuple[str, str, str, str]) -> None:
    assert first(text) == meant


def test_each_guess_says_why_and_how_sure() -> None:
    best, *others = find("the bedroom co2 thing", DEVICES, SENSORS, SERIES)
    assert best.why == "'bedroom' is its name 'bedroom'; 'co2' is its metric 'co2'"
    assert 0.9 < best.score <= 1
    assert all(0.3 <= other.score <= best.score for other in others)
    assert {"device", "series"} <= {other.kind for other in others}


@pytest.mark.parametrize("text", ["", "   ", "!!!", "xylophone quartet", "\N{SNOWMAN}"])
def test_nothing_alike_is_nothing_found(text: str) -> None:
    assert find(text, DEVICES, SENSORS, SERIES) == []


@given(st.text(max_size=300))
def test_any_text_is_judged_alike_twice(text: str) -> None:
    found = find(text, DEVICES, SENSORS, SERIES)
    assert found == find(text, list(reversed(DEVICES)), list(reversed(SENSORS)), list(reversed(SERIES)))
    assert all(isinstance(one, Found) and 0 <= one.score <= 1 and "\n" not in one.why for one in found)


def test_in_a_large_house() -> None:
    devices = [Device(f"node-{n}", f"Node number {n} of hall {n % 37}", zone_id=f"hall-{n % 37}") for n in range(500)]
    series = [
        Series(n, 0, device.device_id, "scd30", metric, Quantity(metric))
        for n, device in enumerate(devices)
        for metric in ("co2", "temperature", "humidity")
    ]
    found = find("humidty in the hall 12 please", devices, [], series)
    assert found[0].metric == "humidity"
    assert devices[int(found[0].device.removeprefix("node-"))].zone_id == "hall-12"
