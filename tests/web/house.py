"""A whole gateway's door on free ports of 127.0.0.1: real store, real tokens, known readings, a clock by hand."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from zoneinfo import ZoneInfo

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from drivers.model import Quality, Quantity, Reason
from gateway.access.audit import Audit
from gateway.access.desk import FAILURES, FAILURES_PER_S, Desk
from gateway.access.grants import Grants
from gateway.access.identity import Identity, load_or_create
from gateway.access.pairing import Pairing
from gateway.access.policy import Plain
from gateway.access.principal import Scope
from gateway.access.rates import Rates
from gateway.access.tokens import Tokens
from gateway.mcp.endpoint import Endpoint
from gateway.mcp.server import More
from gateway.mcp.server import build as build_mcp
from gateway.reading import Message, Reading
from gateway.registry.registry import Registry
from gateway.store.db import Store
from gateway.store.types import Commit, Device
from gateway.web import headers
from gateway.web.app import Probe, Site, Watch, build
from gateway.web.crowd import Crowd
from gateway.web.guard import Guard
from gateway.web.serve import Serving

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ZONE = ZoneInfo("Europe/Berlin")
ERAS = ("legacy", "2026-07-28")

Built = TypeVar("Built")


class HandClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = NOW
        self.is_trusted = True

    def now(self) -> datetime:
        return self.time

    def trusted(self) -> bool:
        return self.is_trusted


def reading(
    device: str = "attic",
    quantity: Quantity = Quantity.CO2,
    value: float | None = 678.0,
    age: timedelta = timedelta(0),
    *,
    quality: Quality = Quality.GOOD,
    reason: Reason = Reason.NONE,
    sensor: str = "scd30",
) -> Reading:
    """A reading taken `age` before NOW."""
    time = NOW - age
    return Reading(device, sensor, quantity.value, quantity, value, time, time, quality, reason)


class Seconds:
    """Time that nobody can set, but a test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class House:
    """The parts of a running gateway and ways to talk to it."""

    store: Store
    registry: Registry
    clock: HandClock
    tokens: Tokens
    identity: Identity
    endpoint: Endpoint
    guard: Guard
    desk: Desk
    seconds: Seconds
    token: str = ""
    crowd: Crowd = field(default_factory=Crowd)
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.ports['http']}"

    @property
    def https(self) -> str:
        return f"https://127.0.0.1:{self.ports['https']}"

    async def add(self, *readings: Reading) -> Commit:
        """Store readings as the pipeline does, and tell the registry and the subscribers."""
        by_sensor: dict[tuple[str, str], list[Reading]] = {}
        for one in readings:
            by_sensor.setdefault((one.device, one.sensor), []).append(one)
        commit = await self.store.append([Message(*key, tuple(some)) for key, some in by_sensor.items()])
        self.registry.seen(commit.fresh)
        self.endpoint.notify(commit)
        return commit

    def pinned(self) -> ssl.SSLContext:
        """TLS that trusts this gateway's certificate and nothing else."""
        return ssl.create_default_context(cafile=str(self.identity.certificate))

    def browser(self, base: str = "", *, token: str | None = None, **options: object) -> httpx2.AsyncClient:
        """An HTTP client; with a token it sends it as bearer."""
        given = {} if token is None else {"authorization": f"Bearer {token}"}
        return httpx2.AsyncClient(base_url=base or self.http, headers=given, verify=self.pinned(), **options)  # type: ignore[arg-type]

    @asynccontextmanager
    async def client(
        self, mode: str, *, token: str | None = None, base: str = "", **options: object
    ) -> AsyncIterator[Client]:
        """A real MCP client in one of the eras."""
        async with self.browser(base, token=token or self.token, timeout=30) as http:
            transport = streamable_http_client(f"{base or self.http}/mcp", http_client=http)
            async with Client(transport, mode=mode, **options) as client:  # type: ignore[arg-type]
                yield client


@asynccontextmanager
async def house(
    folder: Path,
    *,
    plain: Plain = Plain.READ,
    pause_s: float = 0.01,
    household: bool = False,
    per_s: float = 0.0,
    burst: float = 60.0,
    crowd: Crowd | None = None,
    more: More | None = None,
    equip: Callable[[Store, Registry, HandClock, Tokens, Identity], Awaitable[More]] | None = None,
) -> AsyncIterator[House]:
    """A gateway that serves on both schemes until the block ends; nobody's rate is limited unless `per_s` says so.
    `equip` makes `more` out of the parts of this house."""
    identity = load_or_create(folder / "identity")
    clock = HandClock()
    async with Store(folder / "data") as store:
        registry = Registry(store, clock)
        await registry.load()
        tokens = Tokens(store, clock, identity)
        await tokens.load()
        if equip is not None:
            more = await equip(store, registry, clock, tokens, identity)
        endpoint = build_mcp(
            store,
            registry,
            clock,
            ZONE,
            Audit(store, clock),
            version="0.0.1",
            plain=plain,
            pause_s=pause_s,
            more=more,
        )
        audit, seconds = Audit(store, clock), Seconds()
        grants = Grants(store, tokens, audit, clock, now_s=seconds)
        await grants.load()
        pairing, rates = Pairing(seconds), Rates(per_s, burst, now_s=seconds)
        failures = Rates(FAILURES_PER_S, FAILURES, now_s=seconds)
        desk = Desk(tokens, audit, pairing, grants, rates, failures, household=household)
        site = Site("Test House", ZONE, store, registry, clock, identity, desk)
        watch = Watch(lambda: Probe(True, {}), lambda: Probe(True, {"store": "ok"}), lambda: "readings_total 7\n")
        guard = build(site, endpoint, watch, lambda: headers.names(identity.gateway_id, "pi"), plain=plain)
        built = House(store, registry, clock, tokens, identity, endpoint, guard, desk, seconds)
        if not await tokens.list():
            built.token = await tokens.create("reader", Scope.READ)
        address = ("127.0.0.1", 0)
        async with (
            endpoint,
            Serving(guard, identity=identity, http=address, https=address, drain=guard.close, crowd=crowd) as web,
        ):
            built.crowd, built.ports = web.crowd, web.ports
            yield built


@asynccontextmanager
async def in_a_task(block: AbstractAsyncContextManager[Built]) -> AsyncIterator[Built]:
    """The block entered and left by one task of its own, as cancel scopes want it; fixtures are left by another."""
    opened: asyncio.Future[Built] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def keep() -> None:
        async with block as built:
            opened.set_result(built)
            await done.wait()

    task = asyncio.create_task(keep(), name="house")
    await asyncio.wait([task, opened], return_when=asyncio.FIRST_COMPLETED)
    try:
        if opened.done():
            yield opened.result()
    finally:
        done.set()
        await task


async def furnish(built: House) -> None:
    """Two devices: the attic with a day of CO2 each minute and a doubtful temperature, the cellar with pressure."""
    await built.registry.declare(
        Device("attic", "Attic", zone_id="roof", location="under the roof", source="local"), [], 60
    )
    await built.add(
        *(reading(value=400.0 + minute, age=timedelta(minutes=1440 - minute)) for minute in range(1, 1441)),
        reading(quantity=Quantity.HUMIDITY, value=41.5),
        reading(
            quantity=Quantity.TEMPERATURE,
            value=21.25,
            age=timedelta(minutes=2),
            quality=Quality.UNCERTAIN,
            reason=Reason.WARM_UP,
        ),
        reading(
            "cellar",
            Quantity.PRESSURE,
            None,
            timedelta(hours=1),
            quality=Quality.BAD,
            reason=Reason.NOT_A_NUMBER,
            sensor="bmp280",
        ),
    )
