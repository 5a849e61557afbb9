"""Listening and stopping: ports that are taken, streams that never end, clients that never speak."""

import asyncio
import signal
import socket
import ssl
import time
from pathlib import Path

import httpx2
import pytest

from gateway.access.identity import load_or_create
from gateway.web import serve
from gateway.web.serve import PortTaken, Serving, listen
from tests.web.house import ERAS, House, house

DEADLINE_S = 10.0


@pytest.mark.parametrize(("scheme", "setting"), [("http", "port in [http]"), ("https", "https_port in [http]")])
def test_a_taken_port_names_itself_and_the_way_out(scheme: str, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTaken) as caught:
            listen(scheme, "127.0.0.1", port)
    assert f"{scheme} port {port} on 127.0.0.1 is taken" in str(caught.value)
    assert f"--{scheme} HOST:PORT or {setting}" in str(caught.value)


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(PortTaken, match="cannot listen on http 192"):
        listen("http", "192.0.2.1", 0)


async def test_both_ports_or_none(tmp_path: Path) -> None:
    """Where the second port is taken, the first is let go of again."""
    identity = load_or_create(tmp_path)
    free = listen("http", "127.0.0.1", 0)
    port = free.getsockname()[1]
    free.close()
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(PortTaken, match="https"):
            async with Serving(_never, identity=identity, http=("127.0.0.1", port), https=("127.0.0.1", taken)):
                pass
    listen("http", "127.0.0.1", port).close()


async def test_only_https_where_plain_is_not_wanted(tmp_path: Path) -> None:
    identity = load_or_create(tmp_path)
    async with Serving(_never, identity=identity, http=None, https=("127.0.0.1", 0)) as web:
        assert set(web.ports) == {"https"}


async def test_signals_are_left_to_whoever_runs_us(tmp_path: Path) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    async with house(tmp_path):
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


async def test_tls_shows_the_pinned_certificate_and_no_old_protocol(home: House) -> None:
    context = ssl.create_default_context(cafile=str(home.identity.certificate))
    _, writer = await asyncio.open_connection("localhost", home.ports["https"], ssl=context)
    channel = writer.get_extra_info("ssl_object")
    assert channel.version() == "TLSv1.3"
    writer.close()
    with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        async with httpx2.AsyncClient() as stranger:
            await stranger.get(f"{home.https}/healthz")


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
@pytest.mark.parametrize("era", ERAS)
async def test_it_stops_within_two_seconds_with_open_streams(tmp_path: Path, era: str) -> None:
    ended = asyncio.Event()

    async def stay(home: House, ready: asyncio.Event) -> None:
        async with home.client(era) as client:
            if era == "legacy":
                while not home.endpoint.streams:
                    await client.send_ping()
                ready.set()
                await ended.wait()
            else:
                async with client.listen(resource_subscriptions=["devices://"]) as events:
                    ready.set()
                    async for _ in events:
                        pass

    async with house(tmp_path) as home:
        ready = asyncio.Event()
        task = asyncio.create_task(stay(home, ready))
        async with asyncio.timeout(DEADLINE_S):
            await ready.wait()
        assert home.guard.streams >= 1
        started = time.monotonic()
    assert time.monotonic() - started < 2
    ended.set()
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(task, return_exceptions=True)


async def test_it_stops_with_connections_that_never_spoke_or_never_read(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        silent = await asyncio.open_connection("127.0.0.1", home.ports["http"])
        half = await asyncio.open_connection("127.0.0.1", home.ports["http"])
        half[1].write(b"POST /mcp HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer " + home.token.encode())
        async with home.browser() as http:
            assert (await http.get("/healthz")).status_code == 200
        started = time.monotonic()
    assert time.monotonic() - started < 2
    for _, writer in (silent, half):
        writer.close()


async def test_a_head_that_never_ends_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "HEAD_S", 0.05)
    async with house(tmp_path) as home:
        for said in (b"", b"GET /healthz HTTP/1.1\r\nx: "):
            reader, writer = await asyncio.open_connection("127.0.0.1", home.ports["http"])
            writer.write(said)
            async with asyncio.timeout(DEADLINE_S):
                assert await reader.read() == b""
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", home.ports["http"])
        async with asyncio.timeout(DEADLINE_S):
            writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert b"200 OK" in await reader.readuntil(b"}")
            writer.write(b"GET /")
            assert await reader.read() == b""
        writer.close()


async def test_a_slow_answer_is_not_a_slow_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "HEAD_S", 0.01)
    async with house(tmp_path) as home, home.client("2026-07-28") as client:
        for _ in range(20):
            assert not (await client.call_tool("list_devices", {})).is_error


async def test_a_head_that_is_too_long_is_refused(home: House) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", home.ports["http"])
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * (serve.MAX_HEAD + 1))
    async with asyncio.timeout(DEADLINE_S):
        assert b" 400 " in await reader.readline()
    writer.close()


async def _never(scope: object, receive: object, send: object) -> None:
    raise AssertionError("nobody asks")
