"""Commands over a real broker to a node that speaks the wire: results, silence, nonsense, and what is retained."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiomqtt import Client

from gateway.broker.supervise import ChildBroker
from gateway.ingest import command_wire
from gateway.ingest.wire import WireError
from gateway.nodes.boots import Boots
from gateway.nodes.commander import Commander, Unreachable
from gateway.nodes.orders import Busy, NoAnswer, Orders
from tests.brokers import WITHIN_S, a_mosquitto, ended, free_port, needs_mosquitto, soon

pytestmark = needs_mosquitto


KEY = bytes(range(32))


def orders(port: int, key: bytes | None = None, boots: Boots | None = None, now_ms: int = 1_795_000_000_000) -> Orders:
    commander = Commander("127.0.0.1", port)
    return Orders(
        command_wire, lambda _device: commander.exchange, lambda _device: key, boots or Boots(), lambda: now_ms
    )


@asynccontextmanager
async def a_node(broker: ChildBroker, device: str, **answers: bytes) -> AsyncIterator[list[tuple[str, Any]]]:
    """A node that answers these commands with these payloads, and no others."""
    heard: list[tuple[str, Any]] = []
    listening = asyncio.Event()

    async def run() -> None:
        async with Client("127.0.0.1", broker.port) as client:
            await client.subscribe(f"devices/{device}/commands/+", qos=1)
            listening.set()
            async for message in client.messages:
                topic = str(message.topic)
                name, args = command_wire.decode_command(topic, bytes(message.payload))
                heard.append((name, args))
                if name in answers:
                    await client.publish(f"{topic}/result", answers[name], qos=1)

    task = asyncio.create_task(run(), name="node")
    try:
        await soon(listening)
        yield heard
    finally:
        await ended(task)


async def test_what_a_node_answers_and_what_it_does_not(tmp_path: Path) -> None:
    async with a_mosquitto(tmp_path) as broker:
        say = orders(broker.port)
        answers = {
            "info": command_wire.encode_result({"free": 1024}),
            "reset": command_wire.encode_result(error="not now"),
            "odd": b"{}",
        }
        async with a_node(broker, "node-1", **answers) as heard:
            assert await say.send("node-1", "info", {"all": True}, WITHIN_S) == (True, {"free": 1024})
            assert await say.send("node-1", "reset", {}, WITHIN_S) == (False, "not now")
            with pytest.raises(WireError, match="ok is true or false"):
                await say.send("node-1", "odd", {}, WITHIN_S)
            with pytest.raises(NoAnswer, match=r"node-1 did not answer 'sleep' within 0\.2 s"):
                await say.send("node-1", "sleep", {}, 0.2)
            others = [orders(broker.port) for _ in range(20)]
            many = await asyncio.gather(*(each.send("node-1", "info", {}, WITHIN_S) for each in others))
            assert many == [(True, {"free": 1024})] * 20
        assert heard[0] == ("info", {"all": True})
        assert len(heard) == 24
        with pytest.raises(NoAnswer):
            await say.send("node-2", "info", {}, 0.1)


async def test_one_of_a_kind_at_a_time_and_a_caller_who_goes_waits_no_longer(tmp_path: Path) -> None:
    async with a_mosquitto(tmp_path) as broker, Client("127.0.0.1", broker.port) as ear:
        await ear.subscribe("devices/+/commands/+", qos=1)
        say = orders(broker.port)
        first = asyncio.create_task(say.send("node-1", "sleep", {}, WITHIN_S), name="first")
        async with asyncio.timeout(WITHIN_S):
            await anext(aiter(ear.messages))
        with pytest.raises(Busy, match="sleep of node-1 is under way: wait for its result, or cancel its task"):
            await say.send("node-1", "sleep", {}, WITHIN_S)
        for device, name in (("node-2", "sleep"), ("node-1", "info")):
            with pytest.raises(NoAnswer):
                await say.send(device, name, {}, 0.1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        with pytest.raises(NoAnswer):
            await say.send("node-1", "sleep", {}, 0.1)


class Keyed:
    """A node with a key, in `boot`, that heard `n`; what it was told, and what it obeyed. A `stubborn` one refuses."""

    def __init__(self, boot: str, n: int = 0, *, stubborn: bool = False) -> None:
        self.boot, self.n, self.stubborn = boot, n, stubborn
        self.told: list[tuple[str, int]] = []
        self.obeyed: list[str] = []

    def answer(self, topic: str, payload: bytes) -> bytes:
        name, _ = command_wire.decode_command(topic, payload, KEY)
        device, command_id = topic.split("/")[1::2]
        body = command_wire.unsealed(topic, payload, KEY, "command", device, command_id)
        self.told.append((body["boot"], body["n"]))
        if self.stubborn or body["boot"] != self.boot or body["n"] <= self.n:
            refusal = json.dumps({"ok": False, "error": "no", "boot": self.boot, "n": self.n}).encode()
            return command_wire.sign_result(f"{topic}/result", refusal, KEY)
        self.n = body["n"]
        self.obeyed.append(name)
        return command_wire.sign_result(f"{topic}/result", command_wire.encode_result("done"), KEY)


def to_a_node(node: Keyed, boots: Boots, now_ms: int = 1_795_000_000_000) -> Orders:
    async def exchange(topic: str, payload: bytes, accepts: Callable[[bytes], bool]) -> bytes:
        answer = node.answer(topic, payload)
        assert accepts(answer)
        return answer

    return Orders(command_wire, lambda _device: exchange, lambda _device: KEY, boots, lambda: now_ms)


async def test_a_command_is_signed_for_the_boot_that_the_node_told() -> None:
    node, boots = Keyed("7-abcd"), Boots()
    boots.told("n1", "7-abcd")
    say = to_a_node(node, boots)
    assert await say.send("n1", "a", {}, 1) == await say.send("n1", "b", {}, 1) == (True, "done")
    assert node.told == [("7-abcd", 1_795_000_000_000), ("7-abcd", 1_795_000_000_001)], "growing, though no time passed"


@pytest.mark.parametrize("known", ["", "6-abcd"])
async def test_a_node_in_another_boot_says_so_and_is_told_once_more(known: str) -> None:
    node, boots = Keyed("7-abcd", 9), Boots()
    boots.told("n1", known)
    assert await to_a_node(node, boots).send("n1", "a", {}, 1) == (True, "done")
    assert [boot for boot, _ in node.told] == [known, "7-abcd"]
    assert boots.get("n1") == "7-abcd"


async def test_another_makers_device_that_was_claimed_is_understood() -> None:
    """It has a key here and knows nothing of it; a node of ours has told its boot by then."""
    heard: list[Any] = []

    async def exchange(topic: str, payload: bytes, accepts: Callable[[bytes], bool]) -> bytes:
        body = json.loads(payload)
        heard.append((body["name"], body["args"]))
        answer = command_wire.encode_result("blinked")
        assert accepts(answer)
        return answer

    say = Orders(command_wire, lambda _device: exchange, lambda _device: KEY, Boots(), lambda: 5)
    assert await say.send("lamp", "blink", {"times": 2}, 1) == (True, "blinked")
    assert heard == [("blink", {"times": 2})]
    sealed = command_wire.encode_command("devices/n1/commands/1", "restart", {}, (KEY, "7-abcd", 5))
    assert sorted(json.loads(sealed)) == ["body", "mac"]


async def test_an_answer_that_the_node_did_not_sign_is_none(tmp_path: Path) -> None:
    """Whoever else may write there, such as a broker in the middle, says what it likes, before the node itself."""
    node, boots = Keyed("7-abcd"), Boots()
    boots.told("n1", "7-abcd")

    async with a_mosquitto(tmp_path) as broker, Client("127.0.0.1", broker.port) as between:
        await between.subscribe("devices/n1/commands/+", qos=1)

        async def meddle() -> None:
            async for message in between.messages:
                topic, payload = str(message.topic), bytes(message.payload)
                true = node.answer(topic, payload)
                other = command_wire.sign_result(topic, b'{"ok":true,"result":"no"}', bytes(32))
                refusal = b'{"ok":false,"error":"it is for another boot","boot":"8-abcd","n":1}'
                for answer in (command_wire.encode_result("never"), other, refusal, b"{", true):
                    if answer is not true or "mute" not in node.obeyed:
                        await between.publish(f"{topic}/result", answer, qos=1)

        task = asyncio.create_task(meddle(), name="meddler")
        say = orders(broker.port, KEY, boots)
        assert await say.send("n1", "restart", {}, WITHIN_S) == (True, "done")
        assert (node.obeyed, say.forged) == (["restart"], 4)
        with pytest.raises(NoAnswer, match="what came was not signed with its key: rotate its key, or"):
            await say.send("n1", "mute", {}, 0.5)
        await ended(task)


async def test_a_node_that_told_no_boot_may_refuse_only_with_its_key() -> None:
    boots, told = Boots(), list[bool]()

    async def exchange(topic: str, payload: bytes, accepts: Callable[[bytes], bool]) -> bytes:
        refusal = b'{"ok":false,"error":"no","boot":"7-abcd","n":1}'
        told.append(accepts(refusal))
        return command_wire.encode_result("blinked")

    say = Orders(command_wire, lambda _device: exchange, lambda _device: KEY, boots, lambda: 5)
    assert await say.send("n1", "blink", {}, 1) == (True, "blinked")
    assert (told, boots.get("n1")) == ([False], "")


async def test_a_node_that_heard_a_higher_number_is_told_a_higher_one() -> None:
    """The gateway's clock was set back."""
    node, boots = Keyed("7-abcd", 1_900_000_000_000), Boots()
    boots.told("n1", "7-abcd")
    assert await to_a_node(node, boots).send("n1", "a", {}, 1) == (True, "done")
    assert node.told[-1] == ("7-abcd", 1_900_000_000_001)


