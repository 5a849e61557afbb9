"""The service: guard, change, what is marked, what is written down; with the real store where it decides."""

import asyncio
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pytest

from drivers.api import Calibration
from drivers.errors import BadData, BusTimeout, NoDevice, NotReady
from drivers.model import Quality, Quantity, Reason
from drivers.testing import scd30_chip
from drivers.testing.buses import Hang, SimulatedI2c
from gateway.calibration.changes import Altitude, Change, Pressure, Recalibration, SelfCalibration, TemperatureOffset
from gateway.calibration.service import Calibrations, Declined, Target, stored
from gateway.clock import SystemClock
from gateway.ingest.quality import Judge
from gateway.reading import Message, Reading
from gateway.store import commands, queries
from gateway.store.db import Store
from gateway.store.errors import StoreError
from gateway.store.types import Event
from tests.calibration.scene import Scene
from tests.virtual import run_virtual

CHANGES: dict[str, tuple[Change, dict[str, object]]] = {
    "frc": (Recalibration(450), {"reference_ppm": 450}),
    "asc": (SelfCalibration(True), {"self_calibration": True}),
    "offset": (TemperatureOffset(2.5), {"temperature_offset_degc": 2.5}),
    "altitude": (Altitude(300), {"altitude_m": 300}),
    "pressure": (Pressure(987.4), {"pressure_hpa": 987.0}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_done_read_back_and_written_down(name: str) -> None:
    change, differs = CHANGES[name]

    async def main() -> None:
        scene = await Scene().measuring()
        before, _ = await scene.service.show("attic", "scd30")
        outcome = await scene.service.apply("attic", "scd30", change, by="anna")
        assert outcome.changed
        assert outcome.before == before
        assert outcome.after is not None
        assert asdict(outcome.after) == asdict(before) | differs
        (event,) = scene.events
        assert (event.kind, event.device) == ("calibration", "attic")
        assert event.message == f"scd30: {change}"
        assert event.detail["by"] == "anna"
        assert event.detail["before"] == asdict(before)
        assert event.detail["after"] == asdict(outcome.after)
        assert ("median_ppm" in event.detail) is (name == "frc")

    run_virtual(main())


@pytest.mark.parametrize("name", CHANGES)
def test_a_dry_run_writes_nothing(name: str) -> None:
    async def main() -> None:
        scene = await Scene().measuring()
        held = dict(scene.chip.settings), scene.chip.pressure_mbar
        outcome = await scene.service.apply("attic", "scd30", CHANGES[name][0], by="anna", dry_run=True)
        assert outcome.changed
        assert outcome.after is None
        assert (scene.chip.settings, scene.chip.pressure_mbar) == held
        assert not scene.events

    run_virtual(main())


def test_what_is_held_already_is_left_alone() -> None:
    async def main() -> None:
        scene = await Scene(altitude_m=300).measuring()
        outcome = await scene.service.apply("attic", "scd30", Altitude(300), by="anna")
        assert not outcome.changed
        assert not scene.events
        assert judged(scene, Quantity.CO2, 600, 1)[1] is not Reason.OUT_OF_SERVICE

    run_virtual(main())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (Recalibration(399), "399 ppm: it must be 400 to 2000"),
        (Recalibration(2001), "2001"),
        (TemperatureOffset(-7), "without a sign"),
        (Altitude(-1), "0 to 65535"),
        (Pressure(101325), r"1013\.25 hPa"),
    ],
    ids=str,
)
@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("force", [True, False])
def test_no_force_goes_out_of_range(change: Change, says: str, dry_run: bool, force: bool) -> None:
    async def main() -> None:
        scene = await Scene().measuring()
        transfers = scene.bus.transfers
        with pytest.raises(ValueError, match=says):
            await scene.service.apply("attic", "scd30", change, by="anna", dry_run=dry_run, force=force)
        assert scene.bus.transfers == transfers
        assert not scene.events

    run_virtual(main())


def test_the_guard_and_what_force_may_do() -> None:
    async def main() -> None:
        scene = await Scene().measuring()
        scene.points = scene.points[60:]
        for force in (False, True):
            with pytest.raises(
                Declined, match=r"attic/scd30: no forced recalibration to 450 ppm: 29 readings over 56 s"
            ):
                await scene.service.apply("attic", "scd30", Recalibration(450), by="anna", force=force)
        scene.calm(1400)
        for dry_run in (False, True):
            with pytest.raises(Declined, match=r"it reads 1401 ppm.*if you are sure, use force"):
                await scene.service.apply("attic", "scd30", Recalibration(450), by="anna", dry_run=dry_run)
        assert scene.chip.settings[scd30_chip.REFERENCE] == 400
        assert not scene.events
        await scene.service.apply("attic", "scd30", Recalibration(450), by="anna", force=True)
        assert scene.chip.settings[scd30_chip.REFERENCE] == 450

    run_virtual(main())


