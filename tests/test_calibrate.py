"""`gateway calibrate` over a running gateway with both chips on a replayed bus."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from drivers.model import Quantity
from gateway.clock import SystemClock
from gateway.reading import Message, Reading
from gateway.store import queries
from gateway.store.db import Store
from tests.running import Running, command, gateway

pytestmark = pytest.mark.slow


@dataclass
class Attic:
    """A running gateway and its one device."""

    running: Running

    async def calibrate(self, *words: str) -> tuple[int, str, str]:
        return await command("calibrate", "attic/scd30", *words, "--data", str(self.running.data))

    async def show(self) -> dict[str, Any]:
        code, out, err = await self.calibrate("show", "--json")
        assert (code, err) == (0, "")
        held: dict[str, Any] = json.loads(out)
        return held


def settings(folder: Path, options: str = "", device: str = "") -> Path:
    """An SCD30 and a BMP280 in calm air of about 612 ppm."""
    recording = folder / "calm.csv"
    rows = "".join(f"{n * 5},{612 + n % 7 / 3:.3f},21.{n % 9},43.{n % 8},{1003 + n % 5 / 50:.2f}\n" for n in range(120))
    recording.write_text("offset_s,co2,temperature,humidity,pressure\n" + rows)
    path = folder / "gateway.toml"
    path.write_text(
        "[mqtt]\nbroker = 'off'\n[discovery]\nmdns = false\n[access]\nrequests_per_s = 0\n"
        f"[[device]]\nid = 'attic'\n{device}\n"
        f"[[device.sensor]]\ndriver = 'scd30'\nbus = 'replay:{recording}'\ninterval_s = 2\noptions = {{ {options} }}\n"
        f"[[device.sensor]]\ndriver = 'bmp280'\nbus = 'replay:{recording}'\ninterval_s = 2\n"
    )
    return path


async def calm(data: Path) -> None:
    """Three minutes of readings until now, as the gateway that ran here just now would have left them."""
    clock = SystemClock()
    async with Store(data) as store:
        times = [clock.now() - timedelta(seconds=2 * n) for n in range(90, 0, -1)]
        readings = [
            Reading("attic", "scd30", "co2", Quantity.CO2, 612 + n % 7 / 3, time, time) for n, time in enumerate(times)
        ]
        await store.append([Message("attic", "scd30", (reading,), timed=True) for reading in readings])


@asynccontextmanager
async def attic(folder: Path, options: str = "", device: str = "") -> AsyncIterator[Attic]:
    async with gateway(folder / "data", "--config", str(settings(folder, options, device))) as running:
        yield Attic(running)
        assert await running.stop() < 5


async def test_everything_that_can_be_set(tmp_path: Path) -> None:
    async with attic(tmp_path, device="pressure_from = 'off'") as house:
        fresh = await house.show()
        assert fresh == {
            "device": "attic",
            "sensor": "scd30",
            "self_calibration": False,
            "temperature_offset_degc": 0.0,
            "altitude_m": 0,
            "pressure_hpa": None,
            "pressure_from": None,
            "reference_ppm": 400,
            "firmware": "3.66",
        }
        code, out, err = await house.calibrate("show")
        assert code == 0
        assert "pressure_hpa             none" in out
        for words, said in (
            (("asc", "on"), "self_calibration: off -> on"),
            (("offset", "2.5"), "temperature_offset_degc: 0 degC -> 2.5 degC"),
            (("altitude", "300"), "altitude_m: 0 m -> 300 m"),
            (("pressure", "987"), "pressure_hpa: none -> 987 hPa"),
        ):
            code, out, err = await house.calibrate(*words, "--dry-run")
            assert (code, out) == (0, "")
            assert ": would be done" in err
            assert "->" not in err
            code, out, err = await house.calibrate(*words)
            assert (code, out) == (0, "")
            assert ": done and read back" in err
            assert said in err
            code, _, err = await house.calibrate(*words)
            assert code == 0
            assert "holds that already, nothing was written" in err
        code, out, _ = await house.calibrate("pressure", "off", "--json")
        assert code == 0
        assert json.loads(out)["after"]["pressure_hpa"] is None
        held = await house.show()
        assert held == fresh | {"self_calibration": True, "temperature_offset_degc": 2.5, "altitude_m": 300}
    async with Store(tmp_path / "data") as store:
        events = [event for event in await queries.events(store) if event.kind == "calibration"]
        rows = [row for row in await queries.audit_rows(store) if row.target == "attic/scd30"]
    assert sorted(event.message for event in events) == sorted(
        [
            "scd30: self-calibration on",
            "scd30: temperature offset 2.5 degC",
            "scd30: altitude 300 m",
            "scd30: pressure 987 hPa",
            "scd30: pressure off",
        ]
    )
    assert {event.detail["by"] for event in events} == {"local"}
    assert all(event.detail["before"] != event.detail["after"] for event in events)
    assert len(rows) == 4 * 3 + 1
    assert {(row.action, row.detail) for row in rows} >= {
        ("set_altitude", "altitude 300 m, dry run"),
        ("set_altitude", "altitude 300 m"),
        ("set_self_calibration", "self-calibration on"),
    }


async def test_forced_recalibration_with_its_guard(tmp_path: Path) -> None:
    async with attic(tmp_path, device="pressure_from = 'off'") as house:
        code, out, err = await house.calibrate("frc", "600", "--force")
        assert (code, out) == (1, "")
        assert err.startswith("gateway: attic/scd30: no forced recalibration to 600 ppm: ")
        assert "it takes 10 over 120 s" in err or "no usable CO2 reading" in err
        assert (await house.show())["reference_ppm"] == 400
    await calm(tmp_path / "data")
    async with attic(tmp_path, device="pressure_from = 'off'") as house:
        code, _, err = await house.calibrate("frc", "1200")
        assert code == 1
        assert "over 500 ppm from 1200" in err
        assert "use force" in err
        code, _, err = await house.calibrate("frc", "600", "--dry-run")
        assert code == 0, err
        assert "readings around 61" in err
        assert (await house.show())["reference_ppm"] == 400
        async with asyncio.timeout(20):
            while "gave no measurement" in (err := (await house.calibrate("frc", "600"))[2]):
                pass
        assert "reference_ppm: 400 ppm -> 600 ppm" in err
        assert (await house.show())["reference_ppm"] == 600
        async with house.running.client(token=await reader(house.running)) as client:
            async with asyncio.timeout(20):
                while True:
                    found = await client.call_tool("get_latest_readings", {"device": "attic", "metric": "co2"})
                    (co2,) = found.structured_content["readings"]
                    if 595 < co2["value"] < 605:
                        break
            assert co2["quality"] == "uncertain"


async def reader(running: Running) -> str:
    """A token of its own: only a first start prints one."""
    code, out, err = await command("token", "create", "assistant", "--scope", "read", "--data", str(running.data))
    assert code == 0, err
    return out.strip()


async def test_what_is_refused_is_one_line_that_says_why(tmp_path: Path) -> None:
    async with attic(tmp_path, options="temperature_offset_degc = 1.5") as house:
        assert (await house.show())["pressure_from"] == "bmp280"
        for words, said in (
            (("frc", "399"), "reference 399 ppm: it must be 400 to 2000"),
            (("offset", "-7"), "without a sign"),
            (("altitude", "-1"), "whole metres"),
            (("pressure", "101325", "--force"), "101325 Pa is 1013.25 hPa"),
            (("pressure", "990"), "takes its pressure from 'bmp280'"),
            (("pressure", "high"), "give hPa, as in 987, or `off`"),
        ):
            code, out, err = await house.calibrate(*words)
            assert (code, out) == (1, ""), err
            assert err.startswith("gateway: ")
            assert said in err
            assert err.count("\n") == 1
        code, _, err = await house.calibrate("offset", "2")
        assert code == 0
        assert "note: the configuration says temperature_offset_degc = 1.5, which comes back" in err
        data = ("--data", str(house.running.data))
        code, _, err = await command("calibrate", "attic/bmp280", "show", *data)
        assert code == 1
        assert "no wired sensor that can be calibrated; those are: attic/scd30" in err
        code, _, err = await command("calibrate", "attic", "show", *data)
        assert (code, err) == (1, "gateway: 'attic': expected DEVICE/SENSOR, as in attic/scd30\n")
    code, _, err = await command("calibrate", "attic/scd30", "altitude", "3", "--data", str(tmp_path / "data"))
    assert (code, err) == (
        1,
        "gateway: set_altitude: no gateway runs on this data; start one with `gateway run`\n",
    )


async def test_a_wrong_source_of_pressure_is_said_before_anything_starts(tmp_path: Path) -> None:
    path = settings(tmp_path, device="pressure_from = 'bmp'")
    code, _, err = await command("check", "--config", str(path))
    assert code == 1
    assert err == (
        "gateway: device 'attic': pressure_from = 'bmp': no sensor of it measures pressure under that name; those that "
        'do: \'bmp280\'; or use "auto" or "off"\n'
    )
