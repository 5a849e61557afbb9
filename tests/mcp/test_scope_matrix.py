"""Every tool x every scope x dry run, bare and confirmed, over real HTTP in both eras: verdict, trace, and no table
changed that was not meant to be. Tools of the policy's table join by themselves; a write without an example fails."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp_types import CallToolResult

from gateway.access.policy import ACTIONS, Action
from gateway.access.principal import Scope
from gateway.nodes.ota.rollout_commands import PauseRollout, RolloutView, UpdateFirmware
from gateway.store import queries
from gateway.store.types import AuditRow
from tests.control.scene import Scene, scene
from tests.nodes.bundles import PUBLIC, written
from tests.web.house import ERAS, reading

WRITES = [action for action in ACTIONS.values() if action.tool and action.write]
CODE = "def {name}(ppm: float) -> float:\n    return ppm / 2\n"
PPM = {"type": "object", "properties": {"ppm": {"type": "number"}}, "required": ["ppm"]}

Prepare = Callable[[Scene, int], Awaitable[dict[str, Any]]]


async def a_device(home: Scene, n: int) -> str:
    await home.house.add(reading(f"spare-{n}"))
    return f"spare-{n}"


async def a_zone(home: Scene, n: int) -> str:
    await home.house.store.write(lambda db: db.execute(f"insert into zone (zone_id, name) values ('z{n}', 'Z')"))
    return f"z{n}"


async def a_tool(home: Scene, n: int) -> dict[str, Any]:
    box = home.acting.toolbox
    draft = box.draft(f"half_{n}", "Half of it", CODE.format(name=f"half_{n}"), PPM, "test")
    await box.keep(draft)
    return {"name": draft.name, "version": draft.version, "sha256": draft.sha256}


async def a_query(home: Scene, n: int) -> str:
    await home.house.store.write(
        lambda db: db.execute(f"insert into saved_query values ('q{n}', 'select 1', '[]', '', '', now()::TIMESTAMP)")
    )
    return f"q{n}"


async def a_task(home: Scene, n: int, owner: str) -> str:
    async def for_ever(_progress: object) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    return home.acting.tasks.start("waiting", owner, for_ever)


def fixed(**arguments: Any) -> Prepare:
    async def prepare(_home: Scene, _n: int) -> dict[str, Any]:
        return arguments

    return prepare


async def update_device(home: Scene, n: int) -> dict[str, Any]:
    return {"device": "node-1", "name": f"Node {n}"}


async def claim_device(home: Scene, n: int) -> dict[str, Any]:
    return {"device": await a_device(home, n), "zone": "roof"}


async def delete_device(home: Scene, n: int) -> dict[str, Any]:
    return {"device": await a_device(home, n)}


async def save_zone(home: Scene, n: int) -> dict[str, Any]:
    return {"zone": f"new-{n}", "name": "New", "devices": ["node-2"]}


async def delete_zone(home: Scene, n: int) -> dict[str, Any]:
    return {"zone": await a_zone(home, n)}


async def calibrate_sensor(home: Scene, n: int) -> dict[str, Any]:
    return {"device": "attic", "sensor": "scd30", "operation": "altitude", "value": 100 + n}


async def cancel_task(home: Scene, n: int) -> dict[str, Any]:
    return {"task_id": await a_task(home, n, home.caller)}


async def create_token(home: Scene, n: int) -> dict[str, Any]:
    return {"name": f"guest-{n}", "scope": "read"}


async def revoke_token(home: Scene, n: int) -> dict[str, Any]:
    await home.house.tokens.create(f"old-{n}", Scope.READ)
    return {"name": f"old-{n}"}


async def node_login(home: Scene, n: int) -> dict[str, Any]:
    await home.core.logins.add(f"login-{n}")
    return {"device": f"login-{n}"}


async def an_update(home: Scene, n: int) -> dict[str, Any]:
    """Of a node of its own, to a bundle that is here."""
    name, updating = f"esp-{n}", home.acting.updating
    if not updating.shelf.keys:
        await updating.shelf.trust(PUBLIC, "anna", "local")
        await updating.shelf.add(await updating.shelf.check(written(home.core.folder)), "anna")
    await home.core.logins.add(name)
    said = {"firmware_version": "1.3.0", "board": "esp32", "slots": "files"}
    await home.core.registry.capabilities(name, said)
    await updating.fleet.capabilities(name, said)
    return {"devices": [name]}


async def a_rollout(home: Scene, n: int) -> dict[str, Any]:
    command = UpdateFirmware(**await an_update(home, n), confirm=True)
    begun = await home.acting.commands.run(command)
    assert isinstance(begun, RolloutView)
    return {"rollout": begun.rollout}


async def a_paused_rollout(home: Scene, n: int) -> dict[str, Any]:
    found = await a_rollout(home, n)
    await home.acting.commands.run(PauseRollout(**found))
    return found


async def register_dynamic_tool(home: Scene, n: int) -> dict[str, Any]:
    name = f"third_{n}"
    return {"name": name, "description": "A third", "code": CODE.format(name=name), "arguments": PPM}


async def remove_dynamic_tool(home: Scene, n: int) -> dict[str, Any]:
    return {"name": (await a_tool(home, n))["name"]}


async def save_query(home: Scene, n: int) -> dict[str, Any]:
    parameters = [{"name": "least", "type": "number"}]
    return {"name": f"high-{n}", "sql": "select * from measurements where value > $least", "parameters": parameters}


async def delete_saved_query(home: Scene, n: int) -> dict[str, Any]:
    return {"name": await a_query(home, n)}


EXAMPLES: Mapping[str, Prepare] = {
    "update_device": update_device,
    "claim_device": claim_device,
    "delete_device": delete_device,
    "save_zone": save_zone,
    "delete_zone": delete_zone,
    "send_command": fixed(device="node-1", name="blink"),
    "calibrate_sensor": calibrate_sensor,
    "export_data": fixed(device="attic", metric="co2", start="-1h"),
    "cancel_task": cancel_task,
    "create_token": create_token,
    "revoke_token": revoke_token,
    "rotate_node_login": node_login,
    "revoke_node_login": node_login,
    "initiate_firmware_update": an_update,
    "pause_rollout": a_rollout,
    "resume_rollout": a_paused_rollout,
    "abort_rollout": a_rollout,
    "register_dynamic_tool": register_dynamic_tool,
    "approve_dynamic_tool": a_tool,
    "remove_dynamic_tool": remove_dynamic_tool,
    "save_query": save_query,
    "delete_saved_query": delete_saved_query,
}
"""Arguments with which a write succeeds once."""


def test_every_write_has_an_example() -> None:
    assert {action.name for action in WRITES} == EXAMPLES.keys()


async def dump(home: Scene) -> dict[str, list[str]]:
    """Every table but the audit, row by row."""

    def tables(db: Any) -> dict[str, list[str]]:
        names = [row[0] for row in db.execute("select table_name from duckdb_tables()").fetchall()]
        return {name: sorted(map(str, db.execute(f'select * from "{name}"').fetchall())) for name in names}

    found = await home.house.store.read(tables)
    del found["audit"]
    return found


class Matrix:
    """One era of one scene; counts the calls, so that each example gets a fresh number."""

    def __init__(self, home: Scene, scope: Scope, client: Client) -> None:
        self.home, self.scope, self.client = home, scope, client

    async def call(self, action: Action, arguments: Mapping[str, Any]) -> tuple[CallToolResult, list[AuditRow]]:
        """The answer, and what was written into the audit meanwhile."""
        before = len(await queries.audit_rows(self.home.house.store, 10_000))
        result = await self.client.call_tool(action.name, dict(arguments))
        rows = await queries.audit_rows(self.home.house.store, 10_000)
        return result, rows[: len(rows) - before]

    async def refused(self, action: Action, arguments: Mapping[str, Any], why: str) -> None:
        before = await dump(self.home)
        result, rows = await self.call(action, arguments)
        assert result.is_error
        assert why in text(result)
        assert [(row.action, row.allowed, row.principal) for row in rows] == [
            (action.name, False, f"my-{self.scope}")
        ], rows
        assert rows[0].reason == "not confirmed" or why in rows[0].reason
        assert await dump(self.home) == before

    async def write(self, action: Action, n: int) -> None:
        arguments = await EXAMPLES[action.name](self.home, n)
        if self.scope < action.scope:
            for more in ({}, {"dry_run": True}, {"confirm": True} if action.destructive else {}):
                await self.refused(action, arguments | more, f"{action.name} needs scope {action.scope}")
            return
        before = await dump(self.home)
        result, rows = await self.call(action, arguments | {"dry_run": True})
        assert not result.is_error, text(result)
        assert result.structured_content is not None
        assert result.structured_content["dry_run"] is True
        assert [(row.action, row.allowed) for row in rows] == [(action.name, True)]
        assert rows[0].detail.endswith("dry run")
        assert await dump(self.home) == before
        if action.destructive:
            await self.refused(action, arguments, "this cannot be undone")
            arguments |= {"confirm": True}
        result, rows = await self.call(action, arguments)
        assert not result.is_error, text(result)
        assert "dry_run" not in (result.structured_content or {})
        assert [(row.action, row.allowed, row.principal) for row in rows] == [(action.name, True, f"my-{self.scope}")]
        assert "dry run" not in rows[0].detail


def text(result: CallToolResult) -> str:
    return str(result.content[0].text)  # type: ignore[union-attr]


@pytest.mark.parametrize("era", ERAS)
async def test_the_matrix_of_writes(tmp_path: Path, era: str) -> None:
    async with scene(tmp_path) as home:
        n = 0
        for scope in Scope:
            verified = await home.house.tokens.verify(home.secrets[scope])
            assert verified is not None
            home.caller = verified.token_id
            async with home.client(era, scope) as client:
                for action in WRITES:
                    n += 1
                    await Matrix(home, scope, client).write(action, n)


@pytest.mark.parametrize("era", ERAS)
async def test_the_matrix_of_reads(tmp_path: Path, era: str) -> None:
    """Who may ask is answered or told which argument is wrong; who may not is told which scope it takes, which is
    the only thing that is written down."""
    async with scene(tmp_path) as home:
        for scope in Scope:
            async with home.client(era, scope) as client:
                for entry in home.house.endpoint.catalogue.entries():
                    if entry.action.write:
                        continue
                    before = len(await queries.audit_rows(home.house.store, 10_000))
                    result = await client.call_tool(entry.action.name, {})
                    rows = await queries.audit_rows(home.house.store, 10_000)
                    told = [(row.action, row.allowed, row.principal) for row in rows[: len(rows) - before]]
                    if scope < entry.action.scope:
                        assert told == [(entry.action.name, False, f"my-{scope}")]
                    else:
                        assert told == []
                    refused = f"{entry.action.name} needs scope {entry.action.scope}"
                    assert (result.is_error and refused in text(result)) == (scope < entry.action.scope)
                    assert "its log says why" not in text(result)


@pytest.mark.parametrize("era", ERAS)
async def test_lists_follow_scope_and_toolset(tmp_path: Path, era: str) -> None:
    async with scene(tmp_path) as home:
        known = [entry.action for entry in home.house.endpoint.catalogue.entries()]
        assert [action.name for action in known] == [action.name for action in ACTIONS.values() if action.tool]
        for scope in Scope:
            for toolset in ("core", "devices", "all"):
                async with home.client(era, scope, toolset) as client:
                    names = [tool.name for tool in (await client.list_tools()).tools]
                assert names == [
                    action.name for action in known if action.scope <= scope and toolset in {action.toolset, "all"}
                ]
