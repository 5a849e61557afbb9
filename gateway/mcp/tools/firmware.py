"""Tools around the firmware of nodes: what runs where, and rollouts of a new one."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from mcp.server.mcpserver import Context
from mcp_types import CallToolResult
from pydantic import BaseModel, Field

from gateway.mcp.fitting import first_that_fit
from gateway.mcp.tools.acting import Acted, Acting
from gateway.mcp.tools.base import Confirm, DryRun, answer
from gateway.mcp.tools.control import Result
from gateway.mcp.views import Frame
from gateway.nodes.ota.commands import FirmwareList
from gateway.nodes.ota.rollout_commands import (
    AbortRollout,
    NodeFirmwareList,
    OfRollout,
    PauseRollout,
    ResumeRollout,
    RolloutList,
    RolloutPreview,
    RolloutShow,
    RolloutView,
    Rules,
    UpdateFirmware,
)

WAIT_S = 20.0
SOON = ("failed", "rolled_back", "refused", "offered", "downloading", "installing", "testing", "confirmed")
"""States that an answer tells first."""

Rollout = Annotated[str, Field(description="id of a rollout")]
Reason = Annotated[str, Field(description="why; the events keep it")]


class FirmwareTools(Acting):
    """Each makes one command."""

    def functions(self) -> Sequence[Callable[..., Any]]:
        return (
            self.list_firmware,
            self.get_rollout,
            self.initiate_firmware_update,
            self.pause_rollout,
            self.resume_rollout,
            self.abort_rollout,
        )

    async def list_firmware(self, ctx: Context, device: str | None = None) -> Result:
        """Which firmware each node runs, since when, its last update, what it is behind; and the bundles here."""
        found, here = await asyncio.gather(self._result(ctx, NodeFirmwareList), self._result(ctx, FirmwareList))
        nodes = [each for each in found.model_dump()["nodes"] if device in {None, each["device"]}]
        bundles = [_bundle(each) for each in here.model_dump()["firmware"]]
        return self._fitted("nodes", nodes, {"bundles": bundles, "total": len(nodes)})

    async def get_rollout(
        self,
        ctx: Context,
        rollout: Annotated[str | None, Field(description="id; without one the last rollouts")] = None,
        *,
        wait_s: Annotated[float, Field(ge=0, le=WAIT_S, description="wait so long for its end")] = 0.0,
    ) -> Result:
        """How far a rollout is, device by device, failures first."""
        if rollout is None:
            found = await self._result(ctx, RolloutList)
            return self._fitted("rollouts", found.model_dump()["rollouts"], {})
        return self._rollout(await self._followed(ctx, rollout, wait_s))

    async def initiate_firmware_update(
        self,
        ctx: Context,
        *,
        firmware: Annotated[str, Field(description="version or digest; '' the newest that fits")] = "",
        devices: Annotated[list[str], Field(description="device ids")] = [],  # noqa: B006 - never changed
        zone: Annotated[str, Field(description="zone id")] = "",
        board: Annotated[str, Field(description="e.g. esp32s3")] = "",
        type: Annotated[str, Field(description="device type")] = "",  # noqa: A002 - what assistants call it
        everyone: bool = False,
        canary: Annotated[int, Field(ge=1, le=100, description="so many first, until they are well")] = 1,
        at_once: Annotated[int, Field(ge=1, le=50)] = 3,
        pause_at: Annotated[float, Field(gt=0, le=1, description="share of failures that pauses it")] = 0.2,
        readings: Annotated[bool, Field(description="well is who sends good readings again")] = True,
        dry_run: DryRun = False,
        confirm: Confirm = False,
    ) -> Result:
        """Roll a firmware out to nodes, which restart with it; say who in one way. A dry run names each and why not."""
        rules = Rules(canary=canary, at_once=at_once, pause_at=pause_at, readings=readings)
        meant: dict[str, Any] = {"devices": tuple(devices), "zone": zone, "board": board, "type": type}
        meant |= {"everyone": everyone, "firmware": firmware, "rules": rules, "dry_run": dry_run, "confirm": confirm}
        return self._rollout(await self._result(ctx, UpdateFirmware, **meant))

    async def pause_rollout(
        self, ctx: Context, rollout: Rollout, reason: Reason = "", *, dry_run: DryRun = False
    ) -> Result:
        """Offer nothing new; what is under way goes on."""
        return await self._word(ctx, PauseRollout, rollout=rollout, reason=reason, dry_run=dry_run)

    async def resume_rollout(self, ctx: Context, rollout: Rollout, *, dry_run: DryRun = False) -> Result:
        """Go on with a paused rollout, and accept its failures so far."""
        return await self._word(ctx, ResumeRollout, rollout=rollout, dry_run=dry_run)

    async def abort_rollout(
        self, ctx: Context, rollout: Rollout, reason: Reason = "", *, dry_run: DryRun = False
    ) -> Result:
        """End a rollout: cancel what can be, leave what restarts already to its own end."""
        return await self._word(ctx, AbortRollout, rollout=rollout, reason=reason, dry_run=dry_run)

    async def _word(self, ctx: Context, kind: type[OfRollout], **arguments: Any) -> CallToolResult:
        return self._rollout(await self._result(ctx, kind, **arguments))

    async def _followed(self, ctx: Context, rollout: str, wait_s: float) -> BaseModel:
        """The rollout when it has come to its end or to a pause, or as it is after so many seconds."""
        found = await self._result(ctx, RolloutShow, rollout=rollout)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_s
        while isinstance(found, RolloutView) and found.state == "running" and (left_s := until_s - loop.time()) > 0:
            await ctx.report_progress(found.progress, 1.0, _words(found.counts))
            found = await self._result(ctx, RolloutShow, rollout=rollout, wait_s=left_s, after=found.revision)
        return found

    def _rollout(self, found: BaseModel) -> CallToolResult:
        said = found.model_dump(exclude_none=True)
        said.pop("revision", None)
        if isinstance(found, RolloutView):
            devices = said.pop("devices")
            return self._fitted("devices", sorted(devices, key=_soon), said | {"total": len(devices)})
        if isinstance(found, RolloutPreview):
            skipped = said.pop("skipped")
            both = [*said.pop("updates"), *skipped]
            totals = {"updates": len(both) - len(skipped), "skipped": len(skipped)}
            return self._fitted("devices", both, said | {"totals": totals})
        return self._told(found)

    def _fitted(self, name: str, items: Sequence[Mapping[str, Any]], more: Mapping[str, Any]) -> CallToolResult:
        """As many leading items as an answer takes."""
        frame = self._house.frame()

        def make(some: Sequence[Mapping[str, Any]]) -> Acted:
            left = len(items) - len(some)
            cut = {"left_out": left} if left else {}
            said = self._clean({**more, name: [_aged(each, frame) for each in some], **cut}, frame)
            return Acted(**frame.fields(), **said)

        return answer(first_that_fit(items, make))


def _bundle(each: Mapping[str, Any]) -> dict[str, Any]:
    return {name: each[name] for name in ("version", "digest", "boards", "kind", "signed_by", "trusted", "added")}


def _soon(device: Mapping[str, Any]) -> int:
    return SOON.index(device["state"]) if device["state"] in SOON else len(SOON)


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{many} {state.replace('_', ' ')}" for state, many in counts.items())


def _aged(item: Mapping[str, Any], frame: Frame) -> dict[str, Any]:
    """With the age of its newest moment."""
    known = {name: value for name, value in item.items() if value not in (None, "")}
    moment = known.get("ended") or known.get("since") or known.get("created")
    return known | ({"age_s": frame.age_s(moment)} if moment else {})
