"""What every command of the control layer is."""

from pydantic import BaseModel, ConfigDict


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
