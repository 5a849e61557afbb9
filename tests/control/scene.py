"""A gateway with everything that acts, over real HTTP: two nodes, a wired CO2 sensor, a zone, tokens of every scope."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import Context
from mcp_types import CallToolResult, TextContent

from drivers.model import Quantity
from gateway.access.audit import Audit
from gateway.access.identity import Identity
from gateway.access.logins import Logins, NodeKeys
from gateway.access.policy import Plain
from gateway.access.principal import Scope
from gateway.access.tokens import Tokens
from gateway.acting import Acting, Outside, open_acting
from gateway.asking import open_asking
from gateway.config import Config
from gateway.core import Core
from gateway.files.files import Files
from gateway.mcp.server import More
from gateway.nodes.ota.fleet import Fleet
from gateway.registry.journal import Journal
from gateway.registry.registry import Registry
from gateway.store import commands
from gateway.store.db import Store
from gateway.store.keeper import Keeper
from gateway.store.types import Zone
from gateway.updating import Ways
from tests.calibration import scene as calibration
from tests.web.house import ZONE, HandClock, House, furnish, house, reading


@dataclass
class Node:
    """What the nodes of the scene are told, and what they answer."""

    heard: list[tuple[str, str, Mapping[str, Any]]] = field(default_factory=list)
    cleared: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    away: Exception | None = None

    async def send(self, device: str, name: str, args: Mapping[str, Any], timeout_s: float) -> tuple[bool, Any]:
        if self.away is not None:
            raise self.away
        self.heard.append((device, name, dict(args)))
        return True, {"uptime_s": 12}

    async def farewell(self, device: str) -> None:
        if self.away is not None:
            raise self.away
        self.cleared.append(device)


@dataclass
class Scene:
    """The house and what acts in it; `secrets` are tokens by their scope."""

    house: House
    core: Core
    acting: Acting
    files: Files
    node: Node
    secrets: dict[Scope, str]
    caller: str = ""

    @asynccontextmanager
    async def client(self, era: str, scope: Scope, toolsets: str = "all", base: str = "") -> AsyncIterator[Client]:
        """A real MCP client with a token of this scope."""
        async with self.house.browser(base, token=self.secrets[scope], timeout=30) as http:
            address = f"{base or self.house.http}/mcp?toolsets={toolsets}"
            async with Client(streamable_http_client(address, http_client=http), mode=era) as client:
                yield client

    async def call(self, era: str, scope: Scope, tool: str, /, **arguments: Any) -> CallToolResult:
        """One call on a connection of its own."""
        async with self.client(era, scope) as client:
            return await client.call_tool(tool, arguments)


async def trusting(code: str, function: str, arguments: dict[str, Any]) -> Any:
    """The jail's contract without its walls, for code that is written in these tests."""
    names: dict[str, Any] = {}
    try:
        exec(code, names)
        return names[function](**arguments)
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


async def answered(_ctx: Context, sql: str, parameters: Mapping[str, Any]) -> CallToolResult:
    """What a saved query was asked as."""
    data = {"sql": sql, "parameters": dict(parameters)}
    return CallToolResult(content=[TextContent(type="text", text=sql)], structured_content=data)


@asynccontextmanager
async def scene(
    folder: Path, *, plain: Plain = Plain.READ, call: Callable[[str, str, dict[str, Any]], Awaitable[Any]] = trusting
) -> AsyncIterator[Scene]:
    """The whole scene, furnished, until the block ends."""
    node, made = Node(), []
    air = calibration.Scene()
    parts = AsyncExitStack()

    async def equip(store: Store, registry: Registry, clock: HandClock, tokens: Tokens, identity: Identity) -> More:
        journal = Journal(store)
        core = Core(
            config=Config.model_validate({"http": {"plain": str(plain)}}),
            folder=folder / "data",
            clock=clock,
            zone=ZONE,
            store=store,
            registry=registry,
            identity=identity,
            tokens=tokens,
            audit=Audit(store, clock),
            desk=None,  # type: ignore[arg-type]
            keys=(keys := NodeKeys(store)),
            logins=Logins(store, clock, keys),
            journal=journal,
            keeper=Keeper(store, clock, note=journal.note),
            started_s=asyncio.get_running_loop().time(),
            written=(folder, 0),
        )
        asking = await open_asking(core, parts)
        files = asking.files
        ways = Ways(Fleet(store, clock))
        outside = Outside(air.service, node.send, node.farewell, node.changed.append, files=files, call=call, ways=ways)
        acting = await open_acting(core, outside, parts)
        made.append((core, acting, files))
        return More(groups=(*acting.groups(answered), *asking.groups))

    async with house(folder, plain=plain, equip=equip) as built:
        try:
            core, acting, files = made[0]
            acting.follow(built.endpoint)
            await air.driver.start()
            await _furnish(built)
            secrets = {scope: await built.tokens.create(f"my-{scope}", scope) for scope in Scope}
            yield Scene(built, core, acting, files, node, secrets)
        finally:
            await parts.aclose()


async def _furnish(built: House) -> None:
    await furnish(built)
    await commands.save_zone(built.store, Zone("roof", "Roof"))
    await commands.save_zone(built.store, Zone("ground", "Ground floor", floor="0"))
    await built.add(*(reading(name, Quantity.CO2, 500.0) for name in ("node-1", "node-2")))
    await built.registry.flush()
