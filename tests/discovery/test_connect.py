"""The bridge: a real client over real standard streams, a real server over TLS, both eras of the protocol."""

import asyncio
import json
import os
import stat
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from mcp import Client
from mcp.client.subscriptions import SubscriptionLost
from mcp.shared.exceptions import MCPError

from gateway.discovery.connect import ConnectOptions, bridge, check
from tests.certificates import Certificate, make_certificate
from tests.discovery.harness import (
    DEADLINE_S,
    ROOT,
    TOKEN,
    Child,
    child,
    connect_command,
    free_port,
    mcp_server,
    script,
)

pytestmark = pytest.mark.slow
ERAS = ["legacy", "2026-07-28"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "gateway")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def standing(certificate: Certificate) -> Iterator[int]:
    """The port of a server that all may use that only ask."""
    files = str(certificate.certificate), str(certificate.key)
    command = script("mcp_server", "127.0.0.1", "0", *files, TOKEN)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            yield int(server.stdout.readline().removeprefix("ready"))
        finally:
            server.kill()


@pytest.fixture
async def server(certificate: Certificate, port: int) -> AsyncIterator[Child]:
    async with mcp_server(certificate, port) as started:
        yield started


def options(certificate: Certificate, port: int, **more: Any) -> dict[str, Any]:
    url = f"https://127.0.0.1:{port}/mcp"
    return {"url": url, "token": TOKEN, "fingerprint": certificate.fingerprint, "retry_s": 10.0} | more


def text_of(result: types.CallToolResult) -> str:
    block = result.content[0]
    assert isinstance(block, types.TextContent)
    return block.text


@pytest.mark.parametrize("mode", ERAS)
async def test_everything_a_client_does(mode: str, certificate: Certificate, standing: int, tmp_path: Path) -> None:
    steps: list[float] = []
    words = asyncio.Event()

    async def step(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async def answer(context: Any, params: Any) -> types.ElicitResult:
        words.set()
        return types.ElicitResult(action="accept", content={"word": "oxygen"})

    async with Client(
        connect_command(tmp_path, **options(certificate, standing)), mode=mode, elicitation_callback=answer
    ) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} >= {"count", "echo", "steps"}
        large = "äöü" * 200_000
        assert text_of(await client.call_tool("echo", {"text": large})) == large
        results = await asyncio.gather(*[client.call_tool("echo", {"text": str(n)}) for n in range(20)])
        assert [text_of(result) for result in results] == [str(n) for n in range(20)]
        assert text_of(await client.call_tool("in_room", {"room": "Küche"})) == "Küche"
        assert text_of(await client.call_tool("steps", progress_callback=step)) == "done"
        assert steps == [1, 2]
        read = (await client.read_resource("test://value")).contents[0]
        assert isinstance(read, types.TextResourceContents)
        assert read.text == "42"
        if mode == "legacy":  # since 2026-07-28 a tool declares its questions instead
            assert text_of(await client.call_tool("ask")) == "oxygen"
            assert words.is_set()


@pytest.mark.parametrize("mode", ERAS)
async def test_a_cancelled_request_ends_at_the_gateway(
    mode: str, server: Child, certificate: Certificate, port: int, tmp_path: Path
) -> None:
    async with Client(connect_command(tmp_path, **options(certificate, port)), mode=mode) as client:
        call = asyncio.create_task(client.call_tool("forever"))
        await server.line("forever started")
        call.cancel()
        await server.line("forever ended")
        assert text_of(await client.call_tool("count", {"name": "after"})) == "1"


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")  # the first era's methods
async def test_a_session_survives_a_restart(certificate: Certificate, port: int, tmp_path: Path) -> None:
    """The client notices nothing: subscription and level are asked for again, the call is made once."""
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            heard.put_nowait(str(message.params.uri))

    command = connect_command(tmp_path, **options(certificate, port))
    async with mcp_server(certificate, port) as first:
        client = Client(command, mode="legacy", message_handler=hear)
        await client.__aenter__()
        try:
            await client.subscribe_resource("test://value")
            await client.set_logging_level("warning")
            await client.call_tool("changed")
            assert await asyncio.wait_for(heard.get(), DEADLINE_S) == "test://value"
            await first.kill()
            call = asyncio.create_task(client.call_tool("count", {"name": "once"}))
            async with mcp_server(certificate, port) as second:
                assert text_of(await asyncio.wait_for(call, DEADLINE_S)) == "1"
                assert await second.line("subscribed") == "test://value"
                assert await second.line("level") == "warning"
                assert text_of(await client.call_tool("changed")) == "1"
                assert await asyncio.wait_for(heard.get(), DEADLINE_S) == "test://value"
        finally:
            await client.__aexit__(None, None, None)


async def test_stateless_requests_survive_a_restart(certificate: Certificate, port: int, tmp_path: Path) -> None:
    """What was on its way is answered with an error that says so, what comes later waits for the gateway."""
    async with mcp_server(certificate, port) as first:
        client = Client(connect_command(tmp_path, **options(certificate, port)), mode="2026-07-28")
        await client.__aenter__()
        try:
            async with client.listen(resource_subscriptions=["test://value"]) as subscription:
                await client.call_tool("changed")
                assert (await asyncio.wait_for(anext(aiter(subscription)), DEADLINE_S)).uri == "test://value"  # type: ignore[union-attr]
                call = asyncio.create_task(client.call_tool("forever"))
                await first.line("forever started")
                await first.kill()
                with pytest.raises(MCPError, match="may have been carried out or not"):
                    await asyncio.wait_for(call, DEADLINE_S)
                with pytest.raises(SubscriptionLost):
                    await asyncio.wait_for(anext(aiter(subscription)), DEADLINE_S)
            later = asyncio.create_task(client.call_tool("count", {"name": "later"}))
            async with mcp_server(certificate, port):
                assert text_of(await asyncio.wait_for(later, DEADLINE_S)) == "1"
        finally:
            await client.__aexit__(None, None, None)


