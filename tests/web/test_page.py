"""The pages for people: signing in and out, what is shown, and what is never believed."""

import re
from datetime import timedelta

import httpx2
import pytest

from drivers.model import Quantity
from gateway.access.principal import Principal, Scope
from gateway.web import page
from gateway.web.sessions import LIFETIME, MOST, Sessions
from tests.web.house import NOW, HandClock, House, reading

SCRIPT = "<script>alert(1)</script>"


async def form_of(http: httpx2.AsyncClient, path: str = "/pair") -> str:
    found = re.search(r'name="form" value="([^"]+)"', (await http.get(path)).text)
    assert found
    return found[1]


async def sign_in(http: httpx2.AsyncClient, token: str) -> httpx2.Response:
    return await http.post("/login", data={"form": await form_of(http), "token": token})


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_browser_signs_in_sees_the_values_and_signs_out(home: House, scheme: str) -> None:
    async with home.browser(getattr(home, scheme)) as http:
        sent = await http.get("/", headers={"accept": "text/html"})
        assert (sent.status_code, sent.headers["location"]) == (303, "/pair")
        signed = await sign_in(http, home.token)
        assert (signed.status_code, signed.headers["location"]) == (303, "/")
        text = (await http.get("/")).text
        for shown in ("Attic", "1840", "ppm", "21.2", "°C", "2 min ago", "uncertain: warm up", "cellar"):
            assert shown in text, shown
        assert "Friday, 20 November 2026, 13:00" in text
        assert f"{getattr(home, scheme)}/mcp" in text
        assert f"--fingerprint {home.identity.fingerprint}" in text
        out = await http.post("/logout", data={"form": await form_of(http, "/")})
        assert (out.status_code, out.headers["location"]) == (303, "/pair")
        assert (await http.get("/")).status_code == 401


@pytest.mark.parametrize(("scheme", "name"), [("http", "agw_session"), ("https", "__Host-agw_session")])
async def test_the_session_cookie(home: House, scheme: str, name: str) -> None:
    async with home.browser(getattr(home, scheme)) as http:
        signed = await sign_in(http, home.token)
    (cookie,) = [c for c in signed.headers.get_list("set-cookie") if c.startswith(name + "=")]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert ("Secure" in cookie.split("; ")) == (scheme == "https")
    assert home.token not in cookie


@pytest.mark.parametrize("token", ["", "agw_wrong", "x" * 5000])
async def test_a_wrong_token_does_not_sign_in(home: House, token: str) -> None:
    async with home.browser() as http:
        answer = await sign_in(http, token)
        assert answer.status_code == 401
        assert "unknown, expired or revoked" in answer.text
        assert "agw_session=" not in str(answer.headers)


async def test_another_page_cannot_sign_in_or_out(home: House) -> None:
    async with home.browser() as http:
        form = await form_of(http)
        data = {"form": form, "token": home.token}
        cross = {"sec-fetch-site": "cross-site"}
        assert (await http.post("/login", data=data, headers=cross)).status_code == 403
        assert (await http.post("/login", data=data, headers={"origin": "https://evil.example"})).status_code == 403
        assert (await http.post("/login", data={**data, "form": "guess"})).status_code == 403
        http.cookies.clear()
        assert (await http.post("/login", data=data)).status_code == 403
        await sign_in(http, home.token)
        assert (await http.post("/logout", data={"form": "guess"})).status_code == 403
        assert (await http.get("/")).status_code == 200


async def test_a_session_ends_with_its_token(home: House) -> None:
    token = await home.tokens.create("guest", Scope.READ)
    async with home.browser() as http:
        await sign_in(http, token)
        assert (await http.get("/")).status_code == 200
        await home.tokens.revoke("guest")
        assert (await http.get("/")).status_code == 401


async def test_a_session_ends_by_itself(home: House) -> None:
    async with home.browser() as http:
        await sign_in(http, home.token)
        home.clock.time += LIFETIME
        assert (await http.get("/")).status_code == 401


async def test_a_device_cannot_write_into_the_page(home: House) -> None:
    await home.registry.capabilities(
        "liar", {"device_name": SCRIPT, "device_location": '"><img src=x onerror=alert(1)>'}
    )
    await home.add(reading("liar", Quantity.CO2, 500.0, sensor="scd30"))
    async with home.browser() as http:
        await sign_in(http, home.token)
        answer = await http.get("/")
    assert "&lt;script&gt;alert(1)" in answer.text
    assert SCRIPT not in answer.text
    assert "<img" not in answer.text


async def test_only_what_the_package_ships_may_run(home: House) -> None:
    async with home.browser() as http:
        await sign_in(http, home.token)
        answer = await http.get("/")
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    for kind, shipped in (("style", page.STYLE), ("script", page.SCRIPT)):
        (inline,) = re.findall(rf"<{kind}>(.*?)</{kind}>", answer.text, re.DOTALL)
        assert inline == shipped
        assert page._source(shipped) in policy
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", answer.text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s ago"),
        (119, "119 s ago"),
        (120, "2 min ago"),
        (7200, "2 h ago"),
        (172800, "2 d ago"),
        (-60, "in the future"),
    ],
)
def test_ages_in_words(seconds: int, words: str) -> None:
    assert page.age(NOW - timedelta(seconds=seconds), NOW) == words


def test_sessions_are_few_and_the_oldest_goes() -> None:
    reader = Principal("reader", Scope.READ, "id")
    sessions = Sessions(lambda token_id: reader, HandClock())
    opened = [sessions.open(reader) for _ in range(MOST + 1)]
    assert sessions.principal(opened[0]) is None
    assert sessions.principal(opened[-1]) == reader
    assert len(set(opened)) == len(opened)
    assert sessions.form_token(opened[0]) != sessions.form_token(opened[1])
