"""Saved queries and dynamic tools as typed commands of the control layer, and what they answer."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from gateway.command import Command, Destructive, Write
from gateway.jail.saved import MOST_PARAMETERS, MOST_SQL, Parameter
from gateway.registry.commands import tidy
from gateway.store.tool_rows import DynamicTool, Use

QueryName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")]


class Named(Write):
    """A write whose target is called by its name."""

    name: str

    @property
    def target(self) -> str:
        return self.name[:64]


class SaveQuery(Write):
    """Keep SQL with its parameters under a name; an older one of that name is replaced."""

    command: Literal["save_query"] = "save_query"
    name: QueryName
    sql: Annotated[str, Field(min_length=1, max_length=MOST_SQL)]
    parameters: Annotated[tuple[Parameter, ...], Field(max_length=MOST_PARAMETERS)] = ()
    description: Annotated[str, Field(max_length=500), AfterValidator(tidy)] = ""

    @property
    def target(self) -> str:
        return self.name

    @property
    def detail(self) -> str:
        return " ".join(self.sql.split())[:200]


class DeleteSavedQuery(Destructive):
    command: Literal["delete_saved_query"] = "delete_saved_query"
    name: str

    @property
    def target(self) -> str:
        return self.name[:64]


class RegisterTool(Named):
    """Keep a function for assistants; it does not run before it is approved."""

    command: Literal["register_dynamic_tool"] = "register_dynamic_tool"
    description: str
    code: str
    arguments: dict[str, Any]


class ApproveTool(Named):
    """Let exactly this version run, as its hash says."""

    command: Literal["approve_dynamic_tool"] = "approve_dynamic_tool"
    version: int
    sha256: Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{64}$")]

    @property
    def detail(self) -> str:
        return f"version {self.version}, sha256 {self.sha256.lower()}"


class RemoveTool(Destructive):
    command: Literal["remove_dynamic_tool"] = "remove_dynamic_tool"
    name: str

    @property
    def target(self) -> str:
        return self.name[:64]


class ToolList(Command):
    command: Literal["list_dynamic_tools"] = "list_dynamic_tools"


class ToolView(BaseModel):
    """One version of a tool; `runs` says whether it is the one that answers. Calls count for all versions together."""

    name: str
    version: int
    description: str
    arguments: dict[str, Any]
    sha256: str
    runs: bool
    registered_by: str
    registered: datetime
    approved_by: str
    approved: datetime | None
    calls: int
    failures: int
    last_used: datetime | None
    code: str | None = None

    @classmethod
    def of(cls, tool: DynamicTool, use: Use, *, runs: bool, code: bool) -> "ToolView":
        return cls(
            name=tool.name,
            version=tool.version,
            description=tool.description,
            arguments=dict(tool.arguments),
            sha256=tool.sha256,
            runs=runs,
            registered_by=tool.principal,
            registered=tool.time,
            approved_by=tool.approved_by,
            approved=tool.approved,
            calls=use.calls,
            failures=use.failures,
            last_used=use.last_used,
            **({"code": tool.code} if code else {}),
        )


class ToolViews(BaseModel):
    tools: list[ToolView]


class ToolKept(BaseModel):
    """A registered version: read it, then approve it by version and hash."""

    name: str
    version: int
    sha256: str
    is_new: bool
    dry_run: bool = False
