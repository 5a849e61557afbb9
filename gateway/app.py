"""Composition root: settings -> objects -> one TaskGroup. Nothing imports it but the command line."""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Never, Protocol

from drivers.api import Calibratable, Driver
from gateway import __version__, banner, control, heap, sensors, wear
from gateway.access.policy import Plain, is_loopback
from gateway.access.principal import Scope
from gateway.acting import Acting, Outside, open_acting
from gateway.asking import Asking, open_asking
from gateway.calibration import pressure
from gateway.calibration.service import Calibrations, Judgement, Target, stored
from gateway.clock import RELEASED, Clock, SystemClock
from gateway.config import Config, ConfigError
from gateway.control import Commands, PairingCommands, StatusView, WearView
from gateway.core import Core, open_core
from gateway.discovery.addresses import addresses, reachable
from gateway.discovery.mdns import Announcer
from gateway.health import Metric, prometheus, resident_bytes
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.quality import Doubt
from gateway.intake import Intake, committed, open_intake
from gateway.mcp import server as mcp
from gateway.mcp.endpoint import Endpoint
from gateway.mcp.troubles import Troubles, disk_low
from gateway.reading import Message
from gateway.sensors import Plan, Wired
from gateway.store import commands, queries
from gateway.store.db import Store
from gateway.store.types import Commit, Device, Event, Sensor
from gateway.wear import Wear
from gateway.web import app as web
from gateway.web import headers
from gateway.web.crowd import Crowd
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


async def run(config: Config, folder: Path, play: Play | None = None, settings: Path | None = None) -> None:
    """Run until SIGINT or SIGTERM. Errors that a person can mend are raised with one clear line each. `settings` is the
    file that `config` was read from, for backups."""
    clock = SystemClock()
    if config.clock.require and not clock.trusted():
        raise ConfigError(
            f"the clock says {clock.now():%Y-%m-%d %H:%M} UTC, before this release was made ({RELEASED:%Y-%m-%d}): "
            "set it (NTP or `date -s`), or let readings be stored as uncertain with require = false in [clock]"
        )
    plans = sensors.plan(config)
    async with asyncio.TaskGroup() as group:
        gateway = group.create_task(_serve(config, folder, clock, plans, play=play, settings=settings), name="gateway")
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, gateway.cancel)


@asynccontextmanager
async def offline(folder: Path) -> AsyncIterator[Commands]:
    """Commands on a data folder that no gateway runs on."""
    async with AsyncExitStack() as stack:
        core = await open_core(Config(), folder, SystemClock(), stack)
        yield (await open_acting(core, Outside(), stack)).commands


async def _serve(
    config: Config, folder: Path, clock: Clock, plans: Sequence[Plan], *, play: Play | None, settings: Path | None
) -> None:
    async with AsyncExitStack() as stack:
        core = await open_core(config, folder, clock, stack)
        await _declare(core, plans)
        attached = await sensors.attach(plans, stack, partial(_bus_healed, core))
        stack.enter_context(heap.settled())
        intake = await open_intake(core, plans, stack)
        givers = pressure.sources(config.device, plans)
        calibrations = _calibrations(core, intake, attached, givers)
        asking = await open_asking(core, stack)
        acting = await open_acting(core, _outside(core, intake, calibrations, settings, asking), stack)
        endpoint = await _endpoint(core, intake, acting, asking, stack)
        serving = await _web(core, intake, endpoint, asking, stack)
        if play is not None:
            await _seed(core, intake, play)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        group.create_task(core.registry.run(), name="registry")
        group.create_task(core.journal.run(), name="journal")
        group.create_task(core.keeper.run(), name="keeper")
        group.create_task(asking.files.run(), name="files")
        wired = Wired(partial(_sensor_changed, core))
        put = _feeding(core, intake, calibrations, givers)
        wired.start(group, attached, put, clock, partial(_restarted, intake, clock))
        if play is not None and intake.mqtt is not None:
            group.create_task(play.run(config.mqtt.host, config.mqtt.port, core.keys.add), name="demo")
        await wired.first_signs(plans)
        await _announce(core, serving, stack)
        pages = partial(_pairing_pages, core, serving)
        acting.commands.add(PairingCommands(core.desk, pages, core.identity.fingerprint))
        await stack.enter_async_context(control.serve(folder, acting.commands))
        print(await _welcome(core, intake, serving, play), flush=True)  # noqa: T201 - what `gateway run` says
        await asyncio.get_running_loop().create_future()


async def _declare(core: Core, plans: Sequence[Plan]) -> None:
    """Tell the registry of the wired devices."""
    for device in core.config.device:
        own = [plan for plan in plans if plan.device == device.id]
        known = Device(
            device.id, device_name=device.name, zone_id=device.zone, location=device.location, source="local"
        )
        chips = [Sensor(0, device.id, plan.sensor, getattr(plan.driver, "KIND", plan.kind)) for plan in own]
        interval_s = min((plan.interval_s for plan in own), default=None)
        await core.registry.declare(known, chips, interval_s)


async def _seed(core: Core, intake: Intake, play: Play) -> None:
    """History by a pipeline of its own, so that the first live batch is still committed at once."""
    pipeline = Pipeline(core.store.append, judge=intake.judge)
    pipeline.listen(partial(committed, core))
    async with pipeline:
        await play.seed(pipeline, core.store, core.clock)


def _troubles(core: Core, intake: Intake) -> Troubles:
    """What is wrong with the gateway itself, for those who ask what is wrong."""
    mqtt, counts = intake.mqtt, intake.pipeline.counts
    lost = "the connection to the broker is lost: no node is heard until it is back"
    return Troubles(
        core.clock,
        {
            "store": lambda: counts.failing,
            "broker": lambda: "" if mqtt is None or mqtt.connected else lost,
            "disk": partial(disk_low, core.folder, core.config.store.warn_free_mb),
        },
    )


