"""An hour of a board's life: what its program takes of the heap, beside what the interpreter itself takes."""

import asyncio
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiomqtt import Client

from bench.boards import FIRMWARE, HERE, INTERPRETER, Board
from drivers.testing.bmp280_chip import Bmp280Chip
from drivers.testing.recording import Wave
from drivers.testing.scd30_chip import Scd30Chip
from gateway.ingest import command_wire, wire
from gateway.nodes.provision import program
from tests.brokers import a_mosquitto, ended, needs_mosquitto
from tests.firmware.house import HOST, chips, powered, settings

pytestmark = [pytest.mark.slow, needs_mosquitto]
NARROW = INTERPRETER.with_name("micropython32")
HOUR_S = 3600
KEY = bytes(range(32))
COMMANDS: dict[int, tuple[str, dict[str, Any]]] = {
    50: ("get_diagnostics", {}),
    150: ("show_calibration", {"sensor": "scd30"}),
    200: ("identify", {}),
    450: ("set_interval", {"interval_s": 9}),
    500: ("get_diagnostics", {}),
    550: ("set_altitude", {"sensor": "scd30", "altitude_m": 30}),
}
"""After which reading which command is given: each is a module more for a moment."""
MODULES = (
    "asyncio, asyncio.core, binascii, errno, esp32, hashlib, json, machine, network, os, random, select, "
    "socket, struct, sys, time, tls"
)
"""What an ESP32 has in its flash, or what stands for it here: it costs no heap there, or costs it without us too."""


def bare(interpreter: Path) -> int:
    """Bytes of the heap that interpreter and stand-ins take before our first line."""
    program = f"import gc, {MODULES}\n"
    program += "asyncio.Lock, asyncio.Event, asyncio.open_connection\n"
    program += "gc.collect()\nprint(gc.mem_alloc())"
    path = ":".join(map(str, (HERE / "virtual", HERE / "stubs", ".frozen")))
    done = subprocess.run(
        [interpreter, "-c", program], env={"MICROPYPATH": path}, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


async def serve(port: int, commands: Mapping[int, tuple[str, dict[str, Any]]], answers: dict[str, Any]) -> None:
    """What a gateway says to each reading, and now and then a command, whose result goes into `answers`."""
    waiting = dict(commands)
    async with Client(HOST, port) as client:
        await client.subscribe("devices/n1/#")
        async for message in client.messages:
            topic, payload = str(message.topic), message.payload
            assert isinstance(payload, bytes)
            if topic.endswith("/result"):
                assert command_wire.is_signed(topic, payload, KEY)
                answers[topic.split("/")[3]] = command_wire.decode_result(topic, payload)
            if not topic.endswith("/data"):
                continue
            body = json.loads(payload)
            await client.publish("devices/n1/ack", wire.encode_ack("n1", body["boot"], body["seq"], KEY))
            if body["seq"] in waiting:
                name, args = waiting.pop(body["seq"])
                topic, seal = f"devices/n1/commands/c{body['seq']}", (KEY, body["boot"], body["seq"])
                await client.publish(topic, command_wire.encode_command(topic, name, args, seal))


def heaps(board: Board) -> list[tuple[int, int]]:
    """(second of its life, bytes that live) of each minute."""
    return [(int(line.split()[1]), int(line.split()[2])) for line in board.output if line.startswith("heap ")]


@pytest.mark.parametrize(("most_kb", "commands"), [(60, {}), (64, COMMANDS)], ids=["60 KB", "64 KB with commands"])
async def test_an_hour(tmp_path: Path, most_kb: int, commands: Mapping[int, tuple[str, dict[str, Any]]]) -> None:
    """SCD30 and BMP280 every 10 s, ten minutes of it without Wi-Fi; compiled files, as a board should be given.

    The heap is limited to what is allowed: who needs more for a moment ends with a MemoryError.
    """
    assert NARROW.exists(), "a 32-bit MicroPython is not there: scripts/micropython fetches it"
    base = bare(NARROW)
    air = Wave(swing=0)
    sensors = [{"driver": "scd30", "interval_s": 10}, {"driver": "bmp280", "interval_s": 10}]
    async with a_mosquitto(tmp_path) as broker, chips([Scd30Chip(air), Bmp280Chip(air)], 400) as wires:
        board = Board(
            tmp_path / "board",
            settings("n1", broker.port, sensors, key=KEY.hex(), ring_kb=64),
            interpreter=NARROW,
            options=("-X", f"heapsize={base + most_kb * 1024}"),
            environment={"HEAP": "1", "I2C_PORT": str(wires.port), "PEERS": f"{broker.pid},{os.getpid()}"},
            path=[HERE / "virtual"],
        )
        tool, sources = program.compiler(), sorted((FIRMWARE / "node").rglob("*.py"))
        assert tool is not None
        for name, content in program.compiled(tool, FIRMWARE, sources).items():
            (board.folder / "a" / name).write_bytes(content)
            (board.folder / "a" / name).with_suffix(".py").unlink()
        answers: dict[str, Any] = {}
        gateway = asyncio.create_task(serve(broker.port, commands, answers))
        async with powered(board), asyncio.timeout(60):

            def lived(seconds: int) -> bool:
                return bool(board.resets) or any(second >= seconds for second, _ in heaps(board))

            await board.until(lambda: lived(HOUR_S // 3))
            (board.folder / "wifi-is-down").touch()
            await board.until(lambda: lived(HOUR_S // 2))
            (board.folder / "wifi-is-down").unlink()
            flashed = len(board.held())
            await board.until(lambda: lived(HOUR_S))
        await ended(gateway)
    found = heaps(board)
    assert board.resets == 0, "\n".join(board.output)
    assert flashed > 50
    assert {name: ok for name, (ok, _) in answers.items()} == {f"c{seq}": True for seq in commands}, answers
    before, after = ([live for second, live in found if low < second <= low + 900] for low in (300, HOUR_S - 900))
    assert min(after) - min(before) < 512, f"grew: {found}"  # a message under way takes 2 KB for a moment
