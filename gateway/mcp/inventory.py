"""What an assistant sees of devices, sensors and zones."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from gateway.mcp.finding import Found
from gateway.mcp.fitting import clean, first_that_fit, rounded
from gateway.mcp.views import Answer, Frame, ReadingView
from gateway.reading import Reading
from gateway.registry.registry import Status
from gateway.store.types import Device, Sensor, Series, Zone

METADATA = 32
"""Entries of a device's metadata that are shown."""


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list that was asked for: `total` entries are in all of it, `more` say that this is not its end."""

    total: int
    more: bool


class DeviceView(BaseModel):
    device: str
    status: str
    last_seen: str | None
    age_s: float | None
    expected_interval_s: float
    reason: str = ""
    since: str = ""
    name: str = ""
    type: str = ""
    zone: str = ""
    location: str = ""
    model: str = ""
    firmware: str = ""
    source: str = ""

    @classmethod
    def fields_of(cls, device: Device, status: Status, frame: Frame) -> dict[str, Any]:
        """What is known; what is not stays unset."""
        said = {
            "reason": "" if status.status == "online" else status.reason,
            "since": "" if status.status == "online" else frame.local(status.since),
            "name": device.device_name,
            "type": device.device_type,
            "zone": device.zone_id,
            "location": " / ".join(part for part in (device.building, device.floor, device.location) if part),
            "model": " ".join(part for part in (device.manufacturer, device.model) if part),
            "firmware": device.firmware_version,
            "source": device.source,
        }
        seen = device.last_seen
        return {key: clean(text) for key, text in said.items() if text} | {
            "device": clean(device.device_id),
            "status": status.status,
            "expected_interval_s": round(status.expected_interval_s, 1),
            "last_seen": frame.local(seen) if seen else None,
            "age_s": frame.age_s(seen) if seen else None,
        }


class Devices(Answer):
    """`total` counts all that match; with `next_cursor` there are more."""

    devices: list[DeviceView]
    total: int
    next_cursor: str = ""

    @classmethod
    def of(
        cls, devices: Sequence[Device], status: Callable[[str], Status], frame: Frame, page: Page | None = None
    ) -> "Devices":
        page = page or Page(len(devices), more=False)

        def make(some: Sequence[Device]) -> "Devices":
            views = [DeviceView(**DeviceView.fields_of(one, status(one.device_id), frame)) for one in some]
            is_cut = page.more or len(some) < len(devices)
            more = {"next_cursor": some[-1].device_id} if is_cut and some else {}
            return cls(**frame.fields(), total=page.total, devices=views, **more)

        return first_that_fit(devices, make)


class DeviceStatus(DeviceView, Answer):
    """One device with its newest values."""

    readings: list[ReadingView]
    total: int
    building: str = ""
    floor: str = ""
    hardware: str = ""
    mac: str = ""
    first_seen: str = ""
    metadata: dict[str, Any] = {}

    @classmethod
    def of(cls, device: Device, status: Status, readings: Sequence[Reading], frame: Frame) -> "DeviceStatus":
        said = {
            "building": clean(device.building),
            "floor": clean(device.floor),
            "hardware": clean(device.hardware_revision),
            "mac": clean(device.mac_address),
            "first_seen": frame.local(device.first_seen) if device.first_seen else "",
            "metadata": _plain(device.metadata),
        }
        known = DeviceView.fields_of(device, status, frame) | {key: it for key, it in said.items() if it}

        def make(some: Sequence[Reading]) -> "DeviceStatus":
            views = [ReadingView.of(one, frame) for one in some]
            return cls(**frame.fields(), **known, total=len(readings), readings=views)

        return first_that_fit(readings, make)


class MetricView(BaseModel):
    metric: str
    unit: str


class SensorView(BaseModel):
    device: str
    sensor: str
    sensor_id: int
    type: str
    metrics: list[MetricView]
    location: str = ""


class Sensors(Answer):
    sensors: list[SensorView]
    total: int

    @classmethod
    def of(cls, sensors: Sequence[Sensor], series: Iterable[Series], frame: Frame) -> "Sensors":
        metrics: dict[int, list[MetricView]] = {}
        for one in series:
            metrics.setdefault(one.sensor_id, []).append(MetricView(metric=clean(one.metric), unit=one.quantity.unit))

        def view(sensor: Sensor) -> SensorView:
            place = {"location": clean(sensor.location)} if sensor.location else {}
            return SensorView(
                device=clean(sensor.device_id),
                sensor=clean(sensor.sensor),
                sensor_id=sensor.sensor_id,
                type=clean(sensor.sensor_type),
                metrics=metrics.get(sensor.sensor_id, []),
                **place,
            )

        def make(some: Sequence[Sensor]) -> "Sensors":
            return cls(**frame.fields(), total=len(sensors), sensors=[view(s) for s in some])

        return first_that_fit(sensors, make)


class ZoneView(BaseModel):
    """`devices` counts those that are in it."""

    zone: str
    devices: int
    name: str = ""
    building: str = ""
    floor: str = ""
    area_sqm: float | None = None
    description: str = ""


class Zones(Answer):
    zones: list[ZoneView]
    total: int

    @classmethod
    def of(cls, zones: Sequence[Zone], devices: Mapping[str, int], frame: Frame) -> "Zones":
        """Those that were described, and those that devices are in though nobody described them."""
        known = {zone.zone_id: zone for zone in zones}
        names = sorted(known.keys() | (devices.keys() - {""}))

        def view(name: str) -> ZoneView:
            zone = known.get(name, Zone(name, ""))
            said = {key: clean(getattr(zone, key)) for key in ("name", "building", "floor", "description")}
            told: dict[str, Any] = {key: text for key, text in said.items() if text}
            told |= {} if zone.area_sqm is None else {"area_sqm": rounded(zone.area_sqm)}
            return ZoneView(zone=clean(name), devices=devices.get(name, 0), **told)

        def make(some: Sequence[str]) -> "Zones":
            return cls(**frame.fields(), total=len(names), zones=[view(name) for name in some])

        return first_that_fit(names, make)


class FoundView(BaseModel):
    """`score` from 0 to 1; `reading` is the newest of a series."""

    kind: str
    score: float
    why: str
    device: str
    sensor: str = ""
    metric: str = ""
    reading: ReadingView | None = None


class Finds(Answer):
    """The likeliest first."""

    found: list[FoundView]
    total: int

    @classmethod
    def of(
        cls, found: Sequence[Found], most: int, newest: Mapping[tuple[str, str, str], Reading], frame: Frame
    ) -> "Finds":
        def view(one: Found) -> FoundView:
            named = {"sensor": one.sensor, "metric": one.metric}
            reading = newest.get((one.device, one.sensor, one.metric))
            more: dict[str, Any] = {"reading": ReadingView.of(reading, frame)} if reading else {}
            more |= {key: clean(name) for key, name in named.items() if name}
            return FoundView(kind=one.kind, score=one.score, why=clean(one.why), device=clean(one.device), **more)

        def make(some: Sequence[Found]) -> "Finds":
            return cls(**frame.fields(), total=len(found), found=[view(one) for one in some])

        return first_that_fit(found[:most], make)


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A device's own entries, bounded and cleaned; anything deep becomes text."""

    def plain(value: object) -> Any:
        return value if value is None or isinstance(value, bool | int | float) else clean(str(value))

    return {clean(key): plain(value) for key, value in list(metadata.items())[:METADATA]}
