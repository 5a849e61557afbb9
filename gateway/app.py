"""Composition root: settings -> objects -> one TaskGroup. Nothing imports it but the command line."""

import asyncio
import logging
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Never, Protocol
from zoneinfo import ZoneInfo

from gateway import __version__, banner, control, sensors
from gateway.access import identity as identities
from gateway.access.audit import Audit
from gateway.access.identity import Identity
from gateway.access.policy import Plain, is_loopback
from gateway.access.principal import Scope
from gateway.access.tokens import Tokens
from gateway.broker import choice as brokers
from gateway.clock import RELEASED, Clock, SystemClock
from gateway.config import Config, ConfigError, secret
from gateway.control import Commands, StatusView
from gateway.discovery.addresses import addresses, reachable
from gateway.discovery.mdns import Announcer
from gateway.health import Metric, prometheus, resident_bytes
from gateway.ingest.mqtt import Hooks, MqttIngest
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.quality import Judge
from gateway.ingest.wire import DeviceError
from gateway.mcp import server as mcp
from gateway.mcp.endpoint import Endpoint
from gateway.registry.registry import Registry
from gateway.sensors import Plan, Wired
from gateway.store import commands, queries
from gateway.store.db import Store
from gateway.store.types import Commit, Device, Event, Sensor
from gateway.web import app as web
from gateway.web import headers
from gateway.web.serve import Serving

log = logging.getLogger(__name__)

MCP_REVISIONS = ("2026-07-28", "2025-11-25", "2025-06-18")
WELL_LAG_S = 60.0
"""Readings that wait longer than this to be stored mean that the gateway is not well."""
FIRST_TOKEN, DEMO_TOKEN = "first", "demo"


class Play(Protocol):
    """What the demo adds to a gateway: history before it starts, nodes while it runs."""

    async def seed(self, pipeline: Pipeline, store: Store, clock: Clock) -> None: ...

    async def run(self, host: str, port: int, add_key: Callable[[str], Awaitable[str]]) -> Never: ...


class NodeKeys:
    """The nodes' keys: in memory for every acknowledgement, in the store for the next start."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys: dict[str, bytes] = {}

    async def load(self) -> None:
        """Read all keys from the store."""
        self._keys = dict(await queries.node_keys(self._store))

    def get(self, device: str) -> bytes | None:
        """The key of a device, None where it has none."""
        return self._keys.get(device)

    async def add(self, device: str) -> str:
        """Make a node's key, replacing an older one; 64 hexadecimal digits."""
        key = secrets.token_bytes(32)
        await commands.save_node_key(self._store, device, key)
        self._keys[device] = key
        return key.hex()


@dataclass(frozen=True, slots=True)
class Core:
    """What everything else stands on."""

    config: Config
    folder: Path
    clock: Clock
    zone: ZoneInfo
    store: Store
    registry: Registry
    identity: Identity
    tokens: Tokens
    audit: Audit
    keys: NodeKeys
    started_s: float


@dataclass(frozen=True, slots=True)
class Intake:
    """How readings come in; `mqtt` is None where the broker is off."""

    pipeline: Pipeline
    mqtt: MqttIngest | None
    judge: Judge
    broker: str


async def run(config: Config, folder: Path, play: Play | None = None) -> None:
    """Run until SIGINT or SIGTERM. Errors that a person can mend are raised with one clear line each."""
    clock = SystemClock()
    if config.clock.require and not clock.trusted():
        raise ConfigError(
            f"the clock says {clock.now():%Y-%m-%d %H:%M} UTC, before this release was made ({RELEASED:%Y-%m-%d}): "
            "set it (NTP or `date -s`), or let readings be stored as uncertain with require = false in [clock]"
        )
    plans = sensors.plan(config)
    async with asyncio.TaskGroup() as group:
        gateway = group.create_task(_serve(config, folder, clock, plans, play), name="gateway")
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, gateway.cancel)


@asynccontextmanager
async def offline(folder: Path) -> AsyncIterator[Commands]:
    """Commands on a data folder that no gateway runs on."""
    async with AsyncExitStack() as stack:
        core = await _core(Config(), folder, SystemClock(), stack)
        yield Commands(core.tokens, core.audit, core.clock, core.keys.add)


async def _serve(config: Config, folder: Path, clock: Clock, plans: Sequence[Plan], play: Play | None) -> None:
    async with AsyncExitStack() as stack:
        core = await _core(config, folder, clock, stack)
        await _declare(core, plans)
        attached = await sensors.attach(plans, stack)
        intake = await _intake(core, plans, stack)
        endpoint = await _endpoint(core, intake, stack)
        serving = await _web(core, intake, endpoint, stack)
        if play is not None:
            await play.seed(intake.pipeline, core.store, clock)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        group.create_task(core.registry.run(), name="registry")
        wired = Wired(partial(_sensor_changed, core, group))
        wired.start(group, attached, intake.pipeline.put, clock, partial(_restarted, intake, clock))
        if play is not None and intake.mqtt is not None:
            group.create_task(play.run(config.mqtt.host, config.mqtt.port, core.keys.add), name="demo")
        await wired.first_signs(plans)
        await _announce(core, serving, stack)
        commands_ = Commands(core.tokens, core.audit, clock, core.keys.add, partial(_status, core, intake))
        await stack.enter_async_context(control.serve(folder, commands_))
        print(await _welcome(core, intake, serving, play), flush=True)  # noqa: T201 - what `gateway run` says
        await asyncio.get_running_loop().create_future()


