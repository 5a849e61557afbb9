"""What the house is told of messages that are no readings, whatever wire they came on."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.ingest import wire
from gateway.store.types import Event


async def _ignored(_device: str, _said: Mapping[str, Any]) -> None:
    """Nobody here updates anything."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What becomes of messages that are no readings. A hook may raise StoreError; it is reported and the next follows.

    `node_key` signs acknowledgements; it is called in the loop for each acknowledgement and must not wait.
    `on_boot_known` is called, from any thread, when what a boot sent undated can be dated: its start. `on_boot` hears,
    in the loop, which boot a node says it is in. `on_update` is told what a device says of an update, now or of its
    last one.
    """

    on_capabilities: Callable[[str, Mapping[str, Any]], Awaitable[None]]
    on_status: Callable[[str, bool], Awaitable[None]]
    on_error: Callable[[str, wire.DeviceError], Awaitable[None]]
    on_problem: Callable[[Event], Awaitable[None]]
    node_key: Callable[[str], bytes | None] = lambda _device: None
    on_boot_known: Callable[[str, str, datetime], None] = lambda _device, _boot, _start: None
    on_boot: Callable[[str, str], None] = lambda _device, _boot: None
    on_update: Callable[[str, Mapping[str, Any]], Awaitable[None]] = _ignored
