"""The door: who is let in, from where, over what, and how much at once."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import MCPError

from drivers.model import Quantity
from gateway.access.policy import Plain
from gateway.access.principal import Scope
from gateway.web.guard import MAX_BODY, BodyLimit
from gateway.web.headers import host_name, names, origin_host
from tests.web.house import ERAS, House, furnish, house, reading

DEADLINE_S = 10.0
MCP = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}
ROUTES = ["/mcp", "/", "/readyz", "/metrics", "/logout", "/no-such-page"]
OUTSIDE = ("192.0.2.7", 40000)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_without_a_token_nothing_but_liveness_and_pairing_answers(home: House, path: str, method: str) -> None:
    async with home.browser() as http:
        answer = await http.request(method, path)
    assert answer.status_code == 401
    metadata = f"{home.http}/.well-known/oauth-protected-resource/mcp"
    assert answer.headers["www-authenticate"] == f'Bearer realm="ambient-gateway", resource_metadata="{metadata}"'
    assert "Authorization: Bearer" in answer.json()["error_description"]


@pytest.mark.parametrize("path", ["/healthz", "/pair"])
async def test_liveness_and_pairing_are_open_and_say_little(home: House, path: str) -> None:
    async with home.browser() as http:
        answer = await http.get(path)
    assert answer.status_code == 200
    for word in ("attic", "cellar", home.identity.fingerprint, "ppm"):
        assert word not in answer.text


@pytest.mark.parametrize(
    "credential", ["Bearer agw_wrong", "Bearer", "bearer agw_x y", "Basic YTpi", "Bearer \xe9", "agw_x"]
)
async def test_a_wrong_token_is_refused_plainly(home: House, credential: str) -> None:
    async with home.browser() as http:
        answer = await http.post(
            "/mcp", headers={**MCP, "authorization": credential.encode("latin-1")}, json=INITIALIZE
        )  # type: ignore[dict-item]
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert home.guard.refused["token"] == 1


@pytest.mark.parametrize("era", ERAS)
async def test_a_token_ends_while_a_client_is_connected(home: House, era: str) -> None:
    token = await home.tokens.create("guest", Scope.READ)
    async with home.client("legacy" if era == "legacy" else era, token=token) as client:
        assert not (await client.call_tool("list_devices", {})).is_error
        await home.tokens.revoke("guest")
        with pytest.raises(MCPError):
            await client.call_tool("list_devices", {})


async def test_an_open_stream_ends_with_its_token_and_says_nothing_more(home: House) -> None:
    token = await home.tokens.create("guest", Scope.READ, home.clock.now() + timedelta(hours=1))
    async with home.browser(token=token, timeout=DEADLINE_S) as http:
        opened = await http.post("/mcp", headers=MCP, json=INITIALIZE)
        session = {**MCP, "mcp-session-id": opened.headers["mcp-session-id"]}
        await http.post("/mcp", headers=session, json={"jsonrpc": "2.0", "method": "notifications/initialized"})
        subscribe = {"jsonrpc": "2.0", "id": 2, "method": "resources/subscribe", "params": {"uri": "devices://"}}
        await http.post("/mcp", headers=session, json=subscribe)
        async with http.stream("GET", "/mcp", headers=session) as stream:
            home.clock.time += timedelta(hours=1)
            await home.add(reading("attic", Quantity.HUMIDITY, 1.0, -timedelta(seconds=1)))
            said = b"".join([chunk async for chunk in stream.aiter_bytes()])
    assert b"resources/updated" not in said
    assert home.guard.refused["ended"] == 1


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.0.2.1",
        "",
        "a b",
        "[::2]",
        "127.0.0.1:x",
        "localhost@evil.example",
    ],
)
@pytest.mark.parametrize("path", ["/mcp", "/healthz", "/"])
async def test_a_foreign_host_is_refused_before_anything_else(home: House, host: str, path: str) -> None:
    """DNS rebinding: the attacker's name points here, and the browser says so in Host."""
    async with home.browser(token=home.token) as http:
        answer = await http.get(path, headers={"host": host})
    assert answer.status_code in {400, 421}
    assert home.guard.refused["host"] == (answer.status_code == 421)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "[::1]:80", "pi", "PI.local", "pi.local.:8080"]
)
async def test_own_names_are_heard_in_any_spelling(home: House, host: str) -> None:
    async with home.browser() as http:
        answer = await http.get("/healthz", headers={"host": host})
        own = await http.get("/healthz", headers={"host": f"{home.identity.gateway_id}.local"})
    assert (answer.status_code, own.status_code) == (200, 200)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "https://evil.example",
        "http://127.0.0.1.evil.example",
        "file://",
        "ftp://127.0.0.1",
        "http://pi.local",
        "",
    ],
)
async def test_a_foreign_origin_is_forbidden(home: House, origin: str) -> None:
    async with home.browser(token=home.token) as http:
        answer = await http.post("/mcp", headers={**MCP, "origin": origin}, json=INITIALIZE)
    assert answer.status_code == 403


@pytest.mark.parametrize("origin", [None, "http://127.0.0.1", "https://127.0.0.1:8443"])
async def test_no_origin_or_our_own_is_fine(home: House, origin: str | None) -> None:
    headers = MCP if origin is None else {**MCP, "origin": origin}
    async with home.browser(token=home.token) as http:
        assert (await http.post("/mcp", headers=headers, json=INITIALIZE)).status_code == 200


