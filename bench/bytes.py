"""What a reading costs the card: bytes that reach the block device, at 100 readings/s, with the settings we ship.

The gateway and its broker keep everything on an ext4 of their own (a loop device: root); 50 nodes that number and
repeat their messages send to it. A table in SQLite that is indexed by series and time gets the same readings at the
same time on a second such device, in a transaction every five seconds, and needs no broker.
"""

import asyncio
import os
import random
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Never

from bench.dataset import Row
from bench.figures import Figure, Goal
from bench.peers import tell
from bench.peers.sqlite import INSERT, TABLE
from bench.processes import family, gateway
from gateway.nodes.simulated import SimulatedNode, Source, room

NODES = 50
METRICS = 3
EVERY_S = 1.5
FLUSH_S = 5.0
EARLIER = 2000
"""Rows of each series that the peer has before it is watched."""
DEVICE_MB = 1024
SECTOR_BYTES = 512
SECTORS_WRITTEN = 6
MOST_BYTES, LEAST_TIMES_FEWER = 120.0, 20.0
PEER = "SQLite, keyed by series and time, a commit every 5 s, no broker"
WHAT = "bytes written a reading at 100 readings/s, broker included"
ENDS_WITHIN_S = 3 * 3600.0


@dataclass(frozen=True, slots=True)
class Size:
    """How long it is measured, and how long after the start: new devices are written down in their first minutes. Less
    than an hour may miss what happens once an hour."""

    minutes: float
    settle_s: float = 150.0


FULL, QUICK = Size(60.0), Size(2.0, 20.0)


@dataclass(frozen=True, slots=True)
class Device:
    """A file system on a block device of its own."""

    name: str
    folder: Path

    def written(self) -> int:
        """Bytes that reached it since it was made; what waits in memory goes there first."""
        subprocess.run(("sync", "-f", self.folder), check=True)
        counters = (Path("/sys/block") / self.name / "stat").read_text(encoding="ascii").split()
        return int(counters[SECTORS_WRITTEN]) * SECTOR_BYTES


@contextmanager
def device(folder: Path) -> Iterator[Device]:
    """A new ext4 in a file below; RuntimeError where that may not be made."""
    if os.geteuid() != 0:
        raise RuntimeError("a loop device is needed to count what is written: run this as root")
    file, place = folder / "medium", folder / "mounted"
    with file.open("wb") as medium:
        medium.truncate(DEVICE_MB << 20)
    place.mkdir()
    made = subprocess.run(("losetup", "--find", "--show", file), check=True, capture_output=True, text=True)
    node = made.stdout.strip()
    try:
        # Without the lazy part, which would write to the device while we count.
        lazy = "lazy_itable_init=0,lazy_journal_init=0"
        subprocess.run(("mkfs.ext4", "-q", "-E", lazy, node), check=True)
        subprocess.run(("mount", node, place), check=True)
        try:
            yield Device(Path(node).name, place)
        finally:
            subprocess.run(("umount", place), check=True)
    finally:
        subprocess.run(("losetup", "--detach", node), check=True)


