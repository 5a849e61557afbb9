"""/pair over real HTTP: a code becomes a session, once; every other code is refused as documented."""

import html
import re
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from gateway.access.pairing import TRIES, WINDOW_S
from gateway.access.policy import Plain
from gateway.access.principal import Principal, Scope
from gateway.store import queries
from gateway.web.sessions import LIFETIME
from tests.web.house import House, house
from tests.web.test_page import form_of, sign_in

OUTSIDE = ("192.0.2.7", 40000)
OWNER = Principal("owner", Scope.ADMIN, "0")


async def pair(http: httpx2.AsyncClient, code: str, **more: str) -> httpx2.Response:
    return await http.post("/pair", data={"form": await form_of(http), "code": code, **more})


def said(answer: httpx2.Response) -> str:
    """What the page says is wrong."""
    found = re.search(r'role="alert">([^<]*)<', answer.text)
    return html.unescape(found[1]) if found else ""


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_code_signs_this_browser_in_until_its_session_ends(home: House, scheme: str) -> None:
    code = home.desk.pairing.open("local")
    async with home.browser(getattr(home, scheme)) as http:
        paired = await pair(http, code, name="tablet")
        assert (paired.status_code, paired.headers["location"]) == (303, "/")
        assert "agw_" + "session" in paired.headers["set-cookie"]
        assert "Attic" in (await http.get("/")).text
        (row,) = [row for row in await home.tokens.list() if row.name == "tablet"]
        assert (row.scope, row.expires) == (Scope.READ, home.clock.now() + LIFETIME)
        home.clock.time += LIFETIME
        assert (await http.get("/")).status_code == 401


async def test_a_token_is_shown_once_if_asked(home: House) -> None:
    code = home.desk.pairing.open("local", Scope.CONTROL)
    async with home.browser(home.https) as http:
        paired = await pair(http, code, show="yes", name="laptop")
        found = re.search(r'<pre id="token">(agw_[\w-]{43})</pre>', paired.text)
        assert found
        assert paired.headers["cache-control"] == "no-store"
        assert found[1] not in (await http.get("/pair")).text
    principal = await home.tokens.verify(found[1])
    assert principal is not None
    assert (principal.name, principal.scope) == ("laptop", Scope.CONTROL)
    home.clock.time += timedelta(days=400)
    assert await home.tokens.verify(found[1]) is not None


async def test_names_that_are_taken_or_missing_are_made_up(home: House) -> None:
    async with home.browser() as http:
        await pair(http, home.desk.pairing.open("local"), name="reader")
    async with home.browser() as http:
        await pair(http, home.desk.pairing.open("local"))
    names = " ".join(sorted(row.name for row in await home.tokens.list()))
    assert re.fullmatch(r"browser-[0-9a-f]{4} reader reader-[0-9a-f]{4}", names)


async def test_wrong_codes_close_the_window_and_a_token_still_works(home: House) -> None:
    code = home.desk.pairing.open("local")
    async with home.browser() as http:
        answers = [await pair(http, f"WRONG-23{at}") for at in range(TRIES)]
        assert [answer.status_code for answer in answers] == [403] * TRIES
        assert said(answers[0]) == "This code is wrong; 4 of 5 tries are left."
        assert said(answers[-1]).startswith("5 wrong codes closed this pairing window; open another with `gateway pair")
        assert said(await pair(http, code)) == said(answers[-1])
        assert "agw_session" not in str(http.cookies)
        assert (await sign_in(http, home.token)).status_code == 303
    assert home.desk.pairing.refused == {"wrong": 4, "tries": 2}
    assert [row.name for row in await home.tokens.list()] == ["reader"]


async def test_five_tries_are_for_everybody_together(home: House) -> None:
    """The sixth guess fails from wherever it comes."""
    code = home.desk.pairing.open("local")
    for at in range(TRIES):
        transport = httpx2.ASGITransport(home.guard, client=(f"192.168.1.{at}", 40000))
        async with httpx2.AsyncClient(transport=transport, base_url="http://pi.local") as http:
            assert (await pair(http, "WRONG-234")).status_code == 403
    async with home.browser() as http:
        assert (await pair(http, code)).status_code == 403


async def test_late_replayed_and_unasked_codes(home: House) -> None:
    async with home.browser() as http:
        assert said(await pair(http, "ABCD-2345")).startswith("No pairing window is open")
        code = home.desk.pairing.open("local")
        home.seconds.now += WINDOW_S
        assert said(await pair(http, code)).startswith("This code's two minutes are over")
        code = home.desk.pairing.open("local")
        assert (await pair(http, code)).status_code == 303
    async with home.browser() as other:
        assert said(await pair(other, code)).startswith("This code was used already")
    assert home.desk.pairing.refused == {"closed": 1, "late": 1, "used": 1}


async def test_another_page_cannot_pair(home: House) -> None:
    code = home.desk.pairing.open("local")
    async with home.browser() as http:
        form = await form_of(http)
        data = {"form": form, "code": code}
        assert (await http.post("/pair", data={**data, "form": "guess"})).status_code == 403
        assert (await http.post("/pair", data=data, headers={"sec-fetch-site": "cross-site"})).status_code == 403
        assert (await http.post("/pair", data=data, headers={"origin": "https://evil.example"})).status_code == 403
        http.cookies.clear()
        assert (await http.post("/pair", data=data)).status_code == 403
    assert home.desk.pairing.is_open
    assert not home.desk.pairing.refused