async def test_mcp_does_not_redirect_and_takes_no_cookie(home: House) -> None:
    async with home.browser(token=home.token) as http:
        assert (await http.post("/mcp", headers=MCP, json=INITIALIZE)).status_code == 200
        assert (await http.post("/mcp/", headers=MCP, json=INITIALIZE)).status_code in {307, 404}
    async with home.browser() as http:
        form = (await http.get("/pair")).text.partition('name="form" value="')[2].partition('"')[0]
        assert (await http.post("/login", data={"form": form, "token": home.token})).status_code == 303
        assert (await http.get("/")).status_code == 200
        assert (await http.post("/mcp", headers=MCP, json=INITIALIZE)).status_code == 401


async def test_a_body_may_be_so_long_and_no_longer(home: House) -> None:
    async def endless() -> Any:
        while True:
            yield b"x" * 65536

    async with home.browser(token=home.token, timeout=DEADLINE_S) as http:
        declared = await http.post("/mcp", headers=MCP, content=b"x" * (MAX_BODY + 1))
        assert (declared.status_code, declared.json()["error"]) == (413, "size")
        fits = await http.post("/mcp", headers=MCP, content=b"x" * MAX_BODY)
        assert fits.status_code == 400
    async with home.browser(token=home.token, timeout=DEADLINE_S) as http:
        try:
            trickled = await http.post("/mcp", headers=MCP, content=endless())
        except httpx2.HTTPError:
            pass  # cut off while it was still sending
        else:
            assert trickled.status_code == 413
    assert home.guard.refused["size"] == 2


async def test_a_body_that_never_comes_is_not_waited_for(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        home.guard.usual = BodyLimit(within_s=0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", home.ports["http"])
        head = f"POST /mcp HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {home.token}\r\n"
        writer.write(f"{head}content-length: 9\r\n\r\n{{".encode())
        async with asyncio.timeout(DEADLINE_S):
            assert b" 408 " in await reader.readline()
        writer.close()


async def test_every_answer_carries_the_security_headers(home: House) -> None:
    async with home.browser(token=home.token) as http:
        answers = [await http.get(path) for path in ("/", "/healthz", "/metrics", "/pair", "/none")]
        answers.append(await http.get("/healthz", headers={"host": "evil.example"}))
        answers.append(await http.post("/mcp", headers=MCP, json=INITIALIZE))
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert "no-" in answer.headers["cache-control"]
        assert "server" not in answer.headers
        assert "date" in answer.headers


@pytest.mark.parametrize(
    ("plain", "page", "health"), [(Plain.OFF, 403, 200), (Plain.READ, 200, 200), (Plain.ALL, 200, 200)]
)
async def test_plain_http_from_elsewhere(tmp_path: Path, plain: Plain, page: int, health: int) -> None:
    async with house(tmp_path, plain=plain) as home:
        await furnish(home)
        transport = httpx2.ASGITransport(home.guard, client=OUTSIDE)
        headers = {"authorization": f"Bearer {home.token}"}
        async with httpx2.AsyncClient(transport=transport, base_url="http://pi.local", headers=headers) as outside:
            assert (await outside.get("/")).status_code == page
            assert (await outside.get("/healthz")).status_code == health
        tls = httpx2.ASGITransport(home.guard, client=OUTSIDE)
        async with httpx2.AsyncClient(transport=tls, base_url="https://pi.local", headers=headers) as outside:
            assert (await outside.get("/")).status_code == 200


async def test_the_scope_state_says_who_and_how(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["state"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async with house(tmp_path) as home:
        home.guard.app = app
        headers = {"authorization": f"Bearer {home.token}"}
        for base in ("http://pi.local", "https://pi.local"):
            transport = httpx2.ASGITransport(home.guard, client=OUTSIDE)
            async with httpx2.AsyncClient(transport=transport, base_url=base, headers=headers) as outside:
                assert (await outside.get("/x")).status_code == 204
        async with home.browser(token=home.token) as here:
            await here.get("/x")
    assert [state["secure"] for state in seen] == [False, True, True]
    assert {state["principal"].name for state in seen} == {"reader"}


async def test_forwarded_headers_prove_nothing(home: House) -> None:
    """A local program may not claim to be TLS, nor anybody to be loopback."""
    transport = httpx2.ASGITransport(home.guard, client=OUTSIDE)
    token = await home.tokens.create("owner", Scope.ADMIN)
    forged = {"x-forwarded-proto": "https", "x-forwarded-for": "127.0.0.1", "forwarded": "for=127.0.0.1;proto=https"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://pi.local", headers=forged) as outside:
        form = (await outside.get("/pair")).text.partition('name="form" value="')[2].partition('"')[0]
        answer = await outside.post("/login", data={"form": form, "token": token})
    assert answer.status_code == 403
    assert "HTTPS" in answer.text


async def test_metrics_and_readiness_need_read(home: House) -> None:
    async with home.browser(token=home.token) as http:
        metrics, ready = await http.get("/metrics"), await http.get("/readyz")
    assert metrics.text == "readings_total 7\n"
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert ready.json() == {"status": "ok", "store": "ok"}


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("Pi.Local.:8080", "pi.local"),
        ("[FE80::1%25eth0]:80", "fe80::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("[::1]x", ""),
        ("a:b", ""),
        ("a:1:2", ""),
        ("a/b", ""),
        ("", ""),
        (".", ""),
    ],
)
def test_names_of_hosts(host: str, name: str) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://Pi.local:80", "pi.local"),
        ("https://[::1]:8443", "::1"),
        ("null", ""),
        ("http://[", ""),
        ("http://a/b", ""),
        ("http://u@a", ""),
    ],
)
def test_hosts_of_origins(origin: str, host: str) -> None:
    assert origin_host(origin) == host


def test_the_names_of_a_gateway() -> None:
    assert names("agw-1", "Pi.local", ["air.example:8080"]) >= {
        "agw-1.local",
        "pi",
        "pi.local",
        "air.example",
        "localhost",
    }
