"""A scan on simulated wires: what it finds, what it says of the rest, and the settings it proposes."""

import argparse
import asyncio
import errno
import json
import os
import tomllib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from drivers.bus import Advert, GattLink, I2cBus
from drivers.errors import BusError, BusUnavailable, NoDevice
from drivers.host.bluez import Bluez
from drivers.host.linux_i2c import Adapter, LinuxI2c
from drivers.host.open import open_bus
from drivers.testing.ble import BTHOME
from drivers.testing.bmp280_chip import Bmp280Chip
from drivers.testing.buses import Fail, FaultyI2c, RecordingI2c, SimulatedI2c, Write
from drivers.testing.recording import Wave
from drivers.testing.scd30_chip import Scd30Chip
from gateway import config, sensors
from gateway.cli import scan as cli
from gateway.config import Config, ConfigError, DeviceSettings, SensorSettings
from gateway.discovery import proposal
from gateway.discovery.scan import Found, Machine, Port, Scan, machine, scan
from tests.virtual import run_virtual


class Foreign:
    """A chip that acknowledges everything, answers one byte for ever and remembers what was written to it."""

    def __init__(self, address: int, answer: int = 0xA5) -> None:
        self.address, self._answer = address, answer
        self.written: list[bytes] = []

    def write(self, data: bytes, now_s: float) -> None:
        self.written.append(data)

    def read(self, size: int, now_s: float) -> bytes:
        return bytes((self._answer,)) * size


def wires(buses: Mapping[str, I2cBus | LinuxI2c]) -> Machine:
    """A machine with these I2C buses."""

    def opened(spec: str) -> AbstractAsyncContextManager[Any]:
        bus = buses[spec]
        return bus if isinstance(bus, LinuxI2c) else _entered(bus)

    return Machine(i2c=tuple(buses), open=opened)


@asynccontextmanager
async def _entered(bus: I2cBus) -> AsyncIterator[I2cBus]:
    yield bus


def look(buses: Mapping[str, I2cBus | LinuxI2c], known: set[tuple[str, int]] | None = None) -> Scan:
    return run_virtual(scan(wires(buses), known or set()))


def scd30() -> Scd30Chip:
    return Scd30Chip(Wave())


def bmp280(address: int = 0x76, chip_id: int = 0x58) -> Bmp280Chip:
    return Bmp280Chip(Wave(), address=address, chip_id=chip_id)


def refused(_path: str) -> Adapter:
    raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def notes(found: Scan, part: str) -> str:
    """The one note with this part."""
    (note,) = [note for note in found.notes if part in note]
    return note


def test_what_is_there_is_found_with_its_identity() -> None:
    seen = look({"i2c:1": SimulatedI2c([scd30(), bmp280(0x77)])})
    assert [(each.driver, each.bus, each.what, dict(each.options)) for each in seen.found] == [
        ("scd30", "i2c:1", "SCD30, firmware 3.66 at 0x61", {}),
        ("bmp280", "i2c:1", "BMP280, chip id 0x58 at 0x77", {"address": 0x77}),
    ]
    assert "nothing answers at 0x76" in notes(seen, "nothing answers")


def test_nothing_is_configured_by_looking() -> None:
    chip, pressure = scd30(), bmp280()
    settings, running = dict(chip.settings), chip.running
    bus = RecordingI2c(SimulatedI2c([chip, pressure]))
    assert len(look({"i2c:1": bus}).found) == 2
    written = {(step.address, step.data) for step in bus.steps if not hasattr(step, "size") and hasattr(step, "data")}
    assert written == {(0x61, b"\xd1\x00"), (0x76, b"\xd0"), (0x77, b"\xd0")}
    assert {step.data for step in bus.steps if isinstance(step, Write)} == {b"\xd1\x00"}
    assert (chip.settings, chip.running) == (settings, running)


def test_an_empty_bus_proves_nothing() -> None:
    seen = look({"i2c:1": SimulatedI2c([])})
    assert seen.found == ()
    assert notes(seen, "nothing answers") == "i2c:1: nothing answers at 0x61, 0x76, 0x77"
    assert "may still be there" in notes(seen, "stretches the clock")


