"""What is wrong with the gateway itself, and since when that is known."""

import shutil
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from gateway.clock import Clock
from gateway.mcp.tools.base import Condition

CRITICAL = frozenset({"store", "broker"})
"""Kinds that mean that readings are not stored; others are warnings."""


class Troubles:
    """Asks each of its `sources` (by kind) for a reason, "" where all is well; remembers when each began."""

    def __init__(self, clock: Clock, sources: Mapping[str, Callable[[], str]]) -> None:
        self._clock = clock
        self._sources = sources
        self._since: dict[str, datetime] = {}

    def __call__(self) -> list[Condition]:
        """Those that are open now."""
        found = {kind: reason for kind, source in self._sources.items() if (reason := source())}
        self._since = {kind: self._since.get(kind, self._clock.now()) for kind in found}
        return [
            Condition(kind, "critical" if kind in CRITICAL else "warning", reason, self._since[kind])
            for kind, reason in found.items()
        ]


def disk_low(folder: Path, least_mb: int) -> str:
    """Why the medium that holds a folder needs room; "" where it has enough."""
    free_mb = shutil.disk_usage(folder).free >> 20
    if free_mb >= least_mb:
        return ""
    return (
        f"only {free_mb} MB are free beside the data, {least_mb} MB should be: make room, or give readings fewer days"
    )
