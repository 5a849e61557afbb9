"""What people may change of the house, as typed commands of the control layer, and what they answer."""

import unicodedata
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

from gateway.command import Command, Destructive, Write


def tidy(text: str) -> str:
    """Without spaces around it; ValueError where it would not print on one line."""
    bad = next((c for c in text if unicodedata.category(c)[0] == "C" or c in "\u2028\u2029"), None)
    if bad is not None:
        raise ValueError(f"the character U+{ord(bad):04X} does not print: leave it out")
    return text.strip()


Words = Annotated[str, Field(max_length=128), AfterValidator(tidy)]
DeviceId = Annotated[str, Field(min_length=1, max_length=128)]
ZoneId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Reason = Annotated[str, Field(max_length=200), AfterValidator(tidy)]

FIELDS = {
    "name": "device_name",
    "zone": "zone_id",
    "location": "location",
    "building": "building",
    "floor": "floor",
    "type": "device_type",
}
"""Arguments that stand for a field of a device."""


class OfDevice(Write):
    """A write whose target is a device."""

    device: DeviceId

    @property
    def target(self) -> str:
        return self.device


class UpdateDevice(OfDevice):
    """Say where a device is and what it is called; None leaves it as it is, "" clears it. A change of `status` needs a
    `reason`, which the audit keeps."""

    command: Literal["update_device"] = "update_device"
    name: Words | None = None
    zone: Words | None = None
    location: Words | None = None
    building: Words | None = None
    floor: Words | None = None
    type: Words | None = None
    status: Literal["active", "decommissioned"] | None = None
    reason: Reason = ""

    @property
    def fields(self) -> dict[str, str]:
        """What to change, by the names of Device."""
        given = {field: getattr(self, name) for name, field in FIELDS.items()}
        return {field: value for field, value in given.items() if value is not None}

    @property
    def detail(self) -> str:
        words = [f"{field} {value!r}" for field, value in self.fields.items()]
        words += [f"status {self.status}"] if self.status else []
        words += [f"because {self.reason!r}"] if self.reason else []
        return ", ".join(words)


class ClaimDevice(OfDevice):
    """Say that a device that was seen is ours; a node gets its key."""

    command: Literal["claim_device"] = "claim_device"
    name: Words | None = None
    zone: Words | None = None


class DeleteDevice(Destructive):
    """Forget a device with everything that is stored of it."""

    command: Literal["delete_device"] = "delete_device"
    device: DeviceId

    @property
    def target(self) -> str:
        return self.device


class SaveZone(Write):
    """Make a zone (a new one needs its `name`), or change one; `devices` are put into it."""

    command: Literal["save_zone"] = "save_zone"
    zone: ZoneId
    name: Words | None = None
    building: Words | None = None
    floor: Words | None = None
    area_sqm: Annotated[float, Field(gt=0, lt=1e6, allow_inf_nan=False)] | None = None
    description: Annotated[str, Field(max_length=500), AfterValidator(tidy)] | None = None
    devices: Annotated[tuple[DeviceId, ...], Field(max_length=200)] = ()

    @property
    def target(self) -> str:
        return self.zone

    @property
    def detail(self) -> str:
        return f"devices {', '.join(self.devices)}"[:500] if self.devices else ""


class DeleteZone(Destructive):
    """Forget a zone; its devices stay, without one."""

    command: Literal["delete_zone"] = "delete_zone"
    zone: str

    @property
    def target(self) -> str:
        return self.zone


class DeviceList(Command):
    command: Literal["list_devices"] = "list_devices"


class ZoneList(Command):
    command: Literal["list_zones"] = "list_zones"


class Change(BaseModel):
    """One field before and after."""

    before: str
    after: str


class Changed(BaseModel):
    """What was changed, or would be (`dry_run`), by field; nothing where all of it was so already."""

    device: str
    changed: dict[str, Change]
    dry_run: bool = False


class Claimed(BaseModel):
    """`key`, `user` and `password` are a node's, shown this once; `note` says why there are none."""

    device: str
    claimed: datetime
    key: str | None = None
    user: str | None = None
    password: str | None = None
    note: str = ""


class ZoneSaved(BaseModel):
    """`is_new` where it was made now; `moved` are devices that were not in it before."""

    zone: str
    name: str
    is_new: bool
    moved: list[str]
    dry_run: bool = False


class DeviceView(BaseModel):
    device: str
    name: str
    status: str
    zone: str
    location: str
    type: str
    source: str
    last_seen: datetime | None
    claimed: datetime | None


class DeviceViews(BaseModel):
    devices: list[DeviceView]


class ZoneView(BaseModel):
    zone: str
    name: str
    building: str
    floor: str
    area_sqm: float | None
    description: str
    devices: list[str]


class ZoneViews(BaseModel):
    zones: list[ZoneView]