def test_no_bus_at_all_names_the_way_out() -> None:
    seen = run_virtual(scan(Machine()))
    assert "dtparam=i2c_arm=on" in notes(seen, "no I2C bus")
    assert "modprobe i2c-dev" in notes(seen, "no I2C bus")


def test_a_bme280_is_named_and_not_proposed() -> None:
    seen = look({"i2c:1": SimulatedI2c([bmp280(chip_id=0x60)])})
    assert seen.found == ()
    assert "i2c:1 address 0x76: a BME280 (chip id 0x60)" in notes(seen, "0x76")


@pytest.mark.parametrize("answer", [0xA5, 0x00, 0xFF])
def test_foreign_chips_are_not_taken_for_ours(answer: int) -> None:
    strangers = [Foreign(0x61, answer), Foreign(0x76, answer)]
    seen = look({"i2c:1": SimulatedI2c(strangers)})
    assert seen.found == ()
    assert "something answers, but not as scd30 would" in notes(seen, "0x61")
    assert "something answers, but not as bmp280 would" in notes(seen, "address 0x76")
    assert set(strangers[0].written) == {b"\xd1\x00"}
    assert set(strangers[1].written) == {b"\xd0"}


async def test_a_bus_without_permission_does_not_hide_the_others() -> None:
    buses = {"i2c:0": LinuxI2c(0, opener=refused), "i2c:1": SimulatedI2c([scd30()])}
    seen = await scan(wires(buses))
    assert [each.bus for each in seen.found] == ["i2c:1"]
    assert "usermod -aG i2c $USER" in notes(seen, "/dev/i2c-0: no permission")


def test_a_stretched_clock_is_asked_again() -> None:
    first = FaultyI2c(SimulatedI2c([scd30()]), {0: Fail(NoDevice("stretched"))})
    assert [each.driver for each in look({"i2c:1": first}).found] == ["scd30"]


def test_an_address_that_a_kernel_driver_holds_is_said() -> None:
    held = FaultyI2c(SimulatedI2c([bmp280()]))
    held.gone = BusError("/dev/i2c-1 address 0x76: a kernel driver holds it")
    seen = look({"i2c:1": held})
    assert seen.found == ()
    assert any("a kernel driver holds it" in note for note in seen.notes)


def test_a_bus_that_hangs_is_given_up() -> None:
    class Hung:
        async def write(self, address: int, data: bytes) -> None:
            await asyncio.get_running_loop().create_future()

        read = write_read = write

    seen = look({"i2c:0": Hung(), "i2c:1": SimulatedI2c([scd30()])})  # type: ignore[dict-item]
    assert "the bus hangs" in notes(seen, "i2c:0")
    assert [each.bus for each in seen.found] == ["i2c:1"]


def test_what_is_configured_is_left_alone() -> None:
    settings = Config(
        device=(
            DeviceSettings(
                id="attic",
                sensor=(
                    SensorSettings(driver="scd30", bus="i2c:1"),
                    SensorSettings(driver="bmp280", bus="i2c:3", options={"address": 0x77}),
                    SensorSettings(driver="nobody-has-it", bus="i2c:1"),
                ),
            ),
        )
    )
    known = proposal.known(settings)
    assert known == {("i2c:1", 0x61), ("i2c:3", 0x77)}
    bus = RecordingI2c(SimulatedI2c([scd30(), bmp280()]))
    seen = look({"i2c:1": bus}, known)
    assert [each.driver for each in seen.found] == ["bmp280"]
    assert not [step for step in bus.steps if step.address == 0x61]
    assert "configured already" in notes(seen, "i2c:1 address 0x61")


def test_names_do_not_depend_on_who_else_answers() -> None:
    def names(*found: Found) -> list[str]:
        device = proposal.device(found, "pi")
        assert device is not None
        return [sensor.sensor for sensor in device.sensor]

    low, high = Found("bmp280", "i2c:1", ""), Found("bmp280", "i2c:1", "", {"address": 0x77}, usual=False)
    assert names(low, high) == ["bmp280", "bmp280-77"]
    assert names(high) == ["bmp280-77"]
    assert names(low, Found("bmp280", "i2c:3", "")) == ["bmp280-i2c1", "bmp280-i2c3"]


