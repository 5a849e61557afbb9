"""What each token's assistant talks about when it names no device and no zone."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gateway.store import commands, queries
from gateway.store.db import Store

ASSUMING = frozenset(
    {
        "get_device",
        "get_latest_readings",
        "get_time_series",
        "get_statistics",
        "detect_anomalies",
        "get_zone_snapshot",
        "compare_periods",
        "plot",
    }
)
"""Tools whose left-out device or zone is that of the context; listings and writes always mean what they say."""
KEPT = 256
"""Callers whose context is in memory; those of others are read again."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """Defaults of one token; empty where there is none."""

    device: str = ""
    zone: str = ""


class Memory:
    """Contexts of tokens, kept in settings `context:{token_id}` and in memory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, Remembered] = {}

    async def recall(self, key: str) -> Remembered:
        """What was set for this caller."""
        if key not in self._known:
            found = json.loads(await queries.get_setting(self._store, _name(key)) or "{}")
            self._keep(key, Remembered(str(found.get("device", "")), str(found.get("zone", ""))))
        return self._known[key]

    async def remember(self, key: str, context: Remembered) -> None:
        """Keep it, also over restarts; written only where it is news."""
        if await self.recall(key) != context:
            kept = {name: value for name, value in asdict(context).items() if value}
            await commands.set_setting(self._store, _name(key), json.dumps(kept) if kept else None)
            self._keep(key, context)

    async def assumed(self, key: str, tool: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, str]:
        """What to add to the arguments given to a tool that knows these: nothing where the caller said where."""
        if tool not in ASSUMING or not key or given.keys() & {"device", "zone"}:
            return {}
        context = await self.recall(key)
        if context.device and "device" in known:
            return {"device": context.device}
        if context.zone and "zone" in known:
            return {"zone": context.zone}
        return {}

    def _keep(self, key: str, context: Remembered) -> None:
        if len(self._known) >= KEPT:
            self._known.pop(next(iter(self._known)))
        self._known[key] = context


def _name(key: str) -> str:
    return f"context:{key}"
