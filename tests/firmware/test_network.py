"""How a board finds its broker by itself, and speaks to it over TLS: mDNS on a wire of its own, a real mosquitto."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.boards import FIRMWARE, HERE, INTERPRETER, Board
from tests import netns
from tests.brokers import free_port, needs_mosquitto
from tests.discovery.harness import child, script
from tests.firmware.house import HOST, WITHIN_S, powered, settings

FIND = 'import asyncio\nfrom node import mdns\nprint(asyncio.run(mdns.find("Attic")))'
SENSORS = [{"driver": "counting", "interval_s": 2}]


@pytest.mark.system
@pytest.mark.slow
async def test_the_gateway_is_found_by_mdns() -> None:
    """Two gateways announce their brokers; the one whose name begins as asked comes first."""
    assert netns.possible(), "network namespaces need root and iproute2"
    with netns.two_machines() as (here, there):
        async with (
            child(*here.inside, *script("run_announce", "Hall", "gw-hall", "ab" * 32, "1883")) as hall,
            child(*here.inside, *script("run_announce", "Attic", "gw-attic", "cd" * 32, "1884")) as attic,
        ):
            await hall.line("announced as")
            await attic.line("announced as")
            path = ":".join(map(str, (FIRMWARE, HERE / "stubs", ".frozen")))
            process = await asyncio.create_subprocess_exec(
                *there.inside,
                INTERPRETER,
                "-c",
                FIND,
                env={"MICROPYPATH": path, "PATH": os.environ["PATH"]},
                stdout=asyncio.subprocess.PIPE,
            )
            async with asyncio.timeout(WITHIN_S):
                out, _ = await process.communicate()
    assert out.decode().strip() == f"[('{here.address}', 1884), ('{here.address}', 1883)]"


def authority(folder: Path, name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Name]:
    """A CA of its own, its certificate in DER as a board gets it."""
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = signed(key, subject, subject, key, is_ca=True)
    (folder / f"{name}.der").write_bytes(made.public_bytes(serialization.Encoding.DER))
    return key, subject


def signed(
    key: ec.EllipticCurvePrivateKey,
    subject: x509.Name,
    issuer: x509.Name,
    by: ec.EllipticCurvePrivateKey,
    *,
    is_ca: bool = False,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    )
    return builder.sign(by, hashes.SHA256())


@asynccontextmanager
async def broker_with_tls(folder: Path, port: int) -> AsyncIterator[asyncio.Queue[str]]:
    """A mosquitto for one user, with a certificate for localhost; what it logs."""
    ca, issuer = authority(folder, "ca")
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gw")])
    (folder / "gw.pem").write_bytes(signed(key, subject, issuer, ca).public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "gw.key").write_bytes(private)
    (folder / "passwords").write_text("n1:secret\n")
    await (await asyncio.create_subprocess_exec("mosquitto_passwd", "-U", folder / "passwords")).wait()
    (folder / "m.conf").write_text(
        f"listener {port} {HOST}\nuser root\ncertfile {folder}/gw.pem\nkeyfile {folder}/gw.key\n"
        f"password_file {folder}/passwords\nallow_anonymous false\nlog_type all\n"
    )
    process = await asyncio.create_subprocess_exec(
        "mosquitto", "-c", folder / "m.conf", stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    lines: asyncio.Queue[str] = asyncio.Queue()

    async def read() -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            lines.put_nowait(line.decode())

    task = asyncio.create_task(read())
    try:
        yield lines
    finally:
        process.kill()
        await process.wait()
        await task


async def line_with(lines: asyncio.Queue[str], *words: str) -> str:
    async with asyncio.timeout(WITHIN_S):
        while True:
            line = await lines.get()
            if all(word in line for word in words):
                return line


@needs_mosquitto
@pytest.mark.slow
@pytest.mark.parametrize("trusted", [True, False])
async def test_tls_with_the_gateways_own_authority(tmp_path: Path, trusted: bool) -> None:
    port = free_port()
    authority(tmp_path, "another")
    async with broker_with_tls(tmp_path, port) as lines:
        await line_with(lines, "running")
        told = settings("n1", port, SENSORS)
        told["broker"] = {"host": "localhost", "port": port, "user": "n1", "password": "secret", "ca": "ca.der"}
        board = Board(tmp_path / "board", told, speed=5)
        (board.folder / "ca.der").write_bytes((tmp_path / f"{'ca' if trusted else 'another'}.der").read_bytes())
        async with powered(board):
            if trusted:
                await line_with(lines, "Received PUBLISH from n1", "sensors/counting/data")
            else:
                assert "CONNECT" not in await line_with(lines, "error", "n")


@needs_mosquitto
@pytest.mark.slow
async def test_a_wrong_password_is_refused(tmp_path: Path) -> None:
    port = free_port()
    async with broker_with_tls(tmp_path, port) as lines:
        await line_with(lines, "running")
        told = settings("n1", port, SENSORS)
        told["broker"] = {"host": "localhost", "port": port, "user": "n1", "password": "wrong", "ca": "ca.der"}
        board = Board(tmp_path / "board", told, speed=5)
        (board.folder / "ca.der").write_bytes((tmp_path / "ca.der").read_bytes())
        async with powered(board):
            assert "(0, 5)" in await line_with(lines, "Sending CONNACK")
