"""A command to a node as a typed command of the control layer, and what it answers."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from gateway.command import Write

MOST_BYTES = 4096
"""As they stand in the text of a signed command: a node takes messages of 5 KiB."""


def _small(args: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(json.dumps(json.dumps(args, allow_nan=False)).encode())
    except (ValueError, TypeError, RecursionError):
        raise ValueError("give plain JSON without NaN") from None
    if size > MOST_BYTES:
        raise ValueError(f"{size} bytes are more than the {MOST_BYTES} that a node takes")
    return args


class SendCommand(Write):
    """Send a command to a node and wait for its result, or let a task wait."""

    command: Literal["send_command"] = "send_command"
    device: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    args: Annotated[dict[str, Any], AfterValidator(_small)] = Field(default_factory=dict)
    background: bool = False
    timeout_s: Annotated[float, Field(ge=0.1, le=60, allow_inf_nan=False)] = 10.0

    @property
    def target(self) -> str:
        return self.device

    @property
    def detail(self) -> str:
        return f"{self.name}({', '.join(self.args)})"[:200]  # without values: they may be a network's password


class CommandResult(BaseModel):
    """What the node answered: a `result`, or where `ok` is false an `error` in its own words."""

    device: str
    name: str
    ok: bool
    result: Any = None
    error: str = ""
    took_ms: int
