"""Nodes on a serial port: the topics and payloads of MQTT, one JSON line each, acknowledged after the commit.

A line, in both directions, is {"topic": TOPIC, "payload": OBJECT} in UTF-8, ended by LF or CR LF, at most LINE_LIMIT
bytes: the full topic of MQTT (the device id is in it, never in the payload) with the payload that MQTT would carry.

    node -> gateway   devices/{id}/sensors/{s}/data   …/capabilities   …/status   …/error   …/commands/{cid}/result
    gateway -> node   devices/{id}/ack   devices/{id}/commands/{cid}

A UART has no checksum of its own and a lost digit is still a number, so a line may end in a third member, and the
gateway's do: …,"crc":"0a1b2c3d"} with the CRC-32 (zlib) of all bytes before the comma in front of it, in eight
hexadecimal digits. A line whose crc is wrong is not taken, so its node sends it again. What does not begin with "{" is
noise (a boot loader, a log) and ignored. Delivery is that of MQTT: a node keeps a numbered message until an ack covers
it and repeats it after a pause and after each start; there is no last will, an unplugged port stands for it.
"""

import asyncio
import json
import logging
import random
import re
import threading
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Never, Self

from drivers.bus import SerialPort
from drivers.errors import BadData, BusTimeout, DriverError
from gateway.clock import Clock
from gateway.ingest import wire
from gateway.ingest.acks import Acks
from gateway.ingest.dating import Dating
from gateway.ingest.flood import REPORT_EVERY_S
from gateway.ingest.hooks import Hooks
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.wire import Kind, WireError
from gateway.store.errors import StoreError
from gateway.store.types import Commit, Event

log = logging.getLogger(__name__)

LINE_LIMIT = 16 * 1024
CHECKSUM = re.compile(rb',"crc":"([0-9a-f]{8})"}$')
DEVICES_LIMIT = 256  # behind one port
OUTBOX_LIMIT = 1024
COMMANDS_LIMIT = 64
SILENCE_S = 3600.0  # how long one wait for a line lasts; silence is no fault here
RETRY_FIRST_S = 0.5
RETRY_LAST_S = 5.0  # a person with a plug in the hand waits


def decode_line(line: bytes) -> tuple[str, bytes]:
    """(topic, payload) of one line without its end; WireError for what is none."""
    checked = CHECKSUM.search(line)
    if checked is not None and zlib.crc32(line[: checked.start()]) != int(checked[1], 16):
        raise WireError("line", "the crc is that of the bytes before it", checked[1].decode())
    try:
        body = json.loads(line.decode())
        if type(body) is not dict or type(body.get("topic")) is not str or type(body.get("payload")) is not dict:
            raise WireError("line", 'a line is {"topic": text, "payload": object}', line[:80].decode(errors="replace"))
        if checked is None and "crc" in body:
            raise WireError(
                "line", 'a crc is eight hexadecimal digits and ends the line: ,"crc":"0a1b2c3d"}', body["crc"]
            )
        return body["topic"], json.dumps(body["payload"], separators=(",", ":")).encode()
    except RecursionError:
        raise WireError("line", "a line is not nested that deeply") from None
    except ValueError as error:
        raise WireError("line", f"a line is JSON in UTF-8 ({wire.clean(str(error), 80)})") from None


def encode_line(topic: str, payload: bytes) -> bytes:
    """One line with its checksum and end; `payload` is a JSON object on one line."""
    start = b'{"topic":' + json.dumps(topic).encode() + b',"payload":' + payload
    return start + b',"crc":"%08x"}\n' % zlib.crc32(start)


@dataclass(slots=True)
class SerialCounts:
    """Since the start: lines taken (`received`), `refused`, `noise` that was none; `dropped` from a full outbox."""

    received: int = 0
    refused: int = 0
    noise: int = 0
    acks: int = 0
    dropped: int = 0
    connects: int = 0


