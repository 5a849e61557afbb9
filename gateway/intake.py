"""How readings come in from outside: the broker, its subscription, serial nodes, and the pipeline they lead to."""

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from drivers.bus import SerialPort
from drivers.host.open import open_bus
from gateway import __version__, sensors
from gateway.broker import choice as brokers
from gateway.config import ConfigError, secret
from gateway.core import Core
from gateway.ingest import wire
from gateway.ingest.dialects import is_foreign
from gateway.ingest.dialects.home_assistant import Channel, Exported, Origin
from gateway.ingest.foreign import Foreign
from gateway.ingest.homeassistant import HomeAssistantOut
from gateway.ingest.mqtt import Hooks, MqttIngest
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.quality import Judge
from gateway.ingest.restamp import Restamp
from gateway.ingest.serial_nodes import SerialNodes
from gateway.ingest.wire import DeviceError
from gateway.nodes.commander import Commander, Unreachable
from gateway.sensors import Plan
from gateway.store import commands, queries, redate
from gateway.store.types import Commit, Event

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Intake:
    """How readings come in; `mqtt` and `commander` are None where the broker is off. `changed` hears which device
    people changed."""

    pipeline: Pipeline
    mqtt: MqttIngest | None
    judge: Judge
    broker: str
    serial: tuple[SerialNodes, ...] = ()
    commander: Commander | None = None
    changed: Callable[[str], None] = lambda _device: None

    async def send(self, device: str, name: str, args: Mapping[str, Any], timeout_s: float) -> tuple[bool, Any]:
        """A command to a node, on the way by which it is heard: (ok, result or error text)."""
        for port in self.serial:
            if device in port.devices and port.connected.is_set():
                return await port.command(device, secrets.token_hex(8), name, args, timeout_s)
        if self.commander is None:
            raise Unreachable("the broker is off in the settings")
        return await self.commander.send(device, name, args, timeout_s)

    async def farewell(self, device: str) -> None:
        """Let the broker forget what it keeps of a node; ConnectionError where it is away."""
        if self.commander is not None and not is_foreign(device):
            await self.commander.clear(device)


async def open_intake(core: Core, plans: Sequence[Plan], stack: AsyncExitStack) -> Intake:
    """The broker, the pipeline and what feeds it from outside, for as long as the stack lives."""
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
    hooks = _listening(core, pipeline)
    await stack.enter_async_context(pipeline)
    serial: list[SerialNodes] = []
    for node in core.config.serial_node:
        _serial_port(node.port)  # only reads the text, so that a wrong one is said at once
        port = SerialNodes(node.port, partial(_serial_port, node.port), pipeline, hooks, core.clock)
        serial.append(await stack.enter_async_context(port))
    if choice is None:
        return Intake(pipeline, None, judge, "off", tuple(serial))
    password = secret(settings.password_file)
    out = await _home_assistant(core, pipeline, password, stack) if settings.home_assistant else None
    mqtt = MqttIngest(
        settings.host,
        settings.port,
        pipeline,
        hooks,
        core.clock,
        client_id=settings.client_id,
        username=settings.username,
        password=password,
        foreign=_foreign(core),
    )
    await stack.enter_async_context(mqtt)
    where = f"{choice.kind} at {settings.host}:{settings.port} ({choice.reason})"
    login = {"username": settings.username, "password": password}
    commander = Commander(settings.host, settings.port, wire.encode_command, wire.decode_result, **login)

    def changed(device: str) -> None:
        if out is not None and device:
            out.changed(device)

    return Intake(pipeline, mqtt, judge, where, tuple(serial), commander, changed)


def _listening(core: Core, pipeline: Pipeline) -> Hooks:
    """Who hears of commits, and of messages that are no readings."""
    restamp = Restamp(core.clock, partial(redate.clock, core.store), partial(redate.boot, core.store))
    pipeline.listen(partial(committed, core))
    pipeline.listen(restamp.committed)
    return Hooks(
        core.registry.capabilities,
        core.registry.reported_status,
        partial(_device_error, core),
        partial(commands.add_event, core.store),
        core.keys.get,
        restamp.boot_known,
    )


def _foreign(core: Core) -> Foreign:
    """The dialects that are spoken here; none of them is a dialect too, which gives up what an earlier start took."""
    try:
        return Foreign({str(name): prefix for name, prefix in core.config.mqtt.dialects.items()}, core.zone)
    except ValueError as error:
        raise ConfigError(f"mqtt.dialects: {error}") from error


async def _home_assistant(
    core: Core, pipeline: Pipeline, password: str | None, stack: AsyncExitStack
) -> HomeAssistantOut:
    """Tell Home Assistant of every device that it does not hear by itself."""
    settings, origin = core.config.mqtt, Origin(core.identity.gateway_id, __version__)
    out = HomeAssistantOut(
        settings.host,
        settings.port,
        origin,
        lambda: [each.device_id for each in core.registry.devices() if not is_foreign(each.device_id)],
        partial(_exported, core),
        username=settings.username,
        password=password,
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


async def committed(core: Core, commit: Commit) -> None:
    """What a commit means for the house: who was heard, and which messages never came."""
    core.registry.seen(commit.fresh)
    for gap in commit.gaps:
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
