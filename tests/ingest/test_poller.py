"""Cadence, back-off and what the house hears of a sensor, in virtual time."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest

from drivers.errors import BadData, BusTimeout, BusUnavailable, NoDevice, WrongDevice
from drivers.model import Channel, Quality, Quantity, Reason, Sample
from gateway.ingest.poller import poll
from gateway.reading import Message
from tests.brokers import FixedClock
from tests.virtual import run_virtual


class Scripted:
    """A driver whose answers are a list: an error, seconds to take before a good answer, or the samples themselves."""

    BUS: ClassVar[type] = object
    CHANNELS: ClassVar[tuple[Channel, ...]] = (
        Channel(Quantity.CO2, 0, 40_000, frozen_after=10),
        Channel(Quantity.TEMPERATURE, -40, 85),
    )

    @dataclass(frozen=True, slots=True)
    class Options:
        pass

    def __init__(self, *answers: Exception | float | tuple[Sample, ...], starts: Sequence[Exception] = ()) -> None:
        self._answers, self._starts = list(answers), list(starts)
        self.reads: list[float] = []
        self.started: list[float] = []
        self.stopped = 0

    async def start(self) -> None:
        self.started.append(asyncio.get_running_loop().time())
        if self._starts:
            raise self._starts.pop(0)

    async def read(self) -> Sequence[Sample]:
        self.reads.append(asyncio.get_running_loop().time())
        answer = self._answers.pop(0) if self._answers else 0.0
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, tuple):
            return answer
        await asyncio.sleep(answer)
        return (Sample("co2", 700.0 + len(self.reads)),)

    async def stop(self) -> None:
        self.stopped += 1


def run(
    driver: Scripted, for_s: float, interval_s: float = 10, trusted: bool = True
) -> tuple[list[Message], list[str]]:
    """Poll for so long; what was put, and what was said of the sensor ("ok" or the error's kind)."""
    put: list[Message] = []
    said: list[str] = []

    async def keep(message: Message) -> None:
        put.append(message)

    async def main() -> None:
        clock = FixedClock(trusted=trusted)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(for_s):
                await poll(
                    "attic",
                    "scd30",
                    driver,
                    interval_s,
                    keep,
                    clock,
                    status=lambda _d, _s, error: said.append("ok" if error is None else type(error).__name__),
                    started=lambda device, sensor: said.append(f"started {device}/{sensor}"),
                )

    run_virtual(main())
    return put, said


def test_a_steady_pace_whatever_an_answer_takes() -> None:
    driver = Scripted(3, 0.5, 9, 1)
    put, said = run(driver, 55)
    assert driver.reads == pytest.approx([0, 10, 20, 30, 40, 50])
    assert said == ["started attic/scd30", "ok"]
    assert driver.stopped == 1
    assert put[0].readings[0].value == 701
    assert put[0].timed


def test_missed_periods_are_skipped_not_caught_up() -> None:
    driver = Scripted(34)
    run(driver, 65)
    assert driver.reads == pytest.approx([0, 40, 50, 60])


def test_bad_answers_are_skipped_at_the_same_pace() -> None:
    driver = Scripted(0, BadData("crc"), BadData("crc"), 0)
    put, said = run(driver, 35)
    assert driver.reads == pytest.approx([0, 10, 20, 30])
    assert (len(put), said, len(driver.started)) == (2, ["started attic/scd30", "ok"], 1)


def test_many_bad_answers_in_a_row_ask_for_a_restart() -> None:
    driver = Scripted(0, *[BadData("crc")] * 10)
    _, said = run(driver, 200)
    assert len(driver.started) == 2
    assert said == ["started attic/scd30", "ok", "BadData", "started attic/scd30", "ok"]


@pytest.mark.parametrize("error", [NoDevice("0x61"), BusUnavailable("no /dev/i2c-1: enable I2C"), BadData("crc")])
def test_a_dead_wire_is_tried_ever_more_slowly_and_reported_once(error: Exception) -> None:
    driver = Scripted(starts=[error] * 10_000)
    put, said = run(driver, 3600)
    assert (put, said) == ([], [type(error).__name__])
    assert 60 <= len(driver.started) <= 130
    gaps = [later - earlier for earlier, later in zip(driver.started, driver.started[1:], strict=False)]
    assert gaps[0] <= 2
    assert all(30 <= gap <= 60 for gap in gaps[10:])


def test_a_wire_that_comes_back_is_used_at_once() -> None:
    driver = Scripted(0, NoDevice("0x61"), 0)
    put, said = run(driver, 25)
    assert said == ["started attic/scd30", "ok", "NoDevice", "started attic/scd30", "ok"]
    assert driver.started[1] <= 11.1
    assert len(put) >= 2


def test_what_a_person_has_to_put_right_is_said_once_and_tried_every_minute() -> None:
    driver = Scripted(starts=[WrongDevice("BME280 at 0x76")] * 100)
    _, said = run(driver, 299)
    assert said == ["WrongDevice"]
    assert driver.started == pytest.approx([0, 60, 120, 180, 240])


def test_a_foreign_drivers_bug_harms_only_its_sensor(caplog: pytest.LogCaptureFixture) -> None:
    driver = Scripted(0, ZeroDivisionError("bug"), 0)
    put, said = run(driver, 85)
    assert said[:3] == ["started attic/scd30", "ok", "ZeroDivisionError"]
    assert len(put) == 3
    assert "driver of attic/scd30" in caplog.text


def test_a_driver_that_never_answers_is_given_up_and_started_again() -> None:
    driver = Scripted(0, 1e9, 0)
    put, said = run(driver, 200)
    assert "BusTimeout" in said
    assert len(driver.started) == 2
    assert len(put) >= 2


def test_a_driver_that_never_answers_costs_its_patience_and_a_second() -> None:
    driver = Scripted(0, 1e9, 0)
    run(driver, 75)
    assert driver.started[1] == pytest.approx(10 + 60 + 1, abs=0.51)


class Slow(Scripted):
    """Measures by itself, every few minutes."""

    patience_s = 400.0


def test_a_driver_may_ask_for_more_patience() -> None:
    driver = Slow(300.0, 300.0)
    put, said = run(driver, 650)
    assert said == ["started attic/scd30", "ok"]
    assert len(put) == 2 + 3
    driver = Slow(401.0)
    assert "BusTimeout" in run(driver, 500)[1]


def test_each_kind_of_failure_is_logged_once_in_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    driver = Scripted(starts=[NoDevice("gone"), BusTimeout("hangs")] * 10)
    _, said = run(driver, 3600)
    assert said[:4] == ["NoDevice", "BusTimeout", "NoDevice", "BusTimeout"]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["attic/scd30: gone", "attic/scd30: hangs", "attic/scd30: works again"]


def test_after_a_good_reading_the_first_try_is_quick_again() -> None:
    driver = Scripted(0, starts=[*[NoDevice("0x61")] * 8])
    run(driver, 400)
    driver = Scripted(0, NoDevice("x"), 0, 0, NoDevice("x"), 0)
    run(driver, 60)
    assert len(driver.started) == 3
    for failed_s, again_s in zip((driver.reads[1], driver.reads[4]), driver.started[1:], strict=True):
        assert again_s - failed_s <= 1.0


def same(value: float, quality: Quality = Quality.GOOD) -> tuple[Sample, ...]:
    return (Sample("co2", value, quality), Sample("temperature", 21.0))


def test_a_value_that_no_longer_changes_is_faulty_and_restarts_the_sensor_a_few_times_an_hour() -> None:
    driver = Scripted(*[same(612.5)] * 400, same(613.0))
    put, said = run(driver, 4020)
    assert said[:3] == ["started attic/scd30", "ok", "ValueFrozen"]
    assert said[-1] == "ok"
    assert said.count("ValueFrozen") == said.count("ok") - 1 == 1
    assert driver.started == pytest.approx([0, 270, 450, 630, 3870], abs=11)
    qualities = [message.readings[0].reason for message in put]
    assert qualities[:9] == [Reason.NONE] * 9
    assert set(qualities[9:400]) == {Reason.FROZEN}
    assert {message.readings[1].reason for message in put[:401]} == {Reason.NONE}
    assert qualities[400] is Reason.NONE


def test_a_value_frozen_for_less_than_some_minutes_restarts_nothing() -> None:
    driver = Scripted(*[same(612.5)] * 20, same(613.0))
    _, said = run(driver, 400)
    assert said == ["started attic/scd30", "ok", "ValueFrozen", "ok"]
    assert len(driver.started) == 1


def test_answers_without_a_usable_value_are_bad_answers() -> None:
    nothing = (Sample("co2", float("nan")), Sample("temperature", 200.0, Quality.BAD, Reason.OUT_OF_RANGE))
    driver = Scripted(0, *[nothing] * 10, 0)
    put, said = run(driver, 125)
    assert said == ["started attic/scd30", "ok", "BadData", "started attic/scd30", "ok"]
    assert len(put) == 1 + 10 + 3
    driver = Scripted(*[nothing] * 5)
    assert run(driver, 45)[1] == ["started attic/scd30"]


def test_nothing_to_say_is_no_failure_and_no_sign_of_life() -> None:
    driver = Scripted(NoDevice("x"), (), (), 0)
    put, said = run(driver, 25)
    assert said == ["started attic/scd30", "NoDevice", "started attic/scd30", "ok"]
    assert len(put) == 1


def test_an_untrusted_clock_is_said_in_every_reading() -> None:
    put, _ = run(Scripted(), 1, trusted=False)
    (reading,) = put[0].readings
    assert (reading.quality, reading.reason) == (Quality.UNCERTAIN, Reason.CLOCK_UNTRUSTED)


def test_one_sensor_never_delays_another() -> None:
    slow, quick = Scripted(*[50.0] * 10), Scripted()

    async def keep(_message: Message) -> None:
        pass

    async def main() -> None:
        async with asyncio.timeout(95), asyncio.TaskGroup() as group:
            for name, driver in (("slow", slow), ("quick", quick)):
                group.create_task(poll("attic", name, driver, 10, keep, FixedClock()))

    with pytest.raises(TimeoutError):
        run_virtual(main())
    assert quick.reads == pytest.approx([10.0 * n for n in range(10)])
