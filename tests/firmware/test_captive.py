"""A broker between a board and its gateway that keeps the board for itself, with words that the gateway really said."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiomqtt import Client

from bench.boards import Board
from gateway.clock import SystemClock
from gateway.ingest import wire
from gateway.nodes.sntp import TimeServer
from tests.brokers import a_mosquitto, ended, free_port, needs_mosquitto
from tests.firmware.house import HOST, Ear, ear, powered, settings

KEY = bytes(range(32))
DATA, ACK, ERROR = "devices/n1/sensors/counting/data", "devices/n1/ack", "devices/n1/error"
FOUND = '"""Who answers to mDNS."""\n\n\nasync def find(name=None):\n    return {found!r}\n'


class Party:
    """Somebody at a broker who acknowledges with the node's key, as the gateway does or one who passes its words on.
    Once `mute` he only says the last of it again and again."""

    def __init__(self) -> None:
        self.mute, self.last = False, b"{}"

    async def act(self, port: int, heard: Ear) -> None:
        done = 0
        async with Client(HOST, port) as client:
            while True:
                await heard.until(lambda said, done=done: len(said) > done)  # type: ignore[misc]
                new, done = heard.said[done:], len(heard.said)
                for body in (body for topic, body in new if topic.endswith("/data")):
                    self.last = self.last if self.mute else wire.encode_ack("n1", body["boot"], body["seq"], KEY)
                    await client.publish(ACK, self.last)


@asynccontextmanager
async def attended(folder: Path, port: int, party: Party) -> AsyncIterator[Ear]:
    """A mosquitto with him at it, and who hears everything there."""
    async with a_mosquitto(folder, port), ear(port) as heard:
        task = asyncio.create_task(party.act(port, heard), name="party")
        try:
            yield heard
        finally:
            await ended(task)


def numbers(heard: Ear, which: str = "seq") -> list[int]:
    return [body[which] for topic, body in heard.said if topic.endswith("/data")]


@needs_mosquitto
async def test_a_broker_that_repeats_what_the_gateway_said_holds_no_board(tmp_path: Path) -> None:
    """It passes the gateway's words on until the board believes it, then says the last of them for ever; later it says
    them to a board that comes back in the same boot."""
    folders = false_folder, true_folder = tmp_path / "false", tmp_path / "true"
    for each in folders:
        each.mkdir()
    false_port, true_port = free_port(), free_port()
    captor, sensors = Party(), [{"driver": "counting", "interval_s": 2}]
    found = FOUND.format(found=[(HOST, false_port), (HOST, true_port)])
    async with attended(false_folder, false_port, captor) as false, AsyncExitStack() as stack:
        time = await stack.enter_async_context(TimeServer(HOST, 0, SystemClock()))
        told = settings("n1", 1883, sensors, key=KEY.hex(), broker={}, ntp=None, ntp_port=time.port)
        board = Board(tmp_path / "board", told, speed=60)
        (board.folder / "a" / "node" / "mdns.py").write_text(found)
        cache = board.folder / "broker.json"
        await stack.enter_async_context(powered(board))
        await false.until(lambda said: sum(topic == ACK for topic, _ in said) >= 3)
        captor.mute = True
        covered = json.loads(captor.last)["seq"]
        async with attended(true_folder, true_port, Party()) as true:
            await false.until(lambda _: max(numbers(false)) >= covered + 5)
            assert json.loads(cache.read_text()) == [HOST, false_port], "it was believed"
            complaint = await true.message("/error", code="nothing_new")
            assert complaint["message"].endswith(f"by {HOST}:{false_port}")
            assert numbers(true, "oldest")[0] <= covered + 1, "nothing was let go but what was covered"
            held_back = max(numbers(false))
            await true.until(lambda _: set(numbers(true)) >= set(range(covered + 1, held_back + 1)))
            assert json.loads(cache.read_text()) == [HOST, true_port]

        asked, before = time.counts.answered, len(false.said)  # the gateway is gone: the board comes back to the captor
        await false.until(lambda said: any(topic == DATA for topic, _ in said[before:]))
        async with Client(HOST, false_port) as client:
            await client.publish("devices/n1/commands/c1", b'{"name":"restart"}')
        refused = await false.message("/commands/c1/result")
        assert "signed with this node's key" in str(refused["error"])
        await false.until(lambda said: sum(topic == ACK for topic, _ in said[before:]) >= 3)
        assert not [topic for topic, _ in false.said[before:] if topic == ERROR], "nobody else is told of troubles"
        assert json.loads(cache.read_text()) == [HOST, true_port], "and it is not remembered"
        assert time.counts.answered == asked > 0, "nor asked for the time"
    assert board.resets == 0
