"""The rollout of one firmware to some nodes, as values: how far it is, what may happen, what is to be done. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from gateway.nodes.ota.offer import Phase


class State(StrEnum):
    """Of one device in a rollout."""

    WAITING = "waiting"
    OFFERED = "offered"
    DOWNLOADING = "downloading"
    INSTALLING = "installing"
    TESTING = "testing"
    CONFIRMED = "confirmed"
    DONE = "done"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    REFUSED = "refused"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


class Course(StrEnum):
    """Of a whole rollout."""

    RUNNING = "running"
    PAUSED = "paused"
    ABORTED = "aborted"
    DONE = "done"


STEPS = (State.OFFERED, State.DOWNLOADING, State.INSTALLING, State.TESTING, State.CONFIRMED)
"""What is under way, in the order in which it goes."""
UNDER_WAY = frozenset(STEPS)
STOPPABLE = frozenset({State.OFFERED, State.DOWNLOADING})
FAILURES = frozenset({State.FAILED, State.ROLLED_BACK, State.REFUSED})
ENDED = FAILURES | {State.DONE, State.SKIPPED, State.CANCELLED}
PHASES = {
    Phase.ACCEPTED: State.DOWNLOADING,
    Phase.DOWNLOADING: State.DOWNLOADING,
    Phase.VERIFYING: State.INSTALLING,
    Phase.INSTALLING: State.INSTALLING,
    Phase.RESTARTING: State.TESTING,
    Phase.TESTING: State.TESTING,
    Phase.CONFIRMED: State.CONFIRMED,
    Phase.REFUSED: State.REFUSED,
    Phase.FAILED: State.FAILED,
    Phase.ROLLED_BACK: State.ROLLED_BACK,
    Phase.CANCELLED: State.CANCELLED,
}
"""What a node says of its update, and what that means here."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How careful a rollout is. The first `canary` devices have to be done before others are offered anything, at most
    `at_once` are under way. Among those that ended, the share `pause_at` of failures pauses it (1: never). `readings`:
    done is who sent a good reading after it confirmed. The others say how long (s) each step may take without a word,
    and how often (`tries`) an offer is made."""

    canary: int = 1
    at_once: int = 3
    pause_at: float = 0.2
    readings: bool = True
    tries: int = 3
    answer_s: float = 60.0
    download_s: float = 1200.0
    install_s: float = 300.0
    test_s: float = 1200.0
    fresh_s: float = 1800.0
    offline_s: float = 86_400.0

    def patience_s(self, state: State) -> float:
        """How long a device may stay in a state without a word."""
        found = (self.answer_s, self.download_s, self.install_s, self.test_s, self.fresh_s)
        return dict(zip(STEPS, found, strict=True)).get(state, self.offline_s)


@dataclass(frozen=True, slots=True)
class Target:
    """One device: `reason` says why it ended as it did, `runs` is the version that it was last known to run, `since` is
    when it came into its state, `spent_s` how long it said nothing there. `offer` is the open or the last one, made to
    the boot `offer_boot`; `boot` is the present one. `stopping`: it was told to cancel."""

    device: str
    state: State = State.WAITING
    reason: str = ""
    runs: str = ""
    online: bool = False
    boot: str = ""
    offer: str = ""
    offer_boot: str = ""
    tries: int = 0
    percent: int = 0
    stopping: bool = False
    spent_s: float = 0.0
    since: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout and how far it is. `forgiven` is how many failures there were when it was last resumed."""

    rollout_id: str
    manifest_sha256: str
    version: str
    by: str
    created: datetime
    targets: Mapping[str, Target]
    settings: Settings = field(default_factory=Settings)
    course: Course = Course.RUNNING
    reason: str = ""
    forgiven: int = 0
    ended: datetime | None = None

    @property
    def is_active(self) -> bool:
        """Whether anything of it may still happen."""
        return self.ended is None

    def count(self, *states: State) -> int:
        """How many devices are in one of these states."""
        return sum(each.state in states for each in self.targets.values())

    @property
    def fraction(self) -> float:
        """How much of it is done, from 0 to 1."""
        return sum(map(_share, self.targets.values())) / max(1, len(self.targets))


# What may happen.


@dataclass(frozen=True, slots=True)
class Tick:
    """So many seconds went by in which devices could be heard."""

    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Said:
    """What a device says of an update."""

    device: str
    offer: str
    phase: Phase
    percent: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Runs:
    """The version that a device says it runs."""

    device: str
    version: str


@dataclass(frozen=True, slots=True)
class Fresh:
    """A good reading of a device, measured at `time`."""

    device: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Online:
    """A device is connected, in this boot."""

    device: str
    boot: str


@dataclass(frozen=True, slots=True)
class Offline:
    """The connection of a device ended."""

    device: str


@dataclass(frozen=True, slots=True)
class Unfit:
    """No offer can be made to a device, and why."""

    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unsent:
    """An offer was never made: its device waits again."""

    device: str
    offer: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Offer nothing new; what is under way goes on."""

    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on; failures so far are accepted."""

    by: str


@dataclass(frozen=True, slots=True)
class Abort:
    """End it: what can be cancelled is, what writes or restarts already is left to its own end."""

    by: str
    reason: str = ""


Happened = Tick | Said | Runs | Fresh | Online | Offline | Unfit | Unsent | Pause | Resume | Abort


# What is to be done about it.


@dataclass(frozen=True, slots=True)
class Offer:
    """Offer the firmware to a device."""

    device: str
    offer: str


@dataclass(frozen=True, slots=True)
class Open:
    """Let a device download by an earlier offer again: that is the one it works on."""

    device: str
    offer: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Tell a device to let go of an offer."""

    device: str
    offer: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth an event; `device` is "" for the rollout as a whole."""

    device: str
    text: str


Effect = Offer | Open | Cancel | Note


# What is kept of it.


def dump(value: Rollout | Target | Settings) -> dict[str, Any]:
    """As JSON."""
    return {name: _plain(each) for name, each in asdict(value).items()}


def load(said: Mapping[str, Any]) -> Rollout:
    """What `dump` made of a rollout."""
    known = dict(said)
    known["targets"] = {device: load_target(each) for device, each in said["targets"].items()}
    known |= {"settings": Settings(**said["settings"]), "course": Course(said["course"])}
    return Rollout(**_timed(known, "created", "ended"))


def load_target(said: Mapping[str, Any]) -> Target:
    """What `dump` made of a target."""
    return Target(**_timed({**said, "state": State(said["state"])}, "since", "started", "ended"))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return str(value) if isinstance(value, StrEnum) else value


def _timed(known: dict[str, Any], *names: str) -> dict[str, Any]:
    return known | {name: datetime.fromisoformat(known[name]) for name in names if known[name] is not None}


def summary(targets: Mapping[str, Target]) -> str:
    """How many devices are in which state."""
    counts = {state: sum(each.state is state for each in targets.values()) for state in State}
    return ", ".join(f"{many} {state.replace('_', ' ')}" for state, many in counts.items() if many) or "no devices"


def _share(target: Target) -> float:
    """How much of a device's update is done: half of it is the download."""
    if target.state in ENDED:
        return 1.0
    known = {State.INSTALLING: 0.6, State.TESTING: 0.7, State.CONFIRMED: 0.9}
    return 0.5 * target.percent / 100 if target.state is State.DOWNLOADING else known.get(target.state, 0.0)
