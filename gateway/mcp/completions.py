"""Completions of what prompts and resource templates ask for."""

from collections.abc import Iterable
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp_types import Completion, ResourceTemplateReference

from gateway.mcp.fitting import clean
from gateway.mcp.tools.base import House
from gateway.store import queries

MOST = 100
PERIODS = ("-1h", "-24h", "-7d", "-30d", "today")


def install(server: MCPServer[Any], house: House) -> None:
    """Complete ids of devices and zones, sensors and metrics (of the device that was chosen), and periods."""

    @server.completion()  # type: ignore[no-untyped-call, untyped-decorator]
    async def complete(ref: Any, argument: Any, context: Any) -> Completion | None:
        chosen = (getattr(context, "arguments", None) or {}).get("device") or None
        name = argument.name
        if name == "id" and isinstance(ref, ResourceTemplateReference):
            name = ref.uri.partition("://")[0]
        if (choices := _choices(house, name, chosen)) is None:
            return None
        start = argument.value.casefold()
        safe = {choice for choice in choices if clean(choice) == choice}
        found = sorted(choice for choice in safe if choice.casefold().startswith(start))
        return Completion(values=found[:MOST], total=len(found), has_more=len(found) > MOST)


def _choices(house: House, name: str, device: str | None) -> Iterable[str] | None:
    match name:
        case "device":
            return house.ids()
        case "zone":
            return (one.zone_id for one in house.registry.devices() if one.zone_id)
        case "metric":
            return (one.metric for one in queries.find_series(house.store, device=device))
        case "sensor":
            return (one.sensor for one in queries.find_series(house.store, device=device))
        case "period":
            return PERIODS
    return None
