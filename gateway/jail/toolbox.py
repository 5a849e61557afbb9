"""Dynamic tools: pure functions that an admin registered and that run in the jail, once exactly they were approved.

Name, description and schema are somebody's text: bounded, cleaned, and never those of a tool of the gateway itself.
"""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from datetime import timedelta
from difflib import get_close_matches
from hashlib import sha256
from types import TracebackType
from typing import Any, Self

from gateway.clock import Clock
from gateway.jail import shapes
from gateway.store import tool_rows
from gateway.store.db import Store
from gateway.store.errors import StoreError
from gateway.store.tool_rows import DynamicTool, Use

log = logging.getLogger(__name__)

NAME = re.compile(r"[a-z][a-z0-9_]{2,47}")
MOST_TOOLS = 32
MOST_VERSIONS = 10
MOST_CODE = 20_000
MOST_DESCRIPTION = 500
WRITE_EVERY = timedelta(hours=1)
"""How old the written count of calls may be; memory always knows better."""

Call = Callable[[str, str, dict[str, Any]], Awaitable[Any]]
"""(code, function, arguments) -> what it returned, as JSON; ValueError says what went wrong in it."""


class ToolRefused(ValueError):
    """A tool cannot be registered, approved or called; one line with the way out."""


class Toolbox:
    """`async with` loads what is kept, and writes the counts down at the end. `call` runs a function in the jail,
    `reserved` are names that no dynamic tool may have, `changed` is called whenever the tools that run are others."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        call: Call,
        reserved: Collection[str],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._store, self._clock, self._call, self._reserved = store, clock, call, frozenset(reserved)
        self.changed = changed
        self._tools: dict[str, dict[int, DynamicTool]] = {}
        self._uses: dict[str, Use] = {}
        self._unwritten: set[str] = set()
        self._written = clock.now()
        self._busy = asyncio.Lock()

    async def __aenter__(self) -> Self:
        for tool in await tool_rows.tools(self._store):
            self._tools.setdefault(tool.name, {})[tool.version] = tool
        self._uses = await tool_rows.uses(self._store)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.flush()

    def versions(self) -> list[DynamicTool]:
        """Every version of every tool, by name and version."""
        return [tool for name in sorted(self._tools) for _, tool in sorted(self._tools[name].items())]

    def live(self) -> list[DynamicTool]:
        """What runs: of each tool the version that was approved last; none of a name that the gateway itself uses."""
        found = (self.running(name) for name in sorted(self._tools))
        return [tool for tool in found if tool is not None]

    def running(self, name: str) -> DynamicTool | None:
        """The version of this tool that runs, None where none was approved."""
        approved = [tool for tool in self._tools.get(name, {}).values() if tool.approved is not None]
        if not approved or name in self._reserved:
            return None
        return max(approved, key=lambda tool: (tool.approved or tool.time, tool.version))

    def use(self, name: str) -> Use:
        """How often a tool was called."""
        return self._uses.get(name, Use())

    def draft(self, name: str, description: str, code: str, arguments: object, by: str) -> DynamicTool:
        """What registering this would keep: the next version, or the same one where nothing differs. ToolRefused."""
        if not NAME.fullmatch(name):
            raise ToolRefused(f"name: {name[:64]!r} is none: 3 to 48 of a-z, 0-9 and _, beginning with a letter")
        if name in self._reserved:
            raise ToolRefused(f"name: {name!r} is taken by this gateway itself; choose another")
        if name not in self._tools and len(self._tools) >= MOST_TOOLS:
            raise ToolRefused(f"there are {MOST_TOOLS} dynamic tools already: remove one first")
        if not code.strip() or len(code) > MOST_CODE:
            raise ToolRefused(f"code: {len(code)} characters: give 1 to {MOST_CODE}")
        if not re.search(rf"(?m)^def {name}\(", code):
            raise ToolRefused(f"code: it does not define the function of the tool: def {name}(…):")
        try:
            schema = shapes.check(arguments)
            told = shapes.one_line(description, "description", MOST_DESCRIPTION)
        except ValueError as error:
            raise ToolRefused(str(error)) from None
        if not told:
            raise ToolRefused("description: say what the tool does, and in which unit")
        digest = sha256(json.dumps([name, told, schema, code], sort_keys=True).encode()).hexdigest()
        known = self._tools.get(name, {})
        same = next((tool for tool in known.values() if tool.sha256 == digest), None)
        if same is not None:
            return same
        version = max(known, default=0) + 1
        return DynamicTool(name, version, told, code, schema, digest, by, self._clock.now())

    async def keep(self, tool: DynamicTool) -> None:
        """Keep a draft; it does not run before it is approved. The oldest versions that do not run give way."""
        async with self._busy:
            await self._keep(tool)

    async def _keep(self, tool: DynamicTool) -> None:
        known = self._tools.get(tool.name, {})
        if (there := known.get(tool.version)) is not None and there.sha256 != tool.sha256:
            raise ToolRefused(f"name: somebody registered version {tool.version} of {tool.name!r} meanwhile; try again")
        running = self.running(tool.name)
        idle = [version for version in sorted(known) if running is None or version != running.version]
        drop = idle[: max(0, len(known) + 1 - MOST_VERSIONS)] if tool.version not in known else []
        await tool_rows.save_tool(self._store, tool, drop)
        left = {version: each for version, each in known.items() if version not in drop}
        self._tools[tool.name] = left | {tool.version: tool}

    def version(self, name: str, version: int) -> DynamicTool:
        """One version; ToolRefused names what there is."""
        known = self._known(name)
        if version not in known:
            there = ", ".join(map(str, sorted(known)))
            raise ToolRefused(f"version: {name!r} has no version {version}; there is {there}")
        return known[version]

    def count(self, name: str) -> int:
        """How many versions a tool has; ToolRefused where there is none."""
        return len(self._known(name))

    def expect(self, name: str, version: int, digest: str) -> DynamicTool:
        """The version that has this hash; ToolRefused where it has another."""
        tool = self.version(name, version)
        if digest.lower() != tool.sha256:
            raise ToolRefused(f"sha256: version {version} of {name!r} has {tool.sha256}: read it, then approve that")
        return tool

    async def approve(self, name: str, version: int, digest: str, by: str) -> DynamicTool:
        """Let exactly this version run from now on; ToolRefused where the hash is that of something else."""
        async with self._busy:
            approved = replace(self.expect(name, version, digest), approved_by=by, approved=self._clock.now())
            await self._keep(approved)
        self.changed()
        return approved

    async def remove(self, name: str) -> int:
        """Forget a tool; how many versions it had."""
        async with self._busy:
            versions = len(self._known(name))
            await tool_rows.delete_tool(self._store, name)
            del self._tools[name]
        self._uses.pop(name, None)
        self._unwritten.discard(name)
        self.changed()
        return versions

    async def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """What the tool returns for these arguments, which its schema has checked before anything runs."""
        tool = self.running(name)
        if tool is None:
            self._known(name)
            raise ToolRefused(f"name: no version of {name!r} is approved; an admin may do that")
        given = shapes.conform(tool.arguments, arguments)
        failed = True
        try:
            result = await self._call(tool.code, tool.name, given)
            failed = False
            return result
        finally:
            await self._count(name, failed)

    async def flush(self) -> None:
        """Write down how often tools were used; what the store does not take is written later."""
        uses = {name: self._uses[name] for name in self._unwritten}
        self._written = self._clock.now()
        try:
            await tool_rows.save_uses(self._store, uses)
        except StoreError as error:
            log.warning("the use of dynamic tools was not written down: %s", error)
        else:
            self._unwritten.clear()

    async def _count(self, name: str, failed: bool) -> None:
        if name not in self._tools:
            return
        use, now = self.use(name), self._clock.now()
        self._uses[name] = Use(use.calls + 1, use.failures + failed, now)
        self._unwritten.add(name)
        if now - self._written >= WRITE_EVERY:
            await self.flush()

    def _known(self, name: str) -> dict[int, DynamicTool]:
        known = self._tools.get(name)
        if known is None:
            near = get_close_matches(name, self._tools, 1, 0.5)
            there = f"did you mean {near[0]!r}?" if near else "list_dynamic_tools tells those that are"
            raise ToolRefused(f"name: there is no dynamic tool {name[:64]!r}; {there}")
        return known
