"""What people change of the house: devices and zones."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from gateway.access.logins import Issued
from gateway.access.principal import Principal, Scope
from gateway.clock import Clock
from gateway.command import ControlError, Done
from gateway.control.base import Handler, Plan, nearest
from gateway.control.started import started
from gateway.ingest.dialects import is_foreign
from gateway.registry.commands import (
    FIELDS,
    Change,
    Changed,
    ClaimDevice,
    Claimed,
    DeleteDevice,
    DeleteZone,
    DeviceList,
    DeviceView,
    DeviceViews,
    SaveZone,
    UpdateDevice,
    ZoneList,
    ZoneSaved,
    ZoneView,
    ZoneViews,
)
from gateway.registry.registry import Registry
from gateway.registry.state import DECOMMISSIONED
from gateway.store import commands, edit_rows, queries
from gateway.store.db import Store
from gateway.store.types import Device, Event, Zone
from gateway.tasks import Progress, Tasks

MOST_ZONES = 500
ARGUMENTS = {field: name for name, field in FIELDS.items()}


class HouseCommands:
    """Runs them. `node_login` gives a node its login and key, None where it has one; `delete` forgets a device for
    good; `changed` hears which device was changed, "" for a zone."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        tasks: Tasks,
        clock: Clock,
        *,
        node_login: Callable[[str], Awaitable[Issued | None]],
        delete: Callable[[str, Progress], Awaitable[int]],
        changed: Callable[[str], None] = lambda _device: None,
    ) -> None:
        self._store, self._registry, self._tasks, self._clock = store, registry, tasks, clock
        self._node_login, self._delete, self._changed = node_login, delete, changed

    def handlers(self) -> Mapping[type[Any], Handler]:
        return {
            DeviceList: self._list,
            UpdateDevice: self._update,
            ClaimDevice: self._claim,
            DeleteDevice: self._forget,
            ZoneList: self._list_zones,
            SaveZone: self._save_zone,
            DeleteZone: self._delete_zone,
        }

    async def _list(self, _command: DeviceList, _principal: Principal) -> BaseModel:
        devices = self._registry.devices()
        return DeviceViews(devices=[_device_view(one, self._registry) for one in devices])

    async def _update(self, command: UpdateDevice, principal: Principal) -> Plan:
        device = self._registry.device(command.device)
        wanted = dict(command.fields)
        if not wanted and command.status is None:
            raise ControlError(f"nothing to change: give one of {', '.join(FIELDS)}, status")
        await self._expect_zone(wanted.get("zone_id"))
        self._expect_free(command.device, wanted)
        fields = {name: value for name, value in wanted.items() if getattr(device, name) != value}
        changes = {ARGUMENTS[name]: Change(before=getattr(device, name), after=new) for name, new in fields.items()}
        if command.status is not None and (changed := self._status(command, device)) is not None:
            fields["status"], changes["status"] = command.status, changed
        result = Changed(device=command.device, changed=changes)

        async def do() -> BaseModel:
            if fields:
                await self._registry.edit(command.device, fields, principal.name, command.reason)
                self._changed(command.device)
            return result

        words = ", ".join(f"{name} {each.before!r} -> {each.after!r}" for name, each in changes.items())
        would = f"this changes of {command.device}: {words or 'nothing, it is so already'}"
        return Plan(would, do, result.model_copy(update={"dry_run": True}))

    def _status(self, command: UpdateDevice, device: Device) -> Change | None:
        """The change of status, None where there is none."""
        if not command.reason:
            raise ControlError("reason: say why the status changes; the audit keeps it")
        if "device_id" in self._registry.settled(device.device_id):
            raise ControlError(f"status: {device.device_id} is read because the settings name it; change them instead")
        is_ended = device.status == DECOMMISSIONED
        if is_ended == (command.status == DECOMMISSIONED):
            return None
        return Change(before=device.status if is_ended else "active", after=command.status or "")

    async def _claim(self, command: ClaimDevice, principal: Principal) -> Plan:
        device = self._registry.device(command.device)
        if "device_id" in self._registry.settled(command.device):
            raise ControlError(f"{command.device} is in the settings, so it is ours already")
        if (since := self._registry.claimed(command.device)) is not None:
            raise ControlError(f"{command.device} was claimed on {since:%Y-%m-%d}; to change it use update_device")
        given = {"device_name": command.name, "zone_id": command.zone}
        fields = {name: value for name, value in given.items() if value is not None}
        await self._expect_zone(fields.get("zone_id"))
        is_node = device.source == "mqtt" and not is_foreign(command.device)

        async def do() -> BaseModel:
            await self._registry.edit(command.device, fields | {"claimed": "yes"}, principal.name)
            self._changed(command.device)
            issued, note = await self._login_of(command.device, principal) if is_node else (None, "")
            claimed = self._registry.claimed(command.device)
            assert claimed is not None
            shown = Claimed(device=command.device, claimed=claimed, note=note)
            if issued is None:
                return shown
            user = issued.user if issued.password is not None else None
            return shown.model_copy(update={"key": issued.key, "user": user, "password": issued.password})

        keyed = is_node and principal.scope >= Scope.ADMIN
        return Plan(f"this claims {command.device}{' and makes a key and a login for it' if keyed else ''}", do)

    async def _login_of(self, node: str, principal: Principal) -> tuple[Issued | None, str]:
        """Its new key and password, for an admin's eyes only, and what to say of them."""
        if principal.scope < Scope.ADMIN:
            return None, f"for its key an admin runs `gateway node add {node}`"
        issued = await self._node_login(node)
        if issued is None:
            return None, "it had its key already"
        kept = "keep the key and the password: they are" if issued.password else "keep the key: it is"
        return issued, f"{kept} not shown again{'; ' if issued.note else ''}{issued.note}"

    async def _forget(self, command: DeleteDevice, principal: Principal) -> Plan:
        self._registry.device(command.device)
        if "device_id" in self._registry.settled(command.device):
            raise ControlError(f"{command.device} is in the settings and would come back: take it out there first")
        series = len(queries.find_series(self._store, device=command.device))

        async def work(progress: Progress) -> dict[str, Any]:
            gone = await self._delete(command.device, progress)
            self._changed(command.device)
            text = f"{command.device} and its {gone} series, by {principal.name}"
            await commands.add_event(self._store, Event(self._clock.now(), "deleted", "", text))
            return {"done": f"{command.device} and its {gone} series are deleted"}

        async def do() -> BaseModel:
            task_id = self._tasks.start("delete_device", principal.key, work)
            return await started(self._tasks, task_id, principal)

        back = "; if it goes on sending it comes back as a new device" if series else ""
        return Plan(f"this deletes {command.device} with all readings of its {series} series{back}", do)

    async def _list_zones(self, _command: ZoneList, _principal: Principal) -> BaseModel:
        zones = await queries.zones(self._store)
        inside: dict[str, list[str]] = {}
        for device in self._registry.devices():
            inside.setdefault(device.zone_id, []).append(device.device_id)
        unnamed = [Zone(zone_id, "") for zone_id in inside if zone_id and zone_id not in {z.zone_id for z in zones}]
        found = sorted([*zones, *unnamed], key=lambda zone: zone.zone_id)
        return ZoneViews(zones=[_zone_view(zone, inside.get(zone.zone_id, [])) for zone in found])

    async def _save_zone(self, command: SaveZone, principal: Principal) -> Plan:
        zones = {zone.zone_id: zone for zone in await queries.zones(self._store)}
        old = zones.get(command.zone)
        if old is None and not command.name:
            raise ControlError(
                f"zone: there is no {command.zone!r}; {nearest(command.zone, zones)} A new one needs a name"
            )
        if old is None and len(zones) >= MOST_ZONES:
            raise ControlError(f"there are {MOST_ZONES} zones already: delete one first")
        given = {name: getattr(command, name) for name in ("name", "building", "floor", "area_sqm", "description")}
        new = replace(old or Zone(command.zone, ""), **{k: v for k, v in given.items() if v is not None})
        if not new.name:
            raise ControlError("name: a zone needs one")
        moved = [one for one in dict.fromkeys(command.devices) if self._registry.device(one).zone_id != command.zone]
        for device in moved:
            self._expect_free(device, {"zone_id": command.zone})
        result = ZoneSaved(zone=command.zone, name=new.name, is_new=old is None, moved=moved)

        async def do() -> BaseModel:
            if new != old:
                await commands.save_zone(self._store, new)
            for device in moved:
                await self._registry.edit(device, {"zone_id": command.zone}, principal.name)
                self._changed(device)
            self._changed("")
            return result

        words = f"this {'makes' if old is None else 'changes'} zone {command.zone}"
        words += f" and puts {', '.join(moved)} into it" if moved else ""
        return Plan(words, do, result.model_copy(update={"dry_run": True}))

    async def _delete_zone(self, command: DeleteZone, principal: Principal) -> Plan:
        zones = {zone.zone_id for zone in await queries.zones(self._store)}
        if command.zone not in zones:
            raise ControlError(f"zone: there is no {command.zone!r}; {nearest(command.zone, zones)}")
        inside = [one.device_id for one in self._registry.devices() if one.zone_id == command.zone]
        for device in inside:
            self._expect_free(device, {"zone_id": ""})

        async def do() -> BaseModel:
            for device in inside:
                await self._registry.edit(device, {"zone_id": ""}, principal.name)
                self._changed(device)
            await edit_rows.delete_zone(self._store, command.zone)
            self._changed("")
            return Done(done=f"zone {command.zone} is deleted")

        left = f"; {', '.join(inside)} would be in none" if inside else ""
        return Plan(f"this deletes zone {command.zone}{left}", do)

    async def _expect_zone(self, zone: str | None) -> None:
        if not zone:
            return
        known = {one.zone_id for one in await queries.zones(self._store)}
        known |= {one.zone_id for one in self._registry.devices() if one.zone_id}
        if zone not in known:
            raise ControlError(f"zone: there is no {zone!r}; {nearest(zone, known)}")

    def _expect_free(self, device: str, fields: Mapping[str, str]) -> None:
        settled = self._registry.settled(device) & fields.keys()
        if settled:
            name = ARGUMENTS[min(settled)]
            raise ControlError(f"{name}: the settings say the {name} of {device}; change it there")


def _device_view(device: Device, registry: Registry) -> DeviceView:
    return DeviceView(
        device=device.device_id,
        name=device.device_name,
        status=device.status,
        zone=device.zone_id,
        location=device.location,
        type=device.device_type,
        source=device.source,
        last_seen=device.last_seen,
        claimed=registry.claimed(device.device_id),
    )


def _zone_view(zone: Zone, devices: list[str]) -> ZoneView:
    return ZoneView(
        zone=zone.zone_id,
        name=zone.name,
        building=zone.building,
        floor=zone.floor,
        area_sqm=zone.area_sqm,
        description=zone.description,
        devices=devices,
    )
