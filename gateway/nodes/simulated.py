"""An ESP32-like node without the ESP32: it numbers, keeps and repeats its messages as the firmware does.

It shares the wire document with the gateway and no code, so that one mistake cannot hide in both.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import math
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Never, Protocol

from aiomqtt import Client, MqttError, Will

log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.5
RETRY_LAST_S = 30.0
GOODBYE_WITHIN_S = 1.0
KEEPALIVE_S = 30

Source = Callable[[], Mapping[str, float]]
"""One measurement of a sensor: metric name -> value in the unit of its quantity."""


class Part(Protocol):
    """Something more that a node can do, such as updating itself.

    `topics` are filters below devices/{id}/ that it listens to; `heard` gets such a topic (also from below) and its
    payload and must not wait; `run` is its own task, for as long as the node runs. What `capabilities` and `status`
    return is added to what the node says of itself, and with each connection.
    """

    topics: Sequence[str]

    def capabilities(self) -> Mapping[str, Any]: ...

    def status(self) -> Mapping[str, Any]: ...

    def heard(self, topic: str, payload: bytes) -> None: ...

    async def run(self, node: "SimulatedNode") -> None: ...


@dataclass(slots=True)
class Held:
    """A measurement that no acknowledgement covers yet; `since_s` and `sent_s` are the loop times of when it was taken
    and last sent."""

    boot: str
    seq: int
    sensor: str
    value: Mapping[str, float]
    uptime_ms: int
    timestamp_ms: int
    since_s: float
    sent_s: float | None = None


@dataclass(slots=True)
class NodeCounts:
    """Messages `measured`, `sent` (repetitions included), `repeated`, `acked`, `discarded` from a full ring; `refused`
    acknowledgements."""

    measured: int = 0
    sent: int = 0
    repeated: int = 0
    acked: int = 0
    discarded: int = 0
    refused: int = 0
    connects: int = 0


class SimulatedNode:
    """One node; `run()` measures, sends and repeats until it is cancelled. Numbers count from 1 over all its sensors.

    A message stays in the ring of `ring` messages until an acknowledgement covers it; the oldest is discarded when the
    ring is full. What is not acknowledged is sent again on each new connection and after `resend_after_s`. With `key`
    an acknowledgement has to carry the right mac. `clock="none"` sends uptimes and no timestamps. `on_acked` hears how
    many seconds each message waited for its acknowledgement. Create it inside the loop that runs it; `connected` and
    `acked_upto` are for those who wait.
    """

    def __init__(
        self,
        device: str,
        host: str,
        port: int,
        sensors: Mapping[str, Source],
        *,
        interval_s: float = 10.0,
        boot_count: int = 1,
        clock: Literal["ntp", "none"] = "ntp",
        key: bytes | None = None,
        username: str | None = None,
        password: str | None = None,
        ring: int = 1000,
        resend_after_s: float = 15.0,
        start_after_s: float = 0.0,
        rng: random.Random | None = None,
        utcnow_s: Callable[[], float] = time.time,
        parts: Sequence[Part] = (),
        firmware_version: str = "0.0.0-simulated",
        on_acked: Callable[[float], None] = lambda _waited_s: None,
    ) -> None:
        rng = rng or random.Random()  # noqa: S311 - a simulation
        self.device, self._host, self._port = device, host, port
        self._sensors, self._interval_s, self._start_after_s = dict(sensors), interval_s, start_after_s
        self._clock, self._key, self._resend_after_s = clock, key, resend_after_s
        self._username, self._password = username, password
        self._rng, self._utcnow_s = rng, utcnow_s
        self._parts, self.firmware_version, self._on_acked = tuple(parts), firmware_version, on_acked
        self._boot_count = boot_count
        self.boot = f"{boot_count}-{rng.getrandbits(32):08x}"
        self.seq = 0
        self.acked = 0
        self.counts = NodeCounts()
        self.connected = asyncio.Event()
        self._ring: deque[Held] = deque()
        self._capacity = ring
        self._changed = asyncio.Condition()
        self._wake = asyncio.Event()
        self._measuring = True
        self._restarting = self._ended = False
        self._session_tasks: tuple[asyncio.Task[None], ...] = ()
        self._client: Client | None = None
        self._began_s: float | None = None

    @property
    def held(self) -> tuple[int, ...]:
        """The numbers of the messages that it still holds, oldest first."""
        return tuple(held.seq for held in self._ring)

    async def run(self) -> Never:
        """Measure at the interval and keep a connection until cancelled."""
        self._uptime_ms()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._measure(), name=f"node.{self.device}.measure")
            group.create_task(self._connect(), name=f"node.{self.device}.connect")
            for part in self._parts:
                group.create_task(part.run(self), name=f"node.{self.device}.{type(part).__name__}")
            try:
                await asyncio.Event().wait()
            finally:  # said, because a cancel that meets a lost connection is lost in the session's group
                self._ended = True
        raise AssertionError("its tasks run for ever")

    def restart(self) -> None:
        """Begin another boot with what lies in the ring, as after an orderly restart; the connection is made anew."""
        self._boot_count += 1
        self.boot = f"{self._boot_count}-{self._rng.getrandbits(32):08x}"
        self.seq = self.acked = 0
        self._began_s = None
        self._restarting = True
        for task in self._session_tasks:
            task.cancel()

    def rest(self) -> None:
        """Measure nothing more by itself; go on sending what is held."""
        self._measuring = False

    async def tell(self, topic: str, body: Mapping[str, Any]) -> None:
        """Say something at devices/{id}/{topic} (QoS 1); ConnectionError where there is no connection now."""
        if self._client is None:
            raise ConnectionError(f"{self.device} is not connected")
        try:
            await _publish(self._client, f"devices/{self.device}/{topic}", body)
        except MqttError as error:
            raise ConnectionError(f"{self.device}: {error}") from error

    def measure(self) -> None:
        """Take one measurement of each sensor into the ring; `run` does so at the interval."""
        now_s = asyncio.get_running_loop().time()
        for sensor, source in self._sensors.items():
            self.seq += 1
            self.counts.measured += 1
            if len(self._ring) >= self._capacity:
                self._ring.popleft()
                self.counts.discarded += 1
            now_ms = int(self._utcnow_s() * 1000)
            self._ring.append(Held(self.boot, self.seq, sensor, source(), self._uptime_ms(), now_ms, now_s))
        self._wake.set()

    async def acked_upto(self, seq: int) -> None:
        """Return when an acknowledgement covers `seq`."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.acked >= seq)

    async def _measure(self) -> Never:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._start_after_s)
        due_s = loop.time()
        while True:
            if self._measuring:
                self.measure()
            due_s += self._interval_s
            await asyncio.sleep(due_s - loop.time())

    async def _connect(self) -> Never:
        delay_s = RETRY_FIRST_S
        while not self._ended:
            try:
                await self._session()
            except* MqttError as error:
                log.debug("%s: %s", self.device, error.exceptions[0])
            if self.connected.is_set():
                delay_s = RETRY_FIRST_S
                self.connected.clear()
            if self._restarting:
                self._restarting, delay_s = False, RETRY_FIRST_S
                continue
            await asyncio.sleep(self._rng.uniform(delay_s / 2, delay_s))
            delay_s = min(delay_s * 2, RETRY_LAST_S)
        raise asyncio.CancelledError

    async def _session(self) -> None:
        """One connection: say hello, listen, send; ends with MqttError, or with a restart."""
        topic = f"devices/{self.device}"
        will = Will(f"{topic}/status", json.dumps({"status": "offline"}), qos=1, retain=True)
        async with self._new_client(will) as client:
            more = [f"{topic}/{each}" for part in self._parts for each in part.topics]
            await client.subscribe([(each, 1) for each in (f"{topic}/ack", *more)])
            await _publish(client, f"{topic}/capabilities", self._capabilities(), retain=True)
            await _publish(client, f"{topic}/status", self._status(), retain=True)
            for held in self._ring:
                held.sent_s = None if held.sent_s is None else -math.inf  # whatever was on its way may be lost
            if self._ended:
                return
            self.counts.connects += 1
            self.connected.set()
            self._client = client
            try:
                async with asyncio.TaskGroup() as group:
                    self._session_tasks = (
                        group.create_task(self._listen(client), name=f"node.{self.device}.listen"),
                        group.create_task(self._send(client), name=f"node.{self.device}.send"),
                    )
            except asyncio.CancelledError:
                with suppress(MqttError, TimeoutError):
                    async with asyncio.timeout(GOODBYE_WITHIN_S):
                        await client.publish(will.topic, will.payload, qos=1, retain=True)
                raise
            finally:
                self._client, self._session_tasks = None, ()

    def _new_client(self, will: Will) -> Client:
        return Client(
            self._host,
            self._port,
            identifier=self.device,
            username=self._username,
            password=self._password,
            will=will,
            keepalive=KEEPALIVE_S,
            logger=logging.Logger("quiet", logging.CRITICAL),  # noqa: LOG001 - a thousand would tell of one broker
        )

    async def _listen(self, client: Client) -> None:
        own = f"devices/{self.device}/"
        async for message in client.messages:
            topic, payload = message.topic.value.removeprefix(own), bytes(message.payload)
            if topic == "ack":
                await self._acknowledged(payload)
            for part in self._parts:
                if any(message.topic.matches(own + each) for each in part.topics):
                    part.heard(topic, payload)

    async def _acknowledged(self, payload: bytes) -> None:
        """Let go of what an acknowledgement covers, if it is for this boot and signed as it has to be."""
        try:
            ack = json.loads(payload)
            boot, seq, mac = ack["boot"], ack["seq"], ack.get("mac")
        except (ValueError, KeyError, TypeError, AttributeError):
            self.counts.refused += 1
            return
        known = boot == self.boot or any(held.boot == boot for held in self._ring)
        if not known or type(seq) is not int or not self._signed(boot, seq, mac):
            self.counts.refused += 1
            return
        if boot == self.boot and seq > self.seq:
            self.counts.refused += 1
            return
        now_s = asyncio.get_running_loop().time()
        while self._ring and self._ring[0].boot == boot and self._ring[0].seq <= seq:
            self._on_acked(now_s - self._ring.popleft().since_s)
            self.counts.acked += 1
        if boot == self.boot:
            async with self._changed:
                self.acked = max(self.acked, seq)
                self._changed.notify_all()

    def _signed(self, boot: str, seq: int, mac: Any) -> bool:
        if self._key is None:
            return True
        text = f"{self.device}\n{boot}\n{seq}".encode()
        expected = hmac.new(self._key, text, hashlib.sha256).hexdigest()[:32]
        return isinstance(mac, str) and hmac.compare_digest(mac.encode(), expected.encode())

    async def _send(self, client: Client) -> None:
        """Send what is new, and again what was not acknowledged in time."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            for held in list(self._ring):
                if held.sent_s is None or loop.time() - held.sent_s >= self._resend_after_s:
                    await self._publish(client, held)
                    held.sent_s = loop.time()
            oldest_s = min((held.sent_s for held in self._ring if held.sent_s is not None), default=math.inf)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(None if oldest_s == math.inf else oldest_s + self._resend_after_s):
                    await self._wake.wait()

    async def _publish(self, client: Client, held: Held) -> None:
        oldest = next((each.seq for each in self._ring if each.boot == held.boot), None)
        if oldest is None or held.seq < oldest:
            return  # acknowledged or discarded meanwhile
        body: dict[str, Any] = {
            "value": {metric: {"reading": value} for metric, value in held.value.items()},
            "boot": held.boot,
            "seq": held.seq,
            "oldest": oldest,
            "uptime_ms": held.uptime_ms,
            "clock": self._clock,
        }
        if self._clock == "ntp":
            body["timestamp"] = held.timestamp_ms
        self.counts.sent += 1
        self.counts.repeated += held.sent_s is not None
        await _publish(client, f"devices/{self.device}/sensors/{held.sensor}/data", body)

    def _status(self) -> dict[str, Any]:
        more = {name: value for part in self._parts for name, value in part.status().items()}
        return {"status": "online", "boot": self.boot, "uptime_ms": self._uptime_ms(), **more}

    def _capabilities(self) -> dict[str, Any]:
        more = {name: value for part in self._parts for name, value in part.capabilities().items()}
        return {
            "device_name": f"Simulated node {self.device}",
            "device_type": "simulated",
            "firmware_version": self.firmware_version,
            "sensors": list(self._sensors),
            "metadata": {sensor: {"interval_s": self._interval_s} for sensor in self._sensors},
            **more,
        }

    def _uptime_ms(self) -> int:
        now_s = asyncio.get_running_loop().time()
        if self._began_s is None:
            self._began_s = now_s
        return int((now_s - self._began_s) * 1000)


async def _publish(client: Client, topic: str, body: Mapping[str, Any], *, retain: bool = False) -> None:
    """Under QoS 1. A cancel that comes together with the broker's answer is lost in `wait_for`: it is looked for."""
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    await client.publish(topic, json.dumps(body), qos=1, retain=retain)
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


def room(rng: random.Random) -> Source:
    """The air of a made-up room: values that wander and stay plausible."""
    co2, temperature, humidity = rng.uniform(450, 900), rng.uniform(19, 24), rng.uniform(35, 55)

    def source() -> Mapping[str, float]:
        nonlocal co2, temperature, humidity
        co2 = min(max(co2 + rng.gauss(0, 4), 410), 2000)
        temperature = min(max(temperature + rng.gauss(0, 0.02), 16), 28)
        humidity = min(max(humidity + rng.gauss(0, 0.1), 25), 70)
        return {"co2": round(co2, 1), "temperature": round(temperature, 2), "humidity": round(humidity, 2)}

    return source
