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
from gateway import __version__, banner, control, faring, heap, sensors
from gateway.access.policy import Plain, is_loopback
from gateway.access.principal import Scope
from gateway.acting import Acting, Outside, open_acting
from gateway.asking import Asking, open_asking
from gateway.broker.local import AUTO, Entrance
from gateway.calibration import pressure, remote
from gateway.calibration.service import Calibrations, Judgement, Target, stored
from gateway.clock import RELEASED, Clock, SystemClock
from gateway.config import Config, ConfigError
from gateway.control import Commands, PairingCommands
from gateway.control.hearing import HearingCommands
from gateway.core import Core, open_core
from gateway.discovery.addresses import addresses, reachable
from gateway.discovery.mdns import Announcer
from gateway.ingest.flood import Reports
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.quality import Doubt
from gateway.intake import Intake, committed, open_intake
from gateway.mcp import server as mcp
from gateway.mcp.endpoint import Endpoint
from gateway.nodes.ota.offer import Source, source
from gateway.reading import Message
from gateway.sensors import Plan, Wired
from gateway.store import commands
from gateway.store.db import Store
from gateway.store.types import Commit, Device, Event, Sensor
from gateway.updating import Ways
from gateway.web import app as web
from gateway.web import headers
from gateway.web.crowd import Crowd
from gateway.web.firmware import FirmwareRoutes
from gateway.web.serve import Serving

log = logging.getLogger(__name__)

MCP_REVISIONS = ("2026-07-28", "2025-11-25", "2025-06-18")
FIRST_TOKEN, DEMO_TOKEN = "first", "demo"


class Play(Protocol):
    """What the demo adds to a gateway: history before it starts, nodes while it runs."""

    async def seed(self, pipeline: Pipeline, store: Store, clock: Clock) -> None: ...

    async def run(self, broker: Entrance, add_key: Callable[[str], Awaitable[str]]) -> Never: ...


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
        updating = acting.updating
        downloads = FirmwareRoutes(updating.shelf, updating.offers)
        serving = await _web(core, intake, endpoint, asking, stack, downloads=downloads)
        updating.offers.source = _source(core, serving)
        intake.pipeline.listen(updating.rollouts.committed)
        if play is not None:
            await _seed(core, intake, play)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        group.create_task(core.registry.run(), name="registry")
        group.create_task(core.journal.run(), name="journal")
        group.create_task(core.keeper.run(), name="keeper")
        group.create_task(asking.files.run(), name="files")
        group.create_task(updating.rollouts.run(), name="rollouts")
        wired = Wired(partial(_sensor_changed, core))
        put = _feeding(core, intake, calibrations, givers)
        wired.start(group, attached, put, clock, partial(_restarted, intake, clock))
        if play is not None and intake.mqtt is not None:
            group.create_task(play.run(intake.broker.entrance, core.keys.add), name="demo")
        await wired.first_signs(plans)
        await _announce(core, intake, serving, stack)
        pages = partial(_pairing_pages, core, serving)
        acting.commands.add(HearingCommands(intake.pipeline.listen))
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
    pipeline.listen(partial(committed, core, Reports()))
    async with pipeline:
        await play.seed(pipeline, core.store, core.clock)


def _outside(core: Core, intake: Intake, calibrations: Calibrations, settings: Path | None, asking: Asking) -> Outside:
    """What commands may touch beyond the store."""
    return Outside(
        calibrations,
        intake.orders.send,
        intake.farewell,
        intake.changed,
        partial(faring.status, core, intake),
        settings,
        asking.files,
        asking.analysis.call,
        connected=intake.broker.connected,
        unguarded=lambda: intake.broker.unguarded,
        ways=Ways(intake.fleet, intake.tell, intake.hears, intake.on_air),
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
            troubles=faring.troubles(core, intake),
        ),
    )
    acting.follow(endpoint)
    await stack.enter_async_context(endpoint)

    async def notify(commit: Commit) -> None:
        endpoint.notify(commit)

    intake.pipeline.listen(notify)
    return endpoint


async def _web(
    core: Core,
    intake: Intake,
    endpoint: Endpoint,
    asking: Asking,
    stack: AsyncExitStack,
    *,
    downloads: FirmwareRoutes,
) -> Serving:
    settings = core.config.http
    site = web.Site(core.config.site.name, core.zone, core.store, core.registry, core.clock, core.identity, core.desk)
    hosts = headers.names(core.identity.gateway_id, socket.gethostname(), settings.allowed_hosts)
    app = web.build(
        site,
        endpoint,
        faring.watch(core, intake),
        lambda: hosts,
        plain=Plain(settings.plain),
        routes=(*asking.routes, *downloads.routes()),
        limits=asking.limits,
        node=downloads.bearer,
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


def _source(core: Core, serving: Serving) -> Source:
    """Where nodes download updates; where the broker is another machine they are told an address of ours."""
    http, mqtt = core.config.http, core.config.mqtt
    is_near = mqtt.broker != "external" or mqtt.host == AUTO or is_loopback(mqtt.host)
    host = "" if is_near else next(iter(_own_addresses(http.host)), "")
    return source(host, (http.host, serving.ports.get("http")), (http.https_host, serving.ports["https"]))


async def _announce(core: Core, intake: Intake, serving: Serving, stack: AsyncExitStack) -> None:
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
        mqtt=intake.broker.outside,
    )
    await stack.enter_async_context(announcer)
    intake.broker.follow(lambda: announcer.broker(intake.broker.outside))


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
        find=partial(remote.find, core.store, core.keys.get, intake.orders.send),
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
            str(intake.broker),
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
