"""Commands that begin a task: what they answer, and how a task is called off."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from gateway.access.principal import Principal
from gateway.command import ControlError
from gateway.control.base import LOCAL, Handler, Plan
from gateway.store.errors import StoreError
from gateway.tasks import CancelTask, Tasks, TaskView

LOCAL_WAIT_S = 600.0


async def started(tasks: Tasks, task_id: str, principal: Principal) -> BaseModel:
    """The task as it is: for the command line when it has ended, for others at once, who follow it by its id.
    ControlError where it failed by then."""
    owner = principal.key
    task = await tasks.wait(task_id, owner, LOCAL_WAIT_S) if principal == LOCAL else tasks.get(task_id, owner)
    if task.state == "failed":
        raise ControlError(task.error)
    return TaskView.of(task)


def explain(error: BaseException) -> str | None:
    """What to say of a task that failed; None for a defect of ours."""
    if isinstance(error, ControlError | StoreError | ValueError | LookupError) and not isinstance(error, KeyError):
        return str(error.args[0]) if error.args else repr(error)
    return None


class TaskCommands:
    """Runs them; everybody sees their own tasks only."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    def handlers(self) -> Mapping[type[Any], Handler]:
        return {CancelTask: self._cancel}

    async def _cancel(self, command: CancelTask, principal: Principal) -> Plan:
        owner = principal.key
        task = self._tasks.get(command.task_id, owner)

        async def do() -> BaseModel:
            return TaskView.of(await self._tasks.cancel(command.task_id, owner))

        running = "this ends it" if task.state == "running" else f"it is {task.state} already"
        return Plan(f"{task.kind} {command.task_id}: {running}", do)
