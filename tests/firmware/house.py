"""A house for boards: who hears what they say, chips on their wires, and their keys."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiomqtt import Client

from bench.boards import Board, orders
from drivers.errors import DriverError, NoDevice
from drivers.testing.buses import Chip
from tests.running import command

HOST = "127.0.0.1"
WITHIN_S = 30.0

Said = tuple[str, dict[str, Any]]


class Ear:
    """Hears everything on a broker: `said` is (topic, body) in order."""

    def __init__(self) -> None:
        self.said: list[Said] = []
        self._more = asyncio.Condition()

    async def until(self, condition: Callable[[list[Said]], Any], within_s: float = WITHIN_S) -> Any:
        """What the condition gives as soon as that is true."""
        async with asyncio.timeout(within_s), self._more:
            return await self._more.wait_for(lambda: condition(self.said))

    async def message(self, ending: str, **body: Any) -> dict[str, Any]:
        """The first message of such a topic with these entries."""

        def found(said: list[Said]) -> list[dict[str, Any]]:
            return [told for topic, told in said if topic.endswith(ending) and body.items() <= told.items()]

        return dict((await self.until(found))[0])

    async def listen(self, client: Client) -> None:
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            async with self._more:
                self.said.append((str(message.topic), json.loads(message.payload or b"{}")))
                self._more.notify_all()


@asynccontextmanager
async def ear(port: int) -> AsyncIterator[Ear]:
    found = Ear()
    async with Client(HOST, port) as client:
        await client.subscribe("devices/#", qos=1)
        task = asyncio.create_task(found.listen(client))
        try:
            yield found
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def powered(board: Board) -> AsyncIterator[Board]:
    """The board at work."""
    task = asyncio.create_task(board.run(), name=board.device)
    try:
        yield board
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert not board.crashes, "\n".join(board.output)


@dataclass
class Wires:
    """`port` is where the stub of machine.SoftI2C finds the chips; the addresses `pulled_out` do not answer."""

    port: int = 0
    pulled_out: set[int] = field(default_factory=set)


@asynccontextmanager
async def chips(present: Iterable[Chip], speed: int = 1) -> AsyncIterator[Wires]:
    """Chips whose time goes as fast as the board's."""
    by_address = {chip.address: chip for chip in present}
    wires = Wires()

    def now_s() -> float:
        return asyncio.get_running_loop().time() * speed

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                op, address, size, length = struct.unpack(">BBHH", await reader.readexactly(6))
                data = await reader.readexactly(length)
                answer: bytes | None = b""
                try:
                    if address in wires.pulled_out:
                        raise NoDevice(f"nothing at {address:#04x}")
                    chip = by_address[address]
                    answer = chip.read(size, now_s()) if op == 2 else chip.write(data, now_s())
                except (KeyError, DriverError):
                    writer.write(struct.pack(">BH", 0, 0))
                else:
                    writer.write(struct.pack(">BH", 1, len(answer or b"")) + (answer or b""))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    wires.port = server.sockets[0].getsockname()[1]
    try:
        yield wires
    finally:
        server.close()


async def key_of(device: str, data: Path) -> str:
    """A key as `gateway node add` prints it."""
    code, out, err = await command("node", "add", device, "--json", "--data", str(data))
    assert code == 0, err
    key: str = json.loads(out)["key"]
    return key


KEYS: dict[str, bytes] = {}
"""Of the boards that were given settings last, for who sends them commands."""


def settings(device: str, port: int, sensors: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    KEYS.pop(device, None)
    if more.get("key"):
        KEYS[device] = bytes.fromhex(more["key"])
    return {
        "device": device,
        "wifi": {"ssid": "house", "password": "secret"},
        "broker": {"host": HOST, "port": port},
        "ntp": "192.0.2.1",  # nobody answers there: a machine's own NTP server would
        "sensors": sensors,
        **more,
    }


async def send(port: int, device: str, name: str, **args: Any) -> tuple[bool, Any]:
    """A command by the gateway's own way."""
    return await orders(HOST, port, KEYS.get).send(device, name, args, WITHIN_S)
