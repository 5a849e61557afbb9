"""What every driver must keep to, as functions: parametrise over CHECKS and run each in virtual time.

    @pytest.mark.parametrize("check", CHECKS)
    def test_conformance(check): run_virtual(check(DriverCase(Thermo, healthy, stranger)))

A check raises AssertionError with what was broken. `healthy` and `stranger` make a fresh bus at each call.
On a Modbus line they make the serial port below it, and the case says so: faults=FaultyLine, over=ModbusRtu.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from drivers.api import Driver
from drivers.errors import BusError, BusTimeout, DriverError, NoDevice, WrongDevice
from drivers.testing.buses import Fail, Fault, FaultyI2c, Flip, Hang, Short


@dataclass(frozen=True, slots=True)
class DriverCase:
    """A driver, a wire where its device answers, and one where another device answers in its place.

    `faults` spoils the wire, `over` makes of the wire the bus that the driver wants. `refuses_at` "read" is for what
    only speaks by itself (a beacon): nobody can ask who it is, so a stranger shows in what is read.
    """

    driver: type[Driver]
    healthy: Callable[[], Any]
    stranger: Callable[[], Any]
    options: Any = None
    faults: Callable[[Any, Mapping[int, Fault]], Any] = FaultyI2c
    over: Callable[[Any], Any] = lambda wire: wire
    refuses_at: Literal["start", "read"] = "start"

    def on(self, bus: Any) -> Driver:
        """The driver on this wire."""
        return self.bare(self.over(bus))

    def bare(self, bus: Any) -> Driver:
        """The driver on this bus."""
        return self.driver(bus, self.driver.Options() if self.options is None else self.options)

    def faulty(self, faults: Mapping[int, Fault] | None = None) -> Any:
        """A healthy wire that spoils these transfers."""
        return self.faults(self.healthy(), faults or {})


class _Untouchable:
    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"construction touched the bus: {name}")


async def construction_touches_no_wire(case: DriverCase) -> None:
    """A constructor stores and no more."""
    case.bare(_Untouchable())


async def options_are_defaulted_and_frozen(case: DriverCase) -> None:
    """Options() works, and nobody changes it afterwards."""
    options = case.driver.Options()
    assert dataclasses.is_dataclass(options), "Options is no dataclass"
    for field in dataclasses.fields(options):
        try:
            setattr(options, field.name, None)
        except dataclasses.FrozenInstanceError:
            continue
        raise AssertionError(f"Options.{field.name} can be changed")


async def channels_are_distinct(case: DriverCase) -> None:
    """There are channels, with distinct keys and bounds in order."""
    keys = [c.key for c in case.driver.CHANNELS]
    assert keys, "no channels"
    assert len(set(keys)) == len(keys), f"channel keys repeat: {keys}"
    for c in case.driver.CHANNELS:
        assert c.low < c.high, f"{c.key}: low {c.low} is not below high {c.high}"


async def start_read_stop(case: DriverCase) -> None:
    """The plain life of a driver; starting twice is allowed, reading goes on after a stop and a start."""
    driver = case.on(case.healthy())
    await driver.start()
    await _reads(case, driver)
    await driver.start()
    await _reads(case, driver)
    await driver.stop()
    await driver.start()
    await _reads(case, driver)
    await driver.stop()


async def stop_never_raises(case: DriverCase) -> None:
    """Whatever the wire does, started or not, stop returns."""
    for error in (NoDevice("gone"), BusTimeout("stuck"), BusError("noise")):
        bus = case.faulty()
        driver = case.on(bus)
        await driver.start()
        bus.gone = error
        await driver.stop()
        never_started = case.on(bus)
        await never_started.stop()


async def a_stranger_is_refused(case: DriverCase) -> None:
    """Another chip at the address is a WrongDevice, with more than a word of explanation."""
    driver = case.on(case.stranger())
    raised = await _raised(driver.start())
    if case.refuses_at == "read":
        assert raised is None, f"nobody was asked, but start gave {raised!r}"
        raised = await _raised(driver.read())
    assert isinstance(raised, WrongDevice), f"another chip at the address gave {raised!r}"
    assert len(str(raised)) > 20, f"WrongDevice says only {str(raised)!r}"


async def every_failing_transfer_keeps_its_kind(case: DriverCase) -> None:
    """At each transfer of start and read: a bus error comes out as itself or is overcome; then the driver recovers."""
    for n in range(await _transfers(case)):
        for error in (NoDevice("gone"), BusTimeout("stuck"), BusError("noise")):
            raised = await _survives(case, n, Fail(error))
            assert raised is None or type(raised) is type(error), f"transfer {n}: {error!r} came out as {raised!r}"


async def every_wrong_answer_is_a_driver_error(case: DriverCase) -> None:
    """At each transfer: a flipped bit or a short answer is overcome or is a DriverError; then the driver recovers."""
    for n in range(await _transfers(case)):
        for fault in (Flip(0), Flip(7), Flip(13), Short(1), Short(100)):
            await _survives(case, n, fault)


async def a_cancelled_read_harms_nothing(case: DriverCase) -> None:
    """At each transfer of a read: cancelled while it waits, the next read works without a new start."""
    first = await _transfers(case, read=False)
    for n in range(first, await _transfers(case)):
        hang = Hang()
        driver = case.on(case.faulty({n: hang}))
        await driver.start()
        task = asyncio.create_task(_read(driver), name="conformance.read")
        await hang.reached.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), f"transfer {n}: a cancelled read went on"
        await _reads(case, driver)


async def an_outage_is_survived(case: DriverCase) -> None:
    """A bus that is gone raises its own kind, and once it is back a start and a read work."""
    bus = case.faulty()
    driver = case.on(bus)
    await driver.start()
    bus.gone = NoDevice("gone")
    for step in (driver.read, driver.start, driver.read):
        raised = await _raised(step())
        assert isinstance(raised, NoDevice), f"without a device {step.__name__} gave {raised!r}"
    bus.gone = None
    await driver.start()
    await _reads(case, driver)


Check = Callable[[DriverCase], Awaitable[None]]
CHECKS: tuple[Check, ...] = (
    construction_touches_no_wire,
    options_are_defaulted_and_frozen,
    channels_are_distinct,
    start_read_stop,
    stop_never_raises,
    a_stranger_is_refused,
    every_failing_transfer_keeps_its_kind,
    every_wrong_answer_is_a_driver_error,
    a_cancelled_read_harms_nothing,
    an_outage_is_survived,
)


async def _read(driver: Driver) -> None:
    await driver.read()


async def _reads(case: DriverCase, driver: Driver) -> None:
    samples = await driver.read()
    known = {c.key for c in case.driver.CHANNELS}
    assert samples, "a read gave no sample"
    assert {s.channel for s in samples} <= known, f"samples {samples} of unknown channels, known are {known}"


async def _transfers(case: DriverCase, *, read: bool = True) -> int:
    """How many transfers a start, and a first read, take on a healthy bus."""
    bus = case.faulty()
    driver = case.on(bus)
    await driver.start()
    if read:
        await driver.read()
    transfers: int = bus.transfers
    return transfers


async def _survives(case: DriverCase, n: int, fault: Fault) -> DriverError | None:
    driver = case.on(case.faulty({n: fault}))
    raised = await _raised(driver.start()) or await _raised(driver.read())
    await driver.start()
    await _reads(case, driver)
    return raised


async def _raised(step: Awaitable[object]) -> DriverError | None:
    try:
        await step
    except DriverError as error:
        return error
    return None
