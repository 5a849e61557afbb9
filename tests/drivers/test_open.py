"""From a word in the configuration to a bus."""

import pytest

from drivers import registry
from drivers.errors import BusUnavailable
from drivers.host.open import open_bus
from drivers.testing.recording import Recording
from drivers.testing.virtual import run_virtual


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("i2c", "i2c:NUMBER, as in i2c:1; replay:"),
        ("", "i2c:NUMBER"),
        ("spi:0", "'spi:0'.*i2c:NUMBER.*replay:"),
        ("i2c:", "i2c:NUMBER"),
        ("i2c:one", "i2c:NUMBER"),
        ("i2c:-1", "i2c:NUMBER"),
        ("i2c:²", "i2c:NUMBER"),
        ("replay:", "replay:RECORDING"),
    ],
)
def test_a_malformed_word_is_refused_at_once(spec, says):
    with pytest.raises(ValueError, match=says):
        open_bus(spec)


async def test_i2c_is_the_real_bus():
    with pytest.raises(BusUnavailable, match="/dev/i2c-250"):
        async with open_bus("i2c:250"):
            pass


@pytest.mark.parametrize(("name", "says"), [("cellar", "packaged are"), ("/none/such.csv", "packaged are")])
async def test_a_missing_recording_is_unavailable(name, says):
    with pytest.raises(BusUnavailable, match=says):
        async with open_bus(f"replay:{name}"):
            pass


async def readings(spec, now_s):
    async with open_bus(spec, now=lambda: now_s) as bus:
        found = {}
        for name in ("scd30", "bmp280"):
            driver = registry.load(name)
            device = driver(bus, driver.Options())
            await device.start()
            found |= {(name, s.channel): s.value for s in await device.read()}
            await device.stop()
        return found


@pytest.mark.parametrize("now_s", [0, 1_799_999_999.5])
def test_replay_is_the_recording_at_this_time(now_s):
    found = run_virtual(readings("replay:living-room", now_s))
    room, station = Recording.load("living-room").at(now_s), Recording.load("station").at(now_s)
    assert found["scd30", "co2"] == pytest.approx(room.co2, abs=0.005)
    assert found["scd30", "temperature"] == pytest.approx(room.temperature, abs=0.005)
    assert found["scd30", "humidity"] == pytest.approx(room.humidity, abs=0.005)
    assert found["bmp280", "pressure"] == pytest.approx(station.pressure, abs=0.01)
    assert found["bmp280", "temperature"] == pytest.approx(station.temperature, abs=0.01)


def test_replay_of_a_file_with_everything(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text("offset_s,co2,temperature,humidity,pressure\n0,800,22,40,990\n5,800,22,40,990\n")
    found = run_virtual(readings(f"replay:{path}", 12))
    assert found["scd30", "co2"] == 800
    assert found["bmp280", "pressure"] == pytest.approx(990, abs=0.005)
    assert found["bmp280", "temperature"] == pytest.approx(22, abs=0.005)