def _outside(core: Core, intake: Intake, calibrations: Calibrations, settings: Path | None, asking: Asking) -> Outside:
    """What commands may touch beyond the store."""
    return Outside(
        calibrations,
        intake.send,
        intake.farewell,
        intake.changed,
        partial(_status, core, intake),
        settings,
        asking.files,
        asking.analysis.call,
    )


async def _endpoint(core: Core, intake: Intake, acting: Acting, asking: Asking, stack: AsyncExitStack) -> Endpoint:
    endpoint = mcp.build(
        core.store,
        core.registry,
        core.clock,
        core.zone,
        core.audit,
        name=core.config.site.name,
        version=__version__,
        plain=Plain(core.config.http.plain),
        more=mcp.More(
            groups=(*acting.groups(asking.ask), *asking.groups),
            extensions=asking.extensions,
            plots=asking.plots.png,
            clear=asking.questions.clear,
            troubles=_troubles(core, intake),
        ),
    )
    acting.follow(endpoint)
    await stack.enter_async_context(endpoint)

    async def notify(commit: Commit) -> None:
        endpoint.notify(commit)

    intake.pipeline.listen(notify)
    return endpoint


async def _web(core: Core, intake: Intake, endpoint: Endpoint, asking: Asking, stack: AsyncExitStack) -> Serving:
    settings = core.config.http
    site = web.Site(core.config.site.name, core.zone, core.store, core.registry, core.clock, core.identity, core.desk)
    hosts = headers.names(core.identity.gateway_id, socket.gethostname(), settings.allowed_hosts)
    app = web.build(
        site,
        endpoint,
        _watch(core, intake),
        lambda: hosts,
        plain=Plain(settings.plain),
        routes=asking.routes,
        limits=asking.limits,
    )
    serving = Serving(
        app,
        identity=core.identity,
        http=(settings.host, settings.port) if settings.plain != "off" else None,
        https=(settings.https_host, settings.https_port),
        drain=app.close,
        crowd=Crowd(waiting_of_a_place=core.config.access.waiting_connections),
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
        Metric(
            "gateway_bytes_written_total", "To the data's device", lambda: wear.written_bytes(core.written[0]), True
        ),
        Metric("gateway_hot_rows", "Readings that are not sealed yet", lambda: core.store.known.hot_rows),
        Metric("gateway_segments", "Sealed segments", lambda: len(core.store.segments)),
        Metric("gateway_requests_refused_total", "At the door", core.desk.refused.total, True),
        Metric("gateway_pairing_refused_total", "Codes not taken", core.desk.pairing.refused.total, True),
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


def _bus_healed(core: Core, bus: str, text: str) -> None:
    log.warning("%s: %s", bus, text)
    core.journal.note(Event(core.clock.now(), "bus", "", f"{bus}: {text}"))


def _sensor_changed(core: Core, device: str, sensor: str, error: Exception | None) -> None:
    core.registry.sensor_status(device, sensor, None if error is None else str(error) or type(error).__name__)


def _restarted(intake: Intake, clock: Clock, device: str, sensor: str) -> None:
    intake.judge.restarted(device, sensor, clock.now().timestamp())


def _calibrations(
    core: Core, intake: Intake, attached: Sequence[tuple[Plan, Driver]], givers: Mapping[tuple[str, str], str]
) -> Calibrations:
    targets = [
        Target(plan.device, plan.sensor, driver, driver.CHANNELS, plan.options, givers.get((plan.device, plan.sensor)))
        for plan, driver in attached
        if isinstance(driver, Calibratable)
    ]

    def doubt(series: tuple[str, str, str], from_s: float, until_s: float, verdict: Judgement) -> None:
        intake.judge.doubt(*series, Doubt(from_s, until_s, *verdict))

    return Calibrations(
        targets,
        recent=stored(core.store, intake.pipeline.flush, core.clock),
        record=partial(commands.add_event, core.store),
        note=core.journal.note,
        doubt=doubt,
        clock=core.clock,
    )


def _feeding(
    core: Core, intake: Intake, calibrations: Calibrations, givers: Mapping[tuple[str, str], str]
) -> Callable[[Message], Awaitable[None]]:
    """Where wired sensors put what they measured; directly after, they are told the pressure if it is time."""
    feed = pressure.PressureFeed(givers, calibrations.tell_pressure, core.clock)
    intake.pipeline.listen(feed.committed)

    async def put(message: Message) -> None:
        await intake.pipeline.put(message)
        await feed.after(message.device, message.sensor)

    return put


def _wear(core: Core, intake: Intake) -> Wear:
    counter, before = core.written
    elapsed_s = asyncio.get_running_loop().time() - core.started_s
    stored = intake.pipeline.counts.stored
    rating_tb = core.config.store.card_rating_tb
    return Wear(wear.described(counter), wear.written_bytes(counter) - before, elapsed_s, stored, rating_tb)


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
        data_bytes=counts.bytes_on_disk,
        free_bytes=counts.bytes_free,
        wear=WearView.of(_wear(core, intake)),
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
            core.desk.pairing.open("the start"),
        )
    )


def _pairing_pages(core: Core, serving: Serving) -> list[str]:
    """Where a pairing code is typed; HTTPS, whose fingerprint stands beside it."""
    hosts = _own_addresses(core.config.http.https_host) or ("127.0.0.1",)
    return [f"https://{banner.bracketed(host)}:{serving.ports['https']}/pair" for host in hosts]


def _own_addresses(host: str) -> Sequence[str]:
    """Where others find us: what we listen on, or every address where that is all of them."""
    return reachable(addresses()) if host in {"0.0.0.0", "::", ""} else (host,)  # noqa: S104
