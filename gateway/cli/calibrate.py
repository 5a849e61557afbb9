"""`gateway calibrate`: only a running gateway can, for it holds the sensor."""

import argparse
import json
import sys
from typing import Any

from gateway.calibration.commands import (
    Calibrate,
    CalibrationShow,
    Recalibrate,
    SetAltitude,
    SetPressure,
    SetSelfCalibration,
    SetTemperatureOffset,
)
from gateway.cli import data
from gateway.control import ControlError

UNITS = {"temperature_offset_degc": "degC", "altitude_m": "m", "pressure_hpa": "hPa", "reference_ppm": "ppm"}


def show(options: argparse.Namespace) -> int:
    """Print what the sensor holds."""
    device, sensor = _target(options.target)
    held = data.send(CalibrationShow(device=device, sensor=sensor), data.folder(options.data))
    if options.json:
        print(json.dumps(held))
        return 0
    for name, value in held.items():
        print(f"{name:24} {_said(name, value)}")
    return 0


def change(options: argparse.Namespace) -> int:
    """Change it, or say what would be; JSON on standard output, words on standard error."""
    outcome = data.send(command(options), data.folder(options.data))
    if options.json:
        print(json.dumps(outcome))
        return 0
    what = f"{outcome['device']}/{outcome['sensor']}: {outcome['change']}"
    if not outcome["changed"]:
        print(f"{what}: the sensor holds that already, nothing was written", file=sys.stderr)
    elif outcome["dry_run"]:
        print(f"{what}: would be done", file=sys.stderr)
    else:
        print(f"{what}: done and read back", file=sys.stderr)
    if outcome["readings"] is not None:
        air = f"{outcome['readings']} readings around {outcome['median_ppm']:.0f} ppm"
        print(f"  {air}, {outcome['spread_ppm']:.0f} ppm apart", file=sys.stderr)
    for name, before in outcome["before"].items():
        after = (outcome["after"] or outcome["before"])[name]
        if after != before:
            print(f"  {name}: {_said(name, before)} -> {_said(name, after)}", file=sys.stderr)
    for note in outcome["notes"]:
        print(f"  note: {note}", file=sys.stderr)
    return 0


def command(options: argparse.Namespace) -> Calibrate:
    """The typed command of these words."""
    device, sensor = _target(options.target)
    common: dict[str, Any] = {
        "device": device,
        "sensor": sensor,
        "dry_run": options.dry_run,
        "force": options.force,
    }
    value = options.value
    match options.kind:
        case "frc":
            return Recalibrate(reference_ppm=value, **common)
        case "asc":
            return SetSelfCalibration(on=value == "on", **common)
        case "offset":
            return SetTemperatureOffset(offset_degc=value, **common)
        case "altitude":
            return SetAltitude(altitude_m=value, **common)
    return SetPressure(pressure_hpa=_pressure(value), **common)


def _pressure(text: str) -> float | None:
    if text == "off":
        return None
    try:
        return float(text)
    except ValueError:
        raise ControlError(f"pressure {text!r}: give hPa, as in 987, or `off`") from None


def _target(text: str) -> tuple[str, str]:
    device, slash, sensor = text.partition("/")
    if not (slash and device and sensor):
        raise ControlError(f"{text!r}: expected DEVICE/SENSOR, as in attic/scd30")
    return device, sensor


def _said(name: str, value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g} {UNITS[name]}" if name in UNITS and isinstance(value, int | float) else str(value)