def test_the_device_is_named_after_the_machine() -> None:
    found = [Found("scd30", "i2c:1", "")]
    for host, taken, expected in (
        ("Air-Box.local", (), "air-box"),
        ("küche", (), "k-che"),
        ("", (), "gateway"),
        ("pi", ("pi", "pi-2"), "pi-3"),
    ):
        device = proposal.device(found, host, taken)
        assert device is not None
        assert device.id == expected


def test_the_proposal_is_what_the_gateway_reads() -> None:
    seen = look({"i2c:1": SimulatedI2c([scd30(), bmp280(0x76), bmp280(0x77)])})
    device = proposal.device(seen.found, "pi")
    assert device is not None
    read = config.parse(tomllib.loads(proposal.toml(device)), "proposal", {})
    assert read.device == (device,)
    assert [(plan.sensor, plan.options.address) for plan in sensors.plan(read)] == [
        ("scd30", 0x61),
        ("bmp280", 0x76),
        ("bmp280-77", 0x77),
    ]


OWN = '# mine\r\n[site]\nname = "Home"   # with a comment\n\n[[device]]\nid = "pi"\n  [[device.sensor]]\n'
OWN += '  driver = "bmp280"\n  bus = "i2c:1"'  # no line end


def offered(*buses: str) -> DeviceSettings:
    device = proposal.device([Found("scd30", bus, "") for bus in buses], "pi", {"pi"})
    assert device is not None
    return device


def test_what_is_in_the_file_stays_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_bytes(OWN.encode())
    proposal.add(path, offered("i2c:1"))
    assert path.read_bytes().startswith(OWN.encode())
    devices = config.load(path, {}).device
    assert [(device.id, [sensor.driver for sensor in device.sensor]) for device in devices] == [
        ("pi", ["bmp280"]),
        ("pi-2", ["scd30"]),
    ]


def test_an_equal_sensor_is_refused_and_nothing_written(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    proposal.add(path, offered("i2c:1"))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"i2c:1 address 0x61 is configured already"):
        proposal.add(path, offered("i2c:1").model_copy(update={"id": "other"}))
    with pytest.raises(ConfigError, match="is there twice"):
        proposal.add(path, offered("i2c:3"))
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["device = [{id = 'a'}]\n", "not toml", "[sitee]\nname = 'a'\n"])
def test_a_file_that_takes_no_addition_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"by hand|unknown key"):
        proposal.add(path, offered("i2c:1"))
    assert path.read_text() == content


def test_what_only_a_person_can_decide_is_in_comments() -> None:
    evil = 'x"\n[http]\nplain = "all"'
    seen = Scan(
        beacons=(Found("bthome", "ble:hci0", f"{evil}, -60 dBm: temperature", {"address": "A4:C1:38:00:00:01"}),),
        ports=(Port("serial:/dev/serial/by-id/usb-FTDI_1", ("scd30_modbus", "serial_node")), Port("serial:/dev/x", ())),
    )
    text = proposal.hints(seen)
    assert all(line.startswith("# ") or not line for line in text.splitlines())
    assert tomllib.loads(text) == {}
    assert "scd30_modbus, serial_node" in text
    assert 'bus = "serial:/dev/serial/by-id/usb-FTDI_1"' in text
    assert 'address = "A4:C1:38:00:00:01"' in text


def test_the_machine_is_read_from_its_device_files(tmp_path: Path) -> None:
    devices, classes = tmp_path / "dev", tmp_path / "class"
    (devices / "serial" / "by-id").mkdir(parents=True)
    for name in ("i2c-11", "i2c-1", "i2c-x", "serial/by-id/usb-FTDI_1"):
        (devices / name).touch()
    for name in ("hci0", "hci0:64"):
        (classes / "bluetooth" / name).mkdir(parents=True)
    found = machine(devices, classes)
    assert (found.i2c, found.ble) == (("i2c:1", "i2c:11"), ("ble:hci0",))
    assert found.ports == (str(devices / "serial/by-id/usb-FTDI_1"),)
    seen = run_virtual(scan(Machine(ports=found.ports)))
    (port,) = seen.ports
    assert port.bus == f"serial:{found.ports[0]}"
    assert "scd30_modbus" in port.might_fit
    assert not any("no serial port" in note for note in seen.notes)


