"""`gateway pair`, `approve` and `token rotate` at a gateway that runs, and what is written down of all that."""

import json
import re
from pathlib import Path

import httpx2
import pytest

from gateway.store import queries
from gateway.store.db import Store
from tests.running import Running, command, gateway

pytestmark = pytest.mark.slow
SETTINGS = "[mqtt]\nbroker = 'off'\n[access]\nhousehold = 'read'\n"


async def paired(running: Running, code: str) -> httpx2.Response:
    """A browser at the pairing page."""
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{running.http}") as http:
        page = (await http.get("/pair")).text
        form = re.search(r'name="form" value="([^"]+)"', page)
        assert form
        return await http.post("/pair", data={"form": form[1], "code": code, "show": "yes", "name": "tablet"})


async def test_first_contact_from_the_command_line(tmp_path: Path) -> None:
    settings, data = tmp_path / "gateway.toml", tmp_path / "data"
    settings.write_text(SETTINGS)
    at = ("--data", str(data))
    async with gateway(data, "--config", str(settings)) as running:
        printed = re.search(
            r"pair +https://127.0.0.1:(\d+)/pair   code (\w{4}-\w{4}), for two minutes", running.welcome
        )
        assert printed
        assert int(printed[1]) == running.https
        assert "is not shown again" in (await paired(running, printed[2])).text
        assert "used already" in (await paired(running, printed[2])).text

        code, out, words = await command("pair", "--scope", "control", *at)
        assert (code, bool(re.fullmatch(r"\w{4}-\w{4}\n", out))) == (0, True)
        assert f"https://127.0.0.1:{running.https}/pair" in words
        assert running.fingerprint in words
        assert "scope control" in words
        assert "is not shown again" in (await paired(running, out.strip())).text
        view = json.loads((await command("pair", "--json", *at))[1])
        assert (view["scope"], view["open_s"], view["fingerprint"]) == ("read", 120.0, running.fingerprint)

        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{running.http}") as http:
            asked = [
                (await http.post("/oauth/device_authorization", data={"client_id": "app", "scope": "control"})).json()
                for _ in range(2)
            ]
            code, out, words = await command("approve", asked[0]["user_code"], "--scope", "read", *at)
            assert (code, out, words) == (0, "", "app is let in with scope read\n")
            assert (await command("approve", asked[1]["user_code"], "--deny", *at))[0] == 0
            code, _, words = await command("approve", asked[1]["user_code"], *at)
            assert (code, "no app waits" in words) == (1, True)
            data_ = {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "client_id": "app"}
            answers = [
                (await http.post("/oauth/token", data=data_ | {"device_code": each["device_code"]})).json()
                for each in asked
            ]
        assert [answer.get("scope", answer.get("error")) for answer in answers] == ["read", "access_denied"]

        code, new, words = await command("token", "rotate", "first", *at)
        assert (code, "before this one is refused" in words) == (0, True)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{running.http}") as http:
            for token, status in ((running.token, 401), (new.strip(), 200)):
                answer = await http.get("/metrics", headers={"authorization": f"Bearer {token}"})
                assert answer.status_code == status
        listed = (await command("token", "list", *at))[1]
        assert re.search(r"^app +read +renewed by its app, until \d{4}-", listed, re.MULTILINE)
        assert re.search(r"^first +read +revoked \d{4}-\d\d-\d\d \d\d:\d\d UTC", listed, re.MULTILINE)
        code, _, words = await command("token", "rotate", "app", *at)
        assert (code, "renewed by its app" in words) == (1, True)
        await running.stop()
    async with Store(data) as store:
        rows = [(row.principal, row.action, row.target, row.allowed) for row in await queries.audit_rows(store)]
    done = [row for row in reversed(rows) if row[3]]
    assert ("local", "open_pairing", "", True) in done
    assert ("tablet", "pair", "tablet", True) in done
    assert ("local", "approve_app", asked[0]["user_code"], True) in done
    assert ("app", "renew_token", "app", True) in done
    assert ("local", "rotate_token", "first", True) in done
    assert ("first", "request", "/metrics", False) in rows


async def test_without_a_gateway_there_is_nothing_to_pair_with(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path))
    assert (await command("token", "create", "early", "--scope", "read", "--expires-days", "2", *data))[0] == 0
    code, out, words = await command("pair", *data)
    assert (code, out) == (1, "")
    assert "no gateway runs on this data; start one with `gateway run`" in words
    code, new, _ = await command("token", "rotate", "early", *data)
    assert (code, new.startswith("agw_")) == (0, True)
    assert re.search(r"early +read +expires \d{4}", (await command("token", "list", *data))[1])