async def test_a_bad_name_costs_no_try(home: House) -> None:
    code = home.desk.pairing.open("local")
    async with home.browser() as http:
        assert (await pair(http, code, name="a b")).status_code == 400
        assert (await pair(http, code, name="a-b")).status_code == 303


@pytest.mark.parametrize(("plain", "status"), [(Plain.READ, 403), (Plain.ALL, 303)])
async def test_over_plain_http_a_code_opens_reading_only(tmp_path: Path, plain: Plain, status: int) -> None:
    async with house(tmp_path, plain=plain) as home:
        transport = httpx2.ASGITransport(home.guard, client=OUTSIDE)
        async with httpx2.AsyncClient(transport=transport, base_url="http://pi.local") as http:
            assert (await pair(http, home.desk.pairing.open("local", Scope.CONTROL))).status_code == status
            http.cookies.clear()
            assert (await pair(http, home.desk.pairing.open("local", Scope.READ))).status_code == 303


async def test_pairing_is_written_down(home: House) -> None:
    async with home.browser() as http:
        await pair(http, home.desk.pairing.open("the button"), name="tablet")
    (row,) = await queries.audit_rows(home.store)
    assert (row.principal, row.action, row.target, row.allowed) == ("tablet", "pair", "tablet", True)
    assert (row.reason, row.detail) == ("paired with a code of the button", "scope read, from 127.0.0.1")


async def test_the_owner_decides_about_an_app_in_the_browser(home: House) -> None:
    asked = home.desk.grants.ask('<b>"app"</b>', Scope.CONTROL, "192.0.2.1")
    async with home.browser(home.https) as http:
        sent = await http.get("/pair", params={"user_code": asked.user_code})
        assert "app&quot;" not in sent.text, "a stranger hears nothing of the app"
        code = home.desk.pairing.open("local", Scope.ADMIN)
        paired = await pair(http, code, user_code=asked.user_code)
        assert paired.headers["location"] == f"/pair?user_code={asked.user_code}"
        page = await http.get(paired.headers["location"])
        assert "&lt;b&gt;&quot;app&quot;&lt;/b&gt;" in page.text
        assert asked.user_code in page.text
        assert re.findall(r'<option value="(\w+)"', page.text) == ["read", "control"]
        form = re.search(r'name="form" value="([^"]+)"', page.text)
        assert form
        data = {"form": form[1], "user_code": asked.user_code, "scope": "read"}
        assert (await http.post("/pair/decide", data={**data, "form": "guess"})).status_code == 403
        decided = await http.post("/pair/decide", data={**data, "decision": "approve"})
        assert decided.status_code == 200
        assert "is let in with scope read" in decided.text
    assert (await home.desk.grants.poll('<b>"app"</b>', asked.device_code)).scope is Scope.READ


async def test_a_reader_grants_no_more_than_reading(home: House) -> None:
    asked = home.desk.grants.ask("app", Scope.ADMIN, "192.0.2.1")
    async with home.browser() as http:
        await sign_in(http, home.token)
        page = await http.get("/pair", params={"user_code": asked.user_code})
        assert re.findall(r'<option value="(\w+)"', page.text) == ["read"]
        form = re.search(r'name="form" value="([^"]+)"', page.text)
        assert form
        data = {"form": form[1], "user_code": asked.user_code, "scope": "admin", "decision": "approve"}
        refused = await http.post("/pair/decide", data=data)
        assert (refused.status_code, "needs scope admin" in said(refused)) == (403, True)
        assert (await http.post("/pair/decide", data={**data, "decision": "refuse"})).status_code == 200
    rows = [(row.principal, row.action, row.allowed) for row in await queries.audit_rows(home.store)]
    assert rows == [("reader", "refuse_app", True), ("reader", "approve_app", False)]


async def test_nobody_decides_without_a_session(tmp_path: Path) -> None:
    async with house(tmp_path, household=True) as home:
        asked = home.desk.grants.ask("app", Scope.READ, "192.0.2.1")
        data = {"form": "", "user_code": asked.user_code, "decision": "approve"}
        guest = httpx2.ASGITransport(home.guard, client=("192.168.1.5", 40000))
        async with httpx2.AsyncClient(transport=guest, base_url="http://pi.local") as http:
            assert (await http.post("/pair/decide", data=data)).status_code == 403
        async with home.browser() as http:
            assert (await http.post("/pair/decide", data=data)).status_code == 401
        async with home.browser(token=home.token) as http:
            assert (await http.post("/pair/decide", data=data)).status_code == 403
        assert home.desk.grants.waiting(asked.user_code) is not None


async def test_guessing_what_other_apps_show_is_slowed_down(home: House) -> None:
    async with home.browser() as http:
        await sign_in(http, home.token)
        found = [(await http.get("/pair", params={"user_code": "BCDF-GHJK"})).status_code for _ in range(25)]
        assert found[0] == 404
        assert found[-1] == 429
        asked = home.desk.grants.ask("app", Scope.READ, "192.0.2.1")
        assert (await http.get("/pair", params={"user_code": asked.user_code})).status_code == 200
