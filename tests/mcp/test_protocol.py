"""Beyond tools, in both eras: resources, subscriptions, prompts, completions, and what legacy clients expect."""

import asyncio
import json
from typing import Any

import mcp_types as types
import pytest
from mcp import Client, MCPError

from drivers.model import Quantity
from gateway.access.principal import Scope
from gateway.mcp.live import MAX_URIS
from tests.web.house import ERAS, House, reading

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
LEGACY, MODERN = ERAS
DEADLINE_S = 10.0
HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


def initialize(request_id: int = 1) -> dict[str, Any]:
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    return {"jsonrpc": "2.0", "id": request_id, "method": "initialize", "params": params}


@pytest.mark.parametrize("era", ERAS)
async def test_resources_and_their_content(home: House, era: str) -> None:
    async with home.client(era) as client:
        listed = [str(one.uri) for one in (await client.list_resources()).resources]
        templates = [one.uri_template for one in (await client.list_resource_templates()).resource_templates]
        devices = json.loads((await client.read_resource("devices://")).contents[0].text)  # type: ignore[union-attr]
        attic = json.loads((await client.read_resource("device://attic/status")).contents[0].text)  # type: ignore[union-attr]
    assert listed == [
        "devices://",
        "alerts://active",
        "schema://",
        "device://attic/status",
        "device://cellar/status",
        "zone://roof/summary",
    ]
    assert templates[:3] == ["device://{id}/status", "device://{id}/history", "zone://{id}/summary"]
    assert [one["device"] for one in devices["devices"]] == ["attic", "cellar"]
    assert devices["now"] == attic["now"] == "2026-11-20T13:00:00+01:00"
    assert {one["metric"]: (one["value"], one["unit"]) for one in attic["readings"]} == {
        "co2": (1840.0, "ppm"),
        "humidity": (41.5, "%RH"),
        "temperature": (21.25, "degC"),
    }


@pytest.mark.parametrize("era", ERAS)
async def test_a_resource_that_is_not_there_names_the_nearest(home: House, era: str) -> None:
    async with home.client(era) as client:
        with pytest.raises(MCPError, match="did you mean 'attic'") as caught:
            await client.read_resource("device://atic/status")
        assert caught.value.code == types.INVALID_PARAMS


@pytest.mark.parametrize("era", ERAS)
async def test_the_prompt_and_completions(home: House, era: str) -> None:
    async with home.client(era) as client:
        prompts = (await client.list_prompts()).prompts
        text = (await client.get_prompt("air_quality_report", {"device": "attic"})).messages[0].content
        status = types.ResourceTemplateReference(uri="device://{id}/status")
        report = types.PromptReference(name="air_quality_report")
        ids = await client.complete(status, {"name": "id", "value": ""})
        devices = await client.complete(report, {"name": "device", "value": "CE"})
        metrics = await client.complete(report, {"name": "metric", "value": "t"})
        none = await client.complete(report, {"name": "colour", "value": ""})
    assert [prompt.name for prompt in prompts] == [
        "air_quality_report",
        "zone_investigation",
        "firmware_audit",
        "calibration_check",
        "ventilation_review",
    ]
    assert "'attic'" in text.text  # type: ignore[union-attr]
    assert ids.completion.values == ["attic", "cellar"]
    assert devices.completion.values == ["cellar"]
    assert metrics.completion.values == ["temperature"]
    assert none.completion.values == []


@pytest.mark.parametrize("era", ["legacy", "auto"])
async def test_who_the_server_is_and_what_it_can(home: House, era: str) -> None:
    async with home.client(era) as client:
        await client.list_tools()
        resources = client.server_capabilities.resources
    assert resources is not None
    assert resources.subscribe is True
    assert resources.list_changed is True


async def test_a_modern_client_negotiates_by_itself(home: House) -> None:
    async with home.client("auto") as client:
        assert client.protocol_version == MODERN
        assert client.server_info is not None
        assert (client.server_info.name, client.server_info.version) == ("ambient-gateway", "0.0.1")


