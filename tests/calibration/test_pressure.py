"""The station pressure on its way from a BMP280 to an SCD30, with real drivers, poller and judge in virtual time."""

import asyncio
import math
from collections.abc import Callable
from itertools import pairwise

import pytest

from drivers.errors import NoDevice
from drivers.model import Quality, Reason
from drivers.sensors.bmp280 import Bmp280, Bmp280Options
from drivers.sensors.scd30 import Scd30, Scd30Options
from drivers.testing import scd30_chip
from drivers.testing.bmp280_chip import Bmp280Chip
from drivers.testing.buses import RecordingI2c, SimulatedI2c, Write
from drivers.testing.recording import Row
from drivers.testing.scd30_chip import Scd30Chip
from gateway import sensors
from gateway.calibration.pressure import EVERY_S, PressureFeed, due, sources
from gateway.calibration.service import Calibrations, Target
from gateway.config import Config, ConfigError, DeviceSettings, SensorSettings
from gateway.ingest.poller import poll
from gateway.ingest.quality import Doubt, Judge
from gateway.reading import Message
from gateway.store.types import Commit, Event
from tests.calibration.scene import LoopClock
from tests.virtual import run_virtual


@pytest.mark.parametrize(
    ("told", "tried_s", "hpa", "now_s", "is_due"),
    [
        (None, None, 1000, 0, True),
        (1000, 0, 1001.9, 3600, False),
        (1000, 0, 1002, 3600, True),
        (1000, 0, 998, 3600, True),
        (1000, 0, 950, EVERY_S - 1, False),
        (1000, 0, 950, EVERY_S, True),
        (None, 0, 950, EVERY_S - 1, False),
        (None, None, 699.9, 0, False),
        (None, None, 1400.1, 0, False),
    ],
)
def test_when_a_sensor_is_told(
    told: float | None, tried_s: float | None, hpa: float, now_s: float, is_due: bool
) -> None:
    assert due(told, tried_s, hpa, now_s) is is_due


class Attic:
    """Both chips in one air, polled; what the judge said of CO2; every pressure the SCD30 was told, with the time."""

    def __init__(self, pressure: Callable[[float], float], **settings: object) -> None:
        def air(t_s: float) -> Row:
            wobble = math.sin(t_s / 7)
            return Row(t_s, 600 + wobble, 21 + wobble / 10, 45 + wobble, pressure(t_s))

        self.scd30, self.bmp280 = Scd30Chip(air, zeros=0), Bmp280Chip(air)
        self.bus = RecordingI2c(SimulatedI2c([self.scd30, self.bmp280]))
        self.clock, self.events = LoopClock(), list[Event]()
        self.co2: list[tuple[float, Quality, Reason]] = []
        self.told: list[tuple[float, float]] = []
        self.fails: NoDevice | None = None
        self.driver = Scd30(self.bus, Scd30Options())
        self.judge = Judge(sensors.channels(()))

    async def live(self, seconds: float) -> "Attic":
        target = Target("attic", "scd30", self.driver, Scd30.CHANNELS, Scd30Options(), "bmp280")

        async def nothing(*_: object) -> tuple[()]:
            return ()

        async def record(event: Event) -> None:
            raise AssertionError(f"waited for the disk: {event}")

        service = Calibrations(
            [target],
            recent=nothing,
            record=record,
            note=self.events.append,
            doubt=lambda series, from_s, until_s, verdict: self.judge.doubt(*series, Doubt(from_s, until_s, *verdict)),
            clock=self.clock,
        )

        async def tell(device: str, sensor: str, hpa: float, barometer: str) -> None:
            self.told.append((asyncio.get_running_loop().time(), hpa))
            if self.fails:
                raise self.fails
            last = [s for s in self.bus.steps if isinstance(s, Write) and s.address == 0x61][-1]
            assert last.data == scd30_chip.MEASUREMENT.to_bytes(2, "big"), "directly after a read"
            await service.tell_pressure(device, sensor, hpa, barometer)

        feed = PressureFeed({("attic", "scd30"): "bmp280"}, tell, self.clock)

        async def put(message: Message) -> None:
            message = self.judge.message(message)
            if message.sensor == "scd30":
                co2 = message.readings[0]
                self.co2.append((asyncio.get_running_loop().time(), co2.quality, co2.reason))
            await feed.committed(Commit(1, 3, 0, {}, (), message.readings))
            await feed.after(message.device, message.sensor)

        def started(device: str, sensor: str) -> None:
            self.judge.restarted(device, sensor, self.clock.now().timestamp())

        bmp280 = Bmp280(self.bus, Bmp280Options())
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(poll("attic", "scd30", self.driver, 2, put, self.clock, started=started), name="a"),
                group.create_task(poll("attic", "bmp280", bmp280, 5, put, self.clock, started=started), name="b"),
            ]
            await asyncio.sleep(seconds)
            for task in tasks:
                task.cancel()
        return self


