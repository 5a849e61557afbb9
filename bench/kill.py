"""Is anything lost? `python -m bench.kill`: 5,000 messages a round while gateway and broker are killed with -9.

Kinds of rounds: `ring`, nodes that number and keep their messages, against a gateway with a mosquitto of its own, both
killed; `timed` and `untimed`, minimal senders against a mosquitto that outlives the gateway. Values and times follow
from the message's number, so that a mixed-up row shows. Round n of seed S is round 0 of seed S + n.
"""

import argparse
import asyncio
import json
import logging
import random
import shutil
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import duckdb
from aiomqtt import Client

from bench.appliance import (
    HOST,
    Appliance,
    Level,
    Outcome,
    low_ports,
)
from bench.processes import GATEWAY
from gateway.broker.config import Doors
from gateway.broker.mosquitto import mosquitto
from gateway.cli import data
from gateway.control import NodeAdd
from gateway.nodes import simulated
from gateway.nodes.simulated import SimulatedNode
from gateway.store.db import Store
from gateway.store.segments.view import HOT

DRAIN_WITHIN_S = 40.0
FLUSH_INTERVALS_S = (0.002, 0.002, 0.02, 0.1)  # most rounds commit without a pause, so that kills hit a commit
LATER_S = 0.1  # how much later than the message that triggers it a kill may come
RESEND_AFTER_S = 0.5
NODES, SENDERS, KILLS = 5, 3, 3
SENSORS = ("meter", "clock")
TRIES = 3  # for a round whose kills hit nothing

FOLDING = """\
import sys
from gateway.__main__ import main
from gateway.store import db, engine
engine.CHECKPOINT_AT_MB, db.SAVE_EVERY_BATCHES = 0.1, 7
sys.exit(main())
"""
"""The same gateway, which folds its log and its journal within seconds instead of hours, so that kills hit that too."""

Row = tuple[str, str | None, int | None, str, str, int | None, float]
"""Device, boot, number, sensor, metric, time in ms (None where the sender has no clock), value."""

Stored = tuple[str, str, str, int | None, float]
"""What of a Row the store keeps: device, sensor, metric, time, value. A node's values follow from its numbers."""

STORED = """
    select n.device_id, n.sensor, s.metric, epoch_ms(r.ts), r.value
    from {raw} r join series s using (series_id) join sensor n using (sensor_id)
"""
MARKS = """
    select b.device_id, b.boot, d.mark, coalesce(d.above, '') from boot b left join delivery d using (boot_ref)
    qualify row_number() over (partition by b.boot_ref order by d.batch desc) = 1
"""
TROUBLE = """
    select 'gap in boot ' || boot_ref || ': ' || first_seq || '-' || last_seq from gap
    union all select kind || ': ' || message from event where kind in ('store_loss', 'gap', 'refused')
"""


class CountingNode(SimulatedNode):
    """A node whose values and times follow from its numbers; it measures only when it is told to."""

    def __init__(self, device: str, port: int, key: str, rng: random.Random, *, has_clock: bool = True) -> None:
        self._base = zlib.crc32(device.encode()) % 1000 * 100_000
        self._base_s = int(time.time()) - 3600
        self._has_clock = has_clock
        super().__init__(
            device,
            HOST,
            port,
            dict.fromkeys(SENSORS, self._source),
            interval_s=1e6,
            start_after_s=1e6,
            clock="ntp" if has_clock else "none",
            key=bytes.fromhex(key),
            ring=100_000,
            resend_after_s=RESEND_AFTER_S,
            rng=rng,
            utcnow_s=lambda: self._base_s + self.seq / 8,
        )

    @property
    def under_way(self) -> int:
        """Messages that were sent and not acknowledged."""
        return sum(held.sent_s is not None for held in self._ring)

    def rows(self) -> Iterator[Row]:
        """What has to be stored of everything it measured."""
        for seq in range(1, self.seq + 1):
            ms = self._base_s * 1000 + seq * 125 if self._has_clock else None
            sensor = SENSORS[(seq - 1) % len(SENSORS)]
            for metric, value in self._values(seq).items():
                yield self.device, self.boot, seq, sensor, metric, ms, value

    def _source(self) -> Mapping[str, float]:
        return self._values(self.seq)

    def _values(self, seq: int) -> dict[str, float]:
        return {"count": float(self._base + seq), "energy": (self._base + seq) / 8}


