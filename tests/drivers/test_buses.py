"""The fake wires fake faithfully: what is not expected fails, what is broken breaks in the named way."""

import asyncio

import pytest

from drivers.errors import BusError, BusTimeout, NoDevice
from drivers.sensors.bmp280 import Bmp280
from drivers.sensors.scd30 import Scd30
from drivers.testing.bmp280_chip import Bmp280Chip
from drivers.testing.buses import (
    Fail,
    FaultyI2c,
    Flip,
    Hang,
    Read,
    RecordingI2c,
    ScriptedI2c,
    Short,
    SimulatedI2c,
    Write,
    WriteRead,
)
from drivers.testing.recording import Wave
from drivers.testing.scd30_chip import Scd30Chip
from drivers.testing.virtual import run_virtual


def script() -> ScriptedI2c:
    return ScriptedI2c(Write(1, b"a"), Read(1, b"bc"), WriteRead(2, b"d", b"e"))


async def test_a_script_that_is_followed():
    bus = script()
    await bus.write(1, b"a")
    assert await bus.read(1, 2) == b"bc"
    assert await bus.write_read(2, b"d", 1) == b"e"
    bus.done()


@pytest.mark.parametrize(
    "other",
    [
        lambda bus: bus.write(2, b"a"),
        lambda bus: bus.write(1, b"b"),
        lambda bus: bus.read(1, 1),
        lambda bus: bus.write_read(1, b"a", 2),
    ],
)
async def test_a_script_that_is_left(other):
    with pytest.raises(AssertionError, match="asked for"):
        await other(script())


async def test_a_script_wants_the_right_size():
    with pytest.raises(AssertionError, match="asked for Read"):
        await ScriptedI2c(Read(1, b"bc")).read(1, 3)


async def test_a_script_that_ends_too_early_or_too_late():
    bus = ScriptedI2c(Write(1, b"a"))
    with pytest.raises(AssertionError, match="never happened"):
        bus.done()
    await bus.write(1, b"a")
    with pytest.raises(AssertionError, match="ended before"):
        await bus.write(1, b"a")


async def test_a_script_raises_its_errors():
    bus = ScriptedI2c(
        Write(1, b"a", NoDevice("x")), Read(1, b"", BusTimeout("y")), WriteRead(1, b"a", b"", BusError("z"))
    )
    with pytest.raises(NoDevice, match="x"):
        await bus.write(1, b"a")
    with pytest.raises(BusTimeout, match="y"):
        await bus.read(1, 2)
    with pytest.raises(BusError, match="z"):
        await bus.write_read(1, b"a", 2)
    bus.done()


@pytest.mark.parametrize("driver", [Scd30, Bmp280])
def test_what_was_recorded_can_be_replayed(driver):
    async def life(bus):
        device = driver(bus, driver.Options())
        await device.start()
        samples = await device.read()
        await device.stop()
        return samples

    recorder = RecordingI2c(SimulatedI2c([Scd30Chip(Wave()), Bmp280Chip(Wave())]))
    live = run_virtual(life(recorder))
    replayed = ScriptedI2c(*recorder.steps)
    assert run_virtual(life(replayed)) == live
    replayed.done()


async def test_errors_are_recorded_too():
    bus = RecordingI2c(SimulatedI2c([]))
    for transfer in (bus.write(9, b"a"), bus.read(9, 2), bus.write_read(9, b"a", 2)):
        with pytest.raises(NoDevice, match="nothing at I2C address 0x09"):
            await transfer
    write, read, both = bus.steps
    assert (write.error, read.error, both.error) != (None, None, None)
    assert (type(write), type(read), type(both)) == (Write, Read, WriteRead)


async def test_faults_hit_the_named_transfer_only():
    steps = [WriteRead(1, b"", b"\x00\x00")] * 4 + [WriteRead(1, b"", b"\x00\x00")]
    bus = FaultyI2c(ScriptedI2c(*steps), {1: Fail(BusError("x")), 2: Flip(9), 4: Short(1)})
    assert await bus.write_read(1, b"", 2) == b"\x00\x00"
    with pytest.raises(BusError, match="x"):
        await bus.write_read(1, b"", 2)
    assert await bus.write_read(1, b"", 2) == b"\x00\x02"
    assert await bus.write_read(1, b"", 2) == b"\x00\x00"
    assert await bus.write_read(1, b"", 2) == b"\x00"
    assert bus.transfers == 5


async def test_a_hanging_transfer_hangs_until_cancelled():
    hang = Hang()
    bus = FaultyI2c(ScriptedI2c(Read(1, b"a")), {0: hang})
    task = asyncio.create_task(bus.read(1, 1))
    await hang.reached.wait()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await bus.read(1, 1) == b"a"


async def test_a_bus_that_is_gone_comes_back():
    bus = FaultyI2c(ScriptedI2c(Write(1, b"a")))
    bus.gone = NoDevice("unplugged")
    with pytest.raises(NoDevice, match="unplugged"):
        await bus.write(1, b"a")
    bus.gone = None
    await bus.write(1, b"a")
