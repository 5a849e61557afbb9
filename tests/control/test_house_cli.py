"""`gateway device`, `zone` and `tool` on a running gateway with a real broker, and on its data when it has stopped."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiomqtt import Client

from gateway import control
from gateway.ingest import command_wire
from gateway.jail.commands import ToolList
from gateway.registry.commands import DeviceList, ZoneList
from gateway.store import queries
from gateway.store.db import Store
from tests.brokers import needs_mosquitto
from tests.running import Running, command, gateway

pytestmark = [pytest.mark.slow, needs_mosquitto]

SETTINGS = "[discovery]\nmdns = false\n[mqtt]\nhome_assistant = true\n[store]\nflush_interval_s = 0.2\n"
WITHIN_S = 20.0


async def asked(running: Running, *words: str) -> tuple[int, str, str]:
    return await command(*words, "--data", str(running.data))


async def listed(running: Running, thing: str) -> list[dict[str, Any]]:
    """What `gateway THING list --json` prints, without a process for it."""
    kind = {"device": DeviceList, "zone": ZoneList, "tool": ToolList}[thing]
    answer = await control.ask(running.data, kind())
    assert answer is not None
    found: list[dict[str, Any]] = answer[f"{thing}s"]  # type: ignore[assignment]
    return found


class Watcher:
    """What the broker says from now on, by topic; an empty payload is a topic that was cleared."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.seen: dict[str, bytes] = {}

    async def until(self, topic_part: str, *, cleared: bool = False) -> None:
        async with asyncio.timeout(WITHIN_S):
            async for message in self._client.messages:
                self.seen[str(message.topic)] = bytes(message.payload)
                if topic_part in str(message.topic) and (message.payload == b"") == cleared:
                    return


async def test_a_node_from_its_first_word_until_it_is_forgotten(tmp_path: Path) -> None:
    settings = tmp_path / "gateway.toml"
    settings.write_text(SETTINGS)
    async with gateway(tmp_path / "data", "--config", str(settings)) as running:
        async with (
            Client("127.0.0.1", running.mqtt) as node,
            Client("127.0.0.1", running.mqtt) as house,
        ):
            watcher = Watcher(house)
            await house.subscribe([("homeassistant/device/+/config", 1), ("devices/+/capabilities", 1)])
            said = json.dumps({"device_name": "ESP32-AB12", "sensors": ["scd30"]})
            await node.publish("devices/node-7/capabilities", said, qos=1, retain=True)
            data = json.dumps({"timestamp": 1795176000, "value": {"co2": {"reading": 678}}})
            await node.publish("devices/node-7/sensors/scd30/data", data, qos=1)
            await watcher.until("homeassistant/device/")
            code, out, err = await asked(running, "zone", "save", "bedroom", "--name", "Bedroom")
            assert (code, out, err) == (0, "", "zone bedroom is made\n")
            code, _, err = await asked(running, "device", "update", "node-7", "--name", "Bed", "--zone", "bedrom")
            assert (code, err) == (1, "gateway: zone: there is no 'bedrom'; did you mean 'bedroom'?\n")
            code, _, err = await asked(running, "device", "update", "node-7", "--name", "Bed", "--zone", "bedroom")
            assert (code, err) == (0, "name: ESP32-AB12 -> Bed\nzone: none -> bedroom\n")
            await watcher.until("homeassistant/device/")  # which is told of the name
            code, out, err = await asked(running, "device", "claim", "node-7")
            assert code == 0, err
            assert len(bytes.fromhex(out.strip())) == 32
            assert "keep the key" in err
            code, out, err = await asked(running, "device", "list", "--json")
            assert (code, err) == (0, "")
            (device,) = json.loads(out)
            assert [device] == await listed(running, "device")
            assert (device["name"], device["zone"], device["status"]) == ("Bed", "bedroom", "online")
            assert device["claimed"] is not None
            assert (await listed(running, "zone"))[0]["devices"] == ["node-7"]

            await node.subscribe("devices/node-7/commands/+", qos=1)
            code, _, err = await asked(running, "device", "delete", "node-7")
            assert (code, "say so with --yes" in err) == (1, True)
            code, _, err = await asked(running, "device", "delete", "node-7", "--yes")
            assert (code, err) == (0, "node-7 and its 1 series are deleted\n")
            await watcher.until("devices/node-7/capabilities", cleared=True)
            await watcher.until("homeassistant/device/", cleared=True)
            assert await listed(running, "device") == []
            code, out, _ = await asked(running, "tool", "list", "--json")
            assert (code, out) == (0, "[]\n")
        assert await running.stop() < 5
        code, _, err = await asked(running, "zone", "delete", "bedroom", "--yes")
        assert (code, err) == (0, "zone bedroom is deleted\n")
        code, _, err = await asked(running, "device", "claim", "node-7")
        assert (code, "no device 'node-7'" in err) == (1, True)
    async with Store(tmp_path / "data") as store:
        assert await queries.devices(store) == []
        assert await queries.zones(store) == []
        rows = [row for row in await queries.audit_rows(store) if row.principal == "local"]
        assert [(row.action, row.allowed, row.detail) for row in rows if row.action == "delete_device"] == [
            ("delete_device", True, ""),
            ("delete_device", True, "dry run"),
        ]


