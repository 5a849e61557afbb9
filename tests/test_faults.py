"""Errors that a person meets: one clear line with the way out, exit code 1, no traceback."""

import asyncio
import os
import socket
import subprocess
from pathlib import Path

import pytest

from drivers.errors import WrongDevice
from drivers.testing.bmp280_chip import Bmp280Chip
from drivers.testing.buses import SimulatedI2c
from drivers.testing.recording import Wave
from gateway import sensors
from gateway.broker.mosquitto import find
from gateway.cli.faults import explain
from gateway.clock import SystemClock
from gateway.config import Config, DeviceSettings, SensorSettings
from gateway.reading import Message
from tests.running import GATEWAY, command, free_ports


def run(folder: Path, *arguments: str, settings: str = "", before: tuple[str, ...] = ()) -> tuple[int, str]:
    """Run `gateway run` to its end in a folder of its own; exit code and standard error."""
    file = folder / "gateway.toml"
    file.write_text("[discovery]\nmdns = false\n" + settings)
    http, https, mqtt = free_ports(3)
    command = [
        *before,
        *(GATEWAY, "run", "--config", str(file)),
        *("--http", f"127.0.0.1:{http}", "--https", f"127.0.0.1:{https}", "--mqtt", f"127.0.0.1:{mqtt}"),
        *arguments,
    ]
    if "--data" not in arguments:
        command += ["--data", str(folder / "data")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stderr


def says(result: tuple[int, str], *parts: str) -> None:
    """The result is one line of the gateway's own with all these parts."""
    code, err = result
    assert code == 1, err
    lines = [line for line in err.splitlines() if not line.startswith(("INFO ", "WARNING ", "ERROR "))]
    assert len(lines) == 1, err
    assert lines[0].startswith("gateway: ")
    for part in parts:
        assert part in lines[0]


def device(options: str) -> str:
    return f"[mqtt]\nbroker = 'off'\n[[device]]\nid = 'attic'\n[[device.sensor]]\n{options}\n"


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        says(run(tmp_path, "--http", f"127.0.0.1:{port}"), f"port {port}", "is taken", "--http HOST:PORT")
        says(run(tmp_path, "--https", f"127.0.0.1:{port}"), f"port {port}", "is taken", "--https HOST:PORT")
        says(run(tmp_path, "--mqtt", f"127.0.0.1:{port}"), f"port {port}", "is taken", 'broker = "external"')


def test_no_such_bus(tmp_path: Path) -> None:
    settings = device("driver = 'scd30'\nbus = 'i2c:250'")
    says(run(tmp_path, settings=settings), "/dev/i2c-250 does not exist", "dtparam=i2c_arm=on", "modprobe i2c-dev")
    settings = device("driver = 'scd30'\nbus = 'i2c-1'")
    says(run(tmp_path, settings=settings), "device 'attic', sensor 'scd30': bus 'i2c-1': it must be one of i2c:NUMBER")


@pytest.mark.system
def test_no_permission_on_the_bus(tmp_path: Path) -> None:
    """A file of another user at the device's place, seen by a root without its power over files."""
    script = (
        "mount -t tmpfs none /mnt && cp -a /dev/null /dev/urandom /dev/random /mnt/ && touch /mnt/i2c-240 && "
        "chown 1:1 /mnt/i2c-240 && chmod 600 /mnt/i2c-240 && mkdir /mnt/shm && mount --bind /mnt /dev && "
        'exec setpriv --inh-caps=-all --bounding-set=-dac_override,-dac_read_search -- "$@"'
    )
    before = ("unshare", "--mount", "sh", "-c", script, "sh")
    settings = device("driver = 'scd30'\nbus = 'i2c:240'")
    says(run(tmp_path, settings=settings, before=before), "/dev/i2c-240: no permission", "usermod -aG i2c $USER")


async def test_a_wrong_chip() -> None:
    """A BME280 where a BMP280 is configured."""
    settings = SensorSettings(driver="bmp280", bus="replay:living-room")
    plans = sensors.plan(Config(device=(DeviceSettings(id="attic", sensor=(settings,)),)))
    bus = SimulatedI2c([Bmp280Chip(Wave(), chip_id=0x60)])
    attached = [(plan, plan.driver(bus, plan.options)) for plan in plans]
    got: list[Message] = []

    async def put(message: Message) -> None:
        got.append(message)

    wired = sensors.Wired(lambda *_: None)

    async def start() -> None:
        async with asyncio.TaskGroup() as group:
            wired.start(group, attached, put, SystemClock(), lambda *_: None)
            await wired.first_signs(plans)

    with pytest.raises(ExceptionGroup) as caught:
        await start()
    assert isinstance(caught.value.exceptions[0], WrongDevice)
    line = explain(caught.value)
    assert line is not None
    assert "device 'attic', sensor 'bmp280' on replay:living-room: at I2C address 0x76 is a BME280" in line
    assert "\n" not in line
    assert not got


def test_wrong_settings(tmp_path: Path) -> None:
    says(run(tmp_path, settings="[htttp]\nport = 1"), "htttp: unknown key; did you mean 'http'?")
    says(run(tmp_path, settings=device("driver = 'scd3'\nbus = 'i2c:1'")), "no driver 'scd3': did you mean 'scd30'?")
    options = "driver = 'scd30'\nbus = 'i2c:1'\noptions = { altitude = 3 }"
    says(run(tmp_path, settings=device(options)), "options.altitude: unknown option", "did you mean 'altitude_m'?")
    options = "driver = 'scd30'\nbus = 'i2c:1'\noptions = { pressure_hpa = 101325 }"
    says(run(tmp_path, settings=device(options)), "pressure_hpa 101325", "101325 Pa is 1013.25 hPa")
    says(run(tmp_path, "--http", "8080"), "--http '8080': expected HOST:PORT")


@pytest.mark.system
def test_a_missing_broker(tmp_path: Path) -> None:
    binary = find()
    assert binary is not None
    real = os.path.realpath(binary)
    before = ("unshare", "--mount", "sh", "-c", f'mount --bind /dev/null {real} && exec "$@"', "sh")
    result = run(tmp_path, settings="[mqtt]\nbroker = 'mosquitto'", before=before)
    says(result, "mosquitto is not installed", 'broker = "auto"')


def test_a_data_folder_that_cannot_be_written(tmp_path: Path) -> None:
    says(run(tmp_path, "--data", "/proc/ambient"), "/proc/ambient", "--data")
    (tmp_path / "file").touch()
    says(run(tmp_path, "--data", str(tmp_path / "file")), str(tmp_path / "file"), "--data")


@pytest.mark.system
def test_a_clock_that_was_never_set(tmp_path: Path) -> None:
    result = run(tmp_path, before=("faketime", "1970-01-01 00:10:00"))
    says(result, "the clock says 1970-01-01", "NTP", "require = false in [clock]")


def test_a_second_gateway_on_the_same_data(tmp_path: Path) -> None:
    http, https, mqtt = free_ports(3)
    addresses = ("--http", f"127.0.0.1:{http}", "--https", f"127.0.0.1:{https}", "--mqtt", f"127.0.0.1:{mqtt}")
    first = subprocess.Popen(
        [GATEWAY, "run", "--demo", "--data", str(tmp_path / "data"), *addresses], stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout is not None
        assert "is running" in first.stdout.readline()
        says(run(tmp_path), str(tmp_path / "data"))
    finally:
        first.terminate()
        first.communicate(timeout=10)
    assert first.returncode == 0


async def test_commands_without_anything_to_talk_to(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"))
    for arguments in (("status",), ("token", "list"), ("token", "revoke", "x")):
        assert await command(*arguments, *data) == (
            1,
            "",
            f"gateway: {data[1]}: no gateway ever ran here; name its data folder with --data\n",
        )
    assert not (tmp_path / "data").exists(), "asking leaves nothing behind"
    assert (await command("token", "create", "one", "--scope", "read", *data))[0] == 0
    for arguments, said in (
        (("status",), "view_status: no gateway runs on this data; start one with `gateway run`"),
        (("token", "revoke", "onee"), "no live token is named 'onee'; did you mean 'one'?"),
        (("token", "create", "one", "--scope", "read"), "the name 'one' is taken"),
        (("token", "create", "", "--scope", "read"), "name '': String should have at least 1 character"),
        (("node", "add", "a/b"), "device 'a/b': String should match pattern"),
    ):
        code, out, err = await command(*arguments, *data)
        assert (code, out) == (1, "")
        assert err.startswith("gateway: ")
        assert said in err
        assert err.count("\n") == 1
