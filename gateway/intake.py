"""How readings come in from outside: the broker, its subscription, serial nodes, and the pipeline they lead to."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from drivers.bus import SerialPort
from drivers.host.open import open_bus
from gateway import __version__, sensors
from gateway.broker import choice as brokers
from gateway.broker.local import Entrance
from gateway.brokering import Standing, open_broker
from gateway.config import ConfigError
from gateway.core import Core
from gateway.health import Metric
from gateway.ingest import command_wire
from gateway.ingest.dialects import is_foreign
from gateway.ingest.dialects.home_assistant import Channel, Exported, Origin
from gateway.ingest.flood import Door, Limits, Reports
from gateway.ingest.foreign import Foreign
from gateway.ingest.homeassistant import HomeAssistantOut
from gateway.ingest.mqtt import Hooks, MqttIngest
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.quality import Judge
from gateway.ingest.restamp import Restamp
from gateway.ingest.serial_nodes import SerialNodes
from gateway.ingest.wire import DeviceError
from gateway.nodes.boots import Boots
from gateway.nodes.commander import Commander, Unreachable
from gateway.nodes.orders import Orders, Way
from gateway.nodes.ota.fleet import Fleet
from gateway.nodes.sntp import TimeServer
from gateway.sensors import Plan
from gateway.store import commands, queries, redate
from gateway.store.types import Commit, Event

log = logging.getLogger(__name__)

GAPS_AT_ONCE, GAPS_TOGETHER = 60, 2000.0
"""Events of one device, and of all: a whole house may come back from an outage at once."""


@dataclass(frozen=True, slots=True)
class Intake:
    """How readings come in; `mqtt` and `commander` are None where the broker is off. `changed` hears which device
    people changed, `boots` knows which boot each node is in, `orders` are commands to them,
    `time` answers them, `fleet` knows what they run."""

    pipeline: Pipeline
    mqtt: MqttIngest | None
    judge: Judge
    broker: Standing
    boots: Boots
    orders: Orders
    time: TimeServer | None
    fleet: Fleet
    serial: tuple[SerialNodes, ...] = ()
    commander: Commander | None = None
    changed: Callable[[str], None] = lambda _device: None

    def on_air(self, device: str) -> bool:
        """Whether a device is heard over the broker and not on a cable."""
        return not any(port.reaches(device) for port in self.serial)

    def hears(self) -> bool:
        """Whether nodes of the broker can be heard now."""
        return self.mqtt is not None and self.mqtt.connected

    async def tell(self, topic: str, payload: bytes) -> None:
        """Publish something to a node; ConnectionError where the broker is away."""
        if self.commander is None:
            raise Unreachable("the broker is off in the settings")
        await self.commander.tell(topic, payload)

    def metrics(self) -> list[Metric]:
        """How the ways in are doing."""
        found: list[Metric] = []
        if (time := self.time) is not None:
            found += [
                Metric("gateway_ntp_answered_total", "Times that were told", lambda: time.counts.answered, True),
                Metric("gateway_ntp_refused_total", "Questions for it without one", time.refused, True),
            ]
        told = "Answers to commands that their node's key did not sign"
        found.append(Metric("gateway_command_results_refused_total", told, lambda: self.orders.forged, counter=True))
        if (local := self.broker.local) is not None:
            found.append(
                Metric("gateway_mqtt_logins_refused_total", "Wrong or missing", lambda: local.refused, counter=True)
            )
        if (mqtt := self.mqtt) is not None:
            found += [
                Metric("gateway_mqtt_connected", "1 while the broker is connected", lambda: mqtt.connected),
                Metric("gateway_mqtt_received_total", "Data messages", lambda: mqtt.counts.received, True),
                Metric("gateway_mqtt_refused_total", "Messages nobody can use", lambda: mqtt.counts.refused, True),
                Metric("gateway_mqtt_flooded_total", "Beyond a device's limit", lambda: mqtt.door.flooded, True),
                Metric("gateway_mqtt_strangers_total", "Beyond max_devices", lambda: mqtt.door.strangers, True),
            ]
        return found

    async def farewell(self, device: str) -> None:
        """Let the broker forget what it keeps of a node; ConnectionError where it is away."""
        if self.commander is not None and not is_foreign(device):
            await self.commander.clear(device)
        self.boots.forget(device)


async def open_intake(core: Core, plans: Sequence[Plan], stack: AsyncExitStack) -> Intake:
    """The broker, the pipeline and what feeds it from outside, for as long as the stack lives."""
    settings, store = core.config.mqtt, core.config.store
    judge = Judge(sensors.channels(plans))
    choice = None if settings.broker == "off" else brokers.choose(settings.broker)
    broker = await open_broker(core, choice, stack)
    pipeline = Pipeline(
        core.store.append,
        judge=judge,
        batch_rows=store.batch_rows,
        flush_interval_s=min(store.flush_interval_s, choice.flush_within_s if choice else store.flush_interval_s),
        window=choice.window if choice else 20,
        idle_commits_per_s=store.idle_commits_per_s if store.flush_on_idle else None,
    )
    boots, fleet = Boots(), Fleet(core.store, core.clock)
    await fleet.load()
    hooks = _listening(core, pipeline, boots, fleet)
    await stack.enter_async_context(pipeline)
    serial: list[SerialNodes] = []
    for node in core.config.serial_node:
        _serial_port(node.port)  # only reads the text, so that a wrong one is said at once
        port = SerialNodes(node.port, partial(_serial_port, node.port), pipeline, hooks, core.clock)
        serial.append(await stack.enter_async_context(port))
    time = await _time(core, broker, stack)
    if choice is None:
        orders = _orders(core, boots, serial, None)
        return Intake(pipeline, None, judge, broker, boots, orders, time, fleet, tuple(serial))
    ours = broker.entrance
    login = {"username": ours.username, "password": ours.password}
    out = await _home_assistant(core, pipeline, ours, stack) if settings.home_assistant else None
    mqtt = MqttIngest(
        ours.host,
        ours.port,
        pipeline,
        hooks,
        core.clock,
        client_id=settings.client_id,
        **login,
        foreign=_foreign(core),
        door=_door(core),
    )
    await stack.enter_async_context(mqtt)
    commander = Commander(ours.host, ours.port, **login)

    def changed(device: str) -> None:
        if out is not None and device:
            out.changed(device)

    orders = _orders(core, boots, serial, commander)
    return Intake(pipeline, mqtt, judge, broker, boots, orders, time, fleet, tuple(serial), commander, changed)


async def _time(core: Core, broker: Standing, stack: AsyncExitStack) -> TimeServer | None:
    """Nodes ask where their broker is: where that is another machine, it is not for us to answer unless told so."""
    settings, mqtt = core.config.ntp, core.config.mqtt
    host = settings.host or (broker.listens if mqtt.broker not in {"external", "off"} else None)
    if host is None or not settings.port:
        return None
    server = await stack.enter_async_context(TimeServer(host, settings.port, core.clock))
    if not settings.host:
        broker.follow(lambda: server.move(broker.listens))
    return server


def _orders(core: Core, boots: Boots, serial: Sequence[SerialNodes], commander: Commander | None) -> Orders:
    """Commands to nodes, each on the way by which it is heard."""

    def way(device: str) -> Way:
        for port in serial:
            if port.reaches(device):
                return port.exchange
        if commander is None:
            raise Unreachable("the broker is off in the settings")
        return commander.exchange

    return Orders(command_wire, way, core.keys.get, boots, lambda: int(core.clock.now().timestamp() * 1000))


def _listening(core: Core, pipeline: Pipeline, boots: Boots, fleet: Fleet) -> Hooks:
    """Who hears of commits, and of messages that are no readings."""

    async def capabilities(device: str, said: Mapping[str, Any]) -> None:
        await core.registry.capabilities(device, said)
        await fleet.capabilities(device, said)

    async def status(device: str, online: bool) -> None:
        await core.registry.reported_status(device, online)
        await fleet.status(device, boots.get(device) if online else None)

    async def spoke(commit: Commit) -> None:
        boots.seen(commit.marks)

    pipeline.listen(spoke)
    restamp = Restamp(core.clock, partial(redate.clock, core.store), partial(redate.boot, core.store))
    pipeline.listen(partial(committed, core, Reports(GAPS_TOGETHER)))
    pipeline.listen(restamp.committed)
    return Hooks(
        capabilities,
        status,
        partial(_device_error, core),
        partial(commands.add_event, core.store),
        core.keys.get,
        restamp.boot_known,
        boots.told,
        fleet.said,
    )


def _door(core: Core) -> Door:
    settings = core.config.mqtt
    return Door(Limits(settings.device_messages_per_s, settings.device_burst, settings.max_devices), core.registry.ids)


def _foreign(core: Core) -> Foreign:
    """The dialects that are spoken here; none of them is a dialect too, which gives up what an earlier start took."""
    try:
        return Foreign({str(name): prefix for name, prefix in core.config.mqtt.dialects.items()}, core.zone)
    except ValueError as error:
        raise ConfigError(f"mqtt.dialects: {error}") from error


async def _home_assistant(core: Core, pipeline: Pipeline, ours: Entrance, stack: AsyncExitStack) -> HomeAssistantOut:
    """Tell Home Assistant of every device that it does not hear by itself."""
    origin = Origin(core.identity.gateway_id, __version__)
    out = HomeAssistantOut(
        ours.host,
        ours.port,
        origin,
        lambda: [each.device_id for each in core.registry.devices() if not is_foreign(each.device_id)],
        partial(_exported, core),
        username=ours.username,
        password=ours.password,
    )
    await stack.enter_async_context(out)
    pipeline.listen(out.committed)
    return out


def _exported(core: Core, device_id: str) -> Exported | None:
    try:
        device, status = core.registry.device(device_id), core.registry.status(device_id)
    except LookupError:
        return None
    found = queries.find_series(core.store, device=device_id)
    channels = tuple(Channel(each.sensor, each.metric, each.quantity) for each in found)
    return Exported(device, channels, status.expected_interval_s)


async def committed(core: Core, reports: Reports, commit: Commit) -> None:
    """What a commit means for the house: who was heard, and which messages never came."""
    core.registry.seen(commit.fresh)
    now_s = asyncio.get_running_loop().time()
    for device in commit.crowded:
        if reports.due("crowded", device, now_s):
            text = "it has as many series as a device may have: readings of new ones are not stored"
            core.journal.note(Event(core.clock.now(), "crowded", device, text))
    for gap in commit.gaps:
        if not reports.due("gap", gap.device, now_s, GAPS_AT_ONCE):
            continue  # the store has it; a broken node must not fill the card
        text = f"messages {gap.first_seq} to {gap.last_seq} of boot {gap.boot} never arrived and are no longer held"
        core.journal.note(Event(core.clock.now(), "gap", gap.device, text))


async def _device_error(core: Core, device: str, error: DeviceError) -> None:
    text = f"{error.code}: {error.message}"
    await commands.add_event(core.store, Event(core.clock.now(), "device_error", device, text))


def _serial_port(text: str) -> AbstractAsyncContextManager[SerialPort]:
    try:
        return open_bus(text, wanted=SerialPort)
    except ValueError as error:
        raise ConfigError(f"serial_node: {error}") from error