def test_a_falling_barometer_is_followed_in_steps() -> None:
    """10 hPa an hour, which is a storm: one change every twelve minutes."""
    attic = run_virtual(Attic(lambda t_s: 1000 - t_s / 360).live(7200))
    times, pressures = zip(*attic.told, strict=True)
    assert 60 <= times[0] <= 120, "after the barometer has warmed up"
    assert 8 <= len(times) <= 11
    assert all(later - earlier >= EVERY_S for earlier, later in pairwise(times))
    assert all(earlier - later >= 2 for earlier, later in pairwise(pressures))
    assert abs(attic.scd30.pressure_mbar - (1000 - 7200 / 360)) <= 3
    assert [event.message for event in attic.events][:2] == ["scd30: pressure 1000 hPa", "scd30: pressure 998 hPa"]
    assert len(attic.events) == len(times)
    assert {event.detail["by"] for event in attic.events} == {"bmp280"}


def test_each_change_makes_co2_uncertain_for_two_minutes_and_stops_no_reading() -> None:
    attic = run_virtual(Attic(lambda t_s: 1000 if t_s < 1000 else 990).live(1800))
    assert len(attic.told) == 2
    second_s = attic.told[1][0]
    for at_s, quality, reason in attic.co2:
        settling = at_s < 121 or any(0 < at_s - told_s <= 121 for told_s, _ in attic.told)
        if not settling and at_s != second_s:
            assert (quality, reason) == (Quality.GOOD, Reason.NONE), at_s
    during = [reason for at_s, _, reason in attic.co2 if second_s + 1 < at_s < second_s + 118]
    assert set(during) == {Reason.WARM_UP}
    assert max(later - earlier for (earlier, *_), (later, *_) in pairwise(attic.co2)) <= 4.6


def test_noise_tells_once() -> None:
    attic = run_virtual(Attic(lambda t_s: 1000 + 0.9 * math.sin(t_s)).live(7200))
    assert len(attic.told) == 1


def test_only_fresh_pressure_counts() -> None:
    async def main() -> tuple[int, int]:
        attic = Attic(lambda t_s: 1000 if t_s < 300 else 900)
        life = asyncio.create_task(attic.live(3600), name="life")
        await asyncio.sleep(299)
        attic.bus._bus._chips.pop(0x76)  # type: ignore[attr-defined]
        await life
        return len(attic.told), attic.scd30.pressure_mbar

    assert run_virtual(main()) == (1, 1000)


def test_high_in_the_mountains_the_altitude_has_to_do() -> None:
    assert run_virtual(Attic(lambda _t: 640).live(1200)).told == []


def test_who_cannot_be_told_is_told_later(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> Attic:
        attic = Attic(lambda _t: 1000)
        attic.fails = NoDevice("gone")
        life = asyncio.create_task(attic.live(1500), name="life")
        await asyncio.sleep(800)
        attic.fails = None
        return await life

    attic = run_virtual(main())
    assert len(attic.told) == 4
    assert all(later - earlier >= EVERY_S for (earlier, _), (later, _) in pairwise(attic.told))
    assert attic.scd30.pressure_mbar == 1000
    assert caplog.text.count("attic/scd30 was not told the pressure of bmp280: gone") == 1


# ---- who tells whom


def found(*chosen: SensorSettings, pressure_from: str = "auto") -> dict[tuple[str, str], str]:
    device = DeviceSettings(id="attic", sensor=chosen, pressure_from=pressure_from)
    return sources((device,), sensors.plan(Config(device=(device,))))


def sensor(driver: str, name: str | None = None, bus: str = "i2c:1", **options: object) -> SensorSettings:
    return SensorSettings(driver=driver, bus=bus, name=name, options=options)


def test_a_barometer_on_the_same_device_is_taken_by_itself() -> None:
    assert found(sensor("scd30"), sensor("bmp280")) == {("attic", "scd30"): "bmp280"}
    assert found(sensor("scd30_modbus", bus="serial:/dev/ttyX"), sensor("bmp280", "p")) == {
        ("attic", "scd30_modbus"): "p"
    }
    assert found(sensor("scd30")) == {}
    assert found(sensor("bmp280")) == {}
    assert found(sensor("scd30"), sensor("bmp280"), pressure_from="off") == {}


def test_what_is_not_clear_is_left_alone() -> None:
    two = sensor("bmp280", "low"), sensor("bmp280", "high", address=0x77)
    assert found(sensor("scd30"), *two) == {}
    assert found(sensor("scd30"), *two, pressure_from="high") == {("attic", "scd30"): "high"}
    assert found(sensor("scd30", pressure_hpa=990), sensor("bmp280")) == {}


@pytest.mark.parametrize(
    ("chosen", "pressure_from", "says"),
    [
        (
            (sensor("scd30"), sensor("bmp280")),
            "bmp",
            "device 'attic': pressure_from = 'bmp': .* those that do: 'bmp280'",
        ),
        ((sensor("scd30"),), "scd30", "those that do: none; or use"),
        (
            (sensor("scd30", pressure_hpa=990), sensor("bmp280")),
            "bmp280",
            "options.pressure_hpa of 'scd30': choose one",
        ),
    ],
)
def test_a_name_that_cannot_do_it(chosen: tuple[SensorSettings, ...], pressure_from: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        found(*chosen, pressure_from=pressure_from)


def test_other_devices_have_their_own_air() -> None:
    devices = tuple(
        DeviceSettings(id=name, sensor=(sensor(kind, bus=f"i2c:{n}"),))
        for n, (name, kind) in enumerate((("attic", "scd30"), ("cellar", "bmp280")))
    )
    assert sources(devices, sensors.plan(Config(device=devices))) == {}
