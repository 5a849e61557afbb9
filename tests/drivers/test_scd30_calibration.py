"""Calibration of the SCD30 on both wires: byte by byte, read back, refused in time, and beside a running read."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import TypeVar

import pytest

from drivers.api import Calibratable, Calibration
from drivers.errors import BadData, BusTimeout, NoDevice, NotReady
from drivers.modbus import ModbusRtu, read_request, write_request
from drivers.model import Quality
from drivers.sensors._scd30 import Command, Scd30Base, Scd30Options
from drivers.sensors.bmp280 import Bmp280
from drivers.sensors.scd30 import Scd30, frame
from drivers.sensors.scd30_modbus import Scd30Modbus
from drivers.testing import scd30_chip
from drivers.testing.buses import Fail, FaultyI2c, Flip, Read, RecordingI2c, SimulatedI2c, Step, Write
from drivers.testing.recording import Wave
from drivers.testing.scd30_chip import Scd30Chip
from drivers.testing.serial_line import FaultyLine, SimulatedSerial
from drivers.testing.serial_scd30 import Scd30Uart
from drivers.testing.virtual import run_virtual

FRESH = Calibration(False, 0.0, 0, None, 400, "3.66")
Operation = Callable[[Scd30Base], Awaitable[Calibration]]


class I2cWorld:
    """A chip on I2C, every transfer kept."""

    def __init__(self, chip: Scd30Chip | None = None, **options: object) -> None:
        self.chip = chip or Scd30Chip(Wave(), zeros=0)
        self.bus = RecordingI2c(SimulatedI2c([self.chip]))
        self.wire = FaultyI2c(self.bus)
        self.driver = Scd30(self.wire, Scd30Options(**options))  # type: ignore[arg-type]

    def said(self) -> list[str]:
        """Everything that went to the chip, in order."""
        return [step.data.hex() for step in self.bus.steps if isinstance(step, Write)]

    def settings_written(self) -> list[str]:
        return [data for data in self.said() if len(data) > 4]


class UartWorld:
    """The same chip on its UART."""

    def __init__(self, chip: Scd30Chip | None = None, **options: object) -> None:
        self.chip = chip or Scd30Chip(Wave(), zeros=0)
        self.uart = Scd30Uart(self.chip)
        self.wire = FaultyLine(SimulatedSerial(self.uart))
        self.driver = Scd30Modbus(ModbusRtu(self.wire), Scd30Options(**options))  # type: ignore[arg-type]

    def said(self) -> list[str]:
        return [request.hex() for request in self.uart.requests]

    def settings_written(self) -> list[str]:
        return [data for data in self.said() if data[2:4] == "06"]


World = I2cWorld | UartWorld
WORLDS: dict[str, Callable[..., World]] = {"i2c": I2cWorld, "modbus": UartWorld}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> Callable[..., World]:
    return WORLDS[request.param]


W = TypeVar("W", bound=World)


async def measuring(world: W) -> W:
    await world.driver.start()
    await world.driver.read()
    return world


OPERATIONS: dict[str, tuple[Operation, Command, int]] = {
    "frc": (lambda d: d.recalibrate(450), Command.REFERENCE, 450),
    "asc": (lambda d: d.set_self_calibration(True), Command.SELF_CALIBRATION, 1),
    "offset": (lambda d: d.set_temperature_offset(5), Command.TEMPERATURE_OFFSET, 500),
    "altitude": (lambda d: d.set_altitude(1000), Command.ALTITUDE, 1000),
    "pressure": (lambda d: d.set_pressure(836.4), Command.START, 836),
}
SHEET = {  # facts of the interface description: the whole write on I2C and on Modbus
    "frc": ("520401c250", "6106003901c2d066"),
    "asc": ("53060001b0", "6106003a000161a7"),
    "offset": ("540301f433", "6106003b01f4f1b0"),
    "altitude": ("510203e8d4", "6106003803e80119"),
    "pressure": ("0010034455", write_request(0x61, 0x36, 836).hex()),
}
SETTINGS = [
    Command.FIRMWARE,
    Command.START,
    Command.SELF_CALIBRATION,
    Command.TEMPERATURE_OFFSET,
    Command.ALTITUDE,
    Command.REFERENCE,
]


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("wire", WORLDS)
def test_each_operation_byte_by_byte(wire: str, name: str) -> None:
    operation, command, _ = OPERATIONS[name]

    async def main() -> tuple[World, int]:
        world = await measuring(WORLDS[wire]())
        begun = len(world.said())
        await operation(world.driver)
        return world, begun

    world, begun = run_virtual(main())
    asked = [Command.INTERVAL if name == "frc" else command, command, *SETTINGS]
    on_i2c = wire == "i2c"
    bytes_of = [frame(c).hex() if on_i2c else read_request(0x61, c.register, 1).hex() for c in asked]
    assert world.said()[begun:] == [bytes_of[0], SHEET[name][not on_i2c], *bytes_of[1:]]


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_the_chip_says_is_returned(world: Callable[..., World], name: str) -> None:
    expected = {
        "frc": Calibration(False, 0.0, 0, None, 450, "3.66"),
        "asc": Calibration(True, 0.0, 0, None, 400, "3.66"),
        "offset": Calibration(False, 5.0, 0, None, 400, "3.66"),
        "altitude": Calibration(False, 0.0, 1000, None, 400, "3.66"),
        "pressure": Calibration(False, 0.0, 0, 836.0, 400, "3.66"),
    }

    async def main() -> tuple[Calibration, Calibration, Calibration]:
        driver = (await measuring(world())).driver
        assert isinstance(driver, Calibratable)
        return await driver.read_calibration(), await OPERATIONS[name][0](driver), await driver.read_calibration()

    assert run_virtual(main()) == (FRESH, expected[name], expected[name])


def test_a_bmp280_cannot_be_calibrated() -> None:
    assert not issubclass(Bmp280, Calibratable)


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_did_not_take_is_bad_data(world: Callable[..., World], name: str) -> None:
    operation, command, _ = OPERATIONS[name]

    async def main() -> None:
        each = await measuring(world())
        each.chip.refuses.add(int(command))
        with pytest.raises(BadData, match="reads back"):
            await operation(each.driver)

    run_virtual(main())


REFUSED: dict[str, tuple[Operation, str]] = {
    "frc low": (lambda d: d.recalibrate(399), "399.*400 to 2000"),
    "frc high": (lambda d: d.recalibrate(2001), "2001.*400 to 2000"),
    "frc part": (lambda d: d.recalibrate(420.5), "420.5.*whole ppm"),  # type: ignore[arg-type]
    "frc bool": (lambda d: d.recalibrate(True), "True"),
    "asc": (lambda d: d.set_self_calibration(2), "2.*true, false"),  # type: ignore[arg-type]
    "offset negative": (lambda d: d.set_temperature_offset(-7), "-7.*subtracted, and kept without a sign"),
    "offset high": (lambda d: d.set_temperature_offset(655.36), "655.36"),
    "offset nan": (lambda d: d.set_temperature_offset(float("nan")), "nan"),
    "altitude negative": (lambda d: d.set_altitude(-1), "-1.*0 to 65535"),
    "pressure Pa": (lambda d: d.set_pressure(101325), r"101325 Pa is 1013\.25 hPa"),
    "pressure kPa": (lambda d: d.set_pressure(101.3), "101.3 kPa is 1013 hPa"),
    "pressure zero": (lambda d: d.set_pressure(0), "700 to 1400"),
    "pressure high up": (lambda d: d.set_pressure(699.9), "altitude_m"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_out_of_range_touches_no_wire(world: Callable[..., World], name: str) -> None:
    async def main() -> None:
        each = await measuring(world())
        before = each.said()
        with pytest.raises(ValueError, match=REFUSED[name][1]):
            await REFUSED[name][0](each.driver)
        assert each.said() == before

    run_virtual(main())


def test_what_the_chip_holds_already_is_not_written(world: Callable[..., World]) -> None:
    """Its memory wears; a reference is written each time, for the air has changed."""

    async def main() -> list[str]:
        each = await measuring(world())
        begun = len(each.settings_written())
        for _ in range(2):
            for operation, _, _ in OPERATIONS.values():
                await operation(each.driver)
        return each.settings_written()[begun:]

    assert len(run_virtual(main())) == len(OPERATIONS) + 1


def test_frc_needs_two_seconds_and_a_chip_that_measures(world: Callable[..., World]) -> None:
    async def slow() -> World:
        each = await measuring(world(interval_s=5))
        with pytest.raises(NotReady, match=r"every 5 s.*interval_s = 2"):
            await each.driver.recalibrate(420)
        return each

    async def unread() -> World:
        each = world()
        await each.driver.start()
        with pytest.raises(NotReady, match="no measurement for 60 s"):
            await each.driver.recalibrate(420)
        return each

    async def gone_quiet() -> World:
        each = await measuring(world())
        await asyncio.sleep(61)
        with pytest.raises(NotReady, match="no measurement for 60 s"):
            await each.driver.recalibrate(420)
        return each

    async def stopped() -> World:
        each = await measuring(world())
        await each.driver.stop()
        with pytest.raises(NotReady):
            await each.driver.recalibrate(420)
        return each

    for story in (slow, unread, gone_quiet, stopped):
        assert run_virtual(story()).chip.settings[scd30_chip.REFERENCE] == 400


def test_after_frc_the_air_reads_as_the_reference(world: Callable[..., World]) -> None:
    async def main() -> float:
        driver = (await measuring(world(Scd30Chip(Wave(swing=0), zeros=0)))).driver
        await driver.recalibrate(420)
        await driver.read()
        return (await driver.read())[0].value

    assert run_virtual(main()) == 420


def test_what_was_set_survives_a_reset_of_the_chip(world: Callable[..., World]) -> None:
    """A later start holds the chip to what a person set last, not to what the driver was made with."""

    async def main() -> Calibration:
        each = await measuring(world(temperature_offset_degc=2.5, altitude_m=100, self_calibration=False))
        driver = each.driver
        await driver.set_temperature_offset(3.21)
        await driver.set_altitude(500)
        await driver.set_self_calibration(True)
        await driver.set_pressure(950)
        each.chip.power_cycle(asyncio.get_running_loop().time())
        each.chip.pressure_mbar = 0
        await asyncio.sleep(3)
        await driver.start()
        return await driver.read_calibration()

    assert run_virtual(main()) == Calibration(True, 3.21, 500, 950.0, 400, "3.66")


def test_pressure_is_taken_back(world: Callable[..., World]) -> None:
    async def main() -> tuple[float | None, int]:
        each = await measuring(world(pressure_hpa=900))
        return (await each.driver.set_pressure(None)).pressure_hpa, each.chip.pressure_mbar

    assert run_virtual(main()) == (None, 0)


def test_a_chip_that_does_not_tell_its_pressure_is_believed(world: Callable[..., World]) -> None:
    async def main() -> tuple[Calibration, list[str]]:
        each = world()
        each.chip.tells_pressure = False
        await measuring(each)
        begun = len(each.settings_written())
        await each.driver.set_pressure(980)
        return await each.driver.set_pressure(980), each.settings_written()[begun:]

    held, written = run_virtual(main())
    assert held.pressure_hpa == 980
    assert len(written) == 1


def test_a_bus_fault_keeps_its_kind_and_the_driver_works_on(world: Callable[..., World]) -> None:
    async def main() -> None:
        each = await measuring(world())
        for error in (NoDevice("gone"), BusTimeout("stuck")):
            for operation, _, _ in OPERATIONS.values():
                each.wire.gone = error
                with pytest.raises(type(error)):
                    await operation(each.driver)
                each.wire.gone = None
        assert (await each.driver.read())[0].quality is Quality.GOOD
        assert await each.driver.read_calibration() == FRESH

    run_virtual(main())


@pytest.mark.parametrize("fault", [Fail(NoDevice("gone")), Fail(BusTimeout("stuck")), Flip(3)], ids=str)
def test_a_fault_at_each_transfer_is_overcome_or_said(fault: Fail | Flip) -> None:
    """Whatever a single fault does, a second try sets what was wanted."""

    async def main() -> int:
        tried = 0
        for name, (operation, command, word) in OPERATIONS.items():
            for n in range(40):
                each = await measuring(I2cWorld())
                each.wire = FaultyI2c(each.bus, {n: fault})
                each.driver._bus = each.wire
                try:
                    await operation(each.driver)
                except (NoDevice, BusTimeout, BadData):
                    await operation(each.driver)
                told = each.chip.pressure_mbar if name == "pressure" else each.chip.settings[int(command)]
                assert told == word, (name, n)
                tried += 1
        return tried

    assert run_virtual(main()) == 200


# ---- beside a running read


def conversations(steps: list[Step]) -> None:
    """Each question is followed by its own answer."""
    for step, following in pairwise(steps):
        if isinstance(step, Write) and len(step.data) == 2 and step.data != frame(Command.STOP):
            assert isinstance(following, Read), f"{step} was followed by {following}"


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.004, 0.01, 0.501, 1.3, 2.0])
def test_a_calibration_beside_a_waiting_read_corrupts_nothing(
    world: Callable[..., World], name: str, after_s: float
) -> None:
    async def main() -> tuple[World, float, Calibration]:
        each = await measuring(world(Scd30Chip(Wave(swing=0), zeros=0)))
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        read = asyncio.create_task(each.driver.read(), name="read")
        await asyncio.sleep(after_s)
        held = await OPERATIONS[name][0](each.driver)
        samples = await read
        assert [s.quality for s in samples] == [Quality.GOOD] * 3
        assert samples[2].value == 45
        return each, loop.time() - began_s, held

    each, took_s, held = run_virtual(main())
    assert held != FRESH
    # A pressure restarts the measurement: its next sample comes an interval after that.
    assert took_s <= (after_s if name == "pressure" else 0) + 2 + 0.6
    if isinstance(each, I2cWorld):
        conversations(each.bus.steps)


def test_a_read_waits_for_no_more_than_one_transfer() -> None:
    """The gaps between the polls of a waiting read, with calibrations without pause beside it."""

    async def main() -> list[float]:
        each = await measuring(I2cWorld(interval_s=60))
        loop = asyncio.get_running_loop()
        times: list[float] = []
        ask = each.driver._ask

        async def timed(command: Command) -> int:
            if command is Command.DATA_READY:
                times.append(loop.time())
            return await ask(command)

        each.driver._ask = timed  # type: ignore[method-assign]
        read = asyncio.create_task(each.driver.read(), name="read")
        while not read.done():
            await each.driver.read_calibration()
        await read
        return times

    times = run_virtual(main())
    assert len(times) > 10
    worst_s = max(later - earlier for earlier, later in pairwise(times))
    assert worst_s <= 5 + 0.005 + 0.010 + 0.001  # the pace, its own answer, one other conversation


def test_two_calibrations_at_once_take_turns() -> None:
    async def main() -> tuple[Calibration, Calibration, I2cWorld]:
        each = await measuring(I2cWorld())
        first, second = await asyncio.gather(each.driver.set_pressure(900), each.driver.set_pressure(950))
        return first, second, each

    first, second, each = run_virtual(main())
    assert (first.pressure_hpa, second.pressure_hpa, each.chip.pressure_mbar) == (900, 950, 950)


def test_a_cancelled_calibration_leaves_the_line_free(world: Callable[..., World]) -> None:
    async def main() -> Calibration:
        each = await measuring(world())
        for turns in range(1, 12):
            task = asyncio.create_task(each.driver.set_altitude(turns * 10), name="calibrate")
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await each.driver.read()
        return await each.driver.set_altitude(7)

    assert run_virtual(main()).altitude_m == 7
