"""Ours: `gateway run` with a mosquitto of its own, as on an appliance; read by its commands and from its store."""

import asyncio
import json
from collections import Counter
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from math import nan
from typing import Any

from aiomqtt import Client, MqttError

from bench.contestants.base import Contestant, taken_bytes
from bench.contestants.fleet import HOST, Row
from bench.processes import GATEWAY, free_ports
from gateway import control
from gateway.broker.mosquitto import find
from gateway.control import Status
from gateway.store.db import Store

PROBE = "probe"
ANSWER_WITHIN_S = 0.5
ENVIRONMENT = {
    "AMBIENT_GATEWAY_DISCOVERY_MDNS": "false",
    "AMBIENT_GATEWAY_STORE_FLUSH_INTERVAL_S": "0.2",
    "AMBIENT_GATEWAY_MQTT_DEVICE_MESSAGES_PER_S": "0",
}
EVERYTHING = "select series_id, value from {}"


class Ours(Contestant):
    """Numbered messages, as our nodes send them."""

    name = "ours"
    title = "ours, numbered"
    notes = (
        "boot and seq in each message, as our nodes send; as installed, but a commit at least every 0.2 s, "
        "as the naive writer; its own mosquitto, which ends with it and is not counted"
    )
    form = "numbered"
    most_messages = 200_000  # its broker keeps 64 MiB for an absent gateway

    @classmethod
    def missing(cls) -> str:
        return "" if find() else "mosquitto is not installed: run scripts/system-packages"

    def broker(self) -> AbstractAsyncContextManager[object]:
        return nullcontext()

    async def prepare(self) -> None:
        self._probed = 0

    async def ingest(self) -> asyncio.subprocess.Process:
        plain, secure = free_ports(2)
        places = ("--http", f"{HOST}:{plain}", "--https", f"{HOST}:{secure}", "--mqtt", f"{HOST}:{self.port}")
        return await self.spawn(GATEWAY, "run", "--data", self.data, *places, environment=ENVIRONMENT)

    async def is_ready(self) -> bool:
        """It answers, and a message of a node's came all the way through: that node was told so."""
        if await self._shown() is None:
            return False
        if not self._probed:
            if not await _acknowledged(self.port):
                return False
            self._probed = await self._shown() or 0
        for each in self.group.processes():
            if each.name() == "mosquitto":
                self.group.leave(each.pid)
        return True

    async def count(self) -> int:
        return (await self._shown() or 0) - self._probed

    async def stored(self) -> Counter[Row]:
        """Stops it: its store has one owner."""
        await self.halt()
        async with Store(self.data) as store:
            rows = await store.ask(lambda view: view.db.execute(EVERYTHING.format(view.raw())).fetchall())
            series = {number: (each.device, each.metric) for number, each in store.series().items()}
        found = Counter((*series[number], nan if value is None else value) for number, value in rows)
        return Counter({row: count for row, count in found.items() if row[0] != PROBE})

    def data_bytes(self) -> int:
        return taken_bytes(self.data) - taken_bytes(self.data / "broker")

    async def _shown(self) -> int | None:
        """Readings in its store as `gateway status` shows them, None where it does not answer."""
        with suppress(ConnectionError, control.ControlError):
            answer = await control.ask(self.data, Status())
            return int(answer["readings"]) if answer is not None else None  # type: ignore[call-overload]
        return None


class OursMinimal(Ours):
    """Messages with a timestamp only, as anybody sends them."""

    name = "ours-minimal"
    title = "ours, minimal"
    notes = "a timestamp and values only, as anybody sends; otherwise as above"
    form = "minimal"


async def _acknowledged(port: int) -> bool:
    """Send a node's first message and wait a moment for the gateway's word that it is on disk."""
    body: dict[str, Any] = {"value": {"count": {"reading": 1}}, "boot": "1-00000000", "seq": 1, "oldest": 1}
    with suppress(MqttError, TimeoutError):
        async with asyncio.timeout(ANSWER_WITHIN_S), Client(HOST, port) as client:
            await client.subscribe(f"devices/{PROBE}/ack", 1)
            await client.publish(f"devices/{PROBE}/sensors/meter/data", json.dumps(body), 1)
            async for _ in client.messages:
                return True
    return False
