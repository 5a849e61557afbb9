"""Rollouts of firmware as commands: who is meant and who can be given it, what runs where, pause, resume and abort."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel

from gateway.access.principal import Principal
from gateway.command import ControlError
from gateway.control.base import Handler, Plan, nearest
from gateway.ingest.dialects import is_foreign
from gateway.nodes.ota import choosing
from gateway.nodes.ota.choosing import Candidate, Choice
from gateway.nodes.ota.fleet import Fleet
from gateway.nodes.ota.manifest import Manifest, fits, newer
from gateway.nodes.ota.rollout import Abort, Course, Happened, Pause, Resume, Rollout, Settings, State, Target
from gateway.nodes.ota.rollout_commands import (
    AbortRollout,
    NodeFirmwareList,
    NodeFirmwareView,
    NodeFirmwareViews,
    OfRollout,
    Outcome,
    PauseRollout,
    ResumeRollout,
    RolloutBrief,
    RolloutBriefs,
    RolloutDeviceView,
    RolloutList,
    RolloutPreview,
    RolloutShow,
    RolloutView,
    Rules,
    Skipped,
    UpdateFirmware,
    Wanted,
)
from gateway.nodes.ota.service import Rollouts
from gateway.nodes.ota.shelf import Firmware, Shelf
from gateway.nodes.ota.stepping import version_of
from gateway.registry.registry import Registry
from gateway.store import rollout_rows
from gateway.store.db import Store
from gateway.store.rollout_rows import NodeFirmware
from gateway.store.types import Device

MOST_RUNNING = 20


@dataclass(frozen=True, slots=True)
class Nodes:
    """What decides who can be given a firmware. `on_air` says whether a device is reached over the broker."""

    registry: Registry
    fleet: Fleet
    has_key: Callable[[str], bool]
    on_air: Callable[[str], bool] = lambda _device: True


class RolloutCommands:
    """Runs them. Without a running gateway (`is_live` false) they only tell what was."""

    def __init__(
        self,
        rollouts: Rollouts,
        shelf: Shelf,
        nodes: Nodes,
        store: Store,
        patience: Mapping[str, Any],
        *,
        is_live: bool,
    ) -> None:
        self._rollouts, self._shelf, self._nodes, self._store = rollouts, shelf, nodes, store
        self._patience = patience
        self._is_live = is_live

    def handlers(self) -> Mapping[type[Any], Handler]:
        reads: dict[type[Any], Handler] = {
            RolloutShow: self._show,
            RolloutList: self._list,
            NodeFirmwareList: self._runs,
        }
        writes: dict[type[Any], Handler] = {
            UpdateFirmware: self._update,
            PauseRollout: self._pause,
            ResumeRollout: self._resume,
            AbortRollout: self._abort,
        }
        return reads | (writes if self._is_live else {})

    # Beginning.

    async def _update(self, command: UpdateFirmware, principal: Principal) -> Plan:
        candidates = self._meant(command)
        firmware = self._firmware(command, candidates)
        choice = choosing.choose(firmware.about, candidates)
        preview = _preview(command, firmware, choice)

        async def do() -> BaseModel:
            if not choice.chosen:
                raise ControlError(f"no device can be given {firmware.row.version}: {_reasons(choice)}")
            if len(self._rollouts.running()) >= MOST_RUNNING:
                raise ControlError(f"{MOST_RUNNING} rollouts are running: wait for one of them, or abort it")
            settings = Settings(**command.rules.model_dump(), **self._patience)
            targets = _targets(choice)
            words = str(command.wish)
            rollout = await self._rollouts.start(firmware, targets, settings, words, principal.name)
            return await self._view(rollout.rollout_id)

        left = f"; {len(choice.skipped)} are left out" if choice.skipped else ""
        many = len(choice.chosen)
        would = f"this updates {many} node{'s' * (many != 1)} to {firmware.row.version} and restarts each{left}"
        return Plan(would, do, preview)

    def _meant(self, command: UpdateFirmware) -> list[Candidate]:
        if command.wish.given != 1:
            raise ControlError("say in one way who is meant: devices, zone, board, type, or everyone")
        every = [self._candidate(each) for each in self._nodes.registry.devices()]
        for name in command.devices:
            self._nodes.registry.device(name)  # whoever is not known is named with the nearest
        found = choosing.meant(command.wish, every)
        if not found:
            known = {each.device.zone_id if command.zone else each.device.device_type for each in every} - {""}
            if command.board:
                known = {each.node.board for each in every if each.node is not None and each.node.board}
            given = command.zone or command.board or command.type
            raise ControlError(f"no node is meant by {command.target}; {nearest(given, known)}")
        return found

    def _candidate(self, device: Device) -> Candidate:
        nodes, name = self._nodes, device.device_id
        is_ours = device.source == "mqtt" and not is_foreign(name) and nodes.on_air(name)
        known, boot = nodes.fleet.get(name), nodes.fleet.boot(name)
        return Candidate(device, known, nodes.has_key(name), is_ours, boot, self._rollouts.busy(name))

    def _firmware(self, command: UpdateFirmware, candidates: Sequence[Candidate]) -> Firmware:
        if command.firmware:
            found = self._shelf.find(command.firmware)
            if not found.trusted:
                raise ControlError(f"nobody trusts the key any more that signed {found.row.version}: trust it first")
            return found
        here = [each for each in self._shelf.all() if each.trusted]
        if not here:
            raise ControlError("no firmware is here: `gateway firmware add BUNDLE` takes one in")
        boards = {each.node.board for each in candidates if each.node is not None}
        return next((each for each in here if boards & set(each.about.boards)), here[0])

    # Going on and ending.

    async def _pause(self, command: PauseRollout, principal: Principal) -> Plan:
        return await self._word(command, Pause(principal.name, command.reason), "offers nothing new")

    async def _resume(self, command: ResumeRollout, principal: Principal) -> Plan:
        rollout, _, _ = await self._rollouts.get(command.rollout)
        if rollout.is_active and rollout.course is not Course.PAUSED:
            raise ControlError(f"rollout {command.rollout} is {rollout.course}: only a paused one goes on")
        return await self._word(command, Resume(principal.name), "goes on, and accepts the failures so far")

    async def _abort(self, command: AbortRollout, principal: Principal) -> Plan:
        what = "ends; what can be cancelled is, what installs or restarts is left to its own end"
        return await self._word(command, Abort(principal.name, command.reason), what)

    async def _word(self, command: OfRollout, event: Happened, what: str) -> Plan:
        rollout, _, _ = await self._rollouts.get(command.rollout)
        if not rollout.is_active:
            raise ControlError(f"rollout {command.rollout} has ended: it is {rollout.course}")

        async def do() -> BaseModel:
            await self._rollouts.tell(command.rollout, event)
            return await self._view(command.rollout)

        return Plan(f"rollout {command.rollout} of {rollout.version} {what}", do)

    # Telling.

    async def _show(self, command: RolloutShow, _principal: Principal) -> BaseModel:
        if command.wait_s:
            await self._rollouts.follow(command.rollout, command.after, command.wait_s)
        return await self._view(command.rollout)

    async def _list(self, command: RolloutList, _principal: Principal) -> BaseModel:
        rows = await rollout_rows.rollouts(self._store, limit=command.limit)
        counts = await rollout_rows.counts(self._store, [row.rollout_id for row in rows])
        return RolloutBriefs(
            rollouts=[
                RolloutBrief(
                    rollout=row.rollout_id,
                    version=row.version,
                    firmware=row.digest,
                    targets=row.targets,
                    by=row.principal,
                    state=row.course,
                    reason=row.reason,
                    created=row.created,
                    ended=row.ended,
                    counts=counts[row.rollout_id],
                )
                for row in rows
            ]
        )

    async def _runs(self, _command: NodeFirmwareList, _principal: Principal) -> BaseModel:
        outcomes = await rollout_rows.outcomes(self._store)
        here = [each.about for each in self._shelf.all() if each.trusted]
        devices = {each.device_id: each for each in self._nodes.registry.devices()}
        found = [each for each in self._nodes.fleet.all() if each.device_id in devices]
        views = [_runs_view(each, devices[each.device_id], here, outcomes.get(each.device_id)) for each in found]
        return NodeFirmwareViews(nodes=views)

    async def _view(self, rollout_id: str) -> RolloutView:
        rollout, words, revision = await self._rollouts.get(rollout_id)
        return _rollout_view(rollout, words, revision)


def _preview(command: UpdateFirmware, firmware: Firmware, choice: Choice) -> RolloutPreview:
    return RolloutPreview(
        version=firmware.row.version,
        firmware=firmware.digest,
        targets=str(command.wish),
        updates=[
            Wanted(
                device=each.device.device_id,
                runs=each.node.version if each.node else "",
                board=each.node.board if each.node else "",
                online=bool(each.boot),
            )
            for each in choice.chosen
        ],
        skipped=[Skipped(device=each.device.device_id, reason=reason) for each, reason in choice.skipped],
        rules=command.rules,
    )


def _targets(choice: Choice) -> list[Target]:
    """In their order; who is left out stands in the history with the reason."""
    chosen = [Target(each.device.device_id, runs=each.node.version if each.node else "") for each in choice.chosen]
    left = [
        Target(each.device.device_id, State.SKIPPED, reason, each.node.version if each.node else "")
        for each, reason in choice.skipped
    ]
    return [*chosen, *left]


def _reasons(choice: Choice) -> str:
    """Why nobody, shortly."""
    said = [f"{each.device.device_id}: {reason}" for each, reason in choice.skipped[:3]]
    more = len(choice.skipped) - len(said)
    return "; ".join(said) + (f"; and {more} more" if more else "")


def _rollout_view(rollout: Rollout, words: str, revision: int) -> RolloutView:
    known = asdict(rollout.settings)
    return RolloutView(
        rollout=rollout.rollout_id,
        version=rollout.version,
        firmware=rollout.manifest_sha256,
        targets=words,
        by=rollout.by,
        state=str(rollout.course),
        reason=rollout.reason,
        created=rollout.created,
        ended=rollout.ended,
        counts={str(state): many for state in State if (many := rollout.count(state))},
        progress=round(rollout.fraction, 3),
        revision=revision,
        rules=Rules(**{name: known[name] for name in Rules.model_fields}),
        devices=[
            RolloutDeviceView(
                device=each.device,
                state=str(each.state),
                percent=each.percent,
                reason=each.reason,
                runs=each.runs,
                since=each.since,
                started=each.started,
                ended=each.ended,
            )
            for each in rollout.targets.values()
        ],
    )


def _runs_view(
    node: NodeFirmware, device: Device, here: Sequence[Manifest], last: rollout_rows.RolloutDevice | None
) -> NodeFirmwareView:
    outcome = None
    if last is not None:
        ended = last.ended or last.started
        outcome = Outcome(rollout=last.rollout_id, state=last.state, reason=last.reason, time=ended)
    return NodeFirmwareView(
        device=node.device_id,
        name=device.device_name,
        zone=device.zone_id,
        status=device.status,
        board=node.board,
        version=node.version,
        since=node.since,
        behind=_behind(node, here),
        last_update=outcome,
    )


def _behind(node: NodeFirmware, here: Sequence[Manifest]) -> str:
    """The newest version that fits this node and is above what it runs."""
    fitting = [each.version for each in here if fits(each, node.board)]
    if version_of(node.version) is None:
        return ""
    return next((each for each in fitting if newer(each, node.version)), "")
