"""The durable way in: MQTT messages, acknowledged to the broker and to the node only after they are on disk."""

import asyncio
import logging
import random
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from paho.mqtt.client import MQTT_ERR_SUCCESS, Client, ConnectFlags
from paho.mqtt.enums import CallbackAPIVersion

from gateway.clock import Clock
from gateway.ingest import wire
from gateway.ingest.acks import Acks, Outgoing
from gateway.ingest.client import BulkClient, Publish
from gateway.ingest.dating import Dating, undated
from gateway.ingest.flood import Door, Limits, Reports
from gateway.ingest.foreign import Foreign
from gateway.ingest.hooks import Hooks
from gateway.ingest.notes import Handle, Notes
from gateway.ingest.pipeline import Done, Pipeline
from gateway.ingest.wire import Kind, WireError
from gateway.reading import Message
from gateway.store.types import Commit, Event

__all__ = ["Hooks", "MqttIngest"]

log = logging.getLogger(__name__)

KEEPALIVE_S = 30
RETRY_FIRST_S = 0.25
RETRY_LAST_S = 30.0
FLUSH_WITHIN_S = 5.0
HEARD_OUT_WITHIN_S = 1.0
NO_TOPIC = "ambient-gateway/nothing"
DRAINED_AFTER_S = 0.2  # a pause this long after a connect: what the broker had kept has arrived
DRAINED_BY_S = 60.0


@dataclass(slots=True)
class MqttCounts:
    """Since the start: data messages `received`, `refused` wholly, `stale` retained ones that nobody could date."""

    received: int = 0
    refused: int = 0
    stale: int = 0
    connects: int = 0
    acks: int = 0


