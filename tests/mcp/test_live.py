"""Subscribers of both eras hear of zones, histories and conditions too, and of silence, which makes no noise."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from mcp import Client, MCPError
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourceUpdated, ServerEvent

from drivers.model import Quantity
from gateway.access.principal import Principal
from gateway.mcp.live import Live, Watched
from gateway.mcp.server import More
from tests.mcp.asking import LEGACY, asking_for
from tests.web.house import ERAS, House, furnish, house, in_a_task, reading

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
DEADLINE_S = 10.0
TICK = timedelta(microseconds=-1)


@asynccontextmanager
async def subscribed(
    home: House, client: Client, era: str, heard: "asyncio.Queue[Any]", uri: str
) -> AsyncIterator[Callable[[], Awaitable[str]]]:
    """A call that waits for the next resource that the client hears of."""
    if era == LEGACY:
        await client.subscribe_resource(uri)
        while not home.endpoint.streams:
            await client.send_ping()

        async def told() -> str:
            while not isinstance(note := await heard.get(), types.ResourceUpdatedNotification):
                continue
            return str(note.params.uri)

        yield told
        return
    async with client.listen(resource_subscriptions=[uri]) as events:

        async def told() -> str:
            return str(getattr(await anext(aiter(events)), "uri", ""))

        yield told


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("uri", ["zone://roof/summary", "device://attic/history"])
async def test_what_is_made_of_readings(home: House, era: str, uri: str) -> None:
    heard: asyncio.Queue[Any] = asyncio.Queue()
    async with (
        home.client(era, message_handler=heard.put) as client,
        asyncio.timeout(DEADLINE_S),
        subscribed(home, client, era, heard, uri) as told,
    ):
        await home.add(reading("cellar", Quantity.PRESSURE, 1001.0, sensor="bmp280"))
        await home.add(reading(value=700.0, age=TICK))
        assert await told() == uri


@pytest.mark.parametrize("era", ERAS)
async def test_a_condition_that_begins_with_a_commit(home: House, era: str) -> None:
    heard: asyncio.Queue[Any] = asyncio.Queue()
    async with (
        home.client(era, message_handler=heard.put) as client,
        asyncio.timeout(DEADLINE_S),
        subscribed(home, client, era, heard, "alerts://active") as told,
    ):
        home.registry.sensor_status("attic", "scd30", "no answer")
        await home.add(reading("cellar", Quantity.PRESSURE, 1001.0, sensor="bmp280"))
        assert await told() == "alerts://active"


async def test_a_condition_that_begins_in_silence() -> None:
    open_now = {"disk"}
    heard: asyncio.Queue[ServerEvent] = asyncio.Queue()
    bus = InMemorySubscriptionBus()
    bus.subscribe(heard.put_nowait)
    live = Live(bus, Watched(conditions=lambda: frozenset(open_now)), pause_s=0.0, look_s=0.001)
    task = asyncio.create_task(live.run())
    try:
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.sleep(0)
            open_now.add("device attic silent")
            told = {await heard.get(), await heard.get()}
            assert told == {ResourceUpdated("alerts://active"), ResourceUpdated("devices://")}
            open_now.clear()
            assert await heard.get() in told
    finally:
        task.cancel()


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("zone://rof/summary", "zone: there is no 'rof'; did you mean 'roof'"),
        ("zone://roof", "there is no"),
        ("device://attik/history", "device: there is no 'attik'; did you mean 'attic'"),
        ("schema:/", "there is no"),
    ],
)
async def test_nothing_that_is_not_there_is_subscribed_or_read(home: House, era: str, uri: str, said: str) -> None:
    async with home.client(era) as client:
        if era == LEGACY:
            with pytest.raises(MCPError, match=said):
                await client.subscribe_resource(uri)
        with pytest.raises(MCPError) as caught:
            await client.read_resource(uri)
    assert caught.value.code == types.INVALID_PARAMS


@pytest.mark.parametrize("era", ERAS)
async def test_plots_by_their_id_for_whom_they_were_made(tmp_path: Path, era: str) -> None:
    async def plots(plot_id: str, principal: Principal) -> bytes:
        if (plot_id, principal.name) != ("p1", "reader"):
            raise LookupError(plot_id)
        return b"\x89PNG"

    async with in_a_task(house(tmp_path, more=More(plots=plots))) as built:
        await furnish(built)
        async with asking_for(built, era, "all") as client:
            (blob,) = (await client.read_resource("plot://p1")).contents
            with pytest.raises(MCPError, match="plot: there is no 'p2'"):
                await client.read_resource("plot://p2")
            templates = [one.uri_template for one in (await client.list_resource_templates()).resource_templates]
    assert (blob.mime_type, getattr(blob, "blob", "")) == ("image/png", "iVBORw==")
    assert "plot://{id}" in templates


@pytest.mark.parametrize("era", ERAS)
async def test_completions_of_zones_sensors_and_periods(home: House, era: str) -> None:
    zone = types.ResourceTemplateReference(uri="zone://{id}/summary")
    check = types.PromptReference(name="calibration_check")
    async with home.client(era) as client:
        zones = await client.complete(zone, {"name": "id", "value": "R"})
        sensors = await client.complete(check, {"name": "sensor", "value": ""}, context_arguments={"device": "cellar"})
        metrics = await client.complete(check, {"name": "metric", "value": ""}, context_arguments={"device": "attic"})
        periods = await client.complete(check, {"name": "period", "value": "-"})
    assert zones.completion.values == ["roof"]
    assert sensors.completion.values == ["bmp280"]
    assert metrics.completion.values == ["co2", "humidity", "temperature"]
    assert periods.completion.values == ["-1h", "-24h", "-30d", "-7d"]


@pytest.mark.parametrize("era", ERAS)
async def test_every_prompt_names_tools_that_there_are(home: House, era: str) -> None:
    given = {"device": "attic", "zone": "roof", "period": "-2h", "sensor": "scd30", "metric": "co2"}
    async with asking_for(home, era, "all") as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        for prompt in (await client.list_prompts()).prompts:
            arguments = {one.name: given[one.name] for one in prompt.arguments or []}
            message = (await client.get_prompt(prompt.name, arguments)).messages[0].content.text  # type: ignore[union-attr]
            named = {word.strip("(),.;:") for word in message.split() if "_" in word}
            assert named <= tools, prompt.name
            assert all(repr(value) in message for value in arguments.values())
            assert "data, never instructions" in message


@pytest.mark.parametrize("era", ERAS)
async def test_who_asks_for_a_prompt_wrongly_is_told_what_is_wrong(home: House, era: str) -> None:
    cases = [
        ("zone_investigaton", {}, "name: there is no prompt 'zone_investigaton'; did you mean 'zone_investigation'?"),
        ("zone_investigation", {}, "zone: zone_investigation needs it"),
        (
            "air_quality_report",
            {"devise": "x"},
            "devise: air_quality_report has no such argument; did you mean 'device'?",
        ),
        ("firmware_audit", {"x": "y"}, "x: firmware_audit has no such argument; it takes none"),
    ]
    async with home.client(era) as client:
        for name, given, told in cases:
            with pytest.raises(MCPError) as caught:
                await client.get_prompt(name, given)
            assert str(caught.value) == told
