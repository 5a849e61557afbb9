"""Which devices are meant, and which of them can be given a firmware. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.nodes.ota.manifest import Kind, Manifest, fits, number
from gateway.nodes.ota.stepping import version_of
from gateway.registry.state import DECOMMISSIONED
from gateway.store.rollout_rows import NodeFirmware
from gateway.store.types import Device


@dataclass(frozen=True, slots=True)
class Wish:
    """One of these: some devices in their order, those of a zone, of a board, of a device type, or every one."""

    devices: tuple[str, ...] = ()
    zone: str = ""
    board: str = ""
    kind: str = ""
    everyone: bool = False

    @property
    def given(self) -> int:
        """How many of them there are."""
        return sum(map(bool, (self.devices, self.zone, self.board, self.kind, self.everyone)))

    def __str__(self) -> str:
        named = {"zone": self.zone, "board": self.board, "type": self.kind}
        words = [f"{name} {value}" for name, value in named.items() if value]
        if self.devices:
            more = f" and {len(self.devices) - 3} more" if len(self.devices) > 3 else ""
            words.append(", ".join(self.devices[:3]) + more)
        return ", ".join(words) or "all nodes"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device with all that decides: what it says that it runs, whether it has a key, whether it is one of our nodes,
    the boot in which it is connected ("": it is not), and the rollout that it is in already."""

    device: Device
    node: NodeFirmware | None
    has_key: bool
    is_ours: bool
    boot: str = ""
    busy: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """Who would be updated, and who not (with the reason), in order."""

    chosen: tuple[Candidate, ...] = ()
    skipped: tuple[tuple[Candidate, str], ...] = field(default=())


def meant(wish: Wish, every: Sequence[Candidate]) -> list[Candidate]:
    """The devices that a wish means, in the order of the wish, else by id. Those that are no nodes of ours are meant
    only where they are named."""
    if wish.devices:
        known = {each.device.device_id: each for each in every}
        return [known[name] for name in dict.fromkeys(wish.devices) if name in known]
    ours = [each for each in every if each.is_ours]
    return [each for each in ours if _is_meant(wish, each)]


def choose(about: Manifest, candidates: Sequence[Candidate]) -> Choice:
    """Who of them can be given it."""
    reasons = [(each, obstacle(about, each)) for each in candidates]
    chosen = tuple(each for each, reason in reasons if not reason)
    return Choice(chosen, tuple((each, reason) for each, reason in reasons if reason))


def obstacle(about: Manifest, candidate: Candidate) -> str:
    """Why a device cannot be given a firmware, "" where it can."""
    name, node = candidate.device.device_id, candidate.node
    if not candidate.is_ours:
        return "it is no node of ours: only those take updates over the air"
    if candidate.device.status == DECOMMISSIONED:
        return "it is decommissioned"
    if candidate.busy:
        return f"rollout {candidate.busy} is at it"
    if not candidate.has_key:
        return f"it has no key, so it would believe no offer: `gateway node add {name}` makes one"
    if node is None or not node.board:
        return "it does not say which board it is: its firmware is too old for updates over the air"
    return _misfit(about, node)


def _misfit(about: Manifest, node: NodeFirmware) -> str:
    runs, offered = version_of(node.version), number(about.version)
    takes = f"version {node.mpy}" if node.mpy is not None else "sources only"
    what = "a whole image" if about.kind is Kind.IMAGE else "its program"
    rules = (
        (not fits(about, node.board), f"it is a board {node.board}, this is for {', '.join(about.boards)}"),
        (runs is None, f"it runs {node.version[:40]!r}, which cannot be compared with {about.version}"),
        (runs == offered, f"it runs {about.version} already"),
        (runs is not None and runs > offered, f"it runs {node.version}, which is newer"),
        (about.mpy not in {None, node.mpy}, f"compiled files are of version {about.mpy}, it takes {takes}"),
        (about.kind not in (node.slots or Kind.FILES).split(","), f"it has no second slot for {what}"),
    )
    return next((reason for is_so, reason in rules if is_so), "")


def _is_meant(wish: Wish, candidate: Candidate) -> bool:
    if wish.zone:
        return candidate.device.zone_id == wish.zone
    if wish.board:
        return candidate.node is not None and candidate.node.board == wish.board
    if wish.kind:
        return candidate.device.device_type == wish.kind
    return wish.everyone
