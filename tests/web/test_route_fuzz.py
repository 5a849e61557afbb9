"""Anything at all at every route of the real server: noise, broken HTTP, broken JSON-RPC. It is refused or answered and
never fails inside, and whoever asks properly is served afterwards."""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.access.principal import Scope
from tests.mcp.lab import Lab, lab
from tests.web.house import ERAS, in_a_task

pytestmark = pytest.mark.slow

DEADLINE_S = 20.0
AT_ONCE = 8
"""Requests of one example, each on a connection of its own."""
STATUS = re.compile(rb"^HTTP/1\.1 (\d{3})", re.MULTILINE)
SHOWN = 2000
# Not made smaller: what was sent is in the error.
FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])


@dataclass
class Served:
    """A house with everything that has a route, a loop that it lives in, and who may ask it for everything."""

    lab: Lab
    runner: asyncio.Runner
    token: str
    session: str
    routes: list[tuple[bytes, list[bytes]]]
    log: pytest.LogCaptureFixture

    @property
    def port(self) -> int:
        return self.lab.house.ports["http"]


@dataclass(frozen=True)
class Said:
    """Bytes for one connection; `whole` where the server can know that no more will come."""

    data: bytes
    whole: bool


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture) -> Iterator[Served]:
    with asyncio.Runner() as runner:
        block = in_a_task(lab(tmp_path_factory.mktemp("fuzz")))  # type: ignore[arg-type]
        built: Lab = runner.run(block.__aenter__())  # type: ignore[assignment]
        token = runner.run(built.house.tokens.create("admin", Scope.ADMIN))
        app: Any = built.house.guard.app
        session = runner.run(begun(built.house.ports["http"], token))
        yield Served(built, runner, token, session, [*map(route, app.routes)], caplog)
        runner.run(block.__aexit__(None, None, None))


def route(one: Any) -> tuple[bytes, list[bytes]]:
    """Its path, and the methods that it knows."""
    methods = one.methods or {"GET", "POST", "DELETE"}
    return one.path.replace("{file_id}", "A" * 22).encode(), [method.encode() for method in sorted(methods)]


# --- what is said -----------------------------------------------------------------------------------------------------