def test_who_cannot_be_calibrated() -> None:
    async def main() -> None:
        scene = await Scene().measuring()
        for device, sensor in (("attic", "bmp280"), ("cellar", "scd30")):
            with pytest.raises(LookupError, match=r"no wired sensor that can be calibrated; those are: attic/scd30"):
                await scene.service.show(device, sensor)

    run_virtual(main())


# ---- what the judge hears


def judged(scene: Scene, quantity: Quantity, value: float, after_s: float) -> tuple[Quality, Reason]:
    """The verdict on a reading so long after now."""
    time = scene.clock.now() + timedelta(seconds=after_s)
    reading = Reading("attic", "scd30", quantity.value, quantity, value, time, time)
    found = scene.judge.message(Message("attic", "scd30", (reading,))).readings[0]
    return found.quality, found.reason


GOOD, WARM = (Quality.GOOD, Reason.NONE), (Quality.UNCERTAIN, Reason.WARM_UP)


@pytest.mark.parametrize(
    ("name", "quantity", "settles_s"),
    [
        ("frc", Quantity.CO2, 120),
        ("altitude", Quantity.CO2, 120),
        ("pressure", Quantity.CO2, 120),
        ("offset", Quantity.TEMPERATURE, 600),
        ("offset", Quantity.HUMIDITY, 600),
        ("frc", Quantity.TEMPERATURE, 0),
        ("asc", Quantity.CO2, 0),
        ("offset", Quantity.CO2, 0),
        ("pressure", Quantity.TEMPERATURE, 0),
    ],
)
def test_what_has_to_settle_is_uncertain_for_so_long(name: str, quantity: Quantity, settles_s: float) -> None:
    value = {Quantity.CO2: 600.0, Quantity.TEMPERATURE: 21.0, Quantity.HUMIDITY: 45.0}[quantity]

    async def main() -> list[tuple[Quality, Reason]]:
        scene = await Scene().measuring()
        assert judged(scene, quantity, value, -1) == GOOD
        await scene.service.apply("attic", "scd30", CHANGES[name][0], by="anna")
        steps = (1, 119, 121, 599, 601)
        return [judged(scene, quantity, value + n / 10, step) for n, step in enumerate(steps)]

    assert run_virtual(main()) == [WARM if step < settles_s else GOOD for step in (1, 119, 121, 599, 601)]


def test_the_step_of_a_recalibration_is_no_spike_and_what_came_during_it_is_out_of_service() -> None:
    async def main() -> None:
        scene = await Scene().measuring()
        assert judged(scene, Quantity.CO2, 1400, -1) == GOOD
        scene.calm(1400)
        hang = Hang()
        scene.bus._faults[scene.bus.transfers + 14] = hang
        task = asyncio.create_task(
            scene.service.apply("attic", "scd30", Recalibration(420), by="anna", force=True), name="frc"
        )
        await hang.reached.wait()
        during = scene.clock.now()
        assert judged(scene, Quantity.CO2, 1300, 0.5) == (Quality.BAD, Reason.OUT_OF_SERVICE)
        with pytest.raises(BusTimeout, match="attic/scd30 took longer than 30 s"):
            await task
        assert scene.clock.now() - during >= timedelta(seconds=29)
        assert judged(scene, Quantity.CO2, 420, 1) == WARM
        assert judged(scene, Quantity.CO2, 421, 3) == WARM
        assert judged(scene, Quantity.CO2, 422, 121) == GOOD
        (event,) = scene.events
        assert "failed, what the sensor holds now is not known" in event.message
        assert "30 s" in event.detail["error"]

    run_virtual(main())


def test_a_sensor_that_is_not_ready_loses_nothing() -> None:
    async def main() -> None:
        scene = await Scene(interval_s=5).measuring()
        with pytest.raises(NotReady, match="every 5 s"):
            await scene.service.apply("attic", "scd30", Recalibration(420), by="anna")
        assert judged(scene, Quantity.CO2, 600, 0.5) == GOOD
        assert not scene.events

    run_virtual(main())


def test_what_did_not_take_is_said_and_written_down() -> None:
    async def main() -> None:
        scene = await Scene().measuring()
        scene.chip.refuses.add(scd30_chip.ALTITUDE)
        with pytest.raises(BadData, match="wrote 300, reads back 0"):
            await scene.service.apply("attic", "scd30", Altitude(300), by="anna")
        (event,) = scene.events
        assert "failed" in event.message
        assert judged(scene, Quantity.CO2, 600, 1) == WARM
        scene.bus.gone = NoDevice("unplugged")
        with pytest.raises(NoDevice):
            await scene.service.show("attic", "scd30")

    run_virtual(main())


# ---- notes


