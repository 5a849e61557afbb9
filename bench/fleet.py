"""A thousand nodes: what they cost gateway and broker, how long they wait for their acknowledgement, and what happens
when broker or gateway is killed with all of them connected.

A real gateway with its own mosquitto, and simulated nodes in this process. Beside it the same load on a mosquitto of
the same settings whose only subscriber acknowledges at once and keeps nothing (`fleet_floor`). Every reading of every
trial is compared with what is stored afterwards.
"""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import psutil  # type: ignore[import-untyped,unused-ignore]

from bench.appliance import HOST, Appliance, Outcome, low_ports
from bench.figures import Figure, Goal
from bench.peers import tell
from bench.processes import GATEWAY, MB, child, cpu_s, family, memory
from gateway.broker.config import Doors
from gateway.broker.mosquitto import mosquitto
from gateway.cli import data
from gateway.control import NodeAdd
from gateway.nodes.fleet import Fleet, Login, Waits, allow_files
from gateway.nodes.simulated import SimulatedNode, Source
from gateway.store.db import Store

SENSOR, METRICS = "meter", 3
SETTLED_WITHIN_S = 120.0
LOOK_EVERY_S = 0.02
MOST_ACK_S = {"default": 6.0, "on idle": 1.0}
MOST_STORM_S, STORM_INTERVAL_S = 60.0, 3600.0
FLOOR = "a subscriber that acknowledges and keeps nothing"
SETTINGS = {"AMBIENT_GATEWAY_DISCOVERY_MDNS": "false", "AMBIENT_GATEWAY_NTP_PORT": "0"}
FLUSHES = {"default": {}, "on idle": {"AMBIENT_GATEWAY_STORE_FLUSH_ON_IDLE": "true"}}
LOGIN = ("device", "key", "user", "password")
ENDS_WITHIN_S = 3 * 3600.0
Party = Literal["broker", "gateway"]


@dataclass(frozen=True, slots=True)
class Load:
    """So many nodes, each with a message of three readings in `interval_s`."""

    nodes: int
    interval_s: float

    def __str__(self) -> str:
        return f"{self.nodes:,} nodes, a message in {self.interval_s:g} s"


@dataclass(frozen=True, slots=True)
class Size:
    """How long each load is watched, once everybody was acknowledged; and how many nodes are in the storms."""

    minutes: float
    loads: tuple[Load, ...] = (Load(1000, 60.0), Load(200, 1.0))
    storm: int = 1000


FULL, QUICK = Size(2.0), Size(0.03, (Load(20, 0.5),), 20)


@dataclass
class World:
    """What nodes speak to. `server` are the processes of what acknowledges, without the broker; whoever is killed is
    started again."""

    port: int
    server: Callable[[], Sequence[psutil.Process]]
    broker: Callable[[], psutil.Process]
    kill: Callable[[Party], object]
    logins: Sequence[Login] = ()
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Watched:
    """One load: percent of a core, MB (PSS), seconds."""

    server: float
    broker: float
    server_mb: float
    broker_mb: float
    p50_s: float
    p99_s: float
    longest_s: float


@dataclass(frozen=True, slots=True)
class Storm:
    """Seconds from the kill until all nodes are connected again, and until all that they hold is acknowledged."""

    connected_s: float
    acked_s: float
    repeated: int


async def measure(size: Size) -> list[Figure]:
    """Loads, then storms; RuntimeError where a reading was lost or stored twice."""
    figures: list[Figure] = []
    for load in size.loads:
        floor = await _watch("floor", load, size.minutes)
        for flush in FLUSHES:
            figures += _of_load(f"{load}, flush {flush}", await _watch(flush, load, size.minutes), floor, flush)
    parties: tuple[Party, ...] = ("broker", "gateway")
    for party in parties:
        floor_storm = await storm("floor", size.storm, party)
        found = await storm("default", size.storm, party, logins=True)
        what = f"{size.storm:,} nodes, {party} killed: until all are"
        goal = Goal(MOST_STORM_S)
        figures += [
            Figure(f"{what} connected", found.connected_s, "s", FLOOR, floor_storm.connected_s, goal),
            Figure(f"{what} acknowledged", found.acked_s, "s", FLOOR, floor_storm.acked_s, goal),
        ]
    return figures


