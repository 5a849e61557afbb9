"""A rollout as rows of the store, and back. Progress within a state is not written: it would cost the card a row each
time, and a restart only waits a little longer for it."""

from dataclasses import replace

from gateway.nodes.ota.rollout import UNDER_WAY, Course, Rollout, Settings, Target, dump, load_target
from gateway.store import rollout_rows
from gateway.store.db import Store
from gateway.store.rollout_rows import RolloutDevice, RolloutRow

_OWN = frozenset({"device", "state", "reason", "started", "ended"})


async def write(store: Store, rollout: Rollout, words: str, before: Rollout | None) -> None:
    """Keep what changed since `before`, in one transaction; StoreError where it was not kept."""
    row, known = row_of(rollout, words), before.targets if before is not None else {}
    changed = [
        device_row(rollout.rollout_id, at, target)
        for at, (device, target) in enumerate(rollout.targets.items())
        if (old := known.get(device)) is not target and (old is None or _kept(old) != _kept(target))
    ]
    head = row if before is None or row_of(before, words) != row else None
    if head is not None or changed:
        await rollout_rows.save_rollout(store, head, changed)


async def read(store: Store, row: RolloutRow) -> Rollout:
    """The rollout of this row with its devices."""
    devices = await rollout_rows.rollout_devices(store, row.rollout_id)
    targets = {each.device_id: target_of(each) for each in devices}
    return Rollout(
        row.rollout_id,
        row.digest,
        row.version,
        row.principal,
        row.created,
        targets,
        Settings(**row.detail["settings"]),
        Course(row.course),
        row.reason,
        row.detail["forgiven"],
        row.ended,
    )


def row_of(rollout: Rollout, words: str) -> RolloutRow:
    """All but its devices."""
    return RolloutRow(
        rollout.rollout_id,
        rollout.manifest_sha256,
        rollout.version,
        rollout.by,
        words,
        str(rollout.course),
        rollout.reason,
        rollout.created,
        rollout.ended,
        {"settings": dump(rollout.settings), "forgiven": rollout.forgiven},
    )


def device_row(rollout_id: str, position: int, target: Target) -> RolloutDevice:
    """One device; the machine's own fields as they are."""
    rest = {name: value for name, value in dump(_kept(target)).items() if name not in _OWN}
    named = (target.device, str(target.state), target.reason)
    return RolloutDevice(rollout_id, position, *named, target.started, target.ended, rest)


def target_of(row: RolloutDevice) -> Target:
    """What the machine goes on with."""
    known = {"device": row.device_id, "state": row.state, "reason": row.reason, "started": None, "ended": None}
    return replace(load_target({**row.detail, **known}), started=row.started, ended=row.ended)


def _kept(target: Target) -> Target:
    boot = target.boot if target.state in UNDER_WAY else ""
    return replace(target, percent=0, spent_s=0.0, online=False, boot=boot)
