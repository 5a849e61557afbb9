"""Commands the whole way: a person or an assistant, the gateway, mosquitto, the firmware's own files, a chip."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from aiomqtt import Client
from mcp import Client as Assistant

from bench.boards import Board
from drivers.testing.recording import Wave
from drivers.testing.scd30_chip import ALTITUDE, REFERENCE, Scd30Chip
from gateway import control
from gateway.calibration.commands import CalibrationShow, Recalibrate
from gateway.command import Command
from gateway.control import ControlError
from gateway.store import queries
from gateway.store.db import Store
from tests.brokers import needs_mosquitto
from tests.firmware.house import HOST, Ear, Said, chips, ear, key_of, powered, settings
from tests.running import Running, command, gateway

pytestmark = [pytest.mark.slow, needs_mosquitto]
SPEED = 10
DEVICE = "bedroom-1"


async def told(running: Running, *words: str) -> tuple[int, Any]:
    """(exit code, what was printed: JSON, or the line on standard error)."""
    code, out, err = await command(*words, "--data", str(running.data))
    return code, json.loads(out) if out.strip() else err


async def said(client: Assistant, tool: str, **arguments: Any) -> dict[str, Any]:
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    return dict(answer.structured_content or {})


async def order(running: Running, name: str, **args: Any) -> dict[str, Any]:
    """What the gateway answers its command line."""
    return await asked(running, control.SendCommand(device=DEVICE, name=name, args=args))


async def asked(running: Running, what: Command) -> dict[str, Any]:
    answer = await control.ask(running.data, what)
    assert answer is not None
    return answer


def sent(heard: Ear) -> list[Said]:
    return [(topic, body) for topic, body in heard.said if "/commands/" in topic and not topic.endswith("/result")]


async def test_a_node_is_told_and_told_again_in_vain(tmp_path: Path) -> None:
    scd30, data = Scd30Chip(Wave(co2=612.5, swing=0)), tmp_path / "data"
    quick = {"AMBIENT_GATEWAY_STORE_FLUSH_INTERVAL_S": "0.1"}
    async with gateway(data, environment=quick) as running, ear(running.mqtt) as heard, chips([scd30], SPEED) as wires:
        config = settings(DEVICE, running.mqtt, [{"driver": "scd30", "interval_s": 2}], key=await key_of(DEVICE, data))
        board = Board(tmp_path / "board", config, speed=SPEED, environment={"I2C_PORT": str(wires.port)})
        async with powered(board):
            boot = (await heard.message("/status", status="online"))["boot"]
            await heard.message("/ack")
            await people_tell(running, heard, boot)
            await a_sensor_is_calibrated(running, scd30)
            await assistants_tell(running, board)
            await who_listened_tells_it_again(running, heard, board)
        await running.stop()
    async with Store(data) as store:
        events = [each.message for each in await queries.events(store) if each.kind == "calibration"]
        assert events == ["scd30: altitude 420 m"]
        audited = [row.detail for row in await queries.audit_rows(store) if row.action == "send_command"]
        assert "set_interval(interval_s, sensor)" in audited, "without values"


async def people_tell(running: Running, heard: Ear, boot: str) -> None:
    code, diagnostics = await told(running, "node", "command", DEVICE, "get_diagnostics")
    assert (code, diagnostics["boot"], diagnostics["commands_refused"]) == (0, boot, 0)
    assert await told(running, "node", "identify", DEVICE, "--seconds", "3") == (0, {"blinks_s": 3.0})
    assert len(sent(heard)) == 2, "its boot was known: nothing had to be said twice"
    code, line = await told(running, "node", "command", DEVICE, "identfy", "seconds=3")
    assert (code, line) == (1, "gateway: name: bedroom-1 has no command 'identfy'; did you mean 'identify'?\n")
    wrong: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("set_interval", {}, "args: set_interval needs interval_s (2 to 3600)"),
        ("set_interval", {"interval_s": 1}, "args: interval_s is a number from 2 to 3600, not 1"),
        ("set_interval", {"interval_s": 3, "sensor": "scd31"}, "args: sensor is one of scd30, not 'scd31'"),
        ("restart", {"now": True}, "args: restart has no 'now'; it takes no arguments"),
        ("recalibrate_sensor", {"reference_ppm": 430}, "judged by the air before it is done: use calibrate_sensor"),
    )
    for name, args, line in wrong:
        with pytest.raises(ControlError, match=re.escape(line)):
            await order(running, name, **args)
    assert len(sent(heard)) == 2, "nothing of that was sent"
    words = ("node", "command", DEVICE, "set_interval", "interval_s=3", "sensor=scd30")
    assert await told(running, *words) == (0, {"scd30": 3})
    again = {"interval_s": 3, "driver": "scd30"}.items()
    await heard.until(
        lambda said: [1 for t, b in said if t.endswith("/capabilities") and again <= b["metadata"]["scd30"].items()]
    )


async def a_sensor_is_calibrated(running: Running, scd30: Scd30Chip) -> None:
    """As a wired one: shown, judged by its air, read back."""
    held = await asked(running, CalibrationShow(device=DEVICE, sensor="scd30"))
    assert (held["altitude_m"], held["firmware"]) == (0, "3.66")
    code, done = await told(running, "calibrate", f"{DEVICE}/scd30", "altitude", "420", "--json")
    assert (code, done["changed"], done["after"]["altitude_m"], scd30.settings[ALTITUDE]) == (0, True, 420, 420)
    before = scd30.settings[REFERENCE]
    with pytest.raises(ControlError, match="it takes 10 over 120 s without a gap"):
        await asked(running, Recalibrate(device=DEVICE, sensor="scd30", reference_ppm=430))
    assert scd30.settings[REFERENCE] == before


async def assistants_tell(running: Running, board: Board) -> None:
    token = (await asked(running, control.TokenCreate(name="hand", scope="control")))["secret"]
    async with running.client(token=token) as client:
        status = await said(client, "get_device", device=DEVICE)
        assert status["expected_interval_s"] == 3, "as the node says since it was told so"
        call = {"device": DEVICE, "name": "get_diagnostics", "background": True}
        task = await said(client, "send_command", **call)
        while task["state"] == "running":
            task = await said(client, "get_task", task_id=task["task_id"])
        assert (task["state"], task["result"]["ok"]) == ("done", True)
        board.pause()
        task = await said(client, "send_command", **call)
        again = await client.call_tool("send_command", {"device": DEVICE, "name": "get_diagnostics"})
        assert "get_diagnostics of bedroom-1 is under way" in str(again.content)
        ended = await said(client, "cancel_task", task_id=task["task_id"])
        assert (ended["state"], "may still obey" in ended["text"]) == ("cancelled", True)
        board.resume()
        assert (await said(client, "send_command", device=DEVICE, name="identify"))["ok"], "and it goes on"


async def who_listened_tells_it_again(running: Running, heard: Ear, board: Board) -> None:
    assert (await order(running, "restart"))["ok"]
    topic, payload = sent(heard)[-1]
    await heard.until(
        lambda said: [1 for t, body in said if t.endswith("/status") and body.get("boot", "")[:2] == "2-"]
    )
    before = len(heard.said)
    async with Client(HOST, running.mqtt) as anybody:
        await anybody.publish(topic, json.dumps(payload))
        refused = await heard.until(lambda said: [body for t, body in said[before:] if t == f"{topic}/result"])
        assert (refused[0]["ok"], refused[0]["error"]) == (False, "it is for another boot")
        complaint = await heard.message("/error", code="command_refused")
        assert complaint["message"] == "1 commands refused, the last one because: it is for another boot"
        assert (await order(running, "get_diagnostics"))["result"]["commands_refused"] == 1
        for _ in range(8):  # so many it remembers by their ids
            await order(running, "identify")
        topic, payload = sent(heard)[-9]
        before = len(heard.said)
        await anybody.publish(topic, json.dumps(payload))
        refused = await heard.until(lambda said: [body for t, body in said[before:] if t == f"{topic}/result"])
        assert refused[0]["error"] == "its number was used before"
    assert board.resets == 1
