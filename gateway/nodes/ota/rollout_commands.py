"""Rollouts as typed commands of the control layer, and what they answer."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from gateway.command import Command, Destructive, Write
from gateway.nodes.ota.choosing import Wish

DEVICES_MOST = 1000
WAIT_MOST_S = 30.0

Name = Annotated[str, Field(max_length=128)]
DeviceId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
RolloutId = Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,32}$")]
Why = Annotated[str, Field(max_length=120, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Rules(BaseModel):
    """How careful a rollout is: so many devices first, so many at once, the share of failures that pauses it (1:
    never), and whether done is only who sent a good reading afterwards."""

    canary: Annotated[int, Field(ge=1, le=100)] = 1
    at_once: Annotated[int, Field(ge=1, le=50)] = 3
    pause_at: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.2
    readings: bool = True


class UpdateFirmware(Destructive):
    """Roll out a firmware to nodes. `firmware` is a version or the beginning of a digest; "" means the newest that fits
    any of them. Who is meant is said in exactly one way."""

    command: Literal["initiate_firmware_update"] = "initiate_firmware_update"
    firmware: Name = ""
    devices: Annotated[tuple[DeviceId, ...], Field(max_length=DEVICES_MOST)] = ()
    zone: Name = ""
    board: Name = ""
    type: Name = ""
    everyone: bool = False
    rules: Rules = Rules()

    @property
    def wish(self) -> Wish:
        return Wish(self.devices, self.zone, self.board, self.type, self.everyone)

    @property
    def target(self) -> str:
        return str(self.wish)[:128]

    @property
    def detail(self) -> str:
        rules = self.rules
        careful = f"canary {rules.canary}, {rules.at_once} at once, pause at {rules.pause_at:g}"
        return f"firmware {self.firmware or 'newest'}, {careful}"


class RolloutShow(Command):
    """One rollout. With `wait_s` the answer waits so long for it to be beyond revision `after`, or to end."""

    command: Literal["get_rollout"] = "get_rollout"
    rollout: RolloutId
    wait_s: Annotated[float, Field(ge=0, le=WAIT_MOST_S)] = 0.0
    after: int = -1


class RolloutList(Command):
    """The last rollouts, the newest first."""

    command: Literal["list_rollouts"] = "list_rollouts"
    limit: Annotated[int, Field(ge=1, le=500)] = 20


class NodeFirmwareList(Command):
    """Who runs what."""

    command: Literal["list_node_firmware"] = "list_node_firmware"


class OfRollout(Write):
    """A write whose target is a rollout."""

    rollout: RolloutId
    reason: Why = ""

    @property
    def target(self) -> str:
        return self.rollout

    @property
    def detail(self) -> str:
        return f"because {self.reason!r}" if self.reason else ""


class PauseRollout(OfRollout):
    """Offer nothing new; what is under way goes on."""

    command: Literal["pause_rollout"] = "pause_rollout"


class ResumeRollout(OfRollout):
    """Go on; failures so far are accepted."""

    command: Literal["resume_rollout"] = "resume_rollout"


class AbortRollout(OfRollout):
    """End it: what can be cancelled is, what restarts already is left to its own end."""

    command: Literal["abort_rollout"] = "abort_rollout"


class Wanted(BaseModel):
    """A device that would be updated; one that is offline is waited for."""

    device: str
    runs: str
    board: str
    online: bool


class Skipped(BaseModel):
    device: str
    reason: str


class RolloutPreview(BaseModel):
    """What a rollout would do; nothing was begun."""

    dry_run: Literal[True] = True
    version: str
    firmware: str
    targets: str
    updates: list[Wanted]
    skipped: list[Skipped]
    rules: Rules


class RolloutDeviceView(BaseModel):
    """How far one device is, since when, and why it ended as it did; `percent` of its download."""

    device: str
    state: str
    percent: int
    reason: str
    runs: str
    since: datetime | None
    started: datetime | None
    ended: datetime | None


class RolloutBrief(BaseModel):
    """A rollout without its devices; `counts` are devices by state."""

    rollout: str
    version: str
    firmware: str
    targets: str
    by: str
    state: str
    reason: str
    created: datetime
    ended: datetime | None
    counts: dict[str, int]


class RolloutView(RolloutBrief):
    """A rollout with its devices, in their order. `progress` from 0 to 1; `revision` grows with each change, -1 once it
    is history."""

    progress: float
    revision: int
    rules: Rules
    devices: list[RolloutDeviceView]


class RolloutBriefs(BaseModel):
    rollouts: list[RolloutBrief]


class Outcome(BaseModel):
    """What became of the last update that a device was offered."""

    rollout: str
    state: str
    reason: str
    time: datetime | None


class NodeFirmwareView(BaseModel):
    """What a node says that it runs, and since when it was heard to; `behind` is the newest version here that fits
    it, "" where it runs that or none does."""

    device: str
    name: str
    zone: str
    status: str
    board: str
    version: str
    since: datetime
    behind: str
    last_update: Outcome | None


class NodeFirmwareViews(BaseModel):
    nodes: list[NodeFirmwareView]