def test_what_one_should_know() -> None:
    async def notes(change: Change, **options: object) -> str:
        scene = await Scene(**options).measuring()
        return "; ".join((await scene.service.apply("attic", "scd30", change, by="anna")).notes)

    assert run_virtual(notes(Altitude(300))) == ""
    assert "altitude_m = 100, which comes back" in run_virtual(notes(Altitude(300), altitude_m=100))
    assert "overrules the altitude" in run_virtual(notes(Altitude(300), pressure_hpa=900))
    assert "forgotten at the gateway's next start" in run_virtual(notes(Pressure(900)))
    assert "self-calibration is on" in run_virtual(notes(Recalibration(450), self_calibration=True))
    assert "7 days of power" in run_virtual(notes(SelfCalibration(True)))


def test_a_pressure_that_a_barometer_tells_is_not_set_by_hand() -> None:
    async def main() -> None:
        scene = await Scene(pressure_from="bmp280").measuring()
        assert (await scene.service.show("attic", "scd30"))[1] == "bmp280"
        with pytest.raises(Declined, match=r"'bmp280'.*pressure_from = \"off\""):
            await scene.service.apply("attic", "scd30", Pressure(900), by="bmp280")
        await scene.service.apply("attic", "scd30", Pressure(900), by="anna", force=True)
        await scene.service.tell_pressure("attic", "scd30", 950.2, "bmp280")
        await scene.service.tell_pressure("attic", "scd30", 950.4, "bmp280")
        assert [event.detail["by"] for event in scene.events] == ["anna", "bmp280"]
        assert scene.chip.pressure_mbar == 950

    run_virtual(main())


# ---- the real store


class QuickI2c(SimulatedI2c):
    """A bus whose chips live a thousand times faster than the loop."""

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time() * 1000


def message(value: float, at: int, clock: SystemClock, quality: Quality = Quality.GOOD) -> Message:
    time = clock.now() - timedelta(seconds=at)
    reason = Reason.SPIKE if quality is Quality.BAD else Reason.NONE
    reading = Reading("attic", "scd30", "co2", Quantity.CO2, value, time, time, quality, reason)
    return Message("attic", "scd30", (reading,), timed=True)


async def test_with_the_store_that_has_the_readings_and_keeps_the_event(tmp_path: Path) -> None:
    clock, scene = SystemClock(), Scene()
    scene.bus._bus = QuickI2c([scene.chip])
    await scene.driver.start()
    await scene.driver.read()
    flushed: list[int] = []

    async def flush() -> None:
        flushed.append(len(flushed))

    async with Store(tmp_path) as store:

        async def record(event: Event) -> None:
            await commands.add_event(store, event)

        target = Target("attic", "scd30", scene.driver, scene.driver.CHANNELS, scene.driver._options)
        service = Calibrations(
            [target],
            recent=stored(store, flush, clock),
            record=record,
            note=scene.events.append,
            doubt=lambda *_: None,
            clock=clock,
        )
        with pytest.raises(Declined, match="no usable CO2 reading"):
            await service.apply("attic", "scd30", Recalibration(450), by="anna")
        await store.append([message(430 + n % 4, 1000 - n, clock) for n in range(0, 700, 2)])
        with pytest.raises(Declined, match="no usable CO2 reading"):
            await service.apply("attic", "scd30", Recalibration(450), by="anna")
        await store.append([message(430 + n % 4, 170 - n, clock) for n in range(0, 170, 2)])
        outcome = await service.apply("attic", "scd30", Recalibration(450), by="anna")
        assert outcome.air is not None
        assert outcome.air.n == 85
        assert len(flushed) == 3
        (event,) = await queries.events(store)
        assert event.detail["after"]["reference_ppm"] == 450
        assert event.detail["by"] == "anna"
        await store.append([message(900, 1, clock, Quality.BAD)])
        with pytest.raises(Declined, match=r"bad \(spike\)"):
            await service.apply("attic", "scd30", Recalibration(450), by="anna")


def test_a_store_that_fails_does_not_hide_what_was_done(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> Calibration | None:
        scene = await Scene().measuring()

        async def full(_event: Event) -> None:
            raise StoreError("no space left")

        scene.service._record = full  # type: ignore[method-assign]
        return (await scene.service.apply("attic", "scd30", Altitude(300), by="anna")).after

    after = run_virtual(main())
    assert after is not None
    assert after.altitude_m == 300
    assert "scd30: altitude 300 m by anna): no space left" in caplog.text


def test_doubts_cost_other_series_nothing() -> None:
    async def main() -> None:
        scene = await Scene().measuring()
        await scene.service.apply("attic", "scd30", Altitude(300), by="anna")
        time = scene.clock.now()
        other = Message("cellar", "scd30", (Reading("cellar", "scd30", "co2", Quantity.CO2, 600, time, time),))
        assert scene.judge.message(other) is other
        assert Judge().message(other) is other

    run_virtual(main())
