"""What the tools that act share: each makes one command, and says what became of it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol, TypeVar

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult
from pydantic import BaseModel, ConfigDict, ValidationError

from gateway.access.principal import Principal
from gateway.command import Command, ControlError
from gateway.mcp.caller import Caller
from gateway.mcp.errors import of_arguments
from gateway.mcp.tools.base import House, answer
from gateway.mcp.views import Answer, Frame
from gateway.tasks import Task, Tasks, TaskView

FOLLOW_S = 20.0
"""A call that began a task waits so long for its end, and tells the client how far it is."""

Kind = TypeVar("Kind", bound=Command)


class Run(Protocol):
    """The control layer: decides, audits, does it. ControlError, LookupError or ValueError in one line."""

    async def __call__(self, command: Command, principal: Principal, *, secure: bool) -> BaseModel: ...


class Acted(Answer):
    """What a command answered; with `dry_run` nothing was changed."""

    model_config = ConfigDict(extra="allow")


class Acting:
    """The base of their groups."""

    def __init__(self, house: House, run: Run) -> None:
        self._house, self._run = house, run

    async def _do(self, ctx: Context, kind: type[Kind], **arguments: Any) -> CallToolResult:
        """Run the command that these arguments make, for whoever calls."""
        return self._told(await self._result(ctx, kind, **arguments))

    async def _result(self, ctx: Context, kind: type[Kind], **arguments: Any) -> BaseModel:
        try:
            command = kind(**arguments)
        except ValidationError as error:
            raise ToolError(of_arguments(error)) from error
        caller = Caller.of(ctx.request_context)
        assert caller.principal is not None, "the endpoint answers principals only"
        return await self._run(command, caller.principal, secure=caller.secure)

    def _told(self, result: BaseModel) -> CallToolResult:
        frame = self._house.frame()
        return answer(Acted(**frame.fields(), **self._clean(result.model_dump(exclude_none=True), frame)))

    def _clean(self, said: Mapping[str, Any], frame: Frame) -> dict[str, Any]:
        """What says something, as JSON, with times in the site's zone."""
        return {name: _plain(value, frame) for name, value in said.items() if _says(name, value)}


async def followed(ctx: Context, tasks: Tasks, began: BaseModel) -> BaseModel:
    """A task that was begun, when it has ended or after FOLLOW_S; ControlError where it failed by then."""
    if not isinstance(began, TaskView):
        return began
    task: Task | None = None
    async for task in tasks.follow(began.task_id, Caller.of(ctx.request_context).key, FOLLOW_S):
        await ctx.report_progress(task.progress, 1.0, task.text)
    assert task is not None, "a task is told of at least once"
    if task.state == "failed":
        raise ControlError(task.error)
    return TaskView.of(task)


def _says(name: str, value: Any) -> bool:
    return value != "" and not (name == "dry_run" and value is False)


def _plain(value: Any, frame: Frame) -> Any:
    """JSON, with times in the site's zone."""
    if isinstance(value, datetime):
        return frame.local(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(each, frame) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, frame) for each in value]
    return value