def _of_load(what: str, found: Watched, floor: Watched, flush: str) -> list[Figure]:
    pairs: tuple[tuple[str, str, float, float, Goal | None], ...] = (
        ("CPU of the gateway", "%", found.server, floor.server, None),
        ("CPU of the broker", "%", found.broker, floor.broker, None),
        ("memory of the gateway", "MB", found.server_mb, floor.server_mb, None),
        ("memory of the broker", "MB", found.broker_mb, floor.broker_mb, None),
        ("acknowledged, p50", "s", found.p50_s, floor.p50_s, None),
        ("acknowledged, p99", "s", found.p99_s, floor.p99_s, Goal(MOST_ACK_S[flush])),
        ("acknowledged, longest", "s", found.longest_s, floor.longest_s, None),
    )
    return [Figure(f"{what}: {name}", value, unit, FLOOR, beside, goal) for name, unit, value, beside, goal in pairs]


async def _watch(flush: str, load: Load, minutes: float) -> Watched:
    """One load on one world, from when everybody was acknowledged."""
    async with _house(flush, load) as (world, fleet):
        processes = [*world.server(), world.broker()]
        began_s, before = asyncio.get_running_loop().time(), [cpu_s([each]) for each in processes]
        waits = _waits(fleet)
        await asyncio.sleep(60 * minutes)
        took_s = asyncio.get_running_loop().time() - began_s
        *server, broker = [100 * (cpu_s([each]) - cpu) / took_s for each, cpu in zip(processes, before, strict=True)]
        found = Watched(
            sum(server),
            broker,
            memory(world.server()).pss / MB,
            memory([world.broker()]).pss / MB,
            waits.within_s(0.5),
            waits.within_s(0.99),
            waits.longest_s,
        )
    tell(f"fleet: {load}, {flush}: p99 {found.p99_s:.2f} s")
    return found


async def storm(flush: str, nodes: int, party: Party, *, logins: bool = False) -> Storm:
    """Kill -9 with all of them connected, and each with a message that nobody has acknowledged; with `logins` each has
    its own at the broker, and a key."""
    loop = asyncio.get_running_loop()
    async with _house(flush, Load(nodes, STORM_INTERVAL_S), logins=logins) as (world, fleet):
        before = [node.counts.connects for node in fleet.nodes]
        for node in fleet.nodes:
            node.measure()
        held = [node.seq for node in fleet.nodes]
        await asyncio.sleep(LOOK_EVERY_S)
        killed_s, connected_s = loop.time(), 0.0
        world.kill(party)
        async with asyncio.timeout(SETTLED_WITHIN_S):
            while not all(  # noqa: ASYNC110 - what many nodes have done has no event
                node.counts.connects > count and node.connected.is_set()
                for node, count in zip(fleet.nodes, before, strict=True)
            ):
                await asyncio.sleep(LOOK_EVERY_S)
            connected_s = loop.time() - killed_s
            for node, seq in zip(fleet.nodes, held, strict=True):
                await node.acked_upto(seq)
        found = Storm(connected_s, loop.time() - killed_s, sum(node.counts.repeated for node in fleet.nodes))
    tell(f"fleet: {nodes} nodes, {party} killed, {flush}: {found.connected_s:.1f} s, {found.acked_s:.1f} s")
    return found


@asynccontextmanager
async def _house(flush: str, load: Load, *, logins: bool = False) -> AsyncIterator[tuple[World, Fleet]]:
    """A world and its fleet, once each node was acknowledged; afterwards all is acknowledged, and compared."""
    allow_files(load.nodes)
    with TemporaryDirectory() as text:
        folder = Path(text)
        names = [f"fleet-{number:05}" for number in range(load.nodes)]
        made = _floor(folder) if flush == "floor" else _gateway(folder, FLUSHES[flush], names if logins else ())
        async with made as world:
            fleet = _fleet(load, world.port, world.logins or list(map(Login, names)))
            running = asyncio.create_task(fleet.run(), name="fleet")
            try:
                async with asyncio.timeout(SETTLED_WITHIN_S):
                    await fleet.connected()
                    for node in fleet.nodes:
                        node.measure()
                    await fleet.acked()
                yield world, fleet
                fleet.rest()
                async with asyncio.timeout(SETTLED_WITHIN_S):
                    await fleet.acked()
            finally:
                running.cancel()
                await asyncio.wait([running])
        if flush != "floor":
            world.faults += await lost_or_doubled(folder / "data", fleet)
        if world.faults:
            raise RuntimeError("; ".join(world.faults))


def _fleet(load: Load, port: int, logins: Sequence[Login]) -> Fleet:
    """Nodes whose readings tell which message they are of; their measurements spread over the interval."""
    waits = Waits()
    nodes = [
        SimulatedNode(
            login.device,
            HOST,
            port,
            {SENSOR: _counting()},
            interval_s=load.interval_s,
            start_after_s=load.interval_s * number / load.nodes,
            rng=random.Random(),
            key=bytes.fromhex(login.key) or None,
            username=login.user,
            password=login.password,
            on_acked=waits.add,
        )
        for number, login in enumerate(logins)
    ]
    return Fleet(nodes, waits)


