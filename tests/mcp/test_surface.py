"""What a caller sees and may do: toolsets, scopes, tools that come and go, limits, confirmation, defaults, sizes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
from mcp import MCPError
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult, ImageContent, TextContent

from gateway.access.policy import ACTIONS, Action, Risk
from gateway.access.principal import Principal, Scope
from gateway.command import ControlError, Unconfirmed
from gateway.mcp.caller import Caller
from gateway.mcp.fitting import CEILING_BYTES, IMAGE_BYTES
from gateway.mcp.server import More
from gateway.mcp.tools.base import Condition, Confirm, DryRun
from gateway.mcp.tools.base import House as Parts
from gateway.mcp.views import Answer
from gateway.store.errors import StoreFull
from tests.mcp.asking import answer, asking_for, changes, refusal
from tests.web.house import ERAS, House, furnish, house, in_a_task

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
LEGACY, MODERN = ERAS
DEADLINE_S = 10.0
SECRET = "hunter2 at /srv/private"


class Odd:
    """Tools that do what tools should not, and one that has to be confirmed; they stand in for those of others."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.deleted: list[str] = []

    def functions(self) -> Sequence[Callable[..., Any]]:
        return (self.delete_zone, self.execute_sql_query, self.get_task)

    async def delete_zone(self, zone: str, *, dry_run: DryRun = False, confirm: Confirm = False) -> CallToolResult:
        """Delete a zone."""
        if not confirm:
            raise Unconfirmed(f"zone {zone} would be deleted")
        self.deleted.append(zone)
        return CallToolResult(content=[TextContent(type="text", text=f"deleted {zone}, dry: {dry_run}")])

    async def execute_sql_query(self, how: str) -> CallToolResult:
        """Fail in a way."""
        errors: dict[str, Exception] = {
            "value": ValueError("limit: 0 is too few\n\x1b[31m; give \u202e1"),
            "lookup": LookupError("zone: there is none"),
            "control": ControlError("device: refused; use another"),
            "store": StoreFull("no room: delete something"),
            "tool": ToolError("plot: too wide"),
            "key": KeyError(SECRET),
            "crash": RuntimeError(SECRET),
        }
        if how in errors:
            raise errors[how]
        size = int(how.partition(" ")[2] or 0)
        if how.startswith("image"):
            return CallToolResult(
                content=[ImageContent(type="image", data="A" * (size * 4 // 3), mime_type="image/png")]
            )
        text = [TextContent(type="text", text="x" * size)]
        return CallToolResult(content=text, structured_content={"text": "x" * size})

    async def get_task(self, ctx: Context) -> Annotated[CallToolResult, Answer]:
        """Who asks."""
        caller = Caller.of(ctx.request_context)
        assert caller.principal is not None
        return CallToolResult(
            content=[TextContent(type="text", text=f"{caller.principal.name} {caller.secure} {caller.key != ''}")],
            structured_content={"now": "", "timezone": ""},
        )


class Gate:
    """A limit that a test opens and shuts."""

    def __init__(self) -> None:
        self.reason = ""
        self.asked: list[tuple[str, str]] = []

    def __call__(self, principal: Principal, tool: str) -> str:
        self.asked.append((principal.name, tool))
        return self.reason


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def odd(tmp_path: Path, gate: Gate) -> AsyncIterator[House]:
    troubles = (Condition("disk", "critical", "12 MB are left;\x07 delete something"),)
    more = More(groups=(Odd,), limit=gate, troubles=lambda: troubles, clear=lambda key: 3 if key else 0)
    async with in_a_task(house(tmp_path, more=more)) as built:
        await furnish(built)
        yield built


@pytest.mark.parametrize("era", ERAS)
async def test_toolsets_and_scopes_decide_what_is_listed(odd: House, era: str) -> None:
    admin = await odd.tokens.create("admin", Scope.ADMIN)
    async with odd.client(era) as plain:
        core = [tool.name for tool in (await plain.list_tools()).tools]
    async with asking_for(odd, era, "core,explore") as more:
        explore = [tool.name for tool in (await more.list_tools()).tools]
    async with asking_for(odd, era, "all") as reader, asking_for(odd, era, "all", token=admin) as owner:
        may_read = [tool.name for tool in (await reader.list_tools()).tools]
        every = (await owner.list_tools()).tools
    assert len(core) <= 15
    assert {ACTIONS[name].toolset for name in core} == {"core"}
    assert explore[: len(core)] == core
    assert {"get_zone_snapshot", "whoami", "set_context"} <= set(explore)
    assert "list_audit" not in may_read
    assert "delete_zone" not in may_read
    names = [tool.name for tool in every]
    assert names == [name for name in ACTIONS if name in names]
    assert {"list_audit", "delete_zone"} <= set(names)
    deleting = next(tool for tool in every if tool.name == "delete_zone")
    assert deleting.meta == {"risk": "high", "scope": "control", "toolset": "devices", "write": True}
    hints = deleting.annotations
    assert hints is not None
    assert (hints.read_only_hint, hints.destructive_hint) == (False, True)
    remembering = next(tool for tool in every if tool.name == "set_context").annotations
    assert remembering is not None
    assert (remembering.read_only_hint, remembering.destructive_hint, remembering.idempotent_hint) == (
        False,
        False,
        True,
    )


@pytest.mark.parametrize("era", ERAS)
async def test_an_unknown_toolset_names_the_nearest(home: House, era: str) -> None:
    async with asking_for(home, era, "calibratoin") as client:
        with pytest.raises(MCPError, match="toolsets: there is no 'calibratoin'; did you mean 'calibration'"):
            await client.list_tools()


@pytest.mark.parametrize("era", ERAS)
async def test_a_tool_that_is_not_listed_may_be_called_and_a_scope_not_stretched(odd: House, era: str) -> None:
    async with odd.client(era) as client:
        assert (await answer(client, "whoami"))["name"] == "reader"
        said = await refusal(client, "delete_zone", zone="roof", confirm=True)
        assert "delete_zone needs scope control, 'reader' has read" in said
        assert "list_audit needs scope admin" in await refusal(client, "list_audit")
        assert "there is no tool 'list_device'; did you mean 'list_devices'" in await refusal(client, "list_device")
    admin = await odd.tokens.create("admin", Scope.ADMIN)
    async with odd.client(era, token=admin) as client:
        rows = (await answer(client, "list_audit"))["rows"]
    told = [(row["principal"], row["action"], row["allowed"]) for row in rows]
    assert told == [("reader", "list_audit", False), ("reader", "delete_zone", False)]


@pytest.mark.parametrize("era", ERAS)
async def test_who_asks_is_known_to_a_tool(odd: House, era: str) -> None:
    async with odd.client(era) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        result = await client.call_tool("get_task", {})
    assert tools["get_task"].input_schema.get("properties", {}) == {}
    assert result.content[0].text == "reader True True"  # type: ignore[union-attr]


FAILURES = {
    "value": "limit: 0 is too few [31m; give 1",
    "lookup": "zone: there is none",
    "control": "device: refused; use another",
    "store": "no room: delete something",
    "tool": "plot: too wide",
    "key": "execute_sql_query failed inside the gateway; its log says why",
    "crash": "execute_sql_query failed inside the gateway; its log says why",
    "text 30000": "the answer has more than 50 KB",
    "image 100200": "an image has more than 100 KB",
}


@pytest.mark.parametrize("era", ERAS)
async def test_errors_are_one_line_and_sizes_bounded(odd: House, era: str, caplog: pytest.LogCaptureFixture) -> None:
    async with odd.client(era) as client:
        for how, said in FAILURES.items():
            caplog.clear()
            told = await refusal(client, "execute_sql_query", how=how)
            assert told.startswith(said)
            assert SECRET not in told
            assert (SECRET in caplog.text) == (how in {"key", "crash"})


async def test_what_just_fits_is_sent(odd: House) -> None:
    async with odd.client(MODERN) as client:
        text = await client.call_tool("execute_sql_query", {"how": f"text {CEILING_BYTES // 2 - 20}"})
        image = await client.call_tool("execute_sql_query", {"how": f"image {IMAGE_BYTES - 10}"})
    assert not text.is_error
    assert not image.is_error


@pytest.mark.parametrize("era", ERAS)
async def test_wrong_arguments_are_named_with_the_rule(odd: House, era: str) -> None:
    async with odd.client(era) as client:
        assert await refusal(client, "get_task", zone=1) == "zone: get_task has no such argument; there is none yet"
        assert (await refusal(client, "execute_sql_query")).startswith("how: field required")
        said = await refusal(client, "get_time_series", metric="co2", max_points="many\n" * 100)
        assert said.startswith("max_points: input should be a valid integer")
        said = await refusal(client, "find", query="x", limit=51)
        assert said == "limit: input should be less than or equal to 50, not 51"
        assert (await refusal(client, "detect_anomalies", deviations=[1])).startswith("deviations: ")


@pytest.mark.parametrize("era", ERAS)
async def test_a_limit_is_asked_for_each_call_that_is_allowed(odd: House, gate: Gate, era: str) -> None:
    async with odd.client(era) as client:
        await answer(client, "list_zones")
        gate.reason = "too many calls: 60 a minute; try again in 3 s"
        assert await refusal(client, "list_zones") == gate.reason
        assert "needs scope" in await refusal(client, "delete_zone", zone="x")
        await client.list_tools()
    assert gate.asked == [("reader", "list_zones")] * 2


@pytest.mark.parametrize("era", ERAS)
async def test_tools_come_and_go_and_clients_hear_of_it(odd: House, era: str) -> None:
    async def dew_point(celsius: float) -> str:
        """A dew point."""
        return f"{celsius - 3}"

    def version(risk: Risk) -> tuple[Tool, Action]:
        return Tool.from_function(dew_point), Action("dew_point", Scope.READ, risk, tool=True, toolset="dynamic")

    heard: asyncio.Queue[Any] = asyncio.Queue()
    async with (
        asking_for(odd, era, "dynamic", message_handler=heard.put) as client,
        asyncio.timeout(DEADLINE_S),
        changes(odd, client, era, heard) as next_change,
    ):
        odd.endpoint.catalogue.add(*version(Risk.LOW))
        await next_change()
        (listed,) = (await client.list_tools()).tools
        assert (listed.name, listed.meta and listed.meta["toolset"]) == ("dew_point", "dynamic")
        assert (await client.call_tool("dew_point", {"celsius": 20})).content[0].text == "17.0"  # type: ignore[union-attr]
        odd.endpoint.catalogue.add(*version(Risk.MEDIUM))
        await next_change()
        (listed,) = (await client.list_tools()).tools
        assert listed.meta is not None
        assert listed.meta["risk"] == "medium"
        assert odd.endpoint.catalogue.remove("dew_point")
        await next_change()
        assert (await client.list_tools()).tools == []
        odd.endpoint.tools_changed()  # such as when a token's scope changed
        await next_change()
    assert not odd.endpoint.catalogue.remove("list_devices")
    with pytest.raises(ValueError, match="name: 'list_devices' is taken"):
        odd.endpoint.catalogue.add(Tool.from_function(dew_point, name="list_devices"), ACTIONS["list_devices"])


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("word", "deleted"),
    [
        (ElicitResult(action="accept", content={"confirm": True}), True),
        (ElicitResult(action="accept", content={"confirm": False}), False),
        (ElicitResult(action="decline"), False),
        (ElicitResult(action="cancel"), False),
    ],
)
async def test_the_client_asks_its_user_before_something_is_destroyed(
    odd: House, era: str, word: ElicitResult, deleted: bool
) -> None:
    asked: list[str] = []

    async def elicit(context: Any, params: ElicitRequestParams) -> ElicitResult:
        asked.append(params.message)
        return word

    control = await odd.tokens.create("control", Scope.CONTROL)
    async with odd.client(era, token=control, elicitation_callback=elicit) as client:
        result = await client.call_tool("delete_zone", {"zone": "roof"})
        sure = await client.call_tool("delete_zone", {"zone": "roof", "confirm": True})
    assert asked == ["zone roof would be deleted? This cannot be undone."]
    assert result.is_error != deleted
    text = str(result.content[0].text)  # type: ignore[union-attr]
    assert text.startswith("deleted roof" if deleted else "not done: the user did not confirm")
    assert not sure.is_error


@pytest.mark.parametrize("era", ERAS)
async def test_who_cannot_ask_is_told_to_confirm(odd: House, era: str) -> None:
    control = await odd.tokens.create("control", Scope.CONTROL)
    async with odd.client(era, token=control) as client:
        said = await refusal(client, "delete_zone", zone="roof")
    assert said.startswith("zone roof would be deleted; this cannot be undone: nothing was done")


@pytest.mark.parametrize("era", ERAS)
async def test_a_context_is_kept_for_its_token_and_assumed_where_nothing_is_said(odd: House, era: str) -> None:
    other = await odd.tokens.create("other", Scope.READ)
    async with odd.client(era) as client:
        said = await answer(client, "set_context", device="cellar")
        assert (said["device"], said["name"]) == ("cellar", "reader")
        newest = await answer(client, "get_latest_readings")
        assert [one["metric"] for one in newest["readings"]] == ["pressure"]
        assert newest["assumed"] == "device 'cellar' was assumed"
        assert (await answer(client, "get_latest_readings", device=None))["total"] == 4
        assert (await answer(client, "list_devices"))["total"] == 2
        told = await refusal(client, "get_statistics", metric="co2")
        assert told.endswith("; device 'cellar' was assumed, set_context changes that")
        assert "there is no 'celar'" in await refusal(client, "set_context", device="celar")
        assert "no device is in 'rof'; did you mean 'roof'" in await refusal(client, "set_context", zone="rof")
        await answer(client, "set_context", device="", zone="roof")
        newest = await answer(client, "get_latest_readings")
        assert ({one["device"] for one in newest["readings"]}, newest["assumed"]) == (
            {"attic"},
            "zone 'roof' was assumed",
        )
    async with odd.client(era, token=other) as client:
        assert (await answer(client, "get_latest_readings"))["total"] == 4
        assert "device" not in await answer(client, "whoami")


async def test_a_context_outlives_the_process(tmp_path: Path) -> None:
    async with house(tmp_path) as built:
        await furnish(built)
        token = built.token
        async with built.client(MODERN) as client:
            await answer(client, "set_context", device="attic")
    async with house(tmp_path) as built, built.client(MODERN, token=token) as client:
        assert (await answer(client, "whoami"))["device"] == "attic"


@pytest.mark.parametrize("era", ERAS)
async def test_risks_of_all_tools_and_what_the_caller_may(odd: House, era: str) -> None:
    async with odd.client(era) as client:
        risks = {one["tool"]: one for one in (await answer(client, "get_tool_risk_metadata"))["tools"]}
        cleared = await answer(client, "clear_query_cache")
    assert risks["delete_zone"] == {
        "tool": "delete_zone",
        "toolset": "devices",
        "risk": "high",
        "scope": "control",
        "write": True,
        "destructive": True,
        "allowed": False,
    }
    assert risks["list_devices"]["allowed"]
    assert cleared["cleared"] == 3


async def test_a_function_that_the_policy_does_not_know_stops_the_start(tmp_path: Path) -> None:
    class Unknown:
        def __init__(self, parts: Parts) -> None:
            pass

        def functions(self) -> Sequence[Callable[..., Any]]:
            return (test_what_just_fits_is_sent,)

    with pytest.raises(KeyError, match="no tool of the policy's table"):
        async with house(tmp_path, more=More(groups=(Unknown,))):
            pass
