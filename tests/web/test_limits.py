"""Who asks too often, too much or too slowly, and who is served meanwhile."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import MCPError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse

from gateway.access.desk import FAILURES
from gateway.access.principal import Scope
from gateway.store import queries
from gateway.web import serve
from gateway.web.bodies import BodyLimit
from gateway.web.crowd import Crowd
from gateway.web.guard import BODIES_OF_A_PLACE, EXCHANGES
from tests.web.house import House, furnish, house
from tests.web.test_guard import DEADLINE_S, INITIALIZE, MCP, OUTSIDE
from tests.web.test_page import form_of

HOME = ("192.168.1.5", 40000)
SOCKETS = 500
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def outside(home: House, address: tuple[str, int], **headers: str) -> httpx2.AsyncClient:
    """A client at another address, past the socket."""
    transport = httpx2.ASGITransport(home.guard, client=address)
    return httpx2.AsyncClient(transport=transport, base_url="http://pi.local", headers=headers)


# --- whose credentials count ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["192.168.1.5", "fe80::5%eth0", "fd00::5"])
async def test_the_household_reads_without_a_token_and_does_no_more(tmp_path: Path, address: str) -> None:
    async with house(tmp_path, household=True) as home:
        await furnish(home)
        async with outside(home, (address, 40000)) as guest:
            assert "Attic" in (await guest.get("/")).text
            assert (await guest.post("/mcp", headers=MCP, json=INITIALIZE)).status_code == 200
            assert (await guest.get("/pair")).status_code == 200


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "8.8.8.8", "192.0.2.7", "2001:db8::5"])
async def test_others_are_no_household(tmp_path: Path, address: str) -> None:
    """Loopback too: a tunnel from the internet ends there."""
    async with house(tmp_path, household=True) as home, outside(home, (address, 40000)) as stranger:
        assert (await stranger.get("/metrics")).status_code == 401
        assert (await stranger.post("/mcp", headers=MCP, json=INITIALIZE)).status_code == 401


async def test_the_household_is_off_by_default(home: House) -> None:
    async with outside(home, HOME) as guest:
        assert (await guest.get("/metrics")).status_code == 401


async def test_wrong_credentials_are_never_taken_for_a_guest(tmp_path: Path) -> None:
    async with house(tmp_path, household=True) as home:
        for credential in ("Bearer agw_wrong", "Basic YTpi", "", "Bearer"):
            async with outside(home, HOME, authorization=credential) as guest:
                assert (await guest.get("/metrics")).status_code == 401
        async with outside(home, HOME, cookie="agw_session=dead") as guest:
            assert (await guest.get("/metrics")).status_code == 401
            sent = await guest.get("/", headers={"accept": "text/html"})
            assert (sent.status_code, sent.headers["location"]) == (303, "/pair")
            assert 'agw_session=""; ' in sent.headers["set-cookie"]


async def test_bearer_wins_over_cookie_and_cookie_over_household(tmp_path: Path) -> None:
    async with house(tmp_path, household=True) as home:
        seen: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["state"]["principal"].name)
            await PlainTextResponse("ok")(scope, receive, send)

        other = await home.tokens.create("other", Scope.READ)
        async with outside(home, HOME) as guest:
            form = await form_of(guest)
            assert (await guest.post("/login", data={"form": form, "token": home.token})).status_code == 303
            home.guard.app = app
            await guest.get("/x", headers={"authorization": f"Bearer {other}"})
            await guest.get("/x")
            guest.cookies.clear()
            await guest.get("/x")
        assert seen == ["other", "reader", "household"]


# --- how often --------------------------------------------------------------------------------------------------------


async def test_who_asks_too_often_waits_and_others_do_not(tmp_path: Path) -> None:
    async with house(tmp_path, per_s=1.0, burst=5.0) as home:
        other = await home.tokens.create("other", Scope.READ)
        async with home.browser(token=home.token) as http, home.browser(token=other) as calm:
            answers = [await http.get("/metrics") for _ in range(7)]
            assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
            assert answers[-1].headers["retry-after"] == "1"
            assert "'reader' asks too often" in answers[-1].json()["error_description"]
            assert (await calm.get("/metrics")).status_code == 200
            assert (await http.get("/healthz")).status_code == 200
            home.seconds.now += 1
            assert (await http.get("/metrics")).status_code == 200
        assert home.guard.refused["rate"] == 2
        rows = [(row.principal, row.action, row.allowed) for row in await queries.audit_rows(home.store)]
        assert rows == [("reader", "request", False)] * 2


async def test_a_tool_call_hears_in_words_that_it_comes_too_often(tmp_path: Path) -> None:
    async with house(tmp_path, per_s=1.0, burst=9.0) as home, home.client("2026-07-28") as client:
        principal = await home.tokens.verify(home.token)
        assert principal is not None
        while not home.desk.rates.take(principal):
            pass
        with pytest.raises(MCPError, match=r"'reader' asks too often; wait \d"):
            await client.call_tool("list_devices", {})
        home.seconds.now += 5
        assert not (await client.call_tool("list_devices", {})).is_error


async def test_strangers_are_limited_by_address(tmp_path: Path) -> None:
    async with house(tmp_path, per_s=1.0, burst=3.0) as home:
        async with outside(home, OUTSIDE) as stranger, outside(home, HOME) as other:
            assert [(await stranger.get("/pair")).status_code for _ in range(4)] == [200, 200, 200, 429]
            assert (await other.get("/pair")).status_code == 200
        async with outside(home, OUTSIDE, authorization=f"Bearer {home.token}") as known:
            assert (await known.get("/metrics")).status_code == 200


async def test_wrong_tokens_are_limited_by_address_and_right_ones_still_taken(home: House) -> None:
    async with home.browser() as http:
        wrong, right = {"authorization": "Bearer agw_wrong"}, {"authorization": f"Bearer {home.token}"}
        found = [(await http.get("/metrics", headers=wrong)).status_code for _ in range(FAILURES + 3)]
        assert found == [401] * FAILURES + [429] * 3
        assert (await http.get("/metrics", headers=right)).status_code == 200
        form = await form_of(http)
        assert (await http.post("/login", data={"form": form, "token": "agw_wrong"})).status_code == 429
        form = await form_of(http)
        assert (await http.post("/login", data={"form": form, "token": home.token})).status_code == 303
    assert home.guard.refused["failures"] == 3
    assert not await queries.audit_rows(home.store), "strangers are counted only"


async def test_revoked_and_expired_tokens_are_refused_and_written_down(home: House) -> None:
    revoked = await home.tokens.create("revoked", Scope.READ)
    expired = await home.tokens.create("expired", Scope.READ, home.clock.now() + timedelta(hours=1))
    await home.tokens.revoke("revoked")
    home.clock.time += timedelta(hours=1)
    for token in (revoked, expired):
        async with home.browser(token=token) as http:
            answer = await http.get("/metrics")
            assert answer.status_code == 401
            assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    rows = [(row.principal, row.action, row.target, row.allowed) for row in await queries.audit_rows(home.store)]
    assert rows == [("expired", "request", "/metrics", False), ("revoked", "request", "/metrics", False)]


async def test_a_client_that_repeats_itself_does_not_wear_the_card(home: House) -> None:
    home.desk.audit._rates._burst = 3.0
    token = await home.tokens.create("gone", Scope.READ)
    await home.tokens.revoke("gone")
    async with home.browser(token=token) as http:
        for _ in range(10):
            await http.get("/metrics")
    assert len(await queries.audit_rows(home.store)) == 3
    assert home.desk.audit.refused["unwritten"] == 7


async def test_one_principal_holds_so_many_requests_open(home: House) -> None:
    started, go = asyncio.Event(), asyncio.Event()
    inside = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal inside
        inside += 1
        if inside == EXCHANGES:
            started.set()
        await go.wait()
        await PlainTextResponse("ok")(scope, receive, send)

    home.guard.app = app
    other = await home.tokens.create("other", Scope.READ)
    headers = {"authorization": f"Bearer {home.token}"}
    limits = httpx2.Limits(max_connections=None)
    async with home.browser(limits=limits, timeout=DEADLINE_S) as http:
        open_ = [asyncio.create_task(http.get("/x", headers=headers)) for _ in range(EXCHANGES)]
        async with asyncio.timeout(DEADLINE_S):
            await started.wait()
        assert (await http.get("/x", headers=headers)).status_code == 429
        go.set()
        assert (await http.get("/x", headers={"authorization": f"Bearer {other}"})).status_code == 200
        assert {answer.status_code for answer in await asyncio.gather(*open_)} == {200}
        assert (await http.get("/x", headers=headers)).status_code == 200


# --- how large --------------------------------------------------------------------------------------------------------


async def hungry(scope: Any, receive: Any, send: Any) -> None:
    """Reads a body piece by piece, as the route of files does."""
    size = 0
    async for piece in Request(scope, receive).stream():
        size += len(piece)
    await PlainTextResponse(str(size))(scope, receive, send)


async def test_a_route_may_take_more_and_reads_it_in_pieces(home: House) -> None:
    home.guard.app, home.guard.limits = hungry, {"/files": BodyLimit(3 << 20, 5.0, streamed=True)}

    async def trickled(pieces: int) -> AsyncIterator[bytes]:
        for _ in range(pieces):
            yield b"x" * (1 << 20)

    async with home.browser(token=home.token, timeout=DEADLINE_S) as http:
        assert (await http.post("/files/x", content=b"x" * (3 << 20))).text == str(3 << 20)
        assert (await http.post("/files/x", content=trickled(3))).text == str(3 << 20)
        declared = await http.post("/files/x", content=b"x" * ((3 << 20) + 1))
        assert (declared.status_code, declared.json()["error"]) == (413, "size")
        with contextlib.suppress(httpx2.HTTPError):  # it may be cut off while it still sends
            assert (await http.post("/files/x", content=trickled(5))).status_code == 413
        assert (await http.post("/mcp", headers=MCP, content=b"x" * (2 << 20))).status_code == 413
    async with home.browser() as stranger:
        assert (await stranger.post("/files/x", content=b"x")).status_code == 401
    rows = [(row.principal, row.target, row.reason) for row in await queries.audit_rows(home.store)]
    assert rows == [("reader", "/mcp", "size"), *[("reader", "/files/x", "size")] * 2]


async def test_a_streamed_body_that_stops_is_not_waited_for(home: House) -> None:
    gone = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await hungry(scope, receive, send)
        except ClientDisconnect:
            gone.set()
            raise

    home.guard.app, home.guard.limits = app, {"/files": BodyLimit(1 << 20, 0.05, streamed=True)}
    reader, writer = await asyncio.open_connection("127.0.0.1", home.ports["http"])
    head = f"POST /files/x HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {home.token}\r\n"
    writer.write(f"{head}content-length: 9\r\n\r\n{{".encode())
    async with asyncio.timeout(DEADLINE_S):
        assert b" 408 " in await reader.readline()
        await gone.wait()
    writer.close()


async def test_strangers_send_forms_and_nothing_larger(home: House) -> None:
    async with home.browser() as http:
        for path in ("/login", "/pair", "/oauth/token"):
            assert (await http.post(path, content=b"x" * 20_000)).status_code == 413


# --- how slow ---------------------------------------------------------------------------------------------------------


async def connections(port: int, count: int, say: bytes, context: ssl.SSLContext | None = None) -> list[Connection]:
    async def one() -> Connection:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(say)
        return reader, writer

    return [await one() for _ in range(count)]


async def closed(crowd: list[Connection]) -> None:
    """Wait until the other side has hung up on every one."""
    for reader, writer in crowd:
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
        writer.close()


async def served(home: House) -> None:
    """A legitimate client at the same address gets its answers, in both schemes."""
    for base in (home.http, home.https):
        async with home.client("2026-07-28", base=base) as client:
            assert not (await client.call_tool("list_devices", {})).is_error


HEAD = b"POST /login HTTP/1.1\r\nhost: localhost\r\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "say",
    [b"", b"GET /healthz HTTP/1.1\r\nx: ", b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"],
    ids=["silent", "half a head", "idle after an answer"],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_500_slow_connections_do_not_keep_a_client_out(tmp_path: Path, scheme: str, say: bytes) -> None:
    """On the HTTPS port they do not even speak TLS: what is no handshake is refused, what says nothing gives way."""
    async with house(tmp_path) as home:
        slow = await connections(home.ports[scheme], SOCKETS, say)
        async with asyncio.timeout(DEADLINE_S):
            await served(home)
        assert len(home.crowd) <= 64 + 10
        assert home.crowd.hung_up >= SOCKETS - 64 or (scheme == "https" and say)
        for _, writer in slow:
            writer.close()


@pytest.mark.slow
async def test_500_forms_that_trickle_do_not_keep_a_client_out(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        slow = await connections(home.ports["http"], SOCKETS, HEAD + b"content-length: 99\r\n\r\nform=")
        async with asyncio.timeout(DEADLINE_S):
            await served(home)
            busy = [await reader.readline() for reader, _ in slow[BODIES_OF_A_PLACE:]]
        assert {line.split()[1] for line in busy if line} <= {b"503"}
        assert home.guard.refused["forms"] >= SOCKETS - 64 - BODIES_OF_A_PLACE
        for _, writer in slow:
            writer.close()


async def test_slow_ones_are_hung_up_on_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "HEAD_S", 0.1)
    async with house(tmp_path) as home:
        slow = await connections(home.ports["http"], 20, b"GET / HT")
        slow += await connections(home.ports["https"], 20, b"")
        async with asyncio.timeout(DEADLINE_S):
            await closed(slow)
            await served(home)


async def test_an_answer_that_came_before_the_body_ends_the_connection(home: House) -> None:
    """Or it would count as busy for as long as its body trickles."""
    (connection,) = await connections(
        home.ports["http"], 1, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{"
    )
    async with asyncio.timeout(DEADLINE_S):
        assert b" 200 " in await connection[0].readline()
        await closed([connection])


async def test_who_does_not_read_is_hung_up_on(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "UNREAD_S", 0.05)
    ended = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while len(home.crowd):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        ended.set()

    home.guard.app = app
    head = f"GET /x HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {home.token}\r\n\r\n"
    ((_, writer),) = await connections(home.ports["http"], 1, head.encode())
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(DEADLINE_S):
        await ended.wait()
    writer.close()


# --- who has to make room ---------------------------------------------------------------------------------------------


def test_the_one_that_waits_longest_makes_room() -> None:
    crowd, gone = Crowd(most=10, waiting_of_a_place=2), []
    one = crowd.enter("a", lambda: gone.append(1))
    two = crowd.enter("a", lambda: gone.append(2))
    assert one is not None
    assert two is not None
    crowd.busy(one)
    crowd.idle(one, proven=False)
    crowd.enter("a", lambda: gone.append(3))
    crowd.enter("b", lambda: gone.append(4))
    assert (gone, crowd.hung_up, len(crowd)) == ([2], 1, 3)


def test_one_that_has_proven_whose_it_is_goes_last_and_a_busy_one_never() -> None:
    crowd, gone = Crowd(most=10, waiting_of_a_place=2), []
    known = crowd.enter("a", lambda: gone.append("known"))
    busy = crowd.enter("a", lambda: gone.append("busy"))
    assert known is not None
    assert busy is not None
    crowd.idle(known, proven=True)
    crowd.busy(busy)
    for at in range(3):
        crowd.enter("a", lambda at=at: gone.append(at))  # type: ignore[misc]
    assert gone == [0, 1]


def test_the_place_with_most_makes_room_where_the_house_is_full() -> None:
    crowd, gone = Crowd(most=4, waiting_of_a_place=4), []
    for at in range(3):
        crowd.enter("a", lambda at=at: gone.append(at))  # type: ignore[misc]
    crowd.enter("b", lambda: gone.append("b"))
    assert crowd.enter("b", lambda: gone.append("b"))
    assert gone == [0]


def test_where_all_are_busy_a_newcomer_is_turned_away() -> None:
    crowd = Crowd(most=2)
    for _ in range(2):
        visitor = crowd.enter("a", lambda: None)
        assert visitor is not None
        crowd.busy(visitor)
    assert crowd.enter("b", lambda: None) is None
    assert (crowd.turned_away, crowd.hung_up) == (1, 0)