async def ring_round(folder: Path, seed: int, messages: int = 5000, kills: int = KILLS) -> Outcome:
    """Numbered messages with rings against gateway and broker, both killed: each stored exactly once."""
    rng = random.Random(seed)
    each = messages // NODES // len(SENSORS) * len(SENSORS)
    outcome = Outcome("ring", seed, each * NODES)
    acked = Level()
    async with playing(outcome, folder, rng, "mosquitto") as (appliance, port):
        nodes = [await _node(f"node-{number}", port, folder, rng, has_clock=number > 0) for number in range(NODES)]
        appliance.under_way = lambda: any(node.under_way for node in nodes)

        async def watch(node: CountingNode) -> None:
            while True:
                await node.acked_upto(node.acked + 1)
                acked.rise(sum(each.acked for each in nodes))

        async with asyncio.TaskGroup() as group:
            jobs = [job for node in nodes for job in (node.run(), watch(node), _feed(node, each, _child(rng)))]
            tasks = [group.create_task(job) for job in jobs]
            try:
                async with asyncio.timeout(DRAIN_WITHIN_S):
                    await _kill_both(appliance, acked, each * NODES, kills, rng)
                    await acked.reached(each * NODES)
            except TimeoutError:
                held = {node.device: node.held[:3] for node in nodes if node.held}
                outcome.faults.append(f"not drained within {DRAIN_WITHIN_S:g} s, still held from {held}")
            await appliance.stop()
            for task in tasks:
                task.cancel()
    outcome.repeated = sum(node.counts.repeated for node in nodes)
    for node in nodes:
        if node.counts.refused or node.counts.discarded:
            outcome.faults.append(f"{node.device}: {node.counts}")
    await check(folder, outcome, nodes, set())
    return outcome


async def minimal_round(
    folder: Path, seed: int, messages: int = 5000, kills: int = KILLS, *, timed: bool = True
) -> Outcome:
    """Unnumbered messages through a broker that lives on while the gateway is killed: each stored, timed ones once."""
    rng = random.Random(seed)
    outcome = Outcome("timed" if timed else "untimed", seed, messages)
    base_s = int(time.time()) - 3600 if timed else None
    async with playing(outcome, folder, rng, "external") as (appliance, port):
        probe = await _node("probe", port, folder, rng)
        sender = Sender(port, messages, base_s, _child(rng))
        at_death: list[int] = []
        appliance.autopsy = lambda: at_death.append(sender.sent.value - _minimal_stored(folder))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(probe.run()), group.create_task(sender.run())]
            try:
                async with asyncio.timeout(DRAIN_WITHIN_S):
                    await _kill_gateway(appliance, sender, probe, kills, rng)
            except TimeoutError:
                outcome.faults.append(f"not passed through within {DRAIN_WITHIN_S:g} s")
            appliance.autopsy = lambda: None
            await appliance.stop()
            for task in tasks:
                task.cancel()
    outcome.telling["gateway"] = sum(waiting > 0 for waiting in at_death)
    outcome.repeated = sender.repeated
    await check(folder, outcome, [probe], {row for number in range(messages) for row in _minimal(number, base_s)})
    return outcome


class Sender:
    """A publisher of minimal messages, one after the other, each after the PUBACK of the one before.

    It sends up to the level of `allowed`. With `base_s` its messages carry whole seconds, which several of them share,
    and some are sent twice, as by a sender that missed a PUBACK.
    """

    def __init__(self, port: int, messages: int, base_s: int | None, rng: random.Random) -> None:
        self._port, self.messages, self._base_s, self._rng = port, messages, base_s, rng
        self.allowed, self.sent = Level(), Level()
        self.repeated = 0

    async def run(self) -> None:
        """Send all of them."""
        async with Client(HOST, self._port, identifier="senders") as client:
            for number in range(self.messages):
                await self.allowed.reached(number + 1)
                again = self._base_s is not None and self._rng.random() < 0.05
                for _ in range(1 + again):
                    await client.publish(*_minimal_wire(number, self._base_s), qos=1)
                self.repeated += again
                self.sent.rise(number + 1)


