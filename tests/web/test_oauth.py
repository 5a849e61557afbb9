"""The OAuth routes over real HTTP: RFC 8628, 6749, 7009, 8414, 9728, and what plain HTTP may carry."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.shared.auth import ProtectedResourceMetadata

from gateway.access.policy import Plain
from gateway.access.principal import Principal, Scope
from gateway.web.oauth import DEVICE_CODE
from tests.web.house import House, house

OUTSIDE = ("192.0.2.7", 40000)
OWNER = Principal("owner", Scope.ADMIN, "0")


async def ask(http: httpx2.AsyncClient, scope: str = "read", **more: str) -> dict[str, Any]:
    answer = await http.post("/oauth/device_authorization", data={"client_id": "app", "scope": scope, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def poll(http: httpx2.AsyncClient, device_code: str, **more: str) -> httpx2.Response:
    data = {"grant_type": DEVICE_CODE, "client_id": "app", "device_code": device_code, **more}
    return await http.post("/oauth/token", data=data)


async def renew(http: httpx2.AsyncClient, refresh_token: str) -> httpx2.Response:
    data = {"grant_type": "refresh_token", "client_id": "app", "refresh_token": refresh_token}
    return await http.post("/oauth/token", data=data)


def error(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
async def test_an_app_without_a_browser_gets_in(home: House, era: str) -> None:
    async with home.browser(home.https) as http:
        asked = await ask(http, "control")
        assert asked["verification_uri"] == f"{home.https}/pair"
        assert asked["verification_uri_complete"] == f"{home.https}/pair?user_code={asked['user_code']}"
        assert (asked["expires_in"], asked["interval"]) == (600, 5)
        assert error(await poll(http, asked["device_code"])) == (400, "authorization_pending")
        assert error(await poll(http, asked["device_code"])) == (400, "slow_down")
        await home.desk.grants.decide(asked["user_code"], OWNER, approve=True)
        given = (await poll(http, asked["device_code"])).json()
        assert (given["token_type"], given["expires_in"], given["scope"]) == ("Bearer", 86400, "control")
        assert error(await poll(http, asked["device_code"])) == (400, "invalid_grant")
        async with home.client(era, token=given["access_token"]) as client:
            assert not (await client.call_tool("list_devices", {})).is_error
            home.clock.time += timedelta(hours=23)
            newer = (await renew(http, given["refresh_token"])).json()
        async with home.client(era, token=newer["access_token"]) as client:
            assert not (await client.call_tool("list_devices", {})).is_error
        old = {"authorization": f"Bearer {given['access_token']}"}
        assert (await http.get("/metrics", headers=old)).status_code == 401
        new = {"authorization": f"Bearer {newer['access_token']}"}
        assert (await http.get("/metrics", headers=new)).status_code == 200
        home.clock.time += timedelta(days=1)
        assert (await http.get("/metrics", headers=new)).status_code == 401


async def test_a_refresh_token_that_is_used_twice_ends_both_holders(home: House) -> None:
    async with home.browser() as http:
        asked = await ask(http)
        await home.desk.grants.decide(asked["user_code"], OWNER, approve=True)
        given = (await poll(http, asked["device_code"])).json()
        stolen = (await renew(http, given["refresh_token"])).json()
        assert error(await renew(http, given["refresh_token"])) == (400, "invalid_grant")
        assert error(await renew(http, stolen["refresh_token"])) == (400, "invalid_grant")
        headers = {"authorization": f"Bearer {stolen['access_token']}"}
        assert (await http.get("/metrics", headers=headers)).status_code == 401


async def test_the_owner_refuses(home: House) -> None:
    async with home.browser() as http:
        asked = await ask(http)
        await home.desk.grants.decide(asked["user_code"], OWNER, approve=False)
        assert error(await poll(http, asked["device_code"])) == (400, "access_denied")
        asked = await ask(http)
        home.seconds.now += 600
        assert error(await poll(http, asked["device_code"])) == (400, "expired_token")


async def test_what_was_approved_survives_a_restart(tmp_path: Path) -> None:
    async with house(tmp_path) as home, home.browser() as http:
        waiting, approved = await ask(http), await ask(http)
        await home.desk.grants.decide(approved["user_code"], OWNER, approve=True)
    async with house(tmp_path) as home, home.browser() as http:
        assert error(await poll(http, waiting["device_code"])) == (400, "expired_token")
        given = (await poll(http, approved["device_code"])).json()
    async with house(tmp_path) as home, home.browser() as http:
        assert (await renew(http, given["refresh_token"])).status_code == 200


async def test_an_app_ends_its_own_access(home: House) -> None:
    async with home.browser() as http:
        asked = await ask(http)
        await home.desk.grants.decide(asked["user_code"], OWNER, approve=True)
        given = (await poll(http, asked["device_code"])).json()
        assert (await http.post("/oauth/revoke", data={"token": "agr_unknown"})).status_code == 200
        assert (await http.post("/oauth/revoke", data={"token": given["refresh_token"]})).status_code == 200
        assert error(await renew(http, given["refresh_token"])) == (400, "invalid_grant")
        assert error(await http.post("/oauth/revoke", data={})) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({}, "invalid_request"),
        ({"grant_type": "password", "client_id": "app"}, "unsupported_grant_type"),
        ({"grant_type": "authorization_code", "client_id": "app", "code": "x"}, "unsupported_grant_type"),
        ({"grant_type": DEVICE_CODE, "device_code": "x"}, "invalid_request"),
        ({"grant_type": DEVICE_CODE, "client_id": "app"}, "invalid_request"),
        ({"grant_type": DEVICE_CODE, "client_id": "app", "device_code": "x"}, "invalid_grant"),
        ({"grant_type": DEVICE_CODE, "client_id": "app", "device_code": "agd_" + "x" * 43}, "expired_token"),
        ({"grant_type": "refresh_token", "client_id": "app"}, "invalid_request"),
        ({"grant_type": "refresh_token", "client_id": "app", "refresh_token": "\N{SNOWMAN}"}, "invalid_grant"),
        ({"grant_type": ["refresh_token", "refresh_token"], "client_id": "app"}, "invalid_request"),
        ({str(at): "x" for at in range(20)}, "invalid_request"),
    ],
)
async def test_wrong_requests_hear_what_is_wrong(home: House, data: dict[str, Any], code: str) -> None:
    async with home.browser() as http:
        answer = await http.post("/oauth/token", data=data)
    assert error(answer) == (400, code)
    assert answer.json()["error_description"]
    assert answer.headers["cache-control"] == "no-store"


async def test_only_forms_of_a_decent_size_and_scopes_that_exist(home: House) -> None:
    async with home.browser() as http:
        assert error(await http.post("/oauth/token", json={"grant_type": DEVICE_CODE})) == (400, "invalid_request")
        ask_ = "/oauth/device_authorization"
        assert error(await http.post(ask_, data={"client_id": "app", "scope": "read root"})) == (400, "invalid_scope")
        assert error(await http.post(ask_, data={"client_id": "a\nb"})) == (400, "invalid_client")
        assert error(await http.post(ask_, data={"client_id": "x" * 20_000})) == (413, "size")
        assert (await http.get(ask_)).status_code == 405


async def test_pages_of_another_origin_get_nothing(home: House) -> None:
    async with home.browser() as http:
        evil = {"origin": "https://evil.example"}
        for path in ("/oauth/device_authorization", "/oauth/token", "/oauth/revoke", "/pair"):
            assert (await http.post(path, data={"client_id": "app"}, headers=evil)).status_code == 403
            assert (
                await http.post(path, data={"client_id": "app"}, headers={"host": "evil.example"})
            ).status_code == 421


@pytest.mark.parametrize(("plain", "widest"), [(Plain.OFF, None), (Plain.READ, "read"), (Plain.ALL, "admin")])
async def test_what_plain_http_may_carry(tmp_path: Path, plain: Plain, widest: str | None) -> None:
    async with house(tmp_path, plain=plain) as home:
        outside = httpx2.ASGITransport(home.guard, client=OUTSIDE)
        async with httpx2.AsyncClient(transport=outside, base_url="http://pi.local") as http:
            found = []
            for scope in ("read", "admin"):
                data = {"client_id": "app", "scope": scope}
                found.append((await http.post("/oauth/device_authorization", data=data)).status_code)
            assert found == {None: [403, 403], "read": [200, 400], "admin": [200, 200]}[widest]
            if widest is None:
                return
            # Asked for over TLS, but collected over plain HTTP.
            asked = home.desk.grants.ask("app", Scope.ADMIN, "192.0.2.1")
            await home.desk.grants.decide(asked.user_code, OWNER, approve=True)
            answer = await poll(http, asked.device_code)
            assert answer.status_code == (200 if widest == "admin" else 400)
            if widest == "read":
                assert "HTTPS" in answer.json()["error_description"]
                scopes = (await http.get("/.well-known/oauth-authorization-server")).json()["scopes_supported"]
                assert scopes == ["read"]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_client_finds_all_of_it_from_the_401(home: House, scheme: str) -> None:
    async with home.browser(getattr(home, scheme)) as http:
        refused = await http.post("/mcp", json={})
        address = refused.headers["www-authenticate"].partition('resource_metadata="')[2].partition('"')[0]
        resource = ProtectedResourceMetadata.model_validate((await http.get(address)).json())
        assert str(resource.resource) == f"{getattr(home, scheme)}/mcp"
        (issuer,) = map(str, resource.authorization_servers)
        server = (await http.get(f"{issuer.rstrip('/')}/.well-known/oauth-authorization-server")).json()
        assert server["issuer"] == getattr(home, scheme)
        assert DEVICE_CODE in server["grant_types_supported"]
        assert "authorization_endpoint" not in server
        asked = await http.post(server["device_authorization_endpoint"], data={"client_id": "app"})
        assert asked.status_code == 200
        assert (await http.post(server["token_endpoint"], data={})).status_code == 400
        assert (await http.post(server["revocation_endpoint"], data={"token": "x"})).status_code == 200
        root = (await http.get("/.well-known/oauth-protected-resource")).json()
        assert root["resource"] == getattr(home, scheme)


async def test_a_forged_host_writes_nothing_into_the_metadata(home: House) -> None:
    async with home.browser() as http:
        path = "/.well-known/oauth-authorization-server"
        answer = await http.get(path, headers={"host": "PI.local.:8080"})
        assert answer.json()["issuer"] == "http://pi.local:8080"
        assert (await http.get(path, headers={"host": "evil.example"})).status_code == 421


async def test_what_cannot_be_stored_is_not_granted(home: House) -> None:
    async with home.browser() as http:
        asked = await ask(http)
        await home.desk.grants.decide(asked["user_code"], OWNER, approve=True)
        await home.store.__aexit__(None, None, None)
        answer = await poll(http, asked["device_code"])
        assert error(answer) == (503, "temporarily_unavailable")
        assert answer.headers["retry-after"]
        await home.store.__aenter__()
        assert (await poll(http, asked["device_code"])).status_code == 200


async def test_guessing_is_slowed_down_and_a_right_code_still_works(home: House) -> None:
    async with home.browser() as http:
        asked = await ask(http)
        await home.desk.grants.decide(asked["user_code"], OWNER, approve=True)
        answers = [await poll(http, f"agd_{at:043d}") for at in range(25)]
        assert error(answers[0]) == (400, "expired_token")
        assert error(answers[-1]) == (429, "temporarily_unavailable")
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert (await poll(http, asked["device_code"])).status_code == 200
