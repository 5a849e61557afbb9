"""The whole line: chips at the byte level, the firmware's own files, mosquitto, the gateway, an assistant."""

import json
from pathlib import Path

import pytest

from bench.boards import Board
from drivers.testing.bmp280_chip import Bmp280Chip
from drivers.testing.recording import Wave
from drivers.testing.scd30_chip import ALTITUDE, REFERENCE, Scd30Chip
from gateway.store.db import Store
from tests.brokers import a_mosquitto, needs_mosquitto
from tests.firmware.house import chips, ear, key_of, powered, send, settings
from tests.running import gateway

pytestmark = [pytest.mark.slow, needs_mosquitto]
SPEED, FAST = 10, 20
AIR = Wave(co2=612.5, temperature=21.25, humidity=43.75, pressure=1003.5, swing=0)
SENSORS = [{"driver": "scd30", "interval_s": 2}, {"driver": "bmp280", "interval_s": 4}]


async def test_a_board_measures_obeys_and_starts_anew(tmp_path: Path) -> None:
    scd30, bmp280 = Scd30Chip(AIR), Bmp280Chip(AIR)
    data, quick = tmp_path / "data", {"AMBIENT_GATEWAY_STORE_FLUSH_INTERVAL_S": "0.1"}
    async with (
        gateway(data, environment=quick) as running,
        ear(running.mqtt) as heard,
        chips([scd30, bmp280], SPEED) as wires,
    ):
        key = await key_of("bedroom-1", data)
        told = settings("bedroom-1", running.mqtt, SENSORS, key=key, led=2, name="Bedroom")
        board = Board(tmp_path / "board", told, speed=SPEED, environment={"I2C_PORT": str(wires.port)})
        async with powered(board):
            status = await heard.message("/status", status="online")
            assert status["reset_cause"] == "power on"
            assert status["boot"].startswith("1-")
            co2 = (await heard.message("/sensors/scd30/data"))["value"]
            assert co2["co2"] == {"reading": 612.5}
            await heard.message("/sensors/bmp280/data")
            await heard.until(
                lambda said: any(body.get("seq", 0) >= 5 for topic, body in said if topic.endswith("/ack"))
            )

            async with running.client() as client:
                asked = await client.call_tool("get_latest_readings", {"device": "bedroom-1"})
            assert asked.structured_content is not None
            found = {(r["sensor"], r["metric"]): r["value"] for r in asked.structured_content["readings"]}
            assert found["scd30", "co2"] == 612.5
            assert found["scd30", "humidity"] == 43.75
            assert found["bmp280", "pressure"] == pytest.approx(1003.5, abs=0.02)
            assert {sensor for sensor, _ in found} == {"scd30", "bmp280"}

            port = running.mqtt
            assert await send(port, "bedroom-1", "identify", seconds=3) == (True, {"blinks_s": 3})
            assert await send(port, "bedroom-1", "set_interval", sensor="scd30", interval_s=3) == (
                True,
                {"scd30": 3, "bmp280": 4},
            )
            assert json.loads((board.folder / "settings.json").read_text()) == {"interval_s": {"scd30": 3}}
            assert await send(port, "bedroom-1", "set_interval", interval_s=1) == (
                False,
                "interval_s is a number from 2 to 3600, not 1",
            )
            ok, diagnostics = await send(port, "bedroom-1", "get_diagnostics")
            assert ok
            assert diagnostics["boot"] == status["boot"]
            assert diagnostics["refused"] == diagnostics["ring"]["discarded"] == 0
            assert diagnostics["clock"] == "none"
            assert await send(port, "bedroom-1", "self_destruct") == (False, "no command 'self_destruct' here")

            ok, calibration = await send(port, "bedroom-1", "set_altitude", altitude_m=420)
            assert ok
            assert scd30.settings[ALTITUDE] == 420
            assert calibration["altitude_m"] == 420
            assert calibration["firmware"] == "3.66"
            ok, calibration = await send(port, "bedroom-1", "recalibrate_sensor", sensor="scd30", reference_ppm=430)
            assert ok
            assert scd30.settings[REFERENCE] == 430
            ok, error = await send(port, "bedroom-1", "recalibrate_sensor", reference_ppm=4300)
            assert (ok, error) == (False, "reference_ppm is a number from 400 to 2000")

            assert await send(port, "bedroom-1", "restart") == (True, {"restarts": True})
            again = await heard.until(
                lambda said: [body for _, body in said if body.get("boot", "").startswith("2-") and "status" in body]
            )
            assert again[0]["reset_cause"] == "soft reset"
            assert again[0]["last_words"] == "restart: told to"
            assert (await heard.message("/error"))["code"] == "restarted"
            await heard.until(
                lambda said: sum("/scd30/" in topic and body["boot"][0] == "2" for topic, body in said) > 1
            )
            capabilities = [body for topic, body in heard.said if topic.endswith("/capabilities")][-1]
            assert capabilities["metadata"]["scd30"]["interval_s"] == 3
            assert board.resets == 1
        await running.stop()
    async with Store(data) as store:
        assert await store.read(lambda db: db.execute("select * from gap").fetchall()) == [], "it put everything away"
        sensors = await store.read(lambda db: db.execute("select sensor from sensor").fetchall())
        assert set(sensors) == {("scd30",), ("bmp280",)}, "messages without a value make no sensor"


async def test_a_chip_that_is_pulled_out_and_put_back_holds_up_no_other(tmp_path: Path) -> None:
    scd30, bmp280 = Scd30Chip(AIR, zeros=2), Bmp280Chip(AIR)
    async with a_mosquitto(tmp_path) as broker, ear(broker.port) as heard, chips([scd30, bmp280], FAST) as wires:
        board = Board(
            tmp_path / "board",
            settings("hall", broker.port, SENSORS),
            speed=FAST,
            environment={"I2C_PORT": str(wires.port)},
        )
        wires.pulled_out.add(bmp280.address)
        async with powered(board):
            first = await heard.message("/sensors/scd30/data")
            assert first["value"]["co2"] == {"reading": 612.5}, "zeros after a start are passed over"
            complaint = await heard.message("/error", code="sensor")
            assert complaint["message"].startswith("OSError")
            await heard.until(lambda said: sum("/scd30/" in topic for topic, _ in said) > 2)
            wires.pulled_out.clear()
            await heard.message("/sensors/bmp280/data")
            await heard.until(lambda said: any("answers again" in body.get("message", "") for _, body in said))
            scd30.hung = "reset"  # data-ready stays 0 until a soft reset
            await heard.until(lambda said: scd30.hung is None and "/scd30/" in said[-1][0])