async def _core(config: Config, folder: Path, clock: Clock, stack: AsyncExitStack) -> Core:
    settings = config.store
    store = Store(folder, memory_limit_mb=settings.memory_limit_mb, threads=settings.threads)
    await stack.enter_async_context(store)
    identity = await asyncio.to_thread(identities.load_or_create, folder / "identity")
    registry, tokens, keys = Registry(store, clock), Tokens(store, clock, identity), NodeKeys(store)
    await registry.load()
    await tokens.load()
    await keys.load()
    stack.push_async_callback(registry.flush)
    audit = Audit(store, clock)
    zone, now_s = ZoneInfo(config.site.timezone), asyncio.get_running_loop().time()
    return Core(config, folder, clock, zone, store, registry, identity, tokens, audit, keys, now_s)


async def _declare(core: Core, plans: Sequence[Plan]) -> None:
    """Tell the registry of the wired devices."""
    for device in core.config.device:
        own = [plan for plan in plans if plan.device == device.id]
        known = Device(
            device.id, device_name=device.name, zone_id=device.zone, location=device.location, source="local"
        )
        chips = [Sensor(0, device.id, plan.sensor, plan.kind) for plan in own]
        interval_s = min((plan.interval_s for plan in own), default=None)
        await core.registry.declare(known, chips, interval_s)


async def _intake(core: Core, plans: Sequence[Plan], stack: AsyncExitStack) -> Intake:
    """The broker, the pipeline and the subscription between them."""
    settings, store = core.config.mqtt, core.config.store
    judge = Judge(sensors.channels(plans))
    choice = None if settings.broker == "off" else brokers.choose(settings.broker)
    if choice is not None:
        child = brokers.start(choice, settings.host, settings.port, core.folder / "broker")
        if child is not None:
            await stack.enter_async_context(child)
        if choice.warning:
            log.warning("%s broker: %s", choice.kind, choice.warning)
    pipeline = Pipeline(
        core.store.append,
        judge=judge,
        batch_rows=store.batch_rows,
        flush_interval_s=min(store.flush_interval_s, choice.flush_within_s if choice else store.flush_interval_s),
        window=choice.window if choice else 20,
    )
    pipeline.listen(partial(_committed, core))
    await stack.enter_async_context(pipeline)
    if choice is None:
        return Intake(pipeline, None, judge, "off")
    hooks = Hooks(
        core.registry.capabilities,
        core.registry.reported_status,
        partial(_device_error, core),
        partial(commands.add_event, core.store),
        core.keys.get,
    )
    mqtt = MqttIngest(
        settings.host,
        settings.port,
        pipeline,
        hooks,
        core.clock,
        client_id=settings.client_id,
        username=settings.username,
        password=secret(settings.password_file),
    )
    await stack.enter_async_context(mqtt)
    return Intake(pipeline, mqtt, judge, f"{choice.kind} at {settings.host}:{settings.port} ({choice.reason})")


async def _endpoint(core: Core, intake: Intake, stack: AsyncExitStack) -> Endpoint:
    endpoint = mcp.build(
        core.store,
        core.registry,
        core.clock,
        core.zone,
        core.audit,
        name=core.config.site.name,
        version=__version__,
        plain=Plain(core.config.http.plain),
    )
    await stack.enter_async_context(endpoint)

    async def notify(commit: Commit) -> None:
        endpoint.notify(commit)

    intake.pipeline.listen(notify)
    return endpoint


async def _web(core: Core, intake: Intake, endpoint: Endpoint, stack: AsyncExitStack) -> Serving:
    settings = core.config.http
    site = web.Site(core.config.site.name, core.zone, core.store, core.registry, core.clock, core.identity, core.tokens)
    hosts = headers.names(core.identity.gateway_id, socket.gethostname(), settings.allowed_hosts)
    app = web.build(site, endpoint, _watch(core, intake), lambda: hosts, plain=Plain(settings.plain))
    serving = Serving(
        app,
        identity=core.identity,
        http=(settings.host, settings.port) if settings.plain != "off" else None,
        https=(settings.https_host, settings.https_port),
        drain=app.close,
    )
    await stack.enter_async_context(serving)
    return serving