class Peer:
    """Takes what the nodes measure, as rows, and commits them every FLUSH_S."""

    def __init__(self, file: Path, now_s: Callable[[], float] = time.time) -> None:
        self._file, self._now_s = file, now_s
        self._ids: dict[tuple[int, str], int] = {}
        self._rows: list[Row] = []
        self.committed = 0

    def watched(self, node: int, source: Source) -> Source:
        """The same source, but we see what it says."""

        def measure() -> Mapping[str, float]:
            values, ms = source(), int(1000 * self._now_s())
            for metric, value in values.items():
                series = self._ids.setdefault((node, metric), len(self._ids) + 1)
                self._rows.append(Row(series, ms, value, 0))
            return values

        return measure

    @contextmanager
    def opened(self, earlier: int = EARLIER) -> Iterator[sqlite3.Connection]:
        """A table that was in use for a while, so that each series has pages of its own."""
        with closing(sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)) as db:
            db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = full")
            db.execute(TABLE)
            began_ms = int(1000 * (self._now_s() - earlier * EVERY_S))
            db.execute("begin")
            for number in range(earlier):
                ms = began_ms + int(1000 * EVERY_S * number)
                db.executemany(INSERT, [(series, ms, 20.5, 0) for series in range(1, NODES * METRICS + 1)])
            db.execute("commit")
            yield db

    def taken(self) -> list[Row]:
        """What was measured since the last time."""
        rows, self._rows = self._rows, []
        return rows

    def commit(self, db: sqlite3.Connection, rows: list[Row]) -> None:
        """A synced transaction."""
        db.execute("begin")
        db.executemany(INSERT, rows)
        db.execute("commit")
        self.committed += len(rows)

    async def run(self) -> Never:
        """A commit every FLUSH_S until cancelled."""
        with self.opened() as db:
            while True:
                await asyncio.sleep(FLUSH_S)
                await asyncio.to_thread(self.commit, db, self.taken())


@dataclass(frozen=True, slots=True)
class Seen:
    """Bytes on each device and rows that were safe there; bytes that the broker's process wrote."""

    ours: int
    stored: int
    theirs: int
    committed: int
    broker: int


async def measure(size: Size) -> list[Figure]:
    """Both at once."""
    with (
        TemporaryDirectory() as one,
        TemporaryDirectory() as other,
        device(Path(one)) as ours,
        device(Path(other)) as theirs,
    ):
        first, last, took_s = await _watch(ours, theirs, size)
    stored, committed = last.stored - first.stored, last.committed - first.committed
    mine, peer = (last.ours - first.ours) / stored, (last.theirs - first.theirs) / committed
    minutes = f"{size.minutes:g} min"
    return [
        Figure(f"{WHAT}, {minutes}", mine, "B", PEER, peer, Goal(MOST_BYTES)),
        Figure(
            f"the same beside the goal of {LEAST_TIMES_FEWER:g} times fewer",
            mine,
            "B",
            PEER,
            peer,
            Goal(1 / LEAST_TIMES_FEWER, of_ratio=True),
        ),
        Figure("of these the broker's process", (last.broker - first.broker) / stored, "B"),
        Figure("readings that were stored meanwhile", stored / took_s, "/s", PEER, committed / took_s),
    ]


async def _watch(ours: Device, theirs: Device, size: Size) -> tuple[Seen, Seen, float]:
    peer = Peer(theirs.folder / "peer.sqlite")
    settings = ours.folder / "gateway.toml"
    settings.write_text("[discovery]\nmdns = false\n", encoding="utf-8")
    options = ("--config", str(settings))
    async with gateway(ours.folder / "data", *options) as running, asyncio.TaskGroup() as group:
        nodes = [_node(number, running.mqtt, peer) for number in range(NODES)]
        tasks = [group.create_task(node.run(), name=node.device) for node in nodes]
        tasks.append(group.create_task(peer.run(), name="peer"))

        def look() -> Seen:
            stored = METRICS * sum(node.acked for node in nodes)
            return Seen(ours.written(), stored, theirs.written(), peer.committed, _broker(running.pid))

        await asyncio.sleep(size.settle_s)
        began_s, first = time.perf_counter(), look()
        tell(f"bytes: {size.minutes:g} minutes begin")
        await asyncio.sleep(60 * size.minutes)
        last, took_s = look(), time.perf_counter() - began_s
        for task in tasks:
            task.cancel()
    return first, last, took_s


def _node(number: int, port: int, peer: Peer) -> SimulatedNode:
    source = peer.watched(number, room(random.Random(number)))
    start_after_s = EVERY_S * number / NODES
    name = f"card-{number:02}"
    return SimulatedNode(name, "127.0.0.1", port, {"scd30": source}, interval_s=EVERY_S, start_after_s=start_after_s)


def _broker(pid: int) -> int:
    return sum(int(each.io_counters().write_bytes) for each in family(pid) if each.name() == "mosquitto")
