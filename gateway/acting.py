"""What acts: the typed commands over everything they may touch, the tasks they begin, the tools that come with them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import Context
from mcp_types import CallToolResult

from gateway.access import authority
from gateway.access.authority import Authority
from gateway.access.policy import ACTIONS, Plain
from gateway.calibration.service import Calibrations
from gateway.command import ControlError
from gateway.control.access import AccessCommands, StatusView
from gateway.control.base import Kind
from gateway.control.data import DataCommands
from gateway.control.exports import ExportCommands
from gateway.control.house import HouseCommands
from gateway.control.logins import LoginCommands
from gateway.control.run import Commands
from gateway.control.sensors import NodeCommands, Send, SensorCommands
from gateway.control.started import TaskCommands, explain
from gateway.control.tools import QueryCommands, ToolCommands
from gateway.core import Core, delete, forget
from gateway.files.files import Files
from gateway.jail.saved import SavedQueries
from gateway.jail.toolbox import Call, Toolbox
from gateway.mcp.endpoint import Endpoint
from gateway.mcp.live import DEVICES, status_uri, zone_uri
from gateway.mcp.tools.admin import AdminTools
from gateway.mcp.tools.base import Group, House
from gateway.mcp.tools.control import ControlTools
from gateway.mcp.tools.dynamic import DynamicTools
from gateway.mcp.tools.firmware import FirmwareTools
from gateway.mcp.tools.nodes import NodeLoginTools
from gateway.mcp.tools.queries import Ask, QueryTools
from gateway.registry.registry import Registry
from gateway.store.exchange.errands import Errands
from gateway.tasks import Progress, Tasks
from gateway.updating import Updating, Ways, open_updating


async def _nowhere(_device: str) -> None:
    """There is no broker that could remember anything."""


async def _off(_code: str, _function: str, _arguments: dict[str, Any]) -> Any:
    raise ControlError("dynamic tools do not run here: there is no jail for them")


async def _no_questions(_ctx: Context, _sql: str, _parameters: Mapping[str, Any]) -> CallToolResult:
    raise ControlError("SQL does not run here: there is no jail for it")


@dataclass(frozen=True, slots=True)
class Outside:
    """What only a running gateway has. `send` reaches nodes, `farewell` lets the broker forget one, `changed` hears
    which device was changed, `call` runs a function in the jail. `connected` and `unguarded` are the broker's: who is
    there since when, and why nobody has to log in."""

    calibrations: Calibrations | None = None
    send: Send | None = None
    farewell: Callable[[str], Awaitable[None]] = _nowhere
    changed: Callable[[str], None] = lambda _device: None
    status: Callable[[], Awaitable[StatusView]] | None = None
    settings: Path | None = None
    files: Files | None = None
    call: Call = _off
    connected: Callable[[], Mapping[str, datetime]] = dict
    unguarded: Callable[[], str] = str
    ways: Ways | None = None


@dataclass(frozen=True, slots=True)
class Acting:
    """`commands` for whoever acts; `groups` are the tools that use them. `updating` is what nodes can be given and
    who gets it. `changed` are those who hear which device was changed ("" for a zone)."""

    commands: Commands
    tasks: Tasks
    toolbox: Toolbox
    saved: SavedQueries
    registry: Registry
    updating: Updating
    changed: list[Callable[[str], None]]
    dynamic: list[DynamicTools] = field(default_factory=list)

    def groups(self, ask: Ask = _no_questions) -> Sequence[Callable[[House], Group]]:
        """For the MCP server; `ask` answers a saved query's SQL."""
        run = self.commands.run
        return (
            lambda house: ControlTools(house, run, self.tasks),
            lambda house: AdminTools(house, run),
            lambda house: FirmwareTools(house, run),
            lambda house: NodeLoginTools(house, run),
            self._dynamic_tools,
            lambda house: QueryTools(house, run, self.saved, ask),
        )

    def follow(self, endpoint: Endpoint) -> None:
        """From now on clients see the dynamic tools that run, and hear of what people changed."""
        for each in self.dynamic:
            each.follow(endpoint.catalogue)

        def tell(device: str) -> None:
            zones = {one.zone_id for one in self.registry.devices() if one.zone_id}
            for uri in (DEVICES, *([status_uri(device)] if device else []), *map(zone_uri, zones)):
                endpoint.resource_changed(uri)

        self.changed.append(tell)

    def _dynamic_tools(self, house: House) -> DynamicTools:
        made = DynamicTools(house, self.commands.run, self.toolbox)
        self.dynamic.append(made)
        return made


async def open_acting(core: Core, outside: Outside, stack: AsyncExitStack) -> Acting:
    """For as long as the stack lives; tasks that run at its end are cancelled."""
    toolbox = Toolbox(core.store, core.clock, outside.call, ACTIONS.keys())
    await stack.enter_async_context(toolbox)
    tasks = await stack.enter_async_context(Tasks(core.clock.now, explain))
    saved, listeners = SavedQueries(core.store), [outside.changed]

    def changed(device: str) -> None:
        for each in listeners:
            each(device)

    updating = await open_updating(core, outside.ways, stack)
    outside = replace(outside, changed=changed)
    kinds = [*_kinds(core, outside, tasks, toolbox, saved, updating=updating), *updating.kinds]
    commands = Commands(core.audit, kinds, plain=Plain(core.config.http.plain))
    return Acting(commands, tasks, toolbox, saved, core.registry, updating, listeners)


def _kinds(
    core: Core, outside: Outside, tasks: Tasks, toolbox: Toolbox, saved: SavedQueries, *, updating: Updating
) -> list[Kind]:
    errands = Errands(core.store, core.clock, core.keeper.seal, core.registry.learn_of_others, outside.settings)
    house = HouseCommands(
        core.store,
        core.registry,
        tasks,
        core.clock,
        node_login=core.logins.add_once,
        delete=partial(_delete, core, outside.farewell, updating),
        changed=outside.changed,
    )
    found: list[Kind] = [
        AccessCommands(core.tokens, core.clock, outside.status),
        _logins(core, outside),
        DataCommands(errands, partial(forget, core)),
        house,
        TaskCommands(tasks),
        ToolCommands(toolbox),
        QueryCommands(saved, core.clock),
    ]
    if outside.calibrations is not None:
        found.append(SensorCommands(outside.calibrations))
    if outside.send is not None:
        found.append(NodeCommands(core.store, core.registry, tasks, core.keys.get, outside.send))
    if outside.files is not None:
        found.append(ExportCommands(core.store, core.clock, outside.files, tasks))
    return found


def _logins(core: Core, outside: Outside) -> LoginCommands:
    async def authority_of() -> Authority:
        return await asyncio.to_thread(authority.load_or_create, core.folder / "identity", core.identity.gateway_id)

    return LoginCommands(
        core.logins,
        core.keys,
        core.registry,
        authority_of,
        connected=outside.connected,
        unguarded=outside.unguarded,
    )


async def _delete(
    core: Core, farewell: Callable[[str], Awaitable[None]], updating: Updating, device: str, progress: Progress
) -> int:
    """First the broker, so that what it keeps does not bring the device back: where it is away nothing is deleted."""
    try:
        await farewell(device)
    except ConnectionError as error:
        raise ControlError(f"{error}: nothing of {device} was deleted") from error
    if any(each.user == device for each in core.logins.live()):
        await core.logins.revoke(device)
    await updating.forget(device)
    return await delete(core, device, progress)
