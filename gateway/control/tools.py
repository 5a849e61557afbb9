"""What an admin keeps for assistants: dynamic tools and saved queries."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic import BaseModel

from gateway.access.principal import Principal, Scope
from gateway.clock import Clock
from gateway.command import Done
from gateway.control.base import Handler, Plan
from gateway.jail.commands import (
    ApproveTool,
    DeleteSavedQuery,
    RegisterTool,
    RemoveTool,
    SaveQuery,
    ToolKept,
    ToolList,
    ToolView,
    ToolViews,
)
from gateway.jail.saved import SavedQueries
from gateway.jail.toolbox import Toolbox
from gateway.store.tool_rows import SavedQuery


class ToolCommands:
    """Runs them. Others than admins see only the tools that run, and no code."""

    def __init__(self, toolbox: Toolbox) -> None:
        self._toolbox = toolbox

    def handlers(self) -> Mapping[type[Any], Handler]:
        return {
            ToolList: self._list,
            RegisterTool: self._register,
            ApproveTool: self._approve,
            RemoveTool: self._remove,
        }

    async def _list(self, _command: ToolList, principal: Principal) -> BaseModel:
        box, is_admin = self._toolbox, principal.scope >= Scope.ADMIN
        found = []
        for tool in box.versions() if is_admin else box.live():
            running = box.running(tool.name)
            runs = running is not None and running.version == tool.version
            found.append(ToolView.of(tool, box.use(tool.name), runs=runs, code=is_admin))
        return ToolViews(tools=found)

    async def _register(self, command: RegisterTool, principal: Principal) -> Plan:
        tool = self._toolbox.draft(command.name, command.description, command.code, command.arguments, principal.name)
        is_new = all(each.sha256 != tool.sha256 for each in self._toolbox.versions())
        kept = ToolKept(name=tool.name, version=tool.version, sha256=tool.sha256, is_new=is_new)

        async def do() -> BaseModel:
            if is_new:
                await self._toolbox.keep(tool)
            return kept

        would = f"this keeps version {tool.version} of {tool.name}, which does not run before it is approved"
        return Plan(would, do, kept.model_copy(update={"dry_run": True}))

    async def _approve(self, command: ApproveTool, principal: Principal) -> Plan:
        name, version, digest = command.name, command.version, command.sha256
        self._toolbox.expect(name, version, digest)

        async def do() -> BaseModel:
            await self._toolbox.approve(name, version, digest, principal.name)
            return Done(done=f"version {version} of {name} runs from now on")

        return Plan(f"this lets version {version} of {name} run", do)

    async def _remove(self, command: RemoveTool, _principal: Principal) -> Plan:
        versions = self._toolbox.count(command.name)

        async def do() -> BaseModel:
            await self._toolbox.remove(command.name)
            return Done(done=f"{command.name} is removed with its {versions} versions")

        return Plan(f"this removes the tool {command.name} with its {versions} versions", do)


class QueryCommands:
    """Runs them."""

    def __init__(self, queries: SavedQueries, clock: Clock) -> None:
        self._queries, self._clock = queries, clock

    def handlers(self) -> Mapping[type[Any], Handler]:
        return {SaveQuery: self._save, DeleteSavedQuery: self._delete}

    async def _save(self, command: SaveQuery, principal: Principal) -> Plan:
        parameters = tuple(each.model_dump() for each in command.parameters)
        now = self._clock.now()
        query = SavedQuery(command.name, command.sql, parameters, command.description, principal.name, now)
        replaces = await self._queries.expect(query)

        async def do() -> BaseModel:
            await self._queries.keep(query)
            return Done(done=f"query {command.name} is saved")

        return Plan(f"this saves query {command.name}{' in place of another' if replaces else ''}", do)

    async def _delete(self, command: DeleteSavedQuery, _principal: Principal) -> Plan:
        await self._queries.get(command.name)
        return Plan(f"this deletes the saved query {command.name}", partial(self._gone, command.name))

    async def _gone(self, name: str) -> BaseModel:
        await self._queries.delete(name)
        return Done(done=f"query {name} is deleted")
