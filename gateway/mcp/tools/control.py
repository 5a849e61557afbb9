"""Tools that change the house: devices, zones, sensors, exports, and the tasks that these begin."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context
from mcp_types import CallToolResult
from pydantic import Field

from gateway.calibration.commands import CalibrateSensor, Operation
from gateway.mcp import times
from gateway.mcp.caller import Caller
from gateway.mcp.tools.acting import Acted, Acting, Run, followed
from gateway.mcp.tools.base import Confirm, DryRun, House
from gateway.nodes.commands import SendCommand
from gateway.registry.commands import ClaimDevice, DeleteDevice, DeleteZone, SaveZone, UpdateDevice
from gateway.store.exchange.commands import ExportData
from gateway.tasks import CancelTask, Tasks, TaskView, TaskViews

Result = Annotated[CallToolResult, Acted]
DeviceId = Annotated[str, Field(description="device id")]
ZoneId = Annotated[str, Field(description="zone id")]
Words = Annotated[str | None, Field(description="'' clears it")]
Moment = Annotated[str | None, Field(description="ISO-8601 with offset, or -24h, -7d, today")]
Number = bool | float | None
KNOWN = (
    "identify {seconds 1-600}: blink; restart; set_interval {interval_s 2-3600, sensor?}; get_diagnostics; "
    "show_calibration {sensor?}; other makers' nodes: their own. To calibrate use calibrate_sensor"
)


class ControlTools(Acting):
    """Each makes one command."""

    def __init__(self, house: House, run: Run, tasks: Tasks) -> None:
        super().__init__(house, run)
        self._tasks = tasks

    def functions(self) -> Sequence[Callable[..., Any]]:
        return (
            self.get_task,
            self.update_device,
            self.claim_device,
            self.delete_device,
            self.save_zone,
            self.delete_zone,
            self.send_command,
            self.calibrate_sensor,
            self.export_data,
            self.cancel_task,
        )

    async def get_task(self, ctx: Context, task_id: str | None = None) -> Result:
        """How far a task of yours is, and its result; without an id all of them."""
        owner = Caller.of(ctx.request_context).key
        if task_id is not None:
            return self._told(TaskView.of(self._tasks.get(task_id, owner)))
        return self._told(TaskViews(tasks=[TaskView.of(each) for each in self._tasks.list(owner)[:20]]))

    async def update_device(
        self,
        ctx: Context,
        device: DeviceId,
        *,
        name: Words = None,
        zone: Words = None,
        location: Words = None,
        building: Words = None,
        floor: Words = None,
        type: Words = None,  # noqa: A002 - what assistants call it
        status: Literal["active", "decommissioned"] | None = None,
        reason: Annotated[str, Field(description="why the status changes")] = "",
        dry_run: DryRun = False,
    ) -> Result:
        """Name, place or status of a device; what is left out stays."""
        given: dict[str, Any] = {"name": name, "zone": zone, "location": location, "building": building}
        given |= {"floor": floor, "type": type, "status": status, "reason": reason}
        return await self._do(ctx, UpdateDevice, device=device, dry_run=dry_run, **given)

    async def claim_device(
        self, ctx: Context, device: DeviceId, name: Words = None, zone: Words = None, *, dry_run: DryRun = False
    ) -> Result:
        """Say that a device that was heard is ours; a node's key is shown this once."""
        return await self._do(ctx, ClaimDevice, device=device, name=name, zone=zone, dry_run=dry_run)

    async def delete_device(
        self, ctx: Context, device: DeviceId, *, dry_run: DryRun = False, confirm: Confirm = False
    ) -> Result:
        """Forget a device and all of its readings, for good."""
        began = await self._result(ctx, DeleteDevice, device=device, dry_run=dry_run, confirm=confirm)
        return self._told(await followed(ctx, self._tasks, began))

    async def save_zone(
        self,
        ctx: Context,
        zone: ZoneId,
        *,
        name: Annotated[str | None, Field(description="a new zone needs one")] = None,
        building: Words = None,
        floor: Words = None,
        area_sqm: float | None = None,
        description: Words = None,
        devices: Annotated[list[str], Field(description="device ids to put into it")] = [],  # noqa: B006 - never changed
        dry_run: DryRun = False,
    ) -> Result:
        """Make a zone, change one, or put devices into it; what is left out stays."""
        given: dict[str, Any] = {"name": name, "building": building, "floor": floor, "area_sqm": area_sqm}
        given |= {"description": description, "devices": tuple(devices)}
        return await self._do(ctx, SaveZone, zone=zone, dry_run=dry_run, **given)

    async def delete_zone(
        self, ctx: Context, zone: ZoneId, *, dry_run: DryRun = False, confirm: Confirm = False
    ) -> Result:
        """Forget a zone; its devices stay, in none."""
        return await self._do(ctx, DeleteZone, zone=zone, dry_run=dry_run, confirm=confirm)

    async def send_command(
        self,
        ctx: Context,
        device: DeviceId,
        name: Annotated[str, Field(description=KNOWN)],
        args: dict[str, Any] = {},  # noqa: B006 - never changed
        *,
        timeout_s: Annotated[float, Field(ge=0.1, le=60)] = 10.0,
        background: Annotated[bool, Field(description="answer at once with a task id")] = False,
        dry_run: DryRun = False,
    ) -> Result:
        """Tell a node to do something and wait for its result; called off, it may still be done."""
        given: dict[str, Any] = {"name": name, "args": args, "timeout_s": timeout_s, "background": background}
        return await self._do(ctx, SendCommand, device=device, dry_run=dry_run, **given)

    async def calibrate_sensor(
        self,
        ctx: Context,
        device: DeviceId,
        sensor: Annotated[str, Field(description="sensor name")],
        operation: Operation,
        value: Annotated[Number, Field(description="ppm, true/false, degC, m, or hPa (null: off)")] = None,
        *,
        force: Annotated[bool, Field(description="overrule doubts, never limits")] = False,
        dry_run: DryRun = False,
        confirm: Confirm = False,
    ) -> Result:
        """Change a CO2 sensor's calibration; a dry run shows what it holds and what speaks against it."""
        given: dict[str, Any] = {"operation": operation, "value": value, "force": force, "confirm": confirm}
        return await self._do(ctx, CalibrateSensor, device=device, sensor=sensor, dry_run=dry_run, **given)

    async def export_data(
        self,
        ctx: Context,
        *,
        format: Literal["csv", "parquet"] = "csv",  # noqa: A002 - what assistants call it
        device: Annotated[str | None, Field(description="device id")] = None,
        metric: Annotated[str | None, Field(description="e.g. co2")] = None,
        start: Moment = None,
        end: Moment = None,
        bucket_minutes: Annotated[int | None, Field(description="figures of spans of UTC instead of readings")] = None,
        dry_run: DryRun = False,
    ) -> Result:
        """Write readings into a file; its link expires."""
        now, zone = self._house.clock.now(), self._house.zone
        first = None if start is None else times.instant(start, "start", now, zone)
        last = None if end is None else times.instant(end, "end", now, zone)
        given: dict[str, Any] = {"start": first, "end": last, "bucket_minutes": bucket_minutes, "format": format}
        began = await self._result(ctx, ExportData, device=device, metric=metric, dry_run=dry_run, **given)
        return self._told(await followed(ctx, self._tasks, began))

    async def cancel_task(self, ctx: Context, task_id: str, *, dry_run: DryRun = False) -> Result:
        """End a task of yours."""
        return await self._do(ctx, CancelTask, task_id=task_id, dry_run=dry_run)
