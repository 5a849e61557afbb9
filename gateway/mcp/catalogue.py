"""Which tools there are: those of the policy's table, and those that come and go at run time."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import mcp_types as types
from mcp.server.mcpserver.tools import Tool

from gateway.access.policy import ACTIONS, Action
from gateway.mcp.tools.base import Group
from gateway.mcp.tools.schemas import described, make


@dataclass(frozen=True, slots=True)
class Entry:
    """A tool, what the policy has to decide about it, and how it is listed."""

    tool: Tool
    action: Action
    listed: types.Tool


class Catalogue:
    """All tools by name. `changed` is called whenever one comes or goes after the start."""

    def __init__(self, groups: Iterable[Group], changed: Callable[[], None]) -> None:
        """KeyError where a function is not a tool of the policy's table."""
        functions = {function.__name__: function for group in groups for function in group.functions()}
        for name in functions:
            if name not in ACTIONS or not ACTIONS[name].tool:
                raise KeyError(f"{name} is no tool of the policy's table: add an Action for it")
        # In the order of the table, so that lists are the same at every start.
        tools = [(make(functions[name], action), action) for name, action in ACTIONS.items() if name in functions]
        self._entries = {action.name: _entry(tool, action) for tool, action in tools}
        self._fixed = frozenset(self._entries)
        self._changed = changed

    def add(self, tool: Tool, action: Action) -> None:
        """List one more tool from now on, or another version of it; ValueError where it has the name of a fixed one."""
        if tool.name in ACTIONS or tool.name in self._fixed or tool.name != action.name:
            raise ValueError(f"name: {tool.name!r} is taken by this gateway itself; choose another")
        tool.meta = described(action) | (tool.meta or {})
        self._entries[tool.name] = _entry(tool, action)
        self._changed()

    def remove(self, name: str) -> bool:
        """No longer list a tool that was added; False where there is none of that name."""
        if name in self._fixed or self._entries.pop(name, None) is None:
            return False
        self._changed()
        return True

    def get(self, name: str) -> Entry | None:
        return self._entries.get(name)

    def entries(self) -> list[Entry]:
        """Every tool: those of the table in its order, then added ones by name."""
        added = sorted(self._entries.keys() - self._fixed)
        return [self._entries[name] for name in (*(n for n in self._entries if n in self._fixed), *added)]

    def listed(self, toolsets: Collection[str], allowed: Callable[[Action], bool]) -> list[types.Tool]:
        """What a caller sees who may do so much and asked for these toolsets."""
        return [entry.listed for entry in self.entries() if entry.action.toolset in toolsets and allowed(entry.action)]

    def schema(self, name: str) -> Mapping[str, Any] | None:
        """The input schema of a tool, as the SDK asks for it; None where there is none of that name."""
        entry = self._entries.get(name)
        return None if entry is None else entry.tool.parameters


def _entry(tool: Tool, action: Action) -> Entry:
    listed = types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.parameters,
        output_schema=tool.output_schema,
        annotations=tool.annotations,
        icons=tool.icons,
        _meta=tool.meta,
    )
    return Entry(tool, action, listed)