async def test_who_refuses_for_ever_is_asked_twice() -> None:
    node = Keyed("7-abcd", stubborn=True)
    assert await to_a_node(node, Boots()).send("n1", "a", {}, 1) == (False, "no")
    assert len(node.told) == 2


def test_which_boot_a_node_is_in() -> None:
    boots = Boots(limit=2)
    boots.seen([("n1", "1-a"), ("n1", "2-a")])
    assert boots.get("n1") == "2-a", "as long as it said nothing itself"
    boots.told("n1", "3-a")
    boots.seen([("n1", "2-a")])
    boots.told("n1", "")
    assert (boots.get("n1"), boots.get("n2")) == ("3-a", "")
    boots.told("n2", "1-b")
    boots.told("n3", "1-c")
    assert (boots.get("n1"), boots.get("n3")) == ("", "1-c"), "bounded"
    boots.forget("n3")
    assert boots.get("n3") == ""


async def test_without_a_broker_nothing_was_sent() -> None:
    port = free_port()
    with pytest.raises(Unreachable, match=f"the broker at 127.0.0.1:{port} was not reached"):
        await orders(port).send("node-1", "info", {}, 1)
    with pytest.raises(Unreachable):
        await Commander("127.0.0.1", port).clear("node-1")


async def test_what_the_broker_keeps_of_a_node_is_cleared(tmp_path: Path) -> None:
    async with a_mosquitto(tmp_path) as broker, Client("127.0.0.1", broker.port) as client:
        for device in ("node-1", "node-2"):
            for kind in ("capabilities", "status"):
                await client.publish(f"devices/{device}/{kind}", json.dumps({"x": 1}), qos=1, retain=True)
        await Commander("127.0.0.1", broker.port).clear("node-1")
        await client.subscribe("devices/#", qos=1)
        async with asyncio.timeout(WITHIN_S):
            kept = {str((await anext(aiter(client.messages))).topic) for _ in range(2)}
        assert kept == {"devices/node-2/capabilities", "devices/node-2/status"}
