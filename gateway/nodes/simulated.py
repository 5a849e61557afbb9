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
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Never

from aiomqtt import Client, MqttError, Will

log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.5
RETRY_LAST_S = 30.0
GOODBYE_WITHIN_S = 1.0

Source = Callable[[], Mapping[str, float]]
"""One measurement of a sensor: metric name -> value in the unit of its quantity."""


@dataclass(slots=True)
class Held:
    """A measurement that no acknowledgement covers yet; `sent_s` is the loop time of its last sending."""

    seq: int
    sensor: str
    value: Mapping[str, float]
    uptime_ms: int
    timestamp_ms: int
    sent_s: float | None = None


@dataclass(slots=True)
class NodeCounts:
    """Messages `sent` (repetitions included), `repeated`, `discarded` from a full ring; `refused` acknowledgements."""

    sent: int = 0
    repeated: int = 0
    discarded: int = 0
    refused: int = 0
    connects: int = 0


class SimulatedNode:
    """One node; `run()` measures, sends and repeats until it is cancelled. Numbers count from 1 over all its sensors.

    A message stays in the ring of `ring` messages until an acknowledgement covers it; the oldest is discarded when the
    ring is full. What is not acknowledged is sent again on each new connection and after `resend_after_s`. With `key`
    an acknowledgement has to carry the right mac. `clock="none"` sends uptimes and no timestamps. Create it inside the
    loop that runs it; `connected` and `acked_upto` are for those who wait.
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
        ring: int = 1000,
        resend_after_s: float = 15.0,
        start_after_s: float = 0.0,
        rng: random.Random | None = None,
        utcnow_s: Callable[[], float] = time.time,
    ) -> None:
        rng = rng or random.Random()  # noqa: S311 - a simulation
        self.device, self._host, self._port = device, host, port
        self._sensors, self._interval_s, self._start_after_s = dict(sensors), interval_s, start_after_s
        self._clock, self._key, self._resend_after_s = clock, key, resend_after_s
        self._rng, self._utcnow_s = rng, utcnow_s
        self.boot = f"{boot_count}-{rng.getrandbits(32):08x}"
        self.seq = 0
        self.acked = 0
        self.counts = NodeCounts()
        self.connected = asyncio.Event()
        self._ring: deque[Held] = deque()
        self._capacity = ring
        self._changed = asyncio.Condition()
        self._wake = asyncio.Event()
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
        raise AssertionError("both tasks run for ever")

    def measure(self) -> None:
        """Take one measurement of each sensor into the ring; `run` does so at the interval."""
        for sensor, source in self._sensors.items():
            self.seq += 1
            if len(self._ring) >= self._capacity:
                self._ring.popleft()
                self.counts.discarded += 1
            now_ms = int(self._utcnow_s() * 1000)
            self._ring.append(Held(self.seq, sensor, source(), self._uptime_ms(), now_ms))
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
            self.measure()
            due_s += self._interval_s
            await asyncio.sleep(due_s - loop.time())

    async def _connect(self) -> Never:
        delay_s = RETRY_FIRST_S
        while True:
            try:
                await self._session()
            except* MqttError as error:
                log.debug("%s: %s", self.device, error.exceptions[0])
            if self.connected.is_set():
                delay_s = RETRY_FIRST_S
                self.connected.clear()
            await asyncio.sleep(self._rng.uniform(delay_s / 2, delay_s))
            delay_s = min(delay_s * 2, RETRY_LAST_S)

    async def _session(self) -> None:
        """One connection: say hello, listen, send; ends with MqttError."""
        topic = f"devices/{self.device}"
        will = Will(f"{topic}/status", json.dumps({"status": "offline"}), qos=1, retain=True)
        async with Client(self._host, self._port, identifier=self.device, will=will, keepalive=30) as client:
            await client.subscribe(f"{topic}/ack", qos=1)
            await client.publish(f"{topic}/capabilities", json.dumps(self._capabilities()), qos=1, retain=True)
            status = {"status": "online", "boot": self.boot, "uptime_ms": self._uptime_ms()}
            await client.publish(f"{topic}/status", json.dumps(status), qos=1, retain=True)
            for held in self._ring:
                held.sent_s = None if held.sent_s is None else -math.inf  # whatever was on its way may be lost
            self.counts.connects += 1
            self.connected.set()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._listen(client), name=f"node.{self.device}.listen")
                    group.create_task(self._send(client), name=f"node.{self.device}.send")
            except asyncio.CancelledError:
                with suppress(MqttError, TimeoutError):
                    async with asyncio.timeout(GOODBYE_WITHIN_S):
                        await client.publish(will.topic, will.payload, qos=1, retain=True)
                raise

    async def _listen(self, client: Client) -> None:
        async for message in client.messages:
            if isinstance(message.payload, bytes | bytearray):
                await self._acknowledged(bytes(message.payload))

    async def _acknowledged(self, payload: bytes) -> None:
        """Let go of what an acknowledgement covers, if it is for this boot and signed as it has to be."""
        try:
            ack = json.loads(payload)
            boot, seq, mac = ack["boot"], ack["seq"], ack.get("mac")
        except (ValueError, KeyError, TypeError, AttributeError):
            self.counts.refused += 1
            return
        if boot != self.boot or type(seq) is not int or seq > self.seq or not self._signed(seq, mac):
            self.counts.refused += 1
            return
        while self._ring and self._ring[0].seq <= seq:
            self._ring.popleft()
        async with self._changed:
            self.acked = max(self.acked, seq)
            self._changed.notify_all()

    def _signed(self, seq: int, mac: Any) -> bool:
        if self._key is None:
            return True
        text = f"{self.device}\n{self.boot}\n{seq}".encode()
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
        if not self._ring or held.seq < self._ring[0].seq:
            return  # acknowledged or discarded meanwhile
        body: dict[str, Any] = {
            "value": {metric: {"reading": value} for metric, value in held.value.items()},
            "boot": self.boot,
            "seq": held.seq,
            "oldest": self._ring[0].seq,
            "uptime_ms": held.uptime_ms,
            "clock": self._clock,
        }
        if self._clock == "ntp":
            body["timestamp"] = held.timestamp_ms
        self.counts.sent += 1
        self.counts.repeated += held.sent_s is not None
        await client.publish(f"devices/{self.device}/sensors/{held.sensor}/data", json.dumps(body), qos=1)

    def _capabilities(self) -> dict[str, Any]:
        return {
            "device_name": f"Simulated node {self.device}",
            "device_type": "simulated",
            "firmware_version": "0.0.0-simulated",
            "sensors": list(self._sensors),
            "metadata": {sensor: {"interval_s": self._interval_s} for sensor in self._sensors},
        }

    def _uptime_ms(self) -> int:
        now_s = asyncio.get_running_loop().time()
        if self._began_s is None:
            self._began_s = now_s
        return int((now_s - self._began_s) * 1000)


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


async def fleet(nodes: int, host: str, port: int, interval_s: float, *, prefix: str = "sim") -> Never:
    """Run so many nodes, their measurements spread over the interval, until cancelled."""
    async with asyncio.TaskGroup() as group:
        for number in range(1, nodes + 1):
            rng = random.Random(number)  # noqa: S311 - a simulation
            boot = random.Random()  # noqa: S311 - each run is another boot
            node = SimulatedNode(
                f"{prefix}-{number:04}",
                host,
                port,
                {"scd30": room(rng)},
                interval_s=interval_s,
                start_after_s=interval_s * (number - 1) / nodes,
                rng=boot,
            )
            group.create_task(node.run(), name=f"node.{node.device}")
    raise AssertionError("nodes run for ever")
