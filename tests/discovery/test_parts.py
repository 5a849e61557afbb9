"""The bridge's parts: headers as the SDK checks them, pins, pinned TLS, the kernel's words about addresses."""

import asyncio
import json
import ssl
import stat
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import InboundModernRoute, classify_inbound_request, decode_header_value, encode_header_value

from gateway.discovery import rpc
from gateway.discovery.addresses import Address, _kinds, addresses, multicast_interfaces, reachable
from gateway.discovery.pins import Pin, PinError, Pins
from gateway.discovery.tls import fetch_certificate, fingerprint_of, pinned
from gateway.hosts import is_loopback
from tests.certificates import Certificate, make_certificate


@given(st.text())
def test_header_values_as_the_sdk_writes_them(value: str) -> None:
    assert rpc.header_value(value) == encode_header_value(value)
    assert decode_header_value(rpc.header_value(value)) == value


@given(st.sampled_from(["tools/call", "prompts/get", "resources/read", "tools/list"]), st.text(max_size=20))
def test_modern_headers_pass_the_server_s_checks(method: str, name: str) -> None:
    meta = {rpc.VERSION_KEY: "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": meta, "name": name, "uri": name}}
    message = rpc.parse(json.dumps(body).encode())
    assert message.version == "2026-07-28"
    headers = rpc.modern_headers(message, message.version)
    assert isinstance(classify_inbound_request(body, headers=headers), InboundModernRoute)


@pytest.mark.parametrize(
    "line", [b"[]", b"1", b"{}", b"{", b'{"id":true,"method":"x"}', b'{"id":[1],"method":"x"}', b"[" * 100_000, b"\xff"]
)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        rpc.parse(line)


def test_a_tool_call_is_never_sent_twice() -> None:
    assert rpc.parse(b'{"id":1,"method":"tools/list"}').repeatable
    assert not rpc.parse(b'{"id":1,"method":"tools/call"}').repeatable


@given(st.dictionaries(st.text(), st.text() | st.floats(allow_nan=False)), st.sampled_from([None, 2]))
def test_any_json_becomes_one_line_of_the_same(value: dict[str, object], indent: int | None) -> None:
    line = rpc.one_line(json.dumps(value, indent=indent))
    assert b"\n" not in line
    assert json.loads(line) == value


def test_pins_are_private_and_replaced(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "below" / "gateways.json")
    assert pins.all() == []
    attic, cellar = Pin("gw1", "Attic", "ab" * 32, "one"), Pin("gw2", "Cellar", "cd" * 32, "two")
    pins.save(attic)
    pins.save(cellar)
    pins.moved(attic.fingerprint, "192.0.2.7:8443")
    pins.moved("ef" * 32, "192.0.2.8:8443")
    found = {pin.gateway_id: pin for pin in pins.all()}
    assert found["gw1"].address == "192.0.2.7:8443"
    assert found["gw2"] == cellar
    assert stat.S_IMODE(pins.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(pins.file.parent.stat().st_mode) == 0o700
    assert [path.name for path in pins.file.parent.iterdir()] == ["gateways.json"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"gateways":[{"fingerprint":"x"}]}', '{"gateways":[1]}'])
def test_a_damaged_pin_file_is_said(text: str, tmp_path: Path) -> None:
    (tmp_path / "pins").write_text(text)
    with pytest.raises(PinError, match="is damaged"):
        Pins(tmp_path / "pins").all()


@asynccontextmanager
async def tls_server(certificate: Certificate, heard: list[bytes]) -> AsyncIterator[int]:
    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heard.append(await reader.read())
        except OSError:
            heard.append(b"")
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.certificate, certificate.key)
    async with await asyncio.start_server(meet, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


async def test_a_pin_admits_one_key_alone(tmp_path: Path) -> None:
    """Also where the peer is exchanged between the first look and the connection."""
    genuine, other = make_certificate(tmp_path, "genuine"), make_certificate(tmp_path, "other")
    heard: list[bytes] = []
    async with tls_server(genuine, heard) as right, tls_server(other, heard) as wrong:
        certificate = await fetch_certificate("127.0.0.1", right, 5.0)
        assert fingerprint_of(certificate) == genuine.fingerprint
        context = pinned(certificate)
        _, writer = await asyncio.open_connection("127.0.0.1", right, ssl=context)
        writer.close()
        await writer.wait_closed()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", wrong, ssl=context)
    assert not any(heard)


def test_what_is_loopback() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("10.0.0.1", "localhost.example", "fe80::1%lo", "0.0.0.0"))


def test_addresses_to_announce() -> None:
    loopback = (Address("127.0.0.1", "lo", 1), Address("::1", "lo", 1))
    outside = (Address("192.0.2.1", "eth0", 2), Address("fe80::1", "eth0", 2), Address("2001:db8::1", "eth0", 2))
    assert reachable(loopback) == ("127.0.0.1", "::1")
    assert reachable(loopback + outside) == ("192.0.2.1", "2001:db8::1", "fe80::1")
    assert multicast_interfaces(loopback) == ["127.0.0.1"]
    assert multicast_interfaces(loopback + outside) == ["192.0.2.1", 2]
    assert outside[1].scoped == "fe80::1%eth0"
    assert "127.0.0.1" in {address.ip for address in addresses()}


@given(st.binary(max_size=200))
def test_netlink_datagrams_are_read_to_their_end(data: bytes) -> None:
    message = struct.pack("=IHHII", 17, 20, 0, 0, 0) + b"\0\0\0\0"
    assert _kinds(message + message) == [20, 20]
    assert len(_kinds(data)) <= len(data) // 16


def test_the_bridge_starts_light() -> None:
    """A desktop app waits for it: nothing of the server, and multicast only when it is needed."""
    program = (
        "import sys, gateway.discovery.connect;"
        "heavy = {'mcp', 'mcp_types', 'duckdb', 'pydantic', 'starlette', 'uvicorn', 'zeroconf', 'cryptography'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
