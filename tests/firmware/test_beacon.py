"""A node on a battery, from its chip to what the gateway's driver makes of its advertisements."""

import asyncio
import json
from pathlib import Path

import pytest

from bench.boards import HERE, INTERPRETER, flash
from drivers.sensors import _bthome
from drivers.testing.bmp280_chip import Bmp280Chip
from drivers.testing.recording import Wave
from tests.firmware.house import WITHIN_S, chips

ADDRESS, KEY = "54:48:E6:8F:80:A5", bytes(range(16))
ASLEEP = 43
STEP = 1000
"""Counters are reserved so many at a time."""


async def awake(folder: Path, port: int) -> _bthome.Frame:
    """One round of its life, and what it advertised."""
    path = ":".join(map(str, (HERE / "virtual", HERE / "stubs", ".frozen")))
    process = await asyncio.create_subprocess_exec(
        INTERPRETER,
        "main.py",
        cwd=folder,
        env={"MICROPYPATH": path, "I2C_PORT": str(port)},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        out, _ = await process.communicate()
    assert process.returncode == ASLEEP, out.decode()
    (payload,) = [line.split()[1] for line in out.decode().splitlines() if line.startswith("advertises")]
    assert "deepsleep 300000" in out.decode()
    raw = bytes.fromhex(payload)
    assert raw[:3] == b"\x02\x01\x06"
    assert raw[3:7] == bytes((len(raw) - 4, 0x16, 0xD2, 0xFC))
    return _bthome.decode(raw[7:], ADDRESS, KEY)


async def test_a_battery_node_is_heard_and_never_repeats_a_counter(tmp_path: Path) -> None:
    flash(tmp_path)
    settings = {"device": "shed", "mode": "bthome", "bthome": {"key": KEY.hex()}}
    settings |= {"sensors": [{"driver": "bmp280", "interval_s": 300}, {"driver": "scd30"}]}
    (tmp_path / "node.json").write_text(json.dumps(settings))
    async with chips([Bmp280Chip(Wave(temperature=-4.5, pressure=987.6, swing=0))], 50) as wires:
        frames = [await awake(tmp_path, wires.port) for _ in range(3)]
        (tmp_path / "rtc.bin").unlink()  # the battery is changed
        frames += [await awake(tmp_path, wires.port) for _ in range(2)]
    for frame in frames:
        heard = {entry.quantity.value: value for entry, value in frame.objects if entry.quantity is not None}
        assert heard == {"temperature": pytest.approx(-4.5, abs=0.02), "pressure": pytest.approx(987.6, abs=0.05)}
    assert [frame.counter for frame in frames] == [0, 1, 2, STEP, STEP + 1]
    assert [frame.packet_id for frame in frames] == [0, 1, 2, 0, 1]
