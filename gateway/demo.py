"""The demo is a configuration: two sensors on a simulated bus, two nodes at the real broker, some hours of history.

Everything replays recordings of real rooms, mapped to the clock (time modulo the recording's length), so that history
and live values are one curve.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Never

from drivers.model import Quantity
from drivers.testing.recording import Recording
from gateway.broker.local import Entrance
from gateway.clock import Clock
from gateway.config import Config, DeviceSettings, SensorSettings
from gateway.ingest.pipeline import Pipeline
from gateway.nodes.simulated import SimulatedNode
from gateway.reading import Message, Reading
from gateway.store.db import Store

HISTORY = timedelta(hours=6)
HISTORY_STEP = timedelta(seconds=30)
NODE_INTERVAL_S = 10.0
LIVING_ROOM = DeviceSettings(
    id="living-room",
    name="Living room",
    location="shelf",
    sensor=(
        SensorSettings(driver="scd30", bus="replay:living-room", interval_s=2),
        SensorSettings(driver="bmp280", bus="replay:living-room", interval_s=5),
    ),
)


@dataclass(frozen=True, slots=True)
class Room:
    """A device of the demo: for each of its sensors, the recording behind every quantity and its shift in seconds."""

    device: str
    sensors: Mapping[str, tuple[str, float, tuple[Quantity, ...]]]


_AIR = (Quantity.CO2, Quantity.TEMPERATURE, Quantity.HUMIDITY)
_STATION = (Quantity.PRESSURE, Quantity.TEMPERATURE)
WIRED = Room("living-room", {"scd30": ("living-room", 0, _AIR), "bmp280": ("station", 0, _STATION)})
NODES = (
    Room("greenhouse", {"scd30": ("plant-room", 0, _AIR)}),
    Room("study", {"scd30": ("living-room", 9 * 3600, _AIR), "bmp280": ("station", 3600, _STATION)}),
)


class Demo:
    """What the demo adds to a gateway."""

    def __init__(self) -> None:
        self._recordings: dict[str, Recording] = {}

    def configure(self, config: Config) -> Config:
        """The settings with the wired device of the demo in place of any other."""
        site = config.site.model_copy(update={"name": f"{config.site.name} demo"})
        return config.model_copy(update={"site": site, "device": (LIVING_ROOM,)})

    async def seed(self, pipeline: Pipeline, store: Store, clock: Clock) -> None:
        """Write some hours of history, once: a store that holds readings already keeps its own."""
        if store.newest():
            return
        now = clock.now()
        steps = HISTORY // HISTORY_STEP
        for step in range(steps):
            moment = now - HISTORY + step * HISTORY_STEP
            for room in (WIRED, *NODES):
                for sensor in room.sensors:
                    await pipeline.put(self._message(room, sensor, moment))
        await pipeline.flush()

    async def run(self, broker: Entrance, add_key: Callable[[str], Awaitable[str]]) -> Never:
        """Be the two nodes until cancelled; one has no clock, as an ESP32 that never reached a time server."""
        async with asyncio.TaskGroup() as group:
            for room, clock in zip(NODES, ("ntp", "none"), strict=True):
                node = SimulatedNode(
                    room.device,
                    broker.host,
                    broker.port,
                    {sensor: self._source(room, sensor) for sensor in room.sensors},
                    interval_s=NODE_INTERVAL_S,
                    clock="none" if clock == "none" else "ntp",
                    key=bytes.fromhex(await add_key(room.device)),
                    username=broker.username,
                    password=broker.password,
                )
                group.create_task(node.run(), name=f"demo node {room.device}")
        raise AssertionError("nodes run for ever")

    def _message(self, room: Room, sensor: str, moment: datetime) -> Message:
        readings = tuple(
            Reading(room.device, sensor, quantity.value, quantity, value, moment, moment)
            for quantity, value in self._values(room, sensor, moment.timestamp()).items()
        )
        return Message(room.device, sensor, readings, timed=True)

    def _source(self, room: Room, sensor: str) -> Callable[[], Mapping[str, float]]:
        def source() -> Mapping[str, float]:
            return {quantity.value: value for quantity, value in self._values(room, sensor, time.time()).items()}

        return source

    def _values(self, room: Room, sensor: str, unix_s: float) -> dict[Quantity, float]:
        name, shift_s, quantities = room.sensors[sensor]
        if name not in self._recordings:
            self._recordings[name] = Recording.load(name)
        row = self._recordings[name].at(unix_s + shift_s)
        found = {quantity: getattr(row, quantity.value) for quantity in quantities}
        return {quantity: round(value, 2) for quantity, value in found.items() if value is not None}
