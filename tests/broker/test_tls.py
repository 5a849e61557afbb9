"""MQTT over TLS with the gateway's own authority: the firmware's own client, under the real MicroPython."""

import asyncio
import os
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from aiomqtt import Client

from bench.boards import FIRMWARE, HERE, INTERPRETER, Board
from gateway.access import authority
from gateway.access.identity import IdentityError
from tests.broker.guarded import Guarded, guarded
from tests.brokers import WITHIN_S, FixedClock, needs_mosquitto
from tests.firmware.house import HOST, powered, settings

TRY = """
import asyncio, sys
from node.link import Link
from node.mqtt import Client
host, port, user, password = sys.argv[1:]
class Trial(Link):
    def __init__(self):
        self._broker = {"ca": "ca.der"}
async def trial():
    client = Client(user, user, password)
    await client.connect(host, int(port), ("devices/%s/status" % user, "{}"), Trial()._tls())
    print("connected")
try:
    asyncio.run(trial())
except Exception as error:
    print(type(error).__name__, error)
"""
"""How the firmware connects, once, to one address."""


async def tried(folder: Path, home: Guarded, ca: bytes, host: str, login: tuple[str, str]) -> str:
    (folder / "ca.der").write_bytes(ca)
    path = ":".join(map(str, (FIRMWARE, HERE / "stubs", ".frozen")))
    process = await asyncio.create_subprocess_exec(
        INTERPRETER,
        "-c",
        TRY,
        *(host, str(home.tls_port), *login),
        cwd=folder,
        env={"MICROPYPATH": path, "PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        out, _ = await process.communicate()
    return out.decode().strip()


@needs_mosquitto
@pytest.mark.slow
async def test_the_firmware_trusts_this_gateway_and_no_other(tmp_path: Path) -> None:
    hosts = ["localhost", "127.0.0.1"]
    async with guarded(tmp_path, tls=True, hosts=hosts) as home:
        issued = await home.add("n1")
        assert issued.password is not None
        login, ca = ("n1", issued.password), authority_of(tmp_path).der
        for host in hosts:
            assert await tried(tmp_path, home, ca, host, login) == "connected"
        assert "not correctly signed" in await tried(tmp_path, home, another(tmp_path), "127.0.0.1", login)
        assert "code 5" in await tried(tmp_path, home, ca, "127.0.0.1", ("n1", "wrong"))
        assert "does not match" in await tried(tmp_path, home, ca, "127.0.0.2", login)
        before = home.reloads
        hosts.append("127.0.0.2")  # the machine got another address
        home.broker.look()
        await home.until(lambda: home.reloads > before)
        assert await tried(tmp_path, home, ca, "127.0.0.2", login) == "connected"


@needs_mosquitto
@pytest.mark.slow
async def test_a_board_at_work_over_tls(tmp_path: Path) -> None:
    async with guarded(tmp_path, tls=True) as home:
        issued = await home.add("n1")
        told = settings("n1", home.tls_port, [{"driver": "counting", "interval_s": 2}])
        told["broker"] |= {"user": "n1", "password": issued.password, "ca": "ca.der"}
        board = Board(tmp_path / "board", told, speed=5)
        (board.folder / "ca.der").write_bytes(authority_of(tmp_path).der)
        async with home.ours() as gateway:
            await gateway.client.subscribe("devices/#", qos=1)
            async with powered(board):
                await gateway.hears("devices/n1/sensors/counting/data")


async def test_other_clients_verify_it_too(tmp_path: Path) -> None:
    async with guarded(tmp_path, tls=True) as home:
        issued = await home.add("plug", write=("tele/plug/#",))
        context = ssl.create_default_context(cadata=authority_of(tmp_path).pem)
        async with Client(
            HOST, home.tls_port, identifier="plug", username="plug", password=issued.password, tls_context=context
        ) as client:
            await client.publish("tele/plug/SENSOR", b"x", qos=1)
            await home.add("another")
            await client.publish("tele/plug/SENSOR", b"y", qos=1)
        stranger = ssl.create_default_context(cadata=another(tmp_path))
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(HOST, home.tls_port, ssl=stranger)


def test_a_certificate_is_kept_as_long_as_it_says_the_truth(tmp_path: Path) -> None:
    ours, now = authority.load_or_create(tmp_path, "agw-1"), FixedClock().now()
    certificate, _ = ours.server(["a.local", "192.168.1.4"], now)
    assert ours.serves(certificate, ["192.168.1.4", "a.local"], now)
    assert not ours.serves(certificate, ["192.168.1.5", "a.local"], now)
    assert not ours.serves(certificate, ["192.168.1.4", "a.local"], now + authority.SERVER_VALID - timedelta(days=30))
    assert not ours.serves(b"damaged", ["a.local"], now)
    (tmp_path / "other").mkdir()
    other = authority.load_or_create(tmp_path / "other", "agw-1")
    assert not other.serves(certificate, ["192.168.1.4", "a.local"], now)


def test_an_authority_is_made_once_and_never_replaced(tmp_path: Path) -> None:
    first = authority.load_or_create(tmp_path, "agw-1")
    assert authority.load_or_create(tmp_path, "agw-1").der == first.der
    (tmp_path / authority.FILE).write_text("damaged")
    with pytest.raises(IdentityError, match="restore it from a backup"):
        authority.load_or_create(tmp_path, "agw-1")


def authority_of(folder: Path) -> authority.Authority:
    return authority.load_or_create(folder / "identity", "agw-test")


def another(folder: Path) -> bytes:
    (folder / "another").mkdir(exist_ok=True)
    return authority.load_or_create(folder / "another", "agw-test").der