class SerialNodes:
    """The nodes behind one port; `async with`, inside the pipeline's. A missing port is waited for, for ever.

    `opened` opens the port anew each time it is called. While the store takes nothing, nothing is read: what the kernel
    cannot hold is lost on the way and repeated by its node.
    """

    def __init__(
        self,
        name: str,
        opened: Callable[[], AbstractAsyncContextManager[SerialPort]],
        pipeline: Pipeline,
        hooks: Hooks,
        clock: Clock,
    ) -> None:
        self._name, self._opened = name, opened
        self._pipeline, self._hooks, self._clock = pipeline, hooks, clock
        self.counts = SerialCounts()
        self.connected = asyncio.Event()
        self._acks, self._dating = Acks(hooks.node_key), Dating(on_known=hooks.on_boot_known)
        self._devices: OrderedDict[str, None] = OrderedDict()
        self._outbox: OrderedDict[str, bytes] = OrderedDict()  # by topic: only the newest acknowledgement matters
        self._results: dict[str, tuple[asyncio.Future[bytes], Callable[[bytes], bool]]] = {}
        self._wake = asyncio.Event()
        self._reported: dict[str, float] = {}
        self._stop = threading.Event()  # ends an offer that waits for room
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        self._pipeline.listen(self._committed)
        await self._group.__aenter__()
        self._task = self._group.create_task(self._run(), name=f"ingest.serial {self._name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take nothing more; what was not acknowledged stays with the nodes."""
        self._stop.set()
        self._task.cancel()
        await self._group.__aexit__(None, None, None)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that were heard behind this port, the longest silent first."""
        return tuple(self._devices)

    def reaches(self, device: str) -> bool:
        """Whether this device is behind this port now."""
        return device in self._devices and self.connected.is_set()

    async def exchange(self, topic: str, payload: bytes, accepts: Callable[[bytes], bool]) -> bytes:
        """Send a command and return the first accepted result's payload, however long that takes; LookupError for a
        device that is not behind this port. One that is called off before the port took it is not sent."""
        if not self.reaches(wire.route(topic).device):
            raise LookupError(f"{topic}: its device is not connected to {self._name}")
        if topic in self._results or len(self._results) >= COMMANDS_LIMIT:
            raise ValueError(f"{topic} is still running, or {COMMANDS_LIMIT} others are")
        result: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._results[topic] = (result, accepts)
        self._post(topic, payload)
        try:
            return await result
        finally:
            del self._results[topic]
            self._outbox.pop(topic, None)

    async def _run(self) -> Never:
        """Keep the port open; each time it is lost its devices are away."""
        retry_s = RETRY_FIRST_S
        while True:
            try:
                async with self._opened() as port, asyncio.TaskGroup() as group:
                    retry_s = RETRY_FIRST_S
                    self.counts.connects += 1
                    self.connected.set()
                    group.create_task(self._send(port), name=f"ingest.serial.send {self._name}")
                    await self._listen(port)
            except* DriverError as errors:
                first = errors.exceptions[0]
                await self._report("port", "", f"{self._name}: {first}")
            await self._away()
            await asyncio.sleep(random.uniform(retry_s / 2, retry_s))  # noqa: S311 - jitter
            retry_s = min(retry_s * 2, RETRY_LAST_S)

    async def _away(self) -> None:
        if not self.connected.is_set():
            return
        self.connected.clear()
        self._outbox.clear()
        for device in self.devices:
            await self._tell(partial(self._hooks.on_status, device, False))

    async def _listen(self, port: SerialPort) -> Never:
        while True:
            try:
                line = await port.readline(LINE_LIMIT, SILENCE_S)
            except BusTimeout:
                continue
            except BadData as error:
                await self._refuse("", str(error))
                continue
            if not line.startswith(b"{"):
                self.counts.noise += bool(line)
                continue
            await self._take(line)

    async def _take(self, line: bytes) -> None:
        device = ""
        try:
            topic, payload = decode_line(line)
            where = wire.route(topic)
            device = where.device
            await self._message(where, topic, payload)
        except WireError as error:
            await self._refuse(device, str(error))
        except Exception as error:  # supervisor: a line that finds a bug must not stop the others
            log.exception("line from %s", self._name)
            await self._refuse(device, f"internal error {error!r}")

    async def _message(self, where: wire.Route, topic: str, payload: bytes) -> None:
        device = where.device
        match where.kind:
            case Kind.DATA:
                await self._data(topic, payload, device)
            case Kind.CAPABILITIES:
                await self._tell(partial(self._hooks.on_capabilities, device, wire.decode_capabilities(topic, payload)))
            case Kind.STATUS:
                await self._status(device, wire.decode_status(topic, payload))
            case Kind.ERROR:
                await self._tell(partial(self._hooks.on_error, device, wire.decode_error(topic, payload)))
            case Kind.RESULT:
                result, accepts = self._results.get(topic.removesuffix("/result"), (None, None))
                if result is not None and accepts is not None and not result.done() and accepts(payload):
                    result.set_result(payload)
            case _:
                raise WireError(topic, "a node does not say this")
        self.counts.received += 1
        self._heard(device)

    async def _data(self, topic: str, payload: bytes, device: str) -> None:
        now, trusted = self._clock.now(), self._clock.trusted()
        message, problems = wire.decode_data(topic, payload, now, trusted)
        self._heard(device)  # before the offer: its acknowledgement may be faster than this task
        if problems:
            await self._report("refused", device, f"{topic}: {'; '.join(problems)}")
        dated = self._dating.date(message, now, trusted)
        await asyncio.to_thread(self._pipeline.offer, dated, None, self._stop)

    async def _status(self, device: str, status: wire.Status) -> None:
        if status.boot and status.uptime_ms is not None and self._clock.trusted():
            self._dating.seen(device, status.boot, status.uptime_ms, self._clock.now())
        if status.online:
            self._hooks.on_boot(device, status.boot)
            if (ack := self._acks.again(device)) is not None:
                self._post(*ack)
        await self._tell(partial(self._hooks.on_status, device, status.online))

    def _heard(self, device: str) -> None:
        self._devices[device] = None
        self._devices.move_to_end(device)
        if len(self._devices) > DEVICES_LIMIT:
            self._devices.popitem(last=False)

    async def _committed(self, commit: Commit) -> None:
        for topic, payload in self._acks.committed(commit):
            if wire.route(topic).device in self._devices and self.connected.is_set():
                self._post(topic, payload)
                self.counts.acks += 1

    def _post(self, topic: str, payload: bytes) -> None:
        """Send as soon as the port takes it; never waits."""
        self._outbox[topic] = payload
        if len(self._outbox) > OUTBOX_LIMIT:
            self._outbox.popitem(last=False)
            self.counts.dropped += 1
        self._wake.set()

    async def _send(self, port: SerialPort) -> Never:
        while True:
            self._wake.clear()
            while self._outbox:
                try:
                    await port.write(encode_line(*self._outbox.popitem(last=False)))
                except BusTimeout:  # it does not listen: its repetitions ask again
                    self.counts.dropped += 1
            await self._wake.wait()

    async def _refuse(self, device: str, rule: str) -> None:
        self.counts.refused += 1
        await self._report("refused", device, f"{self._name}: {rule}")

    async def _report(self, kind: str, device: str, text: str) -> None:
        """An event, at most one a kind and minute: which device a broken line means is not sure."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._reported.get(kind, -REPORT_EVERY_S) < REPORT_EVERY_S:
            return
        self._reported[kind] = now_s
        await self._tell(partial(self._hooks.on_problem, Event(self._clock.now(), kind, device, wire.clean(text))))

    async def _tell(self, hook: Callable[[], Awaitable[None]]) -> None:
        try:
            await hook()
        except StoreError as error:
            log.error("not kept: %s", error)