async def test_ping_and_log_level_of_legacy_clients(home: House) -> None:
    async with home.client(LEGACY) as client:
        await client.send_ping()
        await client.set_logging_level("warning")


async def test_a_legacy_session_hears_of_its_devices_only(home: House) -> None:
    heard: asyncio.Queue[Any] = asyncio.Queue()

    async def note(message: Any) -> None:
        await heard.put(message)

    async with home.client(LEGACY, message_handler=note) as client:
        await client.subscribe_resource("device://attic/status")
        await streaming(home, client)
        await home.add(reading("cellar", Quantity.PRESSURE, 1001.0, sensor="bmp280"))
        await home.add(reading(value=700.0, age=-reading().time.resolution))
        async with asyncio.timeout(DEADLINE_S):
            first = await heard.get()
        assert isinstance(first, types.ResourceUpdatedNotification)
        assert first.params.uri == "device://attic/status"
        await client.unsubscribe_resource("device://attic/status")
        await home.add(reading("attic", Quantity.HUMIDITY, 50.0, age=-reading().time.resolution))
        await home.add(reading("balcony", Quantity.HUMIDITY, 50.0))
        async with asyncio.timeout(DEADLINE_S):
            assert isinstance(await heard.get(), types.ResourceListChangedNotification)
        assert heard.empty()


async def test_a_modern_client_hears_by_listening(home: House) -> None:
    async with home.client(MODERN) as client:
        wanted = {"resource_subscriptions": ["device://attic/status"], "resources_list_changed": True}
        async with asyncio.timeout(DEADLINE_S), client.listen(**wanted) as events:  # type: ignore[arg-type]
            await home.add(reading("cellar", Quantity.PRESSURE, 1001.0, sensor="bmp280"))
            await home.add(reading(value=700.0, age=-reading().time.resolution))
            first = await anext(aiter(events))
            assert getattr(first, "uri", None) == "device://attic/status"
            await home.add(reading("balcony", Quantity.HUMIDITY, 50.0))
            assert type(await anext(aiter(events))).__name__ == "ResourcesListChanged"


async def test_many_commits_make_few_notes(home: House) -> None:
    """A note goes out at most every pause, whatever the rate of commits."""
    endpoint = home.endpoint
    heard: asyncio.Queue[Any] = asyncio.Queue()
    async with home.client(LEGACY, message_handler=heard.put) as client:
        await client.subscribe_resource("devices://")
        await streaming(home, client)
        commit = await home.add(reading(value=1.0, age=-reading().time.resolution))
        for _ in range(5000):
            endpoint.notify(commit)
        async with asyncio.timeout(DEADLINE_S):
            await heard.get()
            await client.send_ping()
    assert heard.qsize() <= 2


@pytest.mark.parametrize("uri", ["device://nowhere/status", "device://attic", "file:///etc/passwd"])
async def test_a_legacy_subscription_to_nothing_is_an_error(home: House, uri: str) -> None:
    async with home.client(LEGACY) as client:
        with pytest.raises(MCPError, match="there is no"):
            await client.subscribe_resource(uri)


async def test_a_session_has_a_share_of_subscriptions(home: House) -> None:
    await home.add(*(reading(f"room-{i}", Quantity.HUMIDITY, 40.0) for i in range(MAX_URIS + 1)))
    async with home.client(LEGACY) as client:
        for i in range(MAX_URIS):
            await client.subscribe_resource(f"device://room-{i}/status")
        with pytest.raises(MCPError, match="too many subscriptions"):
            await client.subscribe_resource(f"device://room-{MAX_URIS}/status")


