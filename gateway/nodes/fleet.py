"""Many simulated nodes in one process: what they said, what was acknowledged, and how long they waited for that.

A node costs about 40 KB, one file descriptor and a millisecond to connect, so some thousands fit into a process.
"""

import asyncio
import json
import math
import random
import resource
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Never

from aiomqtt import MqttError

from gateway.nodes.simulated import SimulatedNode, room

STEP = 1.05
"""A bucket's upper end is so many times its lower one: percentiles are right within 5 %."""
LEAST_S, BUCKETS = 0.001, 360
FILES_BESIDE = 64


@dataclass(frozen=True, slots=True)
class Login:
    """What `gateway node add --json` prints of a node. `key` (hexadecimal) signs, `user` and `password` log in."""

    device: str
    key: str = ""
    user: str | None = None
    password: str | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """Of all nodes together: how many are `connected`, messages, and seconds until their acknowledgement."""

    nodes: int
    connected: int
    connects: int
    measured: int
    sent: int
    repeated: int
    acked: int
    held: int
    discarded: int
    refused: int
    ack_p50_s: float
    ack_p99_s: float
    ack_max_s: float

    def line(self) -> str:
        """For people."""
        return (
            f"{self.connected}/{self.nodes} connected, {self.sent} sent, {self.acked} acknowledged, "
            f"{self.repeated} repeated, {self.held} held; acknowledged after {self.ack_p50_s:.2f} s (p50), "
            f"{self.ack_p99_s:.2f} s (p99)"
        )

    def json(self) -> str:
        """For programs."""
        return json.dumps(asdict(self))


class Waits:
    """How long acknowledgements took: counted in buckets, so that a week of them takes no more room than an hour."""

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS
        self.longest_s = 0.0

    def add(self, waited_s: float) -> None:
        """One more, in seconds."""
        self.longest_s = max(self.longest_s, waited_s)
        at = 0 if waited_s <= LEAST_S else min(BUCKETS - 1, math.ceil(math.log(waited_s / LEAST_S, STEP)))
        self._counts[at] += 1

    def clear(self) -> None:
        """Count from now on."""
        self._counts = [0] * BUCKETS
        self.longest_s = 0.0

    def within_s(self, share: float) -> float:
        """This share (0 to 1) took no longer; 0 where there was none."""
        total, seen = sum(self._counts), 0
        for at, count in enumerate(self._counts):
            seen += count
            if seen and seen >= share * total:
                return min(self.longest_s, LEAST_S * STEP**at)
        return 0.0


class Fleet:
    """Nodes that run together. Create it inside the loop that runs it."""

    def __init__(self, nodes: Sequence[SimulatedNode], waits: Waits | None = None) -> None:
        self.nodes, self.waits = tuple(nodes), waits or Waits()

    async def run(self) -> Never:
        """Run all of them until cancelled."""
        asyncio.get_running_loop().set_exception_handler(_unless_told)
        async with asyncio.TaskGroup() as group:
            for node in self.nodes:
                group.create_task(node.run(), name=f"node.{node.device}")
            await asyncio.get_running_loop().create_future()
        raise AssertionError("nodes run for ever")

    async def connected(self) -> None:
        """Return when each of them was connected since this was called."""
        for node in self.nodes:
            await node.connected.wait()

    async def acked(self) -> None:
        """Return when everything that they measured by now is acknowledged."""
        for node, seq in [(node, node.seq) for node in self.nodes]:
            await node.acked_upto(seq)

    def rest(self) -> None:
        """Measure nothing more."""
        for node in self.nodes:
            node.rest()

    def summary(self) -> Summary:
        """As of now."""
        counts = [node.counts for node in self.nodes]
        return Summary(
            nodes=len(self.nodes),
            connected=sum(node.connected.is_set() for node in self.nodes),
            connects=sum(each.connects for each in counts),
            measured=sum(each.measured for each in counts),
            sent=sum(each.sent for each in counts),
            repeated=sum(each.repeated for each in counts),
            acked=sum(each.acked for each in counts),
            held=sum(len(node.held) for node in self.nodes),
            discarded=sum(each.discarded for each in counts),
            refused=sum(each.refused for each in counts),
            ack_p50_s=round(self.waits.within_s(0.5), 3),
            ack_p99_s=round(self.waits.within_s(0.99), 3),
            ack_max_s=round(self.waits.longest_s, 3),
        )


def _unless_told(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A connection that broke is an error that its node knows; the client keeps it in a future that nobody reads."""
    if not isinstance(context.get("exception"), MqttError):
        loop.default_exception_handler(context)


def made_up(nodes: int, prefix: str = "sim") -> list[Login]:
    """So many nodes without credentials."""
    return [Login(f"{prefix}-{number:04}") for number in range(1, nodes + 1)]


def logins(lines: Iterable[str]) -> list[Login]:
    """Nodes with their credentials, one JSON object a line; ValueError says which line is none."""
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            said: dict[str, Any] = json.loads(line)
            login = Login(said["device"], said.get("key") or "", said.get("user"), said.get("password"))
            bytes.fromhex(login.key)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"line {number} is not what `gateway node add --json` prints: {error!r}") from error
        found.append(login)
    return found


def fleet(
    nodes: Sequence[Login], host: str, port: int, interval_s: float, make: Callable[..., SimulatedNode] = SimulatedNode
) -> Fleet:
    """A fleet of rooms, their measurements spread over the interval. `make` makes a node, if not as it is here."""
    waits = Waits()
    made = []
    for number, login in enumerate(nodes):
        boot = random.Random()  # noqa: S311 - each run is another boot
        made.append(
            make(
                login.device,
                host,
                port,
                {"scd30": room(random.Random(number + 1))},  # noqa: S311 - a simulation
                interval_s=interval_s,
                start_after_s=interval_s * number / len(nodes),
                rng=boot,
                key=bytes.fromhex(login.key) or None,
                username=login.user,
                password=login.password,
                on_acked=waits.add,
            )
        )
    return Fleet(made, waits)


def allow_files(nodes: int) -> None:
    """Let this process have a connection for each node; OSError where it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = nodes + FILES_BESIDE
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise OSError(f"{nodes} nodes need {wanted} open files and this process may have {hard}: raise `ulimit -Hn`")
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