def _minimal(number: int, base_s: int | None) -> Iterator[Row]:
    """What has to be stored of a minimal message."""
    ms = None if base_s is None else (base_s + number // 10) * 1000
    for metric, value in (("count", float(number)), ("energy", number / 8)):
        yield f"sender-{number % SENDERS}", None, None, SENSORS[0], metric, ms, value


def _minimal_wire(number: int, base_s: int | None) -> tuple[str, str]:
    """Topic and payload of a minimal message."""
    rows = list(_minimal(number, base_s))
    body: dict[str, object] = {"value": {metric: {"reading": value} for *_, metric, _, value in rows}}
    if base_s is not None:
        body["timestamp"] = base_s + number // 10
    return f"devices/{rows[0][0]}/sensors/{rows[0][3]}/data", json.dumps(body)


async def _kill_both(appliance: Appliance, acked: Level, messages: int, kills: int, rng: random.Random) -> None:
    """So many kills of each, spread over the flow; now and then the gateway again while it starts."""
    parties = ["gateway", "broker"] * kills
    rng.shuffle(parties)
    for party, share in zip(parties, sorted(rng.uniform(0.02, 0.9) for _ in parties), strict=True):
        await acked.reached(int(messages * share))
        await asyncio.sleep(rng.uniform(0, LATER_S))
        if party == "broker":
            await appliance.kill_broker()
            continue
        await appliance.kill()
        if rng.random() < 0.3:
            await asyncio.sleep(rng.uniform(0, 1))
            await appliance.kill()


async def _kill_gateway(
    appliance: Appliance, sender: Sender, probe: CountingNode, kills: int, rng: random.Random
) -> None:
    """So many kills, each while the sender sends, which goes on while the gateway is away."""

    async def live() -> None:
        probe.measure()  # the broker keeps the order: with this all that was sent before has passed through
        await probe.acked_upto(probe.seq)

    first = 0
    for number in range(1, kills + 1):
        await live()
        last = sender.messages * number // (kills + 1)
        sender.allowed.rise(last)
        await sender.sent.reached(first + int((last - first) * rng.uniform(0.1, 0.9)))
        await asyncio.sleep(rng.uniform(0, LATER_S))
        await appliance.kill()
        first = last
    sender.allowed.rise(sender.messages)
    await sender.sent.reached(sender.messages)
    await live()


async def _feed(node: CountingNode, messages: int, rng: random.Random) -> None:
    """Bursts of measurements, not further ahead of the acknowledgements than a random depth."""
    while node.seq < messages:
        for _ in range(min(rng.randint(1, 25), (messages - node.seq) // len(SENSORS))):
            node.measure()
        await node.acked_upto(node.seq - rng.randint(0, 150))


async def _node(device: str, port: int, folder: Path, rng: random.Random, *, has_clock: bool = True) -> CountingNode:
    """A node with a key as `gateway node add` makes it."""
    added = await asyncio.to_thread(data.send, NodeAdd(device=device), folder / "data")
    return CountingNode(device, port, added["key"], _child(rng), has_clock=has_clock)


def _child(rng: random.Random) -> random.Random:
    """A source of its own for each task, so that their turns do not change the moments of the kills."""
    return random.Random(rng.random())


@contextmanager
def _hasty_nodes() -> Iterator[None]:
    """Nodes that look for the broker all the time: their patience is not what is measured."""
    before = simulated.RETRY_FIRST_S, simulated.RETRY_LAST_S
    simulated.RETRY_FIRST_S, simulated.RETRY_LAST_S = 0.1, 0.2
    try:
        yield
    finally:
        simulated.RETRY_FIRST_S, simulated.RETRY_LAST_S = before


@asynccontextmanager
async def playing(
    outcome: Outcome, folder: Path, rng: random.Random, broker: str
) -> AsyncIterator[tuple[Appliance, int]]:
    """A gateway that is up, under its service manager, and the port of the broker, `external` being ours."""
    began_s = time.monotonic()
    http, https, port = low_ports(3)
    program = (GATEWAY,) if rng.random() < 0.5 else (sys.executable, "-c", FOLDING)
    places = ("--data", str(folder / "data"), "--http", f"{HOST}:{http}", "--https", f"{HOST}:{https}")
    environment = {
        "AMBIENT_GATEWAY_MQTT_BROKER": broker,
        "AMBIENT_GATEWAY_DISCOVERY_MDNS": "false",
        "AMBIENT_GATEWAY_STORE_FLUSH_INTERVAL_S": str(rng.choice(FLUSH_INTERVALS_S)),
    }
    appliance = Appliance(outcome, (*program, "run", *places, "--mqtt", f"{HOST}:{port}"), environment, folder)
    async with AsyncExitStack() as stack:
        stack.enter_context(_hasty_nodes())
        if broker == "external":
            await stack.enter_async_context(mosquitto(lambda: Doors(HOST, port), folder / "broker"))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        keeper = group.create_task(appliance.run())
        try:
            if rng.random() < 0.5:  # the very first start is a start too
                await asyncio.sleep(rng.uniform(0, 1))
                await appliance.kill()
            await appliance.up()
            yield appliance, port
        finally:
            keeper.cancel()
            (folder / "gateway.log").write_text("\n".join(appliance.output))
    outcome.seconds = time.monotonic() - began_s


async def _stored(store: Store) -> list[Stored]:
    """Every reading, sealed or not."""
    return await store.ask(lambda view: view.db.execute(STORED.format(raw=view.raw())).fetchall())


def _minimal_stored(folder: Path) -> int:
    """How many minimal messages lie in the hot file; only while no gateway runs."""
    with duckdb.connect(str(folder / "data" / "hot.duckdb"), read_only=True) as db:
        row = db.execute(
            f"select count(distinct r.value) from {HOT} r join series s using (series_id) join sensor n "
            "using (sensor_id) where s.metric = 'count' and n.device_id like 'sender-%'"
        ).fetchone()
    return int(row[0]) if row else 0


async def check(folder: Path, outcome: Outcome, nodes: Sequence[CountingNode], minimal: set[Row]) -> None:
    """Compare what is stored with what was sent."""
    async with Store(folder / "data") as store:
        if store.lost_batches is not None:
            outcome.faults.append(f"lost batches {store.lost_batches}")
        stored = await _stored(store)
        found_marks = await store.read(lambda db: db.execute(MARKS).fetchall())
        marks = {(device, boot): (mark, above) for device, boot, mark, above in found_marks}
        trouble = await store.read(lambda db: db.execute(TROUBLE).fetchall())
        outcome.faults += [text for (text,) in trouble]
    sent = {row for node in nodes for row in node.rows()} | minimal
    clockless = {row[0] for row in sent if row[5] is None}
    untimed = {row[0] for row in sent if row[5] is None and row[1] is None}
    expected = {(row[0], *row[3:]) for row in sent}
    found = Counter((*row[:3], None if row[0] in clockless else row[3], row[4]) for row in stored)
    doubles = {row for row, count in found.items() if count > 1}
    outcome.doubles = sum(row[0] in untimed for row in doubles)
    for what, rows in (
        ("lost", expected - found.keys()),
        ("never sent", found.keys() - expected),
        ("stored twice", {row for row in doubles if row[0] not in untimed}),
    ):
        if rows:
            outcome.faults.append(f"{len(rows)} readings {what}, such as {sorted(rows, key=repr)[:3]}")
    wanted = {(node.device, node.boot): (node.seq, "") for node in nodes}
    if marks != wanted:
        outcome.faults.append(f"marks are {marks}, not {wanted}")


ROUNDS: dict[str, Callable[[Path, int, int], Coroutine[None, None, Outcome]]] = {
    "ring": ring_round,
    "timed": minimal_round,
    "untimed": partial(minimal_round, timed=False),
}


async def telling_round(kind: str, folder: Path, seed: int, messages: int) -> Outcome:
    """A round whose kills hit messages under way: up to three are played for it, and without one it has failed."""
    for number in range(TRIES):
        place = folder / str(number)
        place.mkdir()
        outcome = await ROUNDS[kind](place, seed + number * 1_000_000, messages)
        if outcome.faults or outcome.told:
            return outcome
    outcome.faults.append("no kill hit messages under way")
    return outcome


def play(kind: str, seed: int, messages: int) -> Outcome:
    """One round, printed; the folder of a failure is kept."""
    folder = Path(tempfile.mkdtemp(prefix=f"kill-{kind}-{seed}-"))
    outcome = asyncio.run(telling_round(kind, folder, seed, messages))
    print(outcome.line(), flush=True)
    if outcome.faults:
        print("".join(f"    {fault}\n" for fault in outcome.faults), f"    kept in {folder}", sep="", flush=True)
    else:
        shutil.rmtree(folder)
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description="Is anything lost when gateway and broker are killed?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--kinds", nargs="+", choices=ROUNDS, default=list(ROUNDS))
    options = parser.parse_args()
    # The nodes' client complains of each broken connection, and of sockets that it closed itself.
    logging.getLogger("mqtt").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(lambda record: "add_writer" not in record.getMessage())
    print(f"seed {options.seed}: {options.rounds} rounds of {', '.join(options.kinds)}", flush=True)
    outcomes = [
        play(kind, options.seed + number, options.messages)
        for number in range(options.rounds)
        for kind in options.kinds
    ]
    for kind in options.kinds:
        own = [outcome for outcome in outcomes if outcome.kind == kind]
        kills: Counter[str] = sum((each.kills for each in own), Counter())
        telling: Counter[str] = sum((each.telling for each in own), Counter())
        print(
            f"{kind:8} {len(own)} rounds, {sum(each.messages for each in own)} messages, "
            f"kills {dict(kills)} of which telling {dict(telling)}, starts that found the port taken "
            f"{sum(each.port_taken for each in own)}, that lost their broker {sum(each.bereaved for each in own)}, "
            f"slowest {max(each.seconds for each in own):.1f} s, failed {sum(bool(each.faults) for each in own)}"
        )
    return int(any(outcome.faults for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
