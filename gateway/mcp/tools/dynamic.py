"""Dynamic tools: functions that an admin registered and approved, called in the jail, listed as tools of their own."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult
from pydantic import BaseModel, Field

from gateway.access.policy import Action, Risk
from gateway.access.principal import Scope
from gateway.jail.commands import ApproveTool, RegisterTool, RemoveTool, ToolList
from gateway.jail.toolbox import Toolbox
from gateway.mcp.catalogue import Catalogue
from gateway.mcp.tools.acting import Acted, Acting, Run
from gateway.mcp.tools.base import Confirm, DryRun, House, answer
from gateway.mcp.tools.control import Result
from gateway.mcp.tools.schemas import annotations
from gateway.store.tool_rows import DynamicTool

TOOLSET = "dynamic"


class Returned(BaseModel):
    """What a dynamic tool returned, and which version of it."""

    tool: str
    version: int
    result: Any


class DynamicTools(Acting):
    """Registering, approving, calling. `follow` lists what runs as tools of their own."""

    def __init__(self, house: House, run: Run, toolbox: Toolbox) -> None:
        super().__init__(house, run)
        self._toolbox = toolbox
        self._listed: dict[str, str] = {}

    def functions(self) -> Sequence[Callable[..., Any]]:
        return (
            self.list_dynamic_tools,
            self.call_dynamic_tool,
            self.register_dynamic_tool,
            self.approve_dynamic_tool,
            self.remove_dynamic_tool,
        )

    def follow(self, catalogue: Catalogue) -> None:
        """List what runs, now and whenever that changes."""
        self._toolbox.changed = lambda: self._sync(catalogue)
        self._sync(catalogue)

    async def list_dynamic_tools(self, ctx: Context) -> Result:
        """Tools that were added to this gateway, their arguments and use; admins see drafts and code."""
        return await self._do(ctx, ToolList)

    async def call_dynamic_tool(
        self,
        name: str,
        arguments: dict[str, Any] = {},  # noqa: B006 - never changed
    ) -> Result:
        """Call one of list_dynamic_tools."""
        return await self._call(name, arguments)

    async def register_dynamic_tool(
        self,
        ctx: Context,
        name: Annotated[str, Field(description="of the tool and of its function")],
        description: str,
        code: Annotated[str, Field(description="Python: def NAME(...), pure")],
        arguments: Annotated[dict[str, Any], Field(description="JSON schema of its arguments")],
        *,
        dry_run: DryRun = False,
    ) -> Result:
        """Keep a function as a tool; it runs once it is approved."""
        given: dict[str, Any] = {"description": description, "code": code, "arguments": arguments}
        return await self._do(ctx, RegisterTool, name=name, dry_run=dry_run, **given)

    async def approve_dynamic_tool(
        self,
        ctx: Context,
        name: str,
        version: int,
        sha256: Annotated[str, Field(description="of that version, as listed")],
        *,
        dry_run: DryRun = False,
    ) -> Result:
        """Let exactly this version run."""
        return await self._do(ctx, ApproveTool, name=name, version=version, sha256=sha256, dry_run=dry_run)

    async def remove_dynamic_tool(
        self, ctx: Context, name: str, *, dry_run: DryRun = False, confirm: Confirm = False
    ) -> Result:
        """Remove a tool with all its versions."""
        return await self._do(ctx, RemoveTool, name=name, dry_run=dry_run, confirm=confirm)

    async def _call(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        running = self._toolbox.running(name)
        result = await self._toolbox.call(name, arguments)
        version = 0 if running is None else running.version
        frame = self._house.frame()
        return answer(Acted(**frame.fields(), **Returned(tool=name, version=version, result=result).model_dump()))

    def _sync(self, catalogue: Catalogue) -> None:
        """The catalogue lists exactly what runs."""
        live = {tool.name: tool for tool in self._toolbox.live()}
        for name in self._listed.keys() - live.keys():
            catalogue.remove(name)
            del self._listed[name]
        for name, tool in live.items():
            if self._listed.get(name) != tool.sha256:
                catalogue.add(Registered.of(tool, self._call), _action(name))
                self._listed[name] = tool.sha256


class Registered(Tool):
    """A dynamic tool as the SDK runs one: its arguments are checked by the toolbox, against the registered schema."""

    @classmethod
    def of(cls, tool: DynamicTool, call: Callable[[str, dict[str, Any]], Any]) -> "Registered":
        async def anything() -> Result:
            raise AssertionError("it is run by `run`")

        bare = Tool.from_function(anything, name=tool.name, description=tool.description)
        made = cls(**{name: getattr(bare, name) for name in Tool.model_fields})
        made.fn = call
        made.parameters = dict(tool.arguments)
        made.annotations = annotations(_action(tool.name))
        return made

    async def run(self, arguments: dict[str, Any], context: Any, convert_result: bool = False) -> Any:
        """ToolError as the SDK raises it, with its cause."""
        try:
            return await self.fn(self.name, arguments)
        except ValueError as error:
            raise ToolError(f"Error executing tool {self.name}: {error}") from error


def _action(name: str) -> Action:
    return Action(name, Scope.READ, Risk.MEDIUM, tool=True, toolset=TOOLSET)