def _waits(fleet: Fleet) -> Waits:
    """Those from now on."""
    fleet.waits.clear()
    return fleet.waits


def _counting() -> Source:
    numbers: Iterator[int] = iter(range(1, sys.maxsize))

    def source() -> Mapping[str, float]:
        number = float(next(numbers))
        return {"count": number, "energy": number * 8, "temperature": 21.0 + number % 7}

    return source


async def lost_or_doubled(folder: Path, fleet: Fleet) -> list[str]:
    """What is wrong with what is stored: each message of each node has to be there once, whole."""
    async with Store(folder) as store:
        rows = await store.ask(lambda view: view.db.execute(STORED.format(raw=view.raw())).fetchall())
    found: dict[str, Counter[float]] = {}
    readings: Counter[str] = Counter()
    for device, metric, value in rows:
        readings[device] += 1
        if metric == "count":
            found.setdefault(device, Counter())[value] += 1
    faults = []
    for node in fleet.nodes:
        counts, wanted = found.get(node.device, Counter()), set(map(float, range(1, node.seq + 1)))
        if missing := wanted - counts.keys():
            faults.append(f"{node.device} lost {len(missing)}: {sorted(missing)[:3]}")
        if doubled := [value for value, times in counts.items() if times > 1]:
            faults.append(f"{node.device} has {len(doubled)} twice: {sorted(doubled)[:3]}")
        if readings[node.device] != METRICS * node.seq or counts.keys() - wanted:
            faults.append(f"{node.device} has {readings[node.device]} readings of {node.seq} messages")
    return faults


STORED = """
    select n.device_id, s.metric, r.value from {raw} r join series s using (series_id) join sensor n using (sensor_id)
"""


@asynccontextmanager
async def _gateway(folder: Path, settings: Mapping[str, str], names: Sequence[str] = ()) -> AsyncIterator[World]:
    """`gateway run`, started again whenever it is killed; devices of these `names` have logins."""
    async with data.session(folder / "data") as send:
        added = [await send(NodeAdd(device=each)) for each in names]
    logins = [Login(**{name: each[name] for name in LOGIN}) for each in added]
    http, https, port = low_ports(3)
    places = ("--data", str(folder / "data"), "--http", f"{HOST}:{http}", "--https", f"{HOST}:{https}")
    outcome = Outcome("fleet", 0, 0)
    environment = {**SETTINGS, **settings, "AMBIENT_GATEWAY_MQTT_PORT": str(port)}
    appliance = Appliance(outcome, (GATEWAY, "run", *places), environment, folder)

    def server() -> list[psutil.Process]:
        return [each for each in family(appliance.pid) if each.name() != "mosquitto"]

    def broker() -> psutil.Process:
        return next(each for each in family(appliance.pid) if each.name() == "mosquitto")

    def kill(party: Party) -> None:
        killing.append(asyncio.ensure_future(appliance.kill_broker() if party == "broker" else appliance.kill()))

    killing: list[asyncio.Future[None]] = []
    async with asyncio.TaskGroup() as group:
        keeper = group.create_task(appliance.run(), name="appliance")
        try:
            await appliance.up()
            yield World(port, server, broker, kill, logins, outcome.faults)
            await appliance.stop()
        finally:
            keeper.cancel()


@asynccontextmanager
async def _floor(folder: Path) -> AsyncIterator[World]:
    """A supervised mosquitto and the least of subscribers; where that is to be killed, a new one is started at once."""
    (port,) = low_ports(1)
    async with mosquitto(lambda: Doors(HOST, port), folder / "broker") as broker, asyncio.TaskGroup() as group:
        pids: list[int] = []
        up = asyncio.Event()

        async def serve() -> None:
            while True:
                async with child(sys.executable, "-m", "bench.fleet_floor", "--port", str(port)) as process:
                    pids[:] = [process.pid]
                    assert process.stdout is not None
                    if await process.stdout.readline():
                        up.set()
                    await process.wait()

        def kill(party: Party) -> None:
            psutil.Process(broker.pid if party == "broker" else pids[0]).kill()
            if party == "gateway":
                psutil.Process(broker.pid).kill()  # it would have died with it

        serving = group.create_task(serve(), name="floor")
        await up.wait()
        yield World(port, lambda: [psutil.Process(pids[0])], lambda: psutil.Process(broker.pid), kill)
        serving.cancel()