async def test_the_whole_way_of_an_assistant(tmp_path: Path) -> None:
    """A command to a node; a saved query in its jail; a dynamic tool that the owner approves at the terminal."""
    settings = tmp_path / "gateway.toml"
    settings.write_text(SETTINGS)
    async with gateway(tmp_path / "data", "--config", str(settings)) as running:
        async with Client("127.0.0.1", running.mqtt) as node:
            await node.subscribe("devices/node-7/commands/+", qos=1)
            await node.publish("devices/node-7/capabilities", b'{"device_name": "N"}', qos=1)
            _, out, _ = await asked(running, "token", "create", "hand", "--scope", "control")

            async def answers() -> None:
                message = await anext(aiter(node.messages))
                name, args = command_wire.decode_command(str(message.topic), bytes(message.payload))
                assert (name, args) == ("blink", {"times": 2})
                await node.publish(f"{message.topic}/result", command_wire.encode_result("blinked"), qos=1)

            async with running.client(token=out.strip()) as client, asyncio.timeout(WITHIN_S):
                while not await listed(running, "device"):
                    pass
                task = asyncio.create_task(answers())
                call = {"device": "node-7", "name": "blink", "args": {"times": 2}}
                said = await client.call_tool("send_command", call)
                await task
                assert (said.structured_content or {})["result"] == "blinked"
                late = await client.call_tool("send_command", call | {"timeout_s": 0.2})
                assert late.is_error
                assert "node-7 did not answer 'blink' within 0.2 s: it was last heard never" in late.content[0].text  # type: ignore[union-attr]
        await queries_and_tools(running)
        assert await running.stop() < 5


async def queries_and_tools(running: Running) -> None:
    _, out, _ = await asked(running, "token", "create", "boss", "--scope", "admin")
    async with running.client(token=out.strip()) as client:
        sql = "select device_id from devices where device_id = $device"
        saved = {"name": "one", "sql": sql, "parameters": [{"name": "device"}]}
        assert not (await client.call_tool("save_query", saved)).is_error
        found = await client.call_tool("run_saved_query", {"name": "one", "parameters": {"device": "node-7"}})
        assert not found.is_error, found.content
        assert (found.structured_content or {})["rows"] == [["node-7"]]
        code = "def half(x: float) -> float:\n    return x / 2\n"
        schema = {"properties": {"x": {"type": "number"}}, "required": ["x"]}
        half = {"name": "half", "description": "Half of x", "code": code, "arguments": schema}
        assert not (await client.call_tool("register_dynamic_tool", half)).is_error
        (draft,) = await listed(running, "tool")
        assert not draft["runs"]
        _, out, err = await asked(running, "tool", "show", "half")
        assert out == code
        assert draft["sha256"] in err
        code_, _, err = await asked(running, "tool", "approve", "half", "1", draft["sha256"])
        assert (code_, err) == (0, "version 1 of half runs from now on\n")
        called = await client.call_tool("half", {"x": 3})
        assert (called.structured_content or {})["result"] == 1.5