ODD = [
    b"\x00",
    b"\xff\xfe",
    b"\xc0\xaf",
    "ü€😀".encode(),
    b"0" * 500,
    b"-1",
    b"1e999",
    b"%00",
    b"..%2f..",
    b"\t",
    b"\r\n x",
]
odd = st.one_of(st.sampled_from(ODD), st.binary(max_size=40))
legal = st.binary(max_size=40).map(lambda data: bytes(byte for byte in data if 32 < byte != 127))
"""What may stand in a header."""
METHODS = [b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT", b"PROPFIND", b"get"]
TAILS = [
    b"",
    b"?",
    b"?toolsets=all",
    b"?toolsets=%ff",
    b"?code=%00&user_code=A",
    b"?%ff=%00",
    b"/",
    b"/..",
    b"%00",
    b"?" + b"a=&" * 3_000,
]
NAMES = (
    "accept content-type mcp-protocol-version mcp-session-id mcp-method mcp-name last-event-id origin cookie range "
    "if-none-match if-range upload-complete upload-offset upload-length repr-digest content-disposition expect upgrade "
    "te content-encoding transfer-encoding x-forwarded-for x-forwarded-proto forwarded authorization host x-any"
)
VALUES = [
    b"application/json",
    b"application/json, text/event-stream",
    b"text/html",
    b"2026-07-28",
    b"2025-11-25",
    b"null",
    b"",
]
VALUES += [
    b"http://evil.example",
    b"?0",
    b"?1",
    b"0",
    b"5",
    b"bytes=0-",
    b"bytes=-1",
    b"bytes=9-1,2-",
    b"*",
    b'"x"',
    b"-1",
]
VALUES += [
    b"sha-256=:AAAA:",
    b"inline; filename*=UTF-8''%ff",
    b"100-continue",
    b"websocket",
    b"chunked",
    b"gzip",
    b"1" * 40,
]
VALUES += [
    b"application/x-www-form-urlencoded",
    b"multipart/form-data; boundary=x",
    b"a=b; a=\xff",
    b"Bearer ",
    b"Basic Og==",
]
VALUES += [b"application/partial-upload", b"multipart/form-data", b"application/x-www-form-urlencoded; charset=\xff"]
names = st.sampled_from([name.encode() for name in NAMES.split()])
values = st.one_of(st.sampled_from(VALUES), legal)
headers = st.lists(st.tuples(names, values), max_size=5)
FORMS = [
    b"",
    b"form=x&token=agw_x",
    b"code=AAAA-AAAA&form=",
    b"grant_type=refresh_token&refresh_token=%ff",
    b"client_id=\xff",
]
FORMS += [
    b"grant_type=urn:ietf:params:oauth:grant-type:device_code&device_code=x&client_id=y",
    b"token=x",
    b"decision=approve",
]
FORMS += [
    b"scope=admin&client_id=x",
    b"%" * 300,
    b"a=1&" * 1500,
    b"--x\r\nContent-Disposition: form-data\r\n\r\n",
    b"{}",
]
bodies = st.one_of(st.sampled_from(FORMS), st.binary(max_size=300))
FRAMES = (
    ["length"] * 20
    + ["chunked"] * 5
    + ["none", "short", "long", "negative", "huge", "words", "both", "bad chunk", "endless chunk"]
)


def framed(how: str, body: bytes) -> tuple[bytes, bytes]:
    """Headers that tell the length, and the body as it is sent; truthful or not."""
    chunked = b"transfer-encoding: chunked\r\n"
    size = len(body)
    match how:
        case "chunked":
            return chunked, (b"%x\r\n%b\r\n" % (size, body) if body else b"") + b"0\r\n\r\n"
        case "bad chunk":
            return chunked, b"zz\r\n" + body
        case "endless chunk":
            return chunked, b"f" * 400 + b"\r\n" + body
        case "both":
            return b"content-length: 3\r\n" + chunked, body
        case "none":
            return b"", body
    told = {"short": size // 2, "long": size + 9, "negative": -1, "huge": 10**30, "words": "many"}.get(how, size)
    return f"content-length: {told}\r\n".encode(), body


def request(method: bytes, target: bytes, given: list[tuple[bytes, bytes]], how: str, body: bytes) -> Said:
    length, sent = framed(how, body)
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in given)
    head = method + b" " + target + b" HTTP/1.1\r\nconnection: close\r\n" + lines + length + b"\r\n"
    clear = how in {"length", "chunked"} and all(name.lower() != b"transfer-encoding" for name, _ in given)
    return Said(head + sent, whole=clear)


@st.composite
def broken_http(draw: st.DrawFn, served: Served) -> Said:
    """A request that is partly right: most faults are such that it gets as far as a route."""
    path, right = draw(st.sampled_from(served.routes))
    rarely = draw(st.integers(0, 11))
    method = draw(st.sampled_from([*right, *right, *METHODS])) if rarely else draw(odd)
    target = path + (draw(odd) if rarely == 1 else draw(st.sampled_from([b""] * 9 + TAILS)))
    known = [(b"host", b"localhost")] if rarely != 2 else []
    known += [(b"authorization", f"Bearer {served.token}".encode())] if draw(st.integers(0, 3)) else []
    known += [(b"content-type", b"application/x-www-form-urlencoded")] if draw(st.booleans()) else []
    known += [(draw(odd), draw(odd))] if rarely == 3 else []
    return request(method, target, known + draw(headers), draw(st.sampled_from(FRAMES)), draw(bodies))


CALLED = ["initialize", "ping", "server/discover", "tools/list", "tools/call", "resources/list", "resources/read"]
CALLED += ["resources/subscribe", "resources/unsubscribe", "resources/templates/list", "prompts/list", "prompts/get"]
CALLED += [
    "completion/complete",
    "logging/setLevel",
    "tasks/get",
    "notifications/initialized",
    "notifications/cancelled",
]
CALLED += ["notifications/progress", "roots/list", "sampling/createMessage", "elicitation/create", "", "\x00", "ü"]
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "fuzz", "version": "0"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
leaves = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=12))
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
WORDS = [
    "list_devices",
    "get_device",
    "execute_sql_query",
    "attic",
    "devices://",
    "device://\x00/status",
    "plot://x",
    "co2",
]
fields: dict[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from(WORDS) | anything,
    "uri": st.sampled_from(WORDS) | anything,
    "arguments": st.dictionaries(st.sampled_from(["device", "limit", "sql", "x"]), anything, max_size=2) | anything,
    "cursor": anything,
    "protocolVersion": st.sampled_from(["2025-11-25", "2026-07-28", "1"]) | anything,
    "capabilities": st.just({}) | anything,
    "clientInfo": st.just({"name": "x", "version": "1"}) | anything,
    "ref": st.just({"type": "ref/resource", "uri": "device://{id}/status"}) | anything,
    "argument": st.just({"name": "id", "value": "a"}) | anything,
    "level": st.just("info") | anything,
    "requestId": anything,
}
metas = st.sampled_from([META, META, META, META, {"progressToken": []}, {"progressToken": 1}, None, []])
params = st.fixed_dictionaries({"_meta": metas}, optional=fields)
proper = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0"), "method": st.sampled_from(CALLED), "id": st.integers(0, 10**6), "params": params},
)
message = proper | st.fixed_dictionaries(
    {"jsonrpc": st.sampled_from(["2.0", "2.0", "2.0", "1.0", 2, None]), "method": st.sampled_from(CALLED)},
    optional={"id": anything, "params": params | anything, "result": anything, "error": anything, "extra": anything},
)
DEEP = [b"[" * 90_000, b'{"a":' * 60_000, b"[" * 5_000 + b"]" * 5_000, b'{"a":' * 3_000 + b"1" + b"}" * 3_000]
DEEP += [
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"find","arguments":{"query":'
    + b"[" * 2_000
    + b"]" * 2_000
    + b"}}}"
]
STRANGE = [
    b"",
    b"null",
    b"[]",
    b"[[]]",
    b"{}",
    b"NaN",
    b'"x"',
    b"1" * 5_000,
    b"\xef\xbb\xbf{}",
    '{"id":1}'.encode("utf-16"),
]
STRANGE += [b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', b'{"jsonrpc":"2.0","id":1e999,"method":"ping"}']
STRANGE += [b'{"jsonrpc":"2.0","id":"\\ud800","method":"ping"}', b'{"jsonrpc":"2.0","id":1,"method":"\xff"}']


@st.composite
def broken_rpc(draw: st.DrawFn, served: Served) -> Said:
    """A POST to /mcp as HTTP wants it, with some JSON-RPC in it."""
    one: Any = draw(message)
    body = json.dumps(draw(st.sampled_from([one] * 9 + [[one], [one, one], {"jsonrpc": one}]))).encode()
    worse = [body[: len(body) // 2], body + b"]", body.replace(b"2.0", b"\xff"), *DEEP, *STRANGE]
    body = draw(st.sampled_from([body] * 2 * len(worse) + worse))
    given = [
        (b"host", b"localhost"),
        (b"authorization", f"Bearer {served.token}".encode()),
        (b"content-type", b"application/json"),
        (b"accept", b"application/json, text/event-stream"),
    ]
    match draw(st.integers(0, 4)):
        case 0 | 1:
            given += [(b"mcp-session-id", served.session.encode()), (b"mcp-protocol-version", b"2025-11-25")]
        case 2 | 3:
            about = one["params"] if isinstance(one.get("params"), dict) else {}
            name = about.get("name", about.get("uri"))
            given += [(b"mcp-protocol-version", b"2026-07-28"), (b"mcp-method", plain(one["method"]))]
            given += [(b"mcp-name", plain(name))] if isinstance(name, str) else []
        case 4:
            given += draw(headers)
    return request(b"POST", b"/mcp", given, "length", body)


def plain(text: str) -> bytes:
    """As much of a text as a header takes."""
    return "".join(c for c in text if c.isascii() and c.isprintable()).strip().encode()


# --- what is heard ----------------------------------------------------------------------------------------------------


async def ask(port: int, said: Said) -> bytes:
    """What comes back on a connection until the server ends it, or begins a stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    heard = b""
    with contextlib.suppress(ConnectionError):
        writer.write(said.data)
        if not said.whole:
            writer.write_eof()
        async with asyncio.timeout(DEADLINE_S):
            while (piece := await reader.read(65536)) and not _streams(heard):
                heard += piece
    writer.close()
    return heard


def _streams(heard: bytes) -> bool:
    head, _, body = heard.partition(b"\r\n\r\n")
    return b"text/event-stream" in head and b"\r\n\r\n" in body


async def begun(port: int, token: str) -> str:
    """The id of a legacy session."""
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "fuzz", "version": "0"}}
    body = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}).encode()
    given = {
        "host": "localhost",
        "authorization": f"Bearer {token}",
        "content-type": "application/json",
        "accept": "*/*",
    }
    asked = request(
        b"POST", b"/mcp", [(name.encode(), value.encode()) for name, value in given.items()], "length", body
    )
    found = re.search(rb"mcp-session-id: (\w+)", await ask(port, asked))
    assert found
    return found[1].decode()


def judge(served: Served, said: list[Said]) -> None:
    """Say all of it at once, then ask properly."""
    served.log.clear()

    async def at_once() -> list[bytes]:
        return await asyncio.gather(*(ask(served.port, each) for each in said))

    for each, heard in zip(said, served.runner.run(at_once()), strict=True):
        statuses = [int(status) for status in STATUS.findall(heard)]
        assert 500 not in statuses, (each.data[:SHOWN], heard[-SHOWN:])
        assert statuses or not each.whole, (each.data[:SHOWN], heard)
        assert b"Traceback" not in heard, (each.data[:SHOWN], heard[-SHOWN:])
        assert b"failed inside" not in heard, (each.data[:SHOWN], heard[-SHOWN:])
    wrong = [each for each in served.log.records if each.levelno >= logging.ERROR or each.exc_info]
    assert not wrong, ([each.data[:SHOWN] for each in said], served.log.text[-4 * SHOWN :])


async def properly(served: Served) -> None:
    """A legitimate client of each era, and a person's page."""
    for era in ERAS:
        async with served.lab.client(era) as client:
            assert not (await client.call_tool("list_devices", {})).is_error
    async with served.lab.http() as http:
        assert (await http.get("/metrics")).status_code == 200


# --- the tests --------------------------------------------------------------------------------------------------------


HOST = b"host: localhost\r\n"
MET = [
    b"POST /login HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    b"HEAD /pair HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 400 + b"\r\n",
    b"POST /pair HTTP/1.1\r\n" + HOST + b"content-length: 30\r\n\r\nform=x",
    b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\nGET /healthz HTTP/1.1\r\n\xff\r\n\r\n",
]
"""Ends of bodies and beginnings of requests that once left a traceback in the log."""


def test_what_was_met_once(served: Served) -> None:
    judge(served, [Said(data, whole) for data in MET for whole in (False, data.endswith(b"\r\n"))])
    served.runner.run(properly(served))


def test_noise(served: Served) -> None:
    @FUZZ
    @given(st.lists(st.binary(max_size=300), min_size=AT_ONCE, max_size=AT_ONCE))
    def run(noise: list[bytes]) -> None:
        judge(served, [Said(data, False) for data in noise])

    run()
    served.runner.run(properly(served))


def test_broken_http_at_every_route(served: Served) -> None:
    @FUZZ
    @given(st.lists(broken_http(served), min_size=AT_ONCE, max_size=AT_ONCE))
    def run(said: list[Said]) -> None:
        judge(served, said)

    run()
    served.runner.run(properly(served))


def test_broken_rpc(served: Served) -> None:
    @FUZZ
    @given(st.lists(broken_rpc(served), min_size=AT_ONCE, max_size=AT_ONCE))
    def run(said: list[Said]) -> None:
        judge(served, said)

    run()
    served.runner.run(properly(served))
