"""How the gateway itself is doing, from what it got done; as Prometheus text for monitors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure: its Prometheus name (unit at the end), what it says, whether it only grows, how to get it."""

    name: str
    help: str
    read: Callable[[], float]
    counter: bool = False


def prometheus(metrics: Sequence[Metric]) -> str:
    """The exposition format (version 0.0.4) of all figures, read now."""
    lines = []
    for metric in metrics:
        lines.append(f"# HELP {metric.name} {metric.help}")
        lines.append(f"# TYPE {metric.name} {'counter' if metric.counter else 'gauge'}")
        lines.append(f"{metric.name} {metric.read():.17g}")
    return "\n".join(lines) + "\n"


def resident_bytes() -> float:
    """Memory of this process in RAM, from /proc/self/statm (pages)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096.0
