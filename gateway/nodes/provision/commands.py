"""Waiting for a node's first reading, as a command of the control layer."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from gateway.command import Command


class AwaitReading(Command):
    """Answer as soon as the next reading of this device is on disk, or when the time is over."""

    command: Literal["await_reading"] = "await_reading"
    device: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    within_s: Annotated[float, Field(ge=0, le=600, allow_inf_nan=False)] = 120.0

    @property
    def target(self) -> str:
        return self.device


class HeardReading(BaseModel):
    """The reading that came; all empty where none did."""

    heard: bool
    sensor: str = ""
    metric: str = ""
    value: float | None = None
    time: datetime | None = None
