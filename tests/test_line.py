"""The straight line, with real parts only: bytes on a simulated wire, a real broker, DuckDB, real MCP clients."""

import json
import signal
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.running import Running, command, free_ports, gateway

ERAS = ["legacy", "2026-07-28"]
pytestmark = pytest.mark.slow


async def latest(running: Running, era: str, **filters: str) -> list[dict[str, Any]]:
    async with running.client(era) as client:
        result = await client.call_tool("get_latest_readings", filters)
        assert not result.is_error, result.content
        readings: list[dict[str, Any]] = result.structured_content["readings"]
        return readings


@pytest.mark.parametrize("broker", ["mosquitto", "embedded"])
async def test_the_demo_answers_within_ten_seconds_and_leaves_nothing_behind(tmp_path: Path, broker: str) -> None:
    async with gateway(tmp_path, "--demo", environment={"AMBIENT_GATEWAY_MQTT_BROKER": broker}) as running:
        assert running.took_s < 10
        for era in ERAS:
            (room,) = await latest(running, era, device="living-room", metric="co2")
            assert room["unit"] == "ppm"
            assert 300 < room["value"] < 5000
            assert 0 <= room["age_s"] < 60
            assert room["quality"] in {"good", "uncertain"}
        nodes = {reading["device"] for reading in await latest(running, ERAS[1], metric="co2")}
        assert nodes == {"living-room", "greenhouse", "study"}
        before = (await running.status())["readings"]
        children = psutil.Process(running.process.pid).children(recursive=True)
        assert children, "the broker is a child"
        assert await running.stop() < 3
        assert running.process.returncode == 0
        assert not [child for child in children if child.is_running()]
    async with gateway(tmp_path, "--demo") as again:
        assert (await again.status())["readings"] >= before


async def test_what_the_wire_said_is_what_the_assistant_hears(tmp_path: Path) -> None:
    """A constant recording: each float32 of the chip arrives unharmed, with its unit, as good."""
    recording = tmp_path / "constant.csv"
    rows = "".join(f"{offset},612.5,21.25,43.75,1003.5\n" for offset in (0, 60, 120))
    recording.write_text("offset_s,co2,temperature,humidity,pressure\n" + rows)
    settings = tmp_path / "gateway.toml"
    settings.write_text(
        "[mqtt]\nbroker = 'off'\n[site]\ntimezone = 'Asia/Kathmandu'\n[[device]]\nid = 'attic'\n"
        f"[[device.sensor]]\ndriver = 'scd30'\nbus = 'replay:{recording}'\ninterval_s = 2\n"
        f"[[device.sensor]]\ndriver = 'bmp280'\nbus = 'replay:{recording}'\ninterval_s = 0.5\n"
    )
    async with (
        gateway(tmp_path / "data", "--config", str(settings)) as running,
        running.client() as client,
        client.listen(resource_subscriptions=["device://attic/status"]) as changes,
    ):
        async for _ in changes:
            found = {(r["sensor"], r["metric"]): r for r in await latest(running, ERAS[0], device="attic")}
            if len(found) == 5:
                break
    assert {key: (r["value"], r["unit"]) for key, r in found.items() if key[0] == "scd30"} == {
        ("scd30", "co2"): (612.5, "ppm"),
        ("scd30", "temperature"): (21.25, "degC"),
        ("scd30", "humidity"): (43.75, "%RH"),
    }
    assert found["bmp280", "pressure"]["value"] == pytest.approx(1003.5, abs=0.01)
    assert found["bmp280", "temperature"]["value"] == pytest.approx(21.25, abs=0.01)
    assert all(r["time"].endswith("+05:45") and r["age_s"] < 10 for r in found.values())


async def test_a_killed_gateway_keeps_what_it_had_committed(tmp_path: Path) -> None:
    async with gateway(tmp_path, "--demo") as running:
        before = (await running.status())["readings"]
        await running.stop(signal.SIGKILL)
    async with gateway(tmp_path, "--demo") as again:
        assert (await again.status())["readings"] >= before > 5000


async def test_a_token_is_made_used_and_revoked_while_the_gateway_runs(tmp_path: Path) -> None:
    async with gateway(tmp_path, "--demo") as running:
        data = ("--data", str(tmp_path))
        code, token, words = await command("token", "create", "laptop", "--scope", "control", *data)
        assert (code, token.count("\n")) == (0, 1)
        assert "not shown again" in words
        async with running.client(token=token.strip()) as client:
            assert (await client.list_tools()).tools
        code, listed, _ = await command("token", "list", "--json", *data)
        assert {(row["name"], row["scope"]) for row in json.loads(listed)} == {("demo", "read"), ("laptop", "control")}
        assert token.strip() not in listed
        assert (await command("token", "revoke", "laptop", *data))[0] == 0
        async with httpx2.AsyncClient() as http:
            answer = await http.post(running.url, headers={"Authorization": f"Bearer {token.strip()}"}, json={})
        assert answer.status_code == 401


async def test_tokens_can_be_made_while_no_gateway_runs(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path))
    code, token, _ = await command("token", "create", "early", "--scope", "read", *data)
    assert code == 0
    settings = tmp_path / "gateway.toml"
    settings.write_text("[mqtt]\nbroker = 'off'\n")
    async with gateway(tmp_path, "--config", str(settings), ports=free_ports(3)) as running:
        assert "Tokens exist already" in running.welcome
        async with running.client(token=token.strip()) as client:
            assert (await client.list_tools()).tools


async def test_node_keys_can_be_made_and_are_shown_once(tmp_path: Path) -> None:
    code, out, words = await command("node", "add", "greenhouse", "--data", str(tmp_path))
    told = json.loads("{" + out + "}")
    assert (code, len(bytes.fromhex(told["key"])), len(told["broker"]["password"])) == (0, 32, 43)
    assert "not shown again" in words
