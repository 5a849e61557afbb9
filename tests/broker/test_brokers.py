"""Brokers as children: up when they answer, restarted when they die, gone with their parent."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from aiomqtt import Client

from gateway.broker.config import DATABASE
from gateway.broker.embedded import embedded
from gateway.broker.errors import BrokerError
from gateway.broker.supervise import ChildBroker
from tests.brokers import WITHIN_S, a_mosquitto, free_port, kill_and_wait, needs_mosquitto

Make = Callable[[Path, int], ChildBroker]

MOSQUITTO = pytest.param(a_mosquitto, id="mosquitto", marks=needs_mosquitto)
EMBEDDED = pytest.param(lambda _folder, port: embedded("127.0.0.1", port), id="embedded")
both = pytest.mark.parametrize("make", [MOSQUITTO, EMBEDDED])


async def says(port: int, text: str) -> str:
    """Publish and hear it again: the broker works."""
    async with asyncio.timeout(WITHIN_S), Client("127.0.0.1", port) as client:
        await client.subscribe("test/words", qos=1)
        await client.publish("test/words", text, qos=1)
        async for message in client.messages:
            assert isinstance(message.payload, bytes | bytearray)
            return message.payload.decode()
    raise AssertionError("unreachable")


@both
async def test_it_works_as_soon_as_it_is_entered_and_is_gone_afterwards(make: Make, tmp_path: Path) -> None:
    port = free_port()
    async with make(tmp_path, port) as broker:
        assert await says(port, "hello") == "hello"
        pid = broker.pid
        assert pid is not None
        addresses = {c.laddr.ip for c in psutil.Process(pid).net_connections() if c.status == psutil.CONN_LISTEN}
        assert addresses == {"127.0.0.1"}
    assert not psutil.pid_exists(pid)
    assert broker.pid is None


@both
async def test_a_broker_that_dies_is_started_again(make: Make, tmp_path: Path) -> None:
    port = free_port()
    async with make(tmp_path, port) as broker:
        pid = broker.pid
        await kill_and_wait(broker)
        assert broker.pid not in {pid, None}
        assert await says(port, "again") == "again"


@both
async def test_a_taken_port_is_one_clear_error(make: Make, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=rf"port {port} on 127\.0\.0\.1 is taken.*--mqtt"):
            await make(tmp_path, port).__aenter__()


@both
@pytest.mark.slow
async def test_it_dies_with_a_parent_that_was_killed(make: Make, tmp_path: Path) -> None:
    port = free_port()
    maker = (
        "a_mosquitto(Path(sys.argv[1]), port)"
        if "mosquitto" in repr(make(tmp_path, port).name)
        else "embedded('127.0.0.1', port)"
    )
    program = f"""
import asyncio, sys
from pathlib import Path
from gateway.broker.embedded import embedded
from tests.brokers import a_mosquitto
port = {port}
async def main():
    async with {maker} as broker:
        print(broker.pid, flush=True)
        await asyncio.get_running_loop().create_future()
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert parent.stdout is not None
        line = await parent.stdout.readline()
        child = psutil.Process(int(line))
        assert await says(port, "hello") == "hello"
    finally:
        parent.kill()
        await parent.wait()
    await asyncio.to_thread(psutil.wait_procs, [child], WITHIN_S)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@needs_mosquitto
async def test_a_damaged_database_is_kept_aside_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "broker"
    folder.mkdir()
    (folder / DATABASE).write_bytes(b"no database at all" * 20)
    async with a_mosquitto(tmp_path, on_problem=said.append) as broker:
        assert await says(broker.port, "hello") == "hello"
    (kept,) = folder.glob(f"{DATABASE}.damaged-*")
    assert kept.read_bytes() == b"no database at all" * 20
    assert len(said) == 1
    assert str(kept) in said[0]


@needs_mosquitto
async def test_what_it_keeps_survives_an_orderly_restart(tmp_path: Path) -> None:
    port = free_port()
    async with a_mosquitto(tmp_path, port), Client("127.0.0.1", port) as client:
        await client.publish("devices/n1/capabilities", b"{}", qos=1, retain=True)
    async with a_mosquitto(tmp_path, port), Client("127.0.0.1", port) as client:
        await client.subscribe("devices/+/capabilities", qos=1)
        async with asyncio.timeout(WITHIN_S):
            message = await anext(aiter(client.messages))
    assert message.retain
    assert message.topic.value == "devices/n1/capabilities"


@needs_mosquitto
async def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    broker = a_mosquitto(tmp_path)
    original = broker._prepare

    def spoil() -> None:
        original()
        (tmp_path / "broker" / "mosquitto.conf").write_text("nonsense 1\n")

    broker._prepare = spoil
    with pytest.raises(BrokerError, match=r"mosquitto does not start on .*nonsense"):
        await broker.__aenter__()
    assert broker.pid is None


async def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "broker").write_text("a file")
    broker = a_mosquitto(tmp_path)
    with pytest.raises(BrokerError, match="--data"):
        await broker.__aenter__()


@needs_mosquitto
async def test_ctrl_c_in_a_terminal_does_not_reach_it(tmp_path: Path) -> None:
    async with a_mosquitto(tmp_path) as broker:
        assert broker.pid is not None
        assert os.getpgid(broker.pid) != os.getpgid(0)


def test_a_child_whose_parent_is_gone_does_not_begin(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    program = [sys.executable, "-m", "gateway.child", "1", "/bin/touch", str(touched)]
    if os.getppid() == 0:
        pytest.skip("this test's parent is process 1")
    done = subprocess.run(program, check=False, timeout=WITHIN_S)
    assert (done.returncode, touched.exists()) == (0, False)


def test_the_embedded_broker_is_for_loopback_only() -> None:
    with pytest.raises(BrokerError, match="loopback"):
        embedded("0.0.0.0", 1883)
    program = [sys.executable, "-m", "gateway.broker.embedded", "--host", "0.0.0.0", "--port", "1"]
    done = subprocess.run(program, check=False, capture_output=True, timeout=WITHIN_S)
    assert done.returncode == 1
    assert b"loopback only" in done.stderr


def test_sigterm_is_the_signal_that_the_kernel_sends() -> None:
    program = (
        "import ctypes, os; from gateway.child import die_with_parent; die_with_parent(os.getppid());"
        "n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=WITHIN_S)
    assert int(done.stdout) == signal.SIGTERM
