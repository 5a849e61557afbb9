"""Calibration as typed commands of the control layer, and what they answer."""

from dataclasses import asdict
from typing import Any, Literal, Self

from pydantic import BaseModel, model_validator

from gateway.calibration import changes
from gateway.calibration.service import Calibrations, Outcome
from gateway.command import Command, Destructive

Operation = Literal["recalibrate", "self_calibration", "temperature_offset", "altitude", "pressure"]


class CalibrationShow(Command):
    command: Literal["show_calibration"] = "show_calibration"
    device: str
    sensor: str


class Calibrate(Command):
    """Change a sensor's calibration; `force` overrules what is a matter of judgement, `dry_run` only tells."""

    device: str
    sensor: str
    dry_run: bool = False
    force: bool = False

    @property
    def target(self) -> str:
        return f"{self.device}/{self.sensor}"

    @property
    def detail(self) -> str:
        words = (str(self.change), "dry run" if self.dry_run else "", "forced" if self.force else "")
        return ", ".join(word for word in words if word)

    @property
    def change(self) -> changes.Change:
        """What to change; each command below says it."""
        raise NotImplementedError


class Recalibrate(Calibrate):
    command: Literal["recalibrate_sensor"] = "recalibrate_sensor"
    reference_ppm: int

    @property
    def change(self) -> changes.Change:
        return changes.Recalibration(self.reference_ppm)


class SetSelfCalibration(Calibrate):
    command: Literal["set_self_calibration"] = "set_self_calibration"
    on: bool

    @property
    def change(self) -> changes.Change:
        return changes.SelfCalibration(self.on)


class SetTemperatureOffset(Calibrate):
    command: Literal["set_temperature_offset"] = "set_temperature_offset"
    offset_degc: float

    @property
    def change(self) -> changes.Change:
        return changes.TemperatureOffset(self.offset_degc)


class SetAltitude(Calibrate):
    command: Literal["set_altitude"] = "set_altitude"
    altitude_m: int

    @property
    def change(self) -> changes.Change:
        return changes.Altitude(self.altitude_m)


class SetPressure(Calibrate):
    """None: compensate by the altitude."""

    command: Literal["set_pressure"] = "set_pressure"
    pressure_hpa: float | None

    @property
    def change(self) -> changes.Change:
        return changes.Pressure(self.pressure_hpa)


class CalibrateSensor(Destructive):
    """Any of these changes, as assistants ask for them; `value` is ppm, on or off, degC, m or hPa (None: off)."""

    command: Literal["calibrate_sensor"] = "calibrate_sensor"
    device: str
    sensor: str
    operation: Operation
    value: bool | float | None = None
    force: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        wanted = "true or false" if self.operation == "self_calibration" else "a number"
        is_bool, is_number = isinstance(self.value, bool), type(self.value) in {int, float}
        if self.operation == "self_calibration" and not is_bool:
            raise ValueError(f"value {self.value!r}: {self.operation} takes {wanted}")
        if self.operation != "self_calibration" and not is_number and (self.operation != "pressure" or is_bool):
            raise ValueError(f"value {self.value!r}: {self.operation} takes {wanted}")
        if self.operation in {"recalibrate", "altitude"} and self.value != int(self.value or 0):
            raise ValueError(f"value {self.value!r}: {self.operation} takes a whole number")
        return self

    @property
    def target(self) -> str:
        return f"{self.device}/{self.sensor}"

    @property
    def detail(self) -> str:
        return f"{self.change(dry_run=True).change}{', forced' if self.force else ''}"

    def change(self, *, dry_run: bool) -> Calibrate:
        """The change that is meant."""
        given: dict[str, Any] = {"device": self.device, "sensor": self.sensor, "dry_run": dry_run, "force": self.force}
        match self.operation:
            case "recalibrate":
                return Recalibrate(reference_ppm=int(self.value or 0), **given)
            case "self_calibration":
                return SetSelfCalibration(on=bool(self.value), **given)
            case "temperature_offset":
                return SetTemperatureOffset(offset_degc=float(self.value or 0), **given)
            case "altitude":
                return SetAltitude(altitude_m=int(self.value or 0), **given)
        return SetPressure(pressure_hpa=None if self.value is None else float(self.value), **given)


class CalibrationView(BaseModel):
    """What a sensor says of its calibration; `pressure_from` names the sensor that tells it the pressure."""

    device: str
    sensor: str
    self_calibration: bool
    temperature_offset_degc: float
    altitude_m: int
    pressure_hpa: float | None
    pressure_from: str | None
    reference_ppm: int
    firmware: str


class CalibrationOutcome(BaseModel):
    """What was changed, or would be (`dry_run`); `changed` False where the sensor held it already."""

    device: str
    sensor: str
    change: str
    changed: bool
    dry_run: bool
    before: dict[str, Any]
    after: dict[str, Any] | None
    notes: list[str]
    readings: int | None
    median_ppm: float | None
    spread_ppm: float | None

    @classmethod
    def of(cls, outcome: Outcome, dry_run: bool) -> "CalibrationOutcome":
        air = outcome.air
        return cls(
            device=outcome.device,
            sensor=outcome.sensor,
            change=outcome.change,
            changed=outcome.changed,
            dry_run=dry_run,
            before=asdict(outcome.before),
            after=asdict(outcome.after) if outcome.after else None,
            notes=list(outcome.notes),
            readings=air.n if air else None,
            median_ppm=air.median_ppm if air else None,
            spread_ppm=air.spread_ppm if air else None,
        )


async def calibrate(
    calibrations: Calibrations, command: CalibrationShow | Calibrate, by: str
) -> CalibrationView | CalibrationOutcome:
    """Do it for `by`; LookupError, ValueError and DriverError as Calibrations.apply."""
    device, sensor = command.device, command.sensor
    if isinstance(command, CalibrationShow):
        held, giver = await calibrations.show(device, sensor)
        return CalibrationView(device=device, sensor=sensor, pressure_from=giver, **asdict(held))
    outcome = await calibrations.apply(
        device, sensor, command.change, by=by, dry_run=command.dry_run, force=command.force
    )
    return CalibrationOutcome.of(outcome, command.dry_run)
