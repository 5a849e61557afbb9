"""From the filters of a tool call to series, and what to say where nothing matches. Pure."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from mcp.server.mcpserver.exceptions import ToolError

from gateway.mcp.fitting import clean
from gateway.store.types import Series

SHOWN = 12
PLAIN = re.compile(r"[A-Za-z0-9._@/:-]{1,64}")


def shown(name: str) -> str:
    """A name in quotes within a text: cleaned and bounded, whoever gave it."""
    return repr(clean(name)[:64])


def nearest(text: str, known: Iterable[str]) -> str:
    """A hint that ends an error: the nearest known name, else what there is."""
    names = sorted(set(known))
    if not names:
        return "there is none yet"
    folded = {name.casefold(): name for name in names}
    near = get_close_matches(text[:256].casefold(), folded, n=1, cutoff=0.5)
    if near:
        return f"did you mean {shown(folded[near[0]])}?"
    return f"there is {_some(names)}"


def unmatched(
    every: Sequence[Series], devices: Iterable[str], device: str | None, sensor: str | None, metric: str | None
) -> ToolError:
    """The error for filters that select no series: the first argument that fails, and its nearest valid value."""
    known = {*devices, *(s.device for s in every)}
    if device is not None and device not in known:
        return ToolError(f"device: there is no {shown(device)}; {nearest(device, known)}")
    here = [s for s in every if device is None or s.device == device]
    if not here:
        return ToolError(
            f"device: {shown(device)} has sent no readings yet" if device else "no readings were stored yet"
        )
    of_device = f" in {shown(device)}" if device else ""
    if sensor is not None and all(s.sensor != sensor for s in here):
        return ToolError(f"sensor: there is no {shown(sensor)}{of_device}; {nearest(sensor, {s.sensor for s in here})}")
    here = [s for s in here if sensor is None or s.sensor == sensor]
    metrics = {s.metric for s in here}
    return ToolError(f"metric: there is no {shown(metric or '')} here; {nearest(metric or '', metrics)}")


def only(matches: Sequence[Series]) -> Series:
    """The one series; ToolError names the argument that would tell several apart, and its values."""
    if len(matches) == 1:
        return matches[0]
    for argument in ("device", "sensor", "metric"):
        values = sorted({getattr(series, argument) for series in matches})
        if len(values) > 1:
            raise ToolError(f"{argument}: {len(matches)} series match and one is meant; give one of {_some(values)}")
    raise ToolError(f"{len(matches)} series match and one is meant; give device, sensor and metric")


def several(argument: str, values: Iterable[str], why: str) -> ToolError:
    """The error where more than one value is left of an argument and that cannot be."""
    return ToolError(f"{argument}: {why}; give one of {_some(sorted(values))}")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(name if PLAIN.fullmatch(name) else shown(name) for name in names[:SHOWN]) + more
