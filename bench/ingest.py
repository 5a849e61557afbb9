"""What a full queue drains at: a bare MQTT subscriber, the same with manual acknowledgement, and the gateway's way in.

All three are persistent sessions of one mosquitto with the gateway's own configuration. Their queues are filled by the
same messages before any of them connects, and drained one after the other.
"""

import asyncio
import json
import random
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from bench.figures import Figure, Goal
from bench.processes import free_ports, output_of
from gateway.broker.config import Doors
from gateway.broker.mosquitto import mosquitto
from gateway.ingest.wire import SUBSCRIPTIONS
from gateway.nodes.simulated import room

READINGS_A_MESSAGE = 3
LEAST_READINGS_PER_S = 80_000
MOST_CPU_MS = 40
NODES = 20
FORMS = ("minimal", "numbered")
"""With a timestamp only; and as our nodes send it, with boot, seq and oldest."""
WAYS = ("auto", "manual", "gateway")
FILLED_WITHIN_S = 300.0
UNACKNOWLEDGED = 1000


@dataclass(frozen=True, slots=True)
class Size:
    """Messages a drain, and rounds of each form."""

    messages: int
    rounds: int


FULL, QUICK = Size(50_000, 3), Size(5_000, 1)


class Drained(NamedTuple):
    """One drain: from the call of connect until the last message was dealt with."""

    elapsed_s: float
    cpu_s: float


async def measure(size: Size) -> list[Figure]:
    """Medians over the rounds."""
    figures = []
    for form in FORMS:
        found: dict[str, list[Drained]] = {way: [] for way in WAYS}
        for number in range(size.rounds):
            turn = number % len(WAYS)
            for way, drained in (await drain(form, size.messages, (*WAYS[turn:], *WAYS[:turn]))).items():
                found[way].append(drained)
        figures += _figures(form, size.messages, found)
    return figures


async def drain(form: str, messages: int, ways: tuple[str, ...] = WAYS) -> dict[str, Drained]:
    """Fill one queue for each way, then drain them in this order."""
    (port,) = free_ports(1)
    found = {}
    with TemporaryDirectory() as text:
        folder = Path(text)
        async with mosquitto(lambda: Doors("127.0.0.1", port), folder / "broker"):
            await asyncio.to_thread(fill, port, form, messages, ways)
            for way in ways:
                numbers = ("--port", str(port), "--messages", str(messages), "--data", str(folder / way))
                found[way] = Drained(**json.loads(await output_of(sys.executable, "-m", "bench.drain", way, *numbers)))
    return found


def _figures(form: str, messages: int, found: dict[str, list[Drained]]) -> list[Figure]:
    rates = {way: median(messages / each.elapsed_s for each in drains) for way, drains in found.items()}
    cpu_ms = {way: median(1e6 * each.cpu_s / messages for each in drains) for way, drains in found.items()}
    floors = {"auto": "subscriber that parses and drops", "manual": "the same, acknowledging by hand"}
    figures = [
        Figure(
            f"ingest, {form}: readings committed",
            rates["gateway"] * READINGS_A_MESSAGE,
            "/s",
            goal=Goal(LEAST_READINGS_PER_S, at_least=True),
        )
    ]
    for way, name in floors.items():
        figures.append(Figure(f"ingest, {form}: messages", rates["gateway"], "/s", name, rates[way]))
    most = Goal(MOST_CPU_MS)
    for way, name in floors.items():
        what = f"ingest, {form}: CPU per 1,000 messages"
        figures.append(Figure(what, cpu_ms["gateway"], "ms", name, cpu_ms[way], goal=most))
    return figures


def fill(port: int, form: str, messages: int, sessions: tuple[str, ...] = WAYS) -> None:
    """Make the sessions, leave, and publish so many QoS 1 messages for them; returns when the broker has them all."""
    for session in sessions:
        client = Client(CallbackAPIVersion.VERSION2, session, clean_session=False)
        subscribed = threading.Event()
        client.on_connect = lambda client, *_: client.subscribe([(topic, 1) for topic in SUBSCRIPTIONS])
        client.on_subscribe = lambda *_, done=subscribed: done.set()
        _with_thread(client, port, subscribed)
    client = Client(CallbackAPIVersion.VERSION2, "filler")
    client.max_inflight_messages_set(UNACKNOWLEDGED)
    sent, room_left = threading.Event(), threading.Semaphore(UNACKNOWLEDGED)
    left = iter(range(messages - 1, -1, -1))

    def published(*_: Any) -> None:
        room_left.release()
        if next(left) == 0:
            sent.set()

    def publish(client: Client, *_: Any) -> None:
        threading.Thread(target=send, args=(client,), name="fill", daemon=True).start()

    def send(client: Client) -> None:
        for topic, payload in payloads(form, messages):
            room_left.acquire()
            client.publish(topic, payload, qos=1)

    client.on_publish, client.on_connect = published, publish
    _with_thread(client, port, sent)


def _with_thread(client: Client, port: int, done: threading.Event) -> None:
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        if not done.wait(FILLED_WITHIN_S):
            raise TimeoutError(f"the broker did not take all messages within {FILLED_WITHIN_S:g} s")
    finally:
        client.disconnect()
        client.loop_stop()


def payloads(form: str, messages: int) -> Iterator[tuple[str, str]]:
    """(topic, payload) of messages that a fleet of nodes took at one second's distance, up to now."""
    nodes = [(f"bench-{number:02}", room(random.Random(number))) for number in range(NODES)]
    began_ms = int(time.time() * 1000) - messages // NODES * 1000
    for number in range(messages):
        round_, at = divmod(number, NODES)
        device, source = nodes[at]
        body: dict[str, Any] = {
            "timestamp": began_ms + round_ * 1000 + at,
            "value": {metric: {"reading": value} for metric, value in source().items()},
        }
        if form == "numbered":
            seq = round_ + 1
            numbers = {"boot": f"1-{at:08x}", "seq": seq, "oldest": max(1, seq - 999), "uptime_ms": round_ * 1000}
            body |= {**numbers, "clock": "ntp"}
        yield f"devices/{device}/sensors/scd30/data", json.dumps(body, separators=(",", ":"))