async def test_a_refused_token_is_said_to_the_app(certificate: Certificate, standing: int, tmp_path: Path) -> None:
    answer = (await talk(connect_command(tmp_path, **options(certificate, standing, token="old")), INITIALIZE))[0]
    assert "refused the token" in answer["error"]["message"]
    assert "gateway token create" in answer["error"]["message"]
    assert not (tmp_path / "ambient-gateway").exists()


async def test_first_contact_is_remembered(certificate: Certificate, standing: int, tmp_path: Path) -> None:
    spelled = ":".join(certificate.fingerprint[at : at + 2] for at in range(0, 64, 2)).upper()
    first = await talk(connect_command(tmp_path, **options(certificate, standing, fingerprint=spelled)), INITIALIZE)
    assert first[0]["result"]["serverInfo"]["name"] == "test gateway"
    pins = tmp_path / "ambient-gateway" / "gateways.json"
    assert stat.S_IMODE(pins.stat().st_mode) == 0o600
    assert json.loads(pins.read_text())["gateways"][0]["token"] == TOKEN
    again = await talk(connect_command(tmp_path), INITIALIZE)  # the address is known too: no mDNS needed
    assert again[0]["result"]["serverInfo"]["name"] == "test gateway"


async def test_a_pin_has_no_date(port: int, tmp_path: Path) -> None:
    """A certificate made before the Pi's clock was set is as good as any."""
    old = make_certificate(tmp_path, "old", datetime(1970, 1, 2, tzinfo=UTC))
    async with mcp_server(old, port):
        answer = (await talk(connect_command(tmp_path, **options(old, port)), INITIALIZE))[0]
    assert "result" in answer


async def test_standard_output_is_json_rpc_only(certificate: Certificate, standing: int, tmp_path: Path) -> None:
    lines = ["", "no json", "[1]", INITIALIZE, '{"jsonrpc":"2.0","id":9,"method":"no/such"}']
    answers = await talk(connect_command(tmp_path, **options(certificate, standing)), *lines)
    assert [answer["error"]["code"] for answer in answers if answer["id"] is None] == [-32700, -32700]
    assert {answer["id"] for answer in answers if answer["id"] is not None} == {1, 9}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"url": "http://192.0.2.1:8080/mcp"}, "not encrypted"),
        ({"url": "ftp://gateway"}, "https://HOST:PORT/mcp expected"),
        ({"fingerprint": "12:34"}, "64 hex digits"),
        ({"gateway": "attic"}, "not paired with this computer"),
    ],
)
async def test_what_cannot_work_is_said_at_once(given: dict[str, str], words: str, tmp_path: Path) -> None:
    answer = (await talk(connect_command(tmp_path, token=TOKEN, **given), INITIALIZE))[0]
    assert words in answer["error"]["message"]


async def test_a_gateway_that_is_away_is_said_after_a_while(
    certificate: Certificate, port: int, tmp_path: Path
) -> None:
    answer = (await talk(connect_command(tmp_path, **options(certificate, port, retry_s=0.5)), INITIALIZE))[0]
    assert "cannot be reached" in answer["error"]["message"]


async def test_an_unknown_certificate_gets_nothing(certificate: Certificate, standing: int, tmp_path: Path) -> None:
    wrong = "ab" * 32
    answer = (await talk(connect_command(tmp_path, **options(certificate, standing, fingerprint=wrong)), INITIALIZE))[0]
    assert wrong in answer["error"]["message"]
    assert certificate.fingerprint in answer["error"]["message"]


async def test_check_proves_gateway_and_token(certificate: Certificate, standing: int, tmp_path: Path) -> None:
    environment = {"XDG_CONFIG_HOME": str(tmp_path), "AMBIENT_GATEWAY_TOKEN": TOKEN}
    given = options(certificate, standing, environment=environment, token=None)
    assert await check(ConnectOptions(**given)) == 0
    assert [pin.token for pin in ConnectOptions(**given).pins.all()] == [TOKEN]
    assert await check(ConnectOptions(**{**given, "token": "old"})) == 1, "an option comes before the variable"


async def test_lines_beyond_the_limit_are_refused_and_skipped() -> None:
    reader, said = asyncio.StreamReader(limit=64), Said()
    reader.feed_data(b"x" * 1000)
    reader.feed_data(b"y" * 1000 + b"\n" + b'{"jsonrpc":"2.0","id":7,"method":"ping"}\n')
    reader.feed_eof()
    assert await bridge(reader, said, ConnectOptions(url="ftp://gateway")) == 0
    answers = [json.loads(line) for line in bytes(said.data).splitlines()]
    assert [(answer["id"], answer["error"]["code"]) for answer in answers] == [(None, -32700), (7, -32000)]


class Said:
    """A writer that keeps what was written."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data

    async def drain(self) -> None:
        return


INITIALIZE = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
)


async def talk(command: Any, *lines: str) -> list[dict[str, Any]]:
    """Say these lines one by one as far as they are answered, close the input, and read all that comes."""
    async with child(command.command, *command.args, env={**os.environ, **command.env}) as bridge:
        assert bridge.process.stdin
        assert bridge.process.stdout
        answers = []
        async with asyncio.timeout(DEADLINE_S):
            for line in lines:
                bridge.process.stdin.write(line.encode() + b"\n")
                if line:
                    answers.append(json.loads(await bridge.process.stdout.readline()))
            bridge.process.stdin.close()
            answers += [json.loads(line) for line in (await bridge.process.stdout.read()).splitlines()]
            assert await bridge.process.wait() == 0
    return answers