async def test_a_second_request_with_an_id_in_use_is_refused(home: House) -> None:
    """Without the guard both would hang: the SDK keeps one stream an id and session."""
    async with home.browser(token=home.token, timeout=DEADLINE_S) as http:
        opened = await http.post("/mcp", headers=HEADERS, json=initialize())
        session = {**HEADERS, "mcp-session-id": opened.headers["mcp-session-id"]}
        await http.post("/mcp", headers=session, json={"jsonrpc": "2.0", "method": "notifications/initialized"})
        call = {"jsonrpc": "2.0", "id": 7, "method": "tools/call"}
        arguments = {"metric": "co2", "start": "-24h", "bucket": "1m"}
        call["params"] = {"name": "get_time_series", "arguments": arguments}
        answers = await asyncio.gather(*(http.post("/mcp", headers=session, json=call) for _ in range(4)))
        after = await http.post("/mcp", headers=session, json=call)
    codes = sorted(answer.status_code for answer in answers)
    assert codes[0] == 200
    assert set(codes) <= {200, 400}
    for refused in (answer for answer in answers if answer.status_code == 400):
        assert refused.json()["id"] == 7
        assert "still being answered" in refused.json()["error"]["message"]
    assert after.status_code == 200


async def test_one_id_as_number_and_as_text_is_one(home: House) -> None:
    busy = home.endpoint
    async with home.browser(token=home.token, timeout=DEADLINE_S) as http:
        opened = await http.post("/mcp", headers=HEADERS, json=initialize())
        session = {**HEADERS, "mcp-session-id": opened.headers["mcp-session-id"]}
        await http.post("/mcp", headers=session, json={"jsonrpc": "2.0", "method": "notifications/initialized"})
        calls = [
            {"jsonrpc": "2.0", "id": id_, "method": "tools/call", "params": {"name": "get_database_schema"}}
            for id_ in (5, "5")
        ]
        answers = await asyncio.gather(*(http.post("/mcp", headers=session, json=call) for call in calls))
    assert 200 in {answer.status_code for answer in answers}
    assert {answer.status_code for answer in answers} <= {200, 400}
    assert not busy._busy


async def test_a_session_serves_only_the_token_that_opened_it(home: House) -> None:
    other = await home.tokens.create("other", Scope.ADMIN)
    async with home.browser(token=home.token) as mine, home.browser(token=other) as foreign:
        opened = await mine.post("/mcp", headers=HEADERS, json=initialize())
        session = {**HEADERS, "mcp-session-id": opened.headers["mcp-session-id"]}
        ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
        assert (await foreign.post("/mcp", headers=session, json=ping)).status_code == 404
        assert (await foreign.delete("/mcp", headers=session)).status_code == 404
        assert (await mine.post("/mcp", headers=session, json=ping)).status_code == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"1e999", b'{"id":{}}', b"[" * 50_000, b'{"jsonrpc":"2.0","id":1}']
)
@pytest.mark.parametrize("version", ["", "2025-06-18", MODERN])
async def test_broken_bodies_are_client_errors(home: House, body: bytes, version: str) -> None:
    async with home.browser(token=home.token) as http:
        opened = await http.post("/mcp", headers=HEADERS, json=initialize())
        headers = {**HEADERS, "mcp-protocol-version": version} if version else HEADERS
        if version != MODERN:
            headers = {**headers, "mcp-session-id": opened.headers["mcp-session-id"]}
        answer = await http.post("/mcp", headers=headers, content=body)
        assert 400 <= answer.status_code < 500


async def test_a_closed_session_is_forgotten(home: House) -> None:
    async with home.client(LEGACY) as client:
        await client.subscribe_resource("devices://")
        assert home.endpoint.sessions == 1
    assert home.endpoint.sessions == 0


@pytest.mark.parametrize("era", ERAS)
async def test_over_tls_with_the_pinned_certificate(home: House, era: str) -> None:
    async with home.client(era, base=home.https) as client:
        assert not (await client.call_tool("list_devices", {})).is_error


async def test_both_eras_at_once_on_one_endpoint(home: House) -> None:
    async def ask(era: str) -> list[Any]:
        async with home.client(era) as client:
            results = [await client.call_tool("get_latest_readings", {}) for _ in range(10)]
            return [result.structured_content for result in results]

    answers = await asyncio.gather(*(ask(era) for era in ERAS * 3))
    assert all(said == answers[0][0] for some in answers for said in some)


async def streaming(home: House, client: Client) -> None:
    """Until the client's standing stream is open: before that, legacy notes have no way to it."""
    async with asyncio.timeout(DEADLINE_S):
        while not home.endpoint.streams:
            await client.send_ping()