class Air:
    """A Bluetooth adapter that hears two beacons and a telephone."""

    async def start(self, heard: Callable[[Advert], None], *, passive: bool) -> None:
        plain, sealed = bytes.fromhex("4002ca0903bf13"), bytes.fromhex("41a47266c95f730011223378237214")
        heard(Advert("A4:C1:38:00:00:01", 0.0, -60, {BTHOME: plain}, name="attic"))
        heard(Advert("A4:C1:38:00:00:02", 0.0, -80, {BTHOME: sealed}))
        heard(Advert("11:22:33:44:55:66", 0.0, -50, name="telephone"))

    async def stop(self) -> None:
        pass

    async def power_cycle(self) -> None:
        raise AssertionError("a scan switches nothing off")

    def connect(self, address: str) -> AbstractAsyncContextManager[GattLink]:
        raise AssertionError("a scan connects to nobody")


def test_beacons_in_reach_are_offered_not_found() -> None:
    seen = run_virtual(scan(Machine(ble=("ble:hci0",), open=lambda _spec: Bluez(Air()))))
    assert seen.found == ()
    assert {each.options["address"]: each.what for each in seen.beacons} == {
        "A4:C1:38:00:00:01": "attic, -60 dBm: temperature, humidity, rssi",
        "A4:C1:38:00:00:02": "A4:C1:38:00:00:02, -80 dBm: encrypted",
    }
    assert {(each.driver, each.bus) for each in seen.beacons} == {("bthome", "ble:hci0")}
    assert proposal.device(seen.found, "pi") is None
    assert "a beacon in reach: attic" in proposal.hints(seen)


def test_an_adapter_that_cannot_be_used_says_so() -> None:
    class Off(Air):
        async def start(self, heard: Callable[[Advert], None], *, passive: bool) -> None:
            raise BusUnavailable("the adapter is off: `bluetoothctl power on`")

    seen = run_virtual(scan(Machine(ble=("ble:hci0",), open=lambda _spec: Bluez(Off()))))
    assert "bluetoothctl power on" in notes(seen, "ble:hci0")


def arguments(path: Path | None, *, write: bool = False, as_json: bool = False) -> argparse.Namespace:
    return argparse.Namespace(config=path, write=write, json=as_json)


def test_the_command_prints_settings_and_writes_them_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    where = wires({"i2c:1": SimulatedI2c([scd30()])})
    assert cli.report(arguments(None), where) == 0
    out, err = capsys.readouterr()
    assert [s["driver"] for s in tomllib.loads(out)["device"][0]["sensor"]] == ["scd30"]
    assert "found SCD30, firmware 3.66 at 0x61 on i2c:1" in err
    assert not (tmp_path / "gateway.toml").exists()
    assert cli.report(arguments(None, write=True, as_json=True), where) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["found"][0]["driver"], told["written"]) == ("scd30", "gateway.toml")
    written = (tmp_path / "gateway.toml").read_text()
    assert written == told["toml"]
    assert cli.report(arguments(None, write=True), where) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "configured already: left alone" in err
    assert "nothing to add" in err
    assert (tmp_path / "gateway.toml").read_text() == written


def test_nothing_found_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.report(arguments(tmp_path / "new.toml", write=True), Machine()) == 1
    assert not (tmp_path / "new.toml").exists()
    assert "no new sensor found" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read"):
        cli.report(arguments(tmp_path / "absent.toml"), Machine())


def test_a_first_start_uses_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    adopted = cli.adopt(Config(), wires({"i2c:1": SimulatedI2c([scd30(), bmp280()])}))
    (device,) = adopted.device
    assert [sensor.sensor for sensor in device.sensor] == ["scd30", "bmp280"]
    err = capsys.readouterr().err
    assert "for this run only" in err
    assert "gateway scan --write" in err
    assert cli.adopt(Config(), wires({"i2c:1": SimulatedI2c([])})) == Config()
    assert "no gateway.toml, and no sensor is found" in capsys.readouterr().err


async def test_the_packaged_simulation_is_scanned_too() -> None:
    """The replay bus is what a person without hardware may try the scan on."""
    seen = await scan(Machine(i2c=("replay:living-room",), open=open_bus))
    assert [each.driver for each in seen.found] == ["scd30", "bmp280"]
