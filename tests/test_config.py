"""Settings: what is refused, and with which words."""

from pathlib import Path

import pytest

from gateway import config
from gateway.config import ConfigError


def test_defaults_need_no_file() -> None:
    settings = config.load(None, {})
    assert (settings.http.port, settings.mqtt.host, settings.mqtt.broker) == (8080, "auto", "auto")


def test_a_device_with_two_sensors(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(
        '[[device]]\nid = "attic"\n'
        '[[device.sensor]]\ndriver = "scd30"\nbus = "i2c:1"\ninterval_s = 2\noptions = { altitude_m = 120 }\n'
        '[[device.sensor]]\ndriver = "bmp280"\nbus = "i2c:1"\n'
    )
    (device,) = config.load(file, {}).device
    assert [(s.sensor, s.interval_s) for s in device.sensor] == [("scd30", 2.0), ("bmp280", 5.0)]
    assert device.sensor[0].options == {"altitude_m": 120}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[sit]\nname = 'x'", "sit: unknown key; did you mean 'site'?"),
        ("[site]\ntimezon = 'UTC'", "site.timezon: unknown key; did you mean 'timezone'?"),
        ("[site]\ntimezone = 'Mars/Base'", "unknown time zone 'Mars/Base'; use a name such as 'Europe/Berlin'"),
        ("[http]\nport = 70000", "http.port = 70000: Input should be less than or equal to 65535"),
        (
            "[[device]]\nid = 'a'\n[[device.sensor]]\ndriver='scd30'\nbus='i2c:1'\ninterval = 3",
            "device.0.sensor.0.interval: unknown key; did you mean 'interval_s'?",
        ),
        ("[[device]]\nid = 'a b'", "device.0.id = 'a b': String should match pattern"),
        ("[[device]]\nid = 'a'\n[[device]]\nid = 'a'", "device 'a' is there twice; give each device an id of its own"),
        (
            "[[device]]\nid = 'a'\n" + "[[device.sensor]]\ndriver='scd30'\nbus='i2c:1'\n" * 2,
            "device 'a' has two sensors 'scd30'; give each a `name`",
        ),
        ("[site", "not valid TOML"),
    ],
)
def test_each_fault_is_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.load(file, {})
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{file}: ")
    assert said in line


def test_the_environment_lies_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("[http]\nport = 1\nplain = 'all'")
    http = config.load(file, {"AMBIENT_GATEWAY_HTTP_PORT": "8081", "PATH": "/bin"}).http
    assert (http.port, http.plain) == (8081, "all")


def test_a_mistyped_environment_variable_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean AMBIENT_GATEWAY_HTTP_PORT"):
        config.load(None, {"AMBIENT_GATEWAY_HTTP_PROT": "1"})


def test_a_missing_file_and_a_missing_secret_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file or directory\); give another file"):
        config.load(tmp_path / "none.toml", {})
    with pytest.raises(ConfigError, match="secret file cannot be read"):
        config.secret(tmp_path / "none")


def test_how_long_readings_live(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    rules = '[[store.retention]]\nmetric = "rssi"\nraw_days = 30\n[[store.retention]]\nraw_days = 730\n'
    file.write_text(f"[store]\nleast_free_mb = 100\n{rules}")
    store = config.load(file, {}).store
    assert [(rule.metric, rule.device, rule.raw_days) for rule in store.retention] == [
        ("rssi", None, 30),
        (None, None, 730),
    ]
    file.write_text("[[store.retention]]\nraw_days = 0\n")
    with pytest.raises(ConfigError, match=r"store\.retention\.0\.raw_days = 0: Input should be greater"):
        config.load(file, {})
