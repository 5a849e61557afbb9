"""Which commands our nodes know, with arguments and units; what is wrong with one before it is sent. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument: a number from `low` to `high`, its unit at the end of its name, or (neither) a sensor's name."""

    name: str
    low: float | None = None
    high: float | None = None
    is_needed: bool = False


SENSOR = Argument("sensor")
COMMANDS: Mapping[str, tuple[Argument, ...]] = {
    "identify": (Argument("seconds", 1, 600),),
    "restart": (),
    "set_interval": (Argument("interval_s", 2, 3600, is_needed=True), SENSOR),
    "get_diagnostics": (),
    "show_calibration": (SENSOR,),
}
"""What all of them know."""
JUDGED = (
    "recalibrate_sensor",
    "set_self_calibration",
    "set_temperature_offset",
    "set_altitude",
    "set_pressure",
)
"""What a node's CO2 sensor knows beside: nobody may send it who has not looked at the air."""


def check(device: str, name: str, args: Mapping[str, Any], sensors: Mapping[str, Collection[str] | None]) -> None:
    """ValueError for what this node of ours would refuse. `sensors` are its sensors with their own commands, None for
    one that has not told them; what it may know is sent."""
    if name in JUDGED:
        raise ValueError(
            f"{name}: a calibration is judged by the air before it is done: use calibrate_sensor, or "
            f"`gateway calibrate {device}/SENSOR …`"
        )
    own = {each for known in sensors.values() if known is not None for each in known} - set(JUDGED)
    if name not in COMMANDS:
        if name in own or None in sensors.values() or not sensors:
            return
        known = sorted({*COMMANDS, *own})
        near = get_close_matches(name, known, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(known)}"
        raise ValueError(f"name: {device} has no command {name!r}; {hint}")
    wanted = {each.name: each for each in COMMANDS[name]}
    for given in args:
        if given not in wanted:
            takes = ", ".join(map(described, wanted.values())) or "no arguments"
            raise ValueError(f"args: {name} has no {str(given)[:64]!r}; it takes {takes}")
    for argument in wanted.values():
        _fits(name, argument, args, sensors)


def described(argument: Argument) -> str:
    """How people are told of it: `interval_s (2 to 3600)`."""
    return argument.name if argument.low is None else f"{argument.name} ({argument.low:g} to {argument.high:g})"


def _fits(name: str, argument: Argument, args: Mapping[str, Any], sensors: Collection[str]) -> None:
    value = args.get(argument.name)
    if value is None and argument.name not in args:
        if argument.is_needed:
            raise ValueError(f"args: {name} needs {described(argument)}")
        return
    if argument.low is None or argument.high is None:
        if sensors and value not in sensors:
            raise ValueError(f"args: {argument.name} is one of {', '.join(sorted(sensors))}, not {str(value)[:64]!r}")
    elif isinstance(value, bool) or not isinstance(value, int | float) or not argument.low <= value <= argument.high:
        raise ValueError(f"args: {argument.name} is a number from {argument.low:g} to {argument.high:g}, not {value!r}")
