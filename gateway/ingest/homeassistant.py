"""Tells Home Assistant of our devices over the broker it listens to, and makes it forget those that are gone."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiomqtt import Client, MqttError, Will

from gateway.ingest.dialects import home_assistant as words
from gateway.ingest.dialects.home_assistant import Exported, Origin, Publication
from gateway.reading import Reading
from gateway.store.types import Commit

log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.5
RETRY_LAST_S = 30.0
GOODBYE_WITHIN_S = 1.0
SPREAD_S = 10.0
SENSORS_LIMIT = 4096


@dataclass(slots=True)
class OutCounts:
    """Since the start: `configs`, `states` and `removed` configs published; `dropped` sensors beyond SENSORS_LIMIT."""

    configs: int = 0
    states: int = 0
    removed: int = 0
    dropped: int = 0
    births: int = 0
    connects: int = 0


class HomeAssistantOut:
    """Owns a connection of its own; `async with`, after the registry was loaded and before the pipeline commits.

    `devices` gives the ids of the devices to export and `describe` one of them, None where it is gone; both are called
    in the loop and must not wait. Give `committed` to the pipeline, and call `changed` where a device was renamed or
    deleted. A config that the broker retains for this gateway and that `devices` does not name is removed at each
    connection: also a device that was deleted while nobody was connected leaves no ghost.

    Only the newest value of each metric is kept for sending: what happens while the broker is away is not replayed.
    """

    def __init__(
        self,
        host: str,
        port: int,
        origin: Origin,
        devices: Callable[[], Iterable[str]],
        describe: Callable[[str], Exported | None],
        *,
        username: str | None = None,
        password: str | None = None,
        spread_s: float = SPREAD_S,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._host, self._port, self._origin = host, port, origin
        self._devices, self._describe = devices, describe
        self._username, self._password = username, password
        self._spread_s, self._draw = spread_s, draw
        self.counts = OutCounts()
        self.connected = asyncio.Event()
        self._newest: dict[tuple[str, str], dict[str, Reading]] = {}
        self._heard_s: dict[tuple[str, str], float] = {}
        self._stale_states: dict[tuple[str, str], None] = {}
        self._stale_configs: dict[str, None] = {}
        self._removals: dict[str, None] = {}
        self._told: dict[str, Publication] = {}
        self._expires: dict[str, int] = {}
        self._births: list[tuple[float, str]] = []
        self._wake = asyncio.Event()
        self._leaving = False  # asked beside each cancellation: Python 3.11's wait_for may swallow one
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._task = self._group.create_task(self._run(), name="ingest.homeassistant")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say offline and leave; the configs stay."""
        self._leaving = True
        self._wake.set()
        self._task.cancel()
        await self._group.__aexit__(None, None, None)

    async def committed(self, commit: Commit) -> None:
        """Take what a batch changed; never waits for the broker."""
        now_s = asyncio.get_running_loop().time()
        for reading in commit.fresh:
            key = (reading.device, reading.sensor)
            known = self._newest.get(key)
            if known is None:
                if len(self._newest) >= SENSORS_LIMIT:
                    self.counts.dropped += 1
                    continue
                known = self._newest[key] = {}
            before = known.get(reading.metric)
            if before is None or reading.time >= before.time:
                known[reading.metric] = reading
                self._heard_s[key] = now_s
                self._stale_states[key] = None
                self._stale_configs[reading.device] = None
        self._wake.set()

    def changed(self, device_id: str) -> None:
        """A device was renamed, got a sensor, or is gone."""
        self._stale_configs[device_id] = None
        self._wake.set()

    async def _run(self) -> None:
        delay_s = RETRY_FIRST_S
        while not self._leaving:
            try:
                await self._session()
            except* MqttError as error:
                log.debug("broker: %s", error.exceptions[0])
            if self.connected.is_set():
                delay_s = RETRY_FIRST_S
                self.connected.clear()
            await asyncio.sleep(random.uniform(delay_s / 2, delay_s))  # noqa: S311 - jitter
            delay_s = min(delay_s * 2, RETRY_LAST_S)

    async def _session(self) -> None:
        """One connection; ends with MqttError."""
        origin, gone = self._origin, words.status(self._origin, online=False)
        async with Client(
            self._host,
            self._port,
            identifier=f"{origin.ours}out",
            username=self._username,
            password=self._password,
            will=Will(gone.topic, gone.payload, qos=1, retain=True),
            keepalive=30,
            max_queued_incoming_messages=SENSORS_LIMIT,
        ) as client:
            await self._publish(client, words.status(origin, online=True))
            self._told.clear()
            self._births.clear()
            self._stale_configs |= dict.fromkeys(self._devices())
            await client.subscribe([(origin.birth_topic, 1), (f"{origin.prefix}/device/+/config", 1)])
            self.counts.connects += 1
            self.connected.set()
            if self._leaving:
                await self._publish(client, gone)
                return
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._listen(client), name="ingest.homeassistant.listen")
                    group.create_task(self._send(client), name="ingest.homeassistant.send")
            except asyncio.CancelledError:
                with suppress(MqttError, TimeoutError):
                    async with asyncio.timeout(GOODBYE_WITHIN_S):
                        await self._publish(client, gone)
                raise

    async def _listen(self, client: Client) -> None:
        async for message in client.messages:
            topic, payload = str(message.topic), bytes(message.payload)
            if words.is_birth(self._origin, topic, payload):
                if not message.retain:  # a retained one is from before this connection, which told everything already
                    self._born()
            elif message.retain and payload and self._origin.is_ours(topic) and topic not in self._wanted():
                self._removals[topic] = None
                self._wake.set()

    def _born(self) -> None:
        """Home Assistant starts and has forgotten everything: plan to tell it again."""
        now_s = asyncio.get_running_loop().time()
        self.counts.births += 1
        plan = words.spread(sorted(self._devices()), self._spread_s, self._draw)
        self._births = [(now_s + delay_s, device) for delay_s, device in plan]
        self._wake.set()

    def _wanted(self) -> set[str]:
        return {self._origin.config_topic(device) for device in self._devices()}

    async def _send(self, client: Client) -> None:
        loop = asyncio.get_running_loop()
        while not self._leaving:
            self._wake.clear()
            while self._births and self._births[0][0] <= loop.time():
                self._again(self._births.pop(0)[1])
            while self._removals:
                await self._remove(client, next(iter(self._removals)))
            while self._stale_configs:
                await self._tell(client, next(iter(self._stale_configs)))
            while self._stale_states:
                await self._show(client, next(iter(self._stale_states)))
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._births[0][0] if self._births else None):
                    await self._wake.wait()

    def _again(self, device: str) -> None:
        """Config of a device as if never told, and its newest values that have not expired."""
        self._told.pop(device, None)
        self._stale_configs[device] = None
        after_s = asyncio.get_running_loop().time() - self._expires.get(device, 0)
        self._stale_states |= dict.fromkeys(
            key for key, heard_s in self._heard_s.items() if key[0] == device and heard_s > after_s
        )

    async def _tell(self, client: Client, device: str) -> None:
        """Publish a device's config where it is news, or remove it where the device is gone."""
        self._stale_configs.pop(device, None)  # before waiting: what changes meanwhile is told next
        exported = self._describe(device)
        if exported is None or not exported.channels:
            if device in self._told:
                await self._remove(client, self._origin.config_topic(device))
            self._forget(device)
            return
        expires_s = words.expire_after(exported.interval_s, self._expires.get(device))
        config = words.discovery(exported, self._origin, expires_s)
        if self._told.get(device) != config:
            await self._publish(client, config)
            self.counts.configs += 1
            self._told[device], self._expires[device] = config, expires_s

    async def _show(self, client: Client, key: tuple[str, str]) -> None:
        """Publish the newest values of a sensor, if its device is told of."""
        self._stale_states.pop(key, None)
        publication = words.state(*key, self._newest.get(key, {}).values())
        if publication is None or key[0] not in self._told:
            return
        try:
            await self._publish(client, publication)
        except MqttError:
            self._stale_states[key] = None
            raise
        self.counts.states += 1

    async def _remove(self, client: Client, topic: str) -> None:
        await self._publish(client, words.removal(topic))
        self.counts.removed += 1
        self._removals.pop(topic, None)

    def _forget(self, device: str) -> None:
        self._told.pop(device, None)
        self._expires.pop(device, None)
        self._stale_configs.pop(device, None)
        for key in [key for key in self._newest if key[0] == device]:
            del self._newest[key], self._heard_s[key]
            self._stale_states.pop(key, None)

    @staticmethod
    async def _publish(client: Client, publication: Publication) -> None:
        await client.publish(publication.topic, publication.payload, qos=1, retain=publication.retain)
