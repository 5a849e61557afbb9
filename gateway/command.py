"""What every command of the control layer is."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class ControlError(Exception):
    """A command was refused; the message says why and what to do."""


class Unconfirmed(ControlError):
    """A destructive command without `confirm`; `would` says what it would do. Nothing was done."""

    def __init__(self, would: str) -> None:
        super().__init__(
            f"{would}; this cannot be undone: nothing was done, repeat it with confirm true if it is meant"
        )
        self.would = would


class Command(BaseModel):
    """A request; `command` is the policy's name of the action, `target` what it is done to."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    command: str

    @property
    def target(self) -> str:
        return ""

    @property
    def detail(self) -> str:
        """What the audit keeps beside the target."""
        return ""


class Write(Command):
    """Changes something. With `dry_run` it only says what it would change."""

    dry_run: bool = False


class Destructive(Write):
    """Cannot be undone, so `confirm` has to say that it is meant."""

    confirm: bool = False


class Done(BaseModel):
    """What was done, in words."""

    done: str


class Would(BaseModel):
    """The answer to a dry run: nothing was changed."""

    dry_run: Literal[True] = True
    would: str


class Created(BaseModel):
    """A new secret, shown this once."""

    name: str
    secret: str