def _watch(core: Core, intake: Intake) -> web.Watch:
    """Liveness from progress: well is who stores what came in."""
    pipeline, mqtt = intake.pipeline, intake.mqtt
    now_s = asyncio.get_running_loop().time

    def live() -> web.Probe:
        return web.Probe(pipeline.lag_s < WELL_LAG_S, {})

    def ready() -> web.Probe:
        connected = mqtt is None or mqtt.connected
        detail = {"broker_connected": connected, "pending": pipeline.pending, "store": pipeline.counts.failing or "ok"}
        return web.Probe(connected and not pipeline.counts.failing, detail)

    metrics = [
        Metric("gateway_uptime_seconds", "Since the start", lambda: now_s() - core.started_s),
        Metric("gateway_memory_resident_bytes", "RAM of this process", resident_bytes),
        Metric("gateway_readings_stored_total", "Committed", lambda: pipeline.counts.stored, counter=True),
        Metric("gateway_duplicates_total", "Delivered again, stored once", lambda: pipeline.counts.duplicates, True),
        Metric("gateway_dropped_total", "Local readings without room", lambda: pipeline.counts.dropped, True),
        Metric("gateway_batches_total", "Commits", lambda: pipeline.counts.batches, True),
        Metric("gateway_store_failures_total", "Commits that failed", lambda: pipeline.counts.failures, True),
        Metric("gateway_pending_messages", "Not on disk yet", lambda: pipeline.pending),
        Metric("gateway_lag_seconds", "Age of the oldest message not on disk", lambda: pipeline.lag_s),
    ]
    if mqtt is not None:
        metrics += [
            Metric("gateway_mqtt_connected", "1 while the broker is connected", lambda: mqtt.connected),
            Metric("gateway_mqtt_received_total", "Data messages", lambda: mqtt.counts.received, True),
            Metric("gateway_mqtt_refused_total", "Messages nobody can use", lambda: mqtt.counts.refused, True),
        ]
    return web.Watch(live, ready, lambda: prometheus(metrics))


async def _announce(core: Core, serving: Serving, stack: AsyncExitStack) -> None:
    """Tell the network, unless nobody there could reach us."""
    settings = core.config
    if not settings.discovery.mdns or is_loopback(settings.http.https_host):
        return
    announcer = Announcer(
        name=core.config.site.name,
        gateway_id=core.identity.gateway_id,
        fingerprint=core.identity.fingerprint,
        http_port=None if is_loopback(settings.http.host) else serving.ports.get("http"),
        https_port=serving.ports["https"],
        version=__version__,
        mcp_revisions=MCP_REVISIONS,
    )
    await stack.enter_async_context(announcer)


async def _committed(core: Core, commit: Commit) -> None:
    core.registry.seen(commit.fresh)
    for gap in commit.gaps:
        text = f"messages {gap.first_seq} to {gap.last_seq} of boot {gap.boot} never arrived and are no longer held"
        await commands.add_event(core.store, Event(core.clock.now(), "gap", gap.device, text))


async def _device_error(core: Core, device: str, error: DeviceError) -> None:
    text = f"{error.code}: {error.message}"
    await commands.add_event(core.store, Event(core.clock.now(), "device_error", device, text))


def _sensor_changed(core: Core, group: asyncio.TaskGroup, device: str, sensor: str, error: Exception | None) -> None:
    text = f"{sensor}: {error}" if error is not None else f"{sensor} works"
    event = Event(core.clock.now(), "sensor", device, text)
    group.create_task(commands.add_event(core.store, event), name=f"event {device}/{sensor}")


def _restarted(intake: Intake, clock: Clock, device: str, sensor: str) -> None:
    intake.judge.restarted(device, sensor, clock.now().timestamp())


async def _status(core: Core, intake: Intake) -> StatusView:
    counts = await queries.counts(core.store)
    return StatusView(
        gateway_id=core.identity.gateway_id,
        fingerprint=core.identity.fingerprint,
        version=__version__,
        uptime_s=round(asyncio.get_running_loop().time() - core.started_s, 1),
        broker=intake.broker,
        readings=counts.readings,
        devices=len(core.registry.devices()),
    )


async def _welcome(core: Core, intake: Intake, serving: Serving, play: Play | None) -> str:
    """The text for the owner, with a new token where none was ever made; the demo's is replaced at each start."""
    token = None
    if play is not None:
        if any(row.name == DEMO_TOKEN and row.revoked is None for row in await core.tokens.list()):
            await core.tokens.revoke(DEMO_TOKEN)
        token = await core.tokens.create(DEMO_TOKEN, Scope.READ)
    elif not await core.tokens.list():
        token = await core.tokens.create(FIRST_TOKEN, Scope.READ)
    return banner.text(
        banner.Welcome(
            core.config.site.name,
            core.identity.gateway_id,
            core.identity.fingerprint,
            _own_addresses(core.config.http.host),
            serving.ports.get("http"),
            serving.ports["https"],
            token,
            intake.broker,
            core.folder,
        )
    )


def _own_addresses(host: str) -> Sequence[str]:
    """Where others find us: what we listen on, or every address where that is all of them."""
    return reachable(addresses()) if host in {"0.0.0.0", "::", ""} else (host,)  # noqa: S104
