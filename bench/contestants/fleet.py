"""The work of the contest: fifty devices' messages, and `python -m bench.contestants.fleet …`, which publishes a share.

Value `number` of a device follows from both and comes only once, so that a store can be checked for losses and doubles
whatever else it keeps. Values wander as a room's do: no sensible quality check has a reason to doubt them.
"""

import argparse
import asyncio
import json
import select
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple

from bench.processes import child

HOST = "127.0.0.1"
DEVICES = tuple(f"esp32-{number:02}" for number in range(50))
METRICS = ("temperature", "humidity", "co2")
STEP_S = 10
BLOCK = 64  # values are shuffled within this many, so that they wander instead of climbing
MOST_A_DEVICE = 10_000  # beyond this co2 would leave a room's range
SHARES = 2
WINDOW = 200
FORMS = ("minimal", "numbered")
RECONNECT_EVERY_S = 0.05
READY_WITHIN_S = SENT_WITHIN_S = 300.0

Row = tuple[str, str, float]
"""Device, metric, value."""


@dataclass(frozen=True, slots=True)
class Work:
    """So many messages of one form; `base_s` is the Unix time of each device's first."""

    messages: int
    form: str
    base_s: int

    @classmethod
    def until_now(cls, messages: int, form: str) -> "Work":
        """Work whose last messages were measured now. ValueError where the devices cannot share it."""
        each, rest = divmod(messages, len(DEVICES))
        if rest or not 0 < each <= MOST_A_DEVICE:
            most = MOST_A_DEVICE * len(DEVICES)
            raise ValueError(f"{messages} messages: give a multiple of {len(DEVICES)} up to {most}")
        return cls(messages, form, int(time.time()) - each * STEP_S)

    @property
    def readings(self) -> int:
        """How many readings all messages carry."""
        return self.messages * len(METRICS)

    def rows(self) -> Iterator[Row]:
        """Everything that has to be stored, once each."""
        for number in range(self.messages // len(DEVICES)):
            for at, device in enumerate(DEVICES):
                for metric, value in values(at, number).items():
                    yield device, metric, value

    def share(self, which: int) -> Iterator[tuple[str, str]]:
        """(topic, payload) of every SHARES-th device."""
        for number in range(self.messages // len(DEVICES)):
            for at in range(which, len(DEVICES), SHARES):
                yield topic(DEVICES[at]), self._payload(at, number)

    def _payload(self, at: int, number: int) -> str:
        body: dict[str, object] = {
            "timestamp": self.base_s + number * STEP_S,
            "value": {metric: {"reading": value} for metric, value in values(at, number).items()},
        }
        if self.form == "numbered":
            oldest = max(1, number - 998)
            numbers = {"boot": f"1-{at:08x}", "seq": number + 1, "oldest": oldest, "uptime_ms": number * STEP_S * 1000}
            body |= {**numbers, "clock": "ntp"}
        return json.dumps(body)


def topic(device: str) -> str:
    """Where a device publishes."""
    return f"devices/{device}/sensors/scd30/data"


def values(at: int, number: int) -> dict[str, float]:
    """What device `at` measured the `number`-th time, with the decimals that an SCD30 node prints."""
    place = number // BLOCK * BLOCK + (number * 37 + at * 11) % BLOCK  # 37 is odd: a permutation of the block
    return {
        "temperature": round(17 + place / 1000, 3),
        "humidity": round(30 + place / 250, 3),
        "co2": round(420 + place / 10, 1),
    }


class Sent(NamedTuple):
    """When the first PUBLISH left and when the last was acknowledged, by time.monotonic()."""

    began_s: float
    ended_s: float


class Load:
    """Publishers that have encoded everything and wait; made by `loading`."""

    def __init__(self, publishers: Sequence[asyncio.subprocess.Process]) -> None:
        self._publishers = publishers

    def go(self) -> None:
        """Let them publish."""
        for each in self._publishers:
            assert each.stdin is not None
            each.stdin.write(b"\n")

    async def sent(self) -> Sent:
        """Return when the broker has everything."""
        async with asyncio.timeout(SENT_WITHIN_S):
            times = [Sent(*json.loads(await _line(each))) for each in self._publishers]
        return Sent(min(each.began_s for each in times), max(each.ended_s for each in times))


@asynccontextmanager
async def loading(work: Work, port: int) -> AsyncIterator[Load]:
    """Publishers for this broker, connected and ready; gone when the block ends."""
    numbers = (str(port), str(work.messages), work.form, str(work.base_s))
    async with AsyncExitStack() as stack:
        publishers = []
        for which in range(SHARES):
            command = (sys.executable, "-m", "bench.contestants.fleet", *numbers, str(which))
            publishers.append(await stack.enter_async_context(child(*command, keep_input=True)))
        async with asyncio.timeout(READY_WITHIN_S):
            for each in publishers:
                await _line(each)
        yield Load(publishers)


async def _line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError(f"a publisher ended with {await process.wait()}")
    return line


class Publisher:
    """QoS 1 on a bare socket, encoded beforehand, so that it costs next to nothing beside what it feeds.

    A connection that breaks is made again, and what was not acknowledged on it is sent once more.
    """

    def __init__(self, port: int, name: str, packets: Sequence[bytes]) -> None:
        self._port, self._name, self._packets = port, name.encode(), packets
        self._acked = 0

    def connect(self) -> socket.socket:
        """A clean session (MQTT 3.1.1 3.1, 3.2); OSError where the broker does not take it."""
        connection = socket.create_connection((HOST, self._port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        body = b"\x00\x04MQTT\x04\x02\x00\x00" + struct.pack(">H", len(self._name)) + self._name
        connection.sendall(b"\x10" + bytes([len(body)]) + body)
        if connection.recv(4) != b"\x20\x02\x00\x00":
            connection.close()
            raise ConnectionError("the broker refused the publisher")
        return connection

    def run(self, connection: socket.socket) -> None:
        """Return when all is acknowledged; ConnectionError where the broker stays away."""
        ends_s = time.monotonic() + SENT_WITHIN_S
        while True:
            with suppress(OSError), connection:
                self._publish(connection)
            if self._acked == len(self._packets):
                return
            connection = self._again(ends_s)

    def _publish(self, connection: socket.socket) -> None:
        first = sent = self._acked
        heard = 0
        while self._acked < len(self._packets):
            until = min(self._acked + WINDOW, len(self._packets))
            if sent < until:
                connection.sendall(b"".join(self._packets[sent:until]))
                sent = until
            answer = connection.recv(65536)
            if not answer:
                return
            heard += len(answer)
            self._acked = first + heard // 4  # a PUBACK is four bytes, and they come in order

    def _again(self, ends_s: float) -> socket.socket:
        while time.monotonic() < ends_s:
            with suppress(OSError):
                return self.connect()
            select.select([], [], [], RECONNECT_EVERY_S)
        raise ConnectionError(f"no broker for {SENT_WITHIN_S:g} s")


def encode(number: int, topic_: str, payload: str) -> bytes:
    """A PUBLISH with QoS 1 (MQTT 3.1.1 3.3)."""
    name, body = topic_.encode(), payload.encode()
    left, length = 2 + len(name) + 2 + len(body), b""
    while True:
        left, digit = divmod(left, 128)
        length += bytes([digit | 128 if left else digit])
        if not left:
            break
    return b"\x32" + length + struct.pack(">H", len(name)) + name + struct.pack(">H", number % 65535 + 1) + body


def main() -> None:
    """Say "ready", wait for a line, publish, print the times."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("messages", type=int)
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("base_s", type=int)
    parser.add_argument("which", type=int)
    options = parser.parse_args()
    work = Work(options.messages, options.form, options.base_s)
    packets = [encode(number, *message) for number, message in enumerate(work.share(options.which))]
    publisher = Publisher(options.port, f"fleet-{options.which}", packets)
    connection = publisher.connect()
    print("ready", flush=True)
    if not sys.stdin.readline():
        return
    began_s = time.monotonic()
    publisher.run(connection)
    print(json.dumps(Sent(began_s, time.monotonic())), flush=True)


if __name__ == "__main__":
    main()