class MqttIngest:
    """Owns the paho client and its thread; `async with`, inside the pipeline's.

    MQTT 3.1.1 with a persistent session (clean session false, fixed client id): it is the one version that both
    mosquitto and the embedded broker speak, and the session's life is the broker's configuration. Acknowledgements to
    nodes go out with QoS 0: one that is lost is repaired by the node's own repetition, one that is late would be stale.
    A PUBACK belongs to its connection: packet ids of an earlier one are never sent, the broker delivers again.
    """

    def __init__(
        self,
        host: str,
        port: int,
        pipeline: Pipeline,
        hooks: Hooks,
        clock: Clock,
        *,
        client_id: str = "ambient-gateway",
        username: str | None = None,
        password: str | None = None,
        foreign: Foreign | None = None,
        door: Door | None = None,
    ) -> None:
        self._host, self._port = host, port
        self._foreign = foreign
        self.door = door or Door(Limits())
        self._pipeline, self._hooks, self._clock = pipeline, hooks, clock
        self._client_id, self._username, self._password = client_id, username, password
        self.counts = MqttCounts()
        self._dating = Dating(on_known=hooks.on_boot_known)
        self._acks = Acks(hooks.node_key)
        self._reports = Reports()
        self._guard = threading.Lock()  # connection generation against acknowledgements from the loop
        self._generation = 0
        self._connected = False
        self._unsent: list[tuple[int, Sequence[int]]] = []
        self._paused = False
        self._draining, self._connected_s, self._heard_s, self._now_s = False, 0.0, 0.0, 0.0
        self._stop = threading.Event()
        self._group = asyncio.TaskGroup()
        self._retry_s = RETRY_FIRST_S

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._client = self._new_client()
        self._notes = Notes(self._send_pubacks)
        self._pipeline.listen(self._committed)
        await self._group.__aenter__()
        self._handler = self._group.create_task(self._notes.run(), name="ingest.mqtt.notes")
        self._thread = threading.Thread(target=self._run, name="ingest.mqtt", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take nothing more, acknowledge what can still be written, leave; the broker keeps the rest."""
        self._paused = True
        if not self._pipeline.counts.failing:
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_WITHIN_S):
                    await self._pipeline.flush()
        await self._heard_out()
        self._stop.set()
        self._client.disconnect()
        await asyncio.to_thread(self._thread.join)
        self._handler.cancel()
        await self._group.__aexit__(None, None, None)

    async def _heard_out(self) -> None:
        """Until the broker has dealt with our acknowledgements: what it has not read when a connection that it still
        sends on is closed is lost, and comes again. It answers in order, so any answer to a later request will do."""
        answered = asyncio.Event()

        def tell(*_: Any) -> None:
            self._loop.call_soon_threadsafe(answered.set)

        self._client.on_unsubscribe = tell
        with self._guard:
            if not self._connected:
                return
            self._client.unsubscribe(NO_TOPIC)
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARD_OUT_WITHIN_S):
                await answered.wait()

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted this session."""
        return self._connected

    def _new_client(self) -> BulkClient:
        options: dict[str, Any] = {"clean_session": False, "manual_ack": True, "arrived": self._arrived}
        client = BulkClient(CallbackAPIVersion.VERSION2, self._client_id, **options)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        # Without this a call from the loop would write to the socket itself, beside the thread that owns it.
        client.on_socket_register_write = lambda _client, _userdata, _socket: None
        if self._username is not None:
            client.username_pw_set(self._username, self._password)
        return client

    # The thread that owns the connection.

    def _run(self) -> None:
        while not self._stop.is_set():
            self._lost()
            try:
                self._client.connect(self._host, self._port, KEEPALIVE_S)
                if self._stop.is_set():  # __aexit__ may have found no connection to end yet
                    self._client.disconnect()
                while self._client.loop(timeout=KEEPALIVE_S / 2) == MQTT_ERR_SUCCESS:
                    pass
            except OSError as error:
                log.debug("broker: %s", error)
            except Exception:  # supervisor: whatever broke the connection, the next one is tried
                log.exception("connection to the broker")
            if not self._stop.is_set():
                self._report("broker", "", f"no connection to the broker at {self._host}:{self._port}, trying again")
                self._stop.wait(random.uniform(self._retry_s / 2, self._retry_s))  # noqa: S311 - jitter
                self._retry_s = min(self._retry_s * 2, RETRY_LAST_S)
        self._lost()

    def _lost(self) -> None:
        """From here on no acknowledgement of the old connection is sent."""
        with self._guard:
            self._connected = False
            self._generation += 1

    def _on_connect(self, client: Client, _userdata: Any, flags: ConnectFlags, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._report("broker", "", f"the broker refused us: {wire.clean(str(reason))}")
            return
        foreign = self._foreign.subscriptions if self._foreign else ()
        if self._foreign and self._foreign.unwanted and flags.session_present:
            client.unsubscribe(list(self._foreign.unwanted))
        client.subscribe([(topic, 1) for topic in (*wire.SUBSCRIPTIONS, *foreign)])
        self._retry_s = RETRY_FIRST_S
        self._draining = flags.session_present
        self._connected_s = self._heard_s = self._loop.time()
        self.counts.connects += 1
        with self._guard:
            self._connected = True

    def _on_disconnect(self, _client: Client, _userdata: Any, _flags: Any, _reason: Any, _properties: Any) -> None:
        self._lost()

    def _arrived(self, packets: Sequence[Publish]) -> None:
        """What one read of the socket brought; its readings are offered together, and acknowledged together."""
        if self._paused:
            return  # not acknowledged: the broker keeps it
        taken: list[Message] = []
        mids: list[int] = []
        trusted, self._now_s = self._clock.trusted(), self._loop.time()
        self._kept_by_broker(repeated=False)
        for packet in packets:
            try:
                messages = self._take(packet, trusted)
            except WireError as error:
                self._refuse(packet, str(error))
            except Exception as error:  # supervisor: a message that finds a bug must not come back for ever
                log.exception("message on %r", packet.topic)
                self._refuse(packet, f"internal error {error!r}")
            else:
                taken += messages
                if messages and packet.mid:
                    mids.append(packet.mid)
        if taken:
            done = partial(self._acknowledge, self._generation, mids) if mids else None
            self._pipeline.offer_all(taken, done, self._stop)
        if self._unsent:  # nothing of it has to wait for a commit
            self._send_pubacks()

    def _take(self, packet: Publish, trusted: bool) -> Sequence[Message]:
        """The readings in a message. Where there are none its acknowledgement is due, now or after its hooks."""
        if self._foreign is not None and not packet.topic.startswith("devices/"):
            others = self._said_by_others(self._foreign, packet, trusted)
            if others is not None:
                return others
        where = wire.route(packet.topic)
        if not self._admits(where.device, note=where.kind is not Kind.DATA):
            self._forget(packet)
            return ()
        if where.kind is not Kind.DATA:
            self._note(where, packet)
            return ()
        now = self._clock.now()
        message, problems = wire.decode_data(packet.topic, packet.payload, now, trusted)
        self.counts.received += 1
        if message.delivery is not None and not self.door.boot(where.device, message.delivery.boot, self._now_s):
            self._report(*self.door.why(where.device))
            self._forget(packet)
            return ()
        late = self._kept_by_broker(packet.dup)
        if problems:
            self._report("refused", message.device, f"{packet.topic}: {'; '.join(problems)}")
        if not message.timed and message.delivery is None:
            if packet.retain:
                self.counts.stale += 1
                self._forget(packet)
                return ()
            if late:
                message = undated(message)
        return (self._dating.date(message, now, trusted),)

    def _said_by_others(self, foreign: Foreign, packet: Publish, trusted: bool) -> Sequence[Message] | None:
        """The readings in a message of a dialect; None if it is of none."""
        late = self._kept_by_broker(packet.dup) or packet.retain
        decoded = foreign.decode(packet.topic, packet.payload, self._clock.now(), trusted=trusted, live=not late)
        if decoded is None:
            return None
        self.counts.received += len(decoded.messages)
        for device, rules in decoded.problems:
            self._report("refused", device, f"{packet.topic}: {rules}")
        told = [(device, partial(self._hooks.on_capabilities, device, said)) for device, said in decoded.capabilities]
        told += [(device, partial(self._hooks.on_status, device, online)) for device, online in decoded.statuses]
        notes = [(device, handle) for device, handle in told if self._admits(device, note=True)]
        fresh = [message for message in decoded.messages if message.timed or not packet.retain]
        kept = [message for message in fresh if self._admits(message.device)]
        self.counts.stale += len(decoded.messages) - len(fresh)
        for number, (device, handle) in enumerate(notes, 1):
            self._later(device, handle, self._done(packet) if number == len(notes) and not kept else None)
        if not notes and not kept:
            self._forget(packet)
        return [message if message.timed or not late else undated(message) for message in kept]

    def _admits(self, device: str, *, note: bool = False) -> bool:
        """Whether a device may say one thing more; where it may not that is told now and then."""
        taken = self.door.message(device, self._now_s, self._draining)
        if taken and (not note or self.door.note(device, self._now_s)):
            return True
        self._report(*self.door.why(device))
        return False

    def _kept_by_broker(self, repeated: bool) -> bool:
        """Whether it may have been sent long before: a repetition, or what the broker kept while we were away."""
        if not self._draining:
            return repeated
        now_s = self._loop.time()
        if now_s - self._heard_s >= DRAINED_AFTER_S or now_s - self._connected_s >= DRAINED_BY_S:
            self._draining = False
        self._heard_s = now_s
        return self._draining or repeated

    def _note(self, where: wire.Route, packet: Publish) -> None:
        topic, payload, device = packet.topic, packet.payload, where.device
        handle: Handle
        if not payload:  # a retained message that was cleared
            self._forget(packet)
            return
        if where.kind is Kind.CAPABILITIES:
            handle = partial(self._hooks.on_capabilities, device, wire.decode_capabilities(topic, payload))
        elif where.kind is Kind.STATUS:
            status = wire.decode_status(topic, payload)
            live = status.boot and not packet.retain and not packet.dup
            if live and status.uptime_ms is not None and self._clock.trusted():
                self._dating.seen(device, status.boot, status.uptime_ms, self._clock.now())
            handle = partial(self._status, device, status)
        elif where.kind is Kind.UPDATE:
            handle = partial(self._hooks.on_update, device, wire.decode_update(topic, payload))
        else:
            handle = partial(self._hooks.on_error, device, wire.decode_error(topic, payload))
        self._later(device, handle, self._done(packet))

    def _refuse(self, packet: Publish, rule: str) -> None:
        """Count and report what nobody can use, and let the broker forget it."""
        self.counts.refused += 1
        parts = packet.topic.split("/") if packet.topic.isprintable() else []
        device = wire.clean(parts[1], 64) if len(parts) > 1 else ""
        self._report("refused", device, rule)
        self._forget(packet)

    def _done(self, packet: Publish) -> Done | None:
        return partial(self._acknowledge, self._generation, (packet.mid,)) if packet.mid else None

    def _forget(self, packet: Publish) -> None:
        """Nothing of it has to be kept."""
        if packet.mid:
            self._acknowledge(self._generation, (packet.mid,))

    def _report(self, kind: str, device: str, text: str) -> None:
        """An event, where it is one's turn."""
        if not self._reports.due(kind, device, self._loop.time()):
            return
        event = Event(self._clock.now(), kind, device, wire.clean(text))
        self._later(device, partial(self._hooks.on_problem, event), None)

    def _later(self, device: str, handle: Handle, done: Done | None) -> None:
        self._notes.put(device, handle, done, self._stop)

    # The loop.

    async def _status(self, device: str, status: wire.Status) -> None:
        if status.online:
            self._hooks.on_boot(device, status.boot)
            self._publish_ack(self._acks.again(device))
        await self._hooks.on_status(device, status.online)
        if status.update is not None:
            await self._hooks.on_update(device, status.update)

    async def _committed(self, commit: Commit) -> None:
        self._send_pubacks()
        for ack in self._acks.committed(commit):
            self._publish_ack(ack)

    def _publish_ack(self, ack: Outgoing | None) -> None:
        with self._guard:
            if ack is not None and self._connected:
                self._client.publish(*ack, qos=0)
                self.counts.acks += 1

    def _acknowledge(self, generation: int, mids: Sequence[int]) -> None:
        """Due: sent together with the others of their batch."""
        with self._guard:
            self._unsent.append((generation, mids))

    def _send_pubacks(self) -> None:
        with self._guard:
            due, self._unsent = self._unsent, []
            if self._connected:
                self._client.acknowledge(
                    [mid for generation, mids in due if generation == self._generation for mid in mids]
                )
