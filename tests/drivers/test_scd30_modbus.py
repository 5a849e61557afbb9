"""SCD30 on Modbus: the conversation, the recovery it shares with I2C, and a Modbus peer that is not ours."""

import asyncio
import math
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusSerialServer
from pymodbus.simulator import DataType, SimData, SimDevice

from drivers.errors import BadData, BusError, BusTimeout, NoDevice, WrongDevice
from drivers.host.open import open_bus
from drivers.modbus import ModbusRtu, framed, read_request, write_request
from drivers.model import Quality, Reason
from drivers.sensors import scd30
from drivers.sensors._scd30 import Command
from drivers.sensors.scd30_modbus import Scd30Modbus, Scd30Options
from drivers.testing import scd30_chip
from drivers.testing.buses import SimulatedI2c
from drivers.testing.recording import Row, Wave
from drivers.testing.scd30_chip import Scd30Chip
from drivers.testing.serial_line import Doubled, FaultyLine, Flip, Lost, Noise, SerialFault, Short, SimulatedSerial
from drivers.testing.serial_scd30 import Scd30Uart
from drivers.testing.virtual import run_virtual
from tests.ptys import crossed

EXAMPLE = bytes.fromhex("43DB8C2E41D9E7FF42433A1B")  # interface description, read measurement


class World:
    """A chip on a line that can be spoiled, a driver."""

    def __init__(
        self, chip: Scd30Chip | None = None, faults: dict[int, SerialFault] | None = None, **options: object
    ) -> None:
        self.chip = chip or Scd30Chip(Wave(), zeros=0)
        self.uart = Scd30Uart(self.chip)
        self.wire = FaultyLine(SimulatedSerial(self.uart), faults)
        self.driver = Scd30Modbus(ModbusRtu(self.wire), Scd30Options(**options))  # type: ignore[arg-type]

    def written(self) -> list[str]:
        return [request.hex() for request in self.uart.requests if request[1] == 6]


# ---- the conversation


def ask(command: Command, count: int = 1) -> bytes:
    return read_request(0x61, command.register, count)


def tell(command: Command, word: int) -> bytes:
    return write_request(0x61, command.register, word)


def test_the_whole_conversation_frame_by_frame():
    async def main():
        world = World(temperature_offset_degc=5, altitude_m=1000, pressure_hpa=836.4, self_calibration=True)
        world.chip.settings |= {scd30_chip.INTERVAL: 60, scd30_chip.ALTITUDE: 1000}
        await world.driver.start()
        await world.driver.read()
        await world.driver.stop()
        return world.uart.requests

    requests = run_virtual(main())
    waiting = [r for r in requests if r == ask(Command.DATA_READY)]
    assert len(waiting) > 2
    assert [r for r in requests if r not in waiting] == [
        ask(Command.FIRMWARE),
        ask(Command.INTERVAL),
        ask(Command.INTERVAL),
        tell(Command.INTERVAL, 2),
        ask(Command.INTERVAL),
        ask(Command.SELF_CALIBRATION),
        tell(Command.SELF_CALIBRATION, 1),
        ask(Command.SELF_CALIBRATION),
        ask(Command.TEMPERATURE_OFFSET),
        tell(Command.TEMPERATURE_OFFSET, 500),
        ask(Command.TEMPERATURE_OFFSET),
        ask(Command.ALTITUDE),
        tell(Command.START, 836),
        ask(Command.MEASUREMENT, 6),
        tell(Command.STOP, 1),
    ]


def test_both_wires_give_the_same_samples():
    row = Row(0, *struct.unpack(">3f", EXAMPLE))

    async def main():
        serial = World(Scd30Chip(lambda _t: row, zeros=0))
        other = scd30.Scd30(SimulatedI2c([Scd30Chip(lambda _t: row, zeros=0)]), scd30.Scd30Options())
        found = []
        for driver in (serial.driver, other):
            await driver.start()
            found.append(await driver.read())
        return found

    serial, i2c = run_virtual(main())
    assert serial == i2c == scd30.decode(scd30_chip.checked(EXAMPLE))


def test_a_setting_that_does_not_take_is_bad_data():
    async def main():
        world = World(interval_s=5)
        world.chip.refuses.add(scd30_chip.INTERVAL)
        with pytest.raises(BadData, match="INTERVAL: wrote 5, reads back 2"):
            await world.driver.start()

    run_virtual(main())


class Unit:
    """Answers every read with these words."""

    def __init__(self, *words: int) -> None:
        self.words = words

    def receive(self, data: bytes, now_s: float) -> bytes:
        return framed(bytes((data[0], data[1], 2 * len(self.words))) + struct.pack(f">{len(self.words)}H", *self.words))


@pytest.mark.parametrize("word", [0, 0xFFFF, 1, 1801])
def test_a_unit_that_says_what_no_scd30_says_is_another_device(word):
    async def main():
        await Scd30Modbus(ModbusRtu(SimulatedSerial(Unit(word))), Scd30Options()).start()

    with pytest.raises(WrongDevice, match="no SCD30"):
        run_virtual(main())


def test_no_number_is_a_bad_sample_and_zeros_are_dropped_after_a_start():
    async def main():
        empty = World(Scd30Chip(Row, zeros=0))
        zeros = World(Scd30Chip(Wave(), zeros=2))
        found = []
        for world in (empty, zeros):
            await world.driver.start()
            found.append(await world.driver.read())
        return found

    empty, zeros = run_virtual(main())
    assert all(math.isnan(s.value) and s.reason is Reason.NOT_A_NUMBER for s in empty)
    assert (zeros[0].quality, zeros[0].reason) == (Quality.UNCERTAIN, Reason.WARM_UP)


@pytest.mark.parametrize(
    ("hung", "cures"),
    [
        ("start", [tell(Command.START, 0)]),
        ("reset", [tell(Command.START, 0), tell(Command.RESET, 1), tell(Command.START, 0)]),
    ],
)
def test_silence_is_cured_by_restart_then_reset(hung, cures):
    async def main():
        world = World()
        await world.driver.start()
        world.chip.hung = hung
        before = len(world.written())
        await world.driver.read()
        return world.written()[before:]

    assert run_virtual(main()) == [cure.hex() for cure in cures]


def test_pressure_is_sent_only_when_the_chip_holds_another():
    async def main():
        world = World()
        await world.driver.start()
        for hpa in (1000.4, 1000.2, 998.4):
            await world.driver.set_pressure(hpa)
        return world

    world = run_virtual(main())
    assert world.written()[-2:] == [tell(Command.START, 1000).hex(), tell(Command.START, 998).hex()]
    assert world.chip.pressure_mbar == 998


# ---- faults at every step


FAULTS = (Flip(2), Flip(41), Lost(1), Lost(4), Doubled(1), Doubled(4), Noise(b"\x00\x61"), Short(2), Short(100))


async def calls() -> int:
    """How often a start and a read use the wire: discard, write and read of each exchange."""
    world = World()
    await world.driver.start()
    await world.driver.read()
    assert world.wire.transfers > 20
    return world.wire.transfers


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_spoiled_byte_at_any_step_is_overcome_or_has_its_kind(fault):
    async def main(n: int):
        loop, world = asyncio.get_running_loop(), World(faults={n: fault})
        kind = None
        try:
            await world.driver.start()
            await world.driver.read()
        except (BadData, BusTimeout) as error:
            kind = type(error)
        began_s = loop.time()
        await world.driver.start()
        samples = await world.driver.read()
        return kind, samples, loop.time() - began_s

    for n in range(run_virtual(calls())):
        kind, samples, resumed_s = run_virtual(main(n))
        assert kind in (None, BadData, BusTimeout), f"call {n}: {kind}"
        assert samples[0].value > 0
        assert resumed_s < 4, f"call {n}: {resumed_s} s"  # the interval is 2 s


@pytest.mark.parametrize("n", [0, 1, 2, 10, 11, 20])
def test_a_port_that_goes_silent_or_away_at_any_step_says_so_and_comes_back(n):
    async def main(error: BusError | None):
        world = World()
        await world.driver.start()
        for _ in range(n):
            await world.driver.read()
        world.wire.gone, world.wire.silent = error, error is None
        with pytest.raises(BusError) as caught:
            await world.driver.read()
        world.wire.gone, world.wire.silent = None, False
        return type(caught.value), (await world.driver.read())[0].quality

    for error, kind in ((NoDevice("gone"), NoDevice), (BusTimeout("stuck"), BusTimeout), (None, BusTimeout)):
        assert run_virtual(main(error)) == (kind, Quality.GOOD)


# ---- a peer that we did not write


@asynccontextmanager
async def pymodbus_scd30(path: str, registers: dict[int, int], calls: list[tuple[int, int]]) -> AsyncIterator[None]:
    """pymodbus' server with these registers as unit 0x61."""

    async def action(function, _start, address, count, _current, new) -> ExcCodes | None:
        calls.append((function, address))
        if not all(address + i in registers for i in range(count)):
            return ExcCodes.ILLEGAL_ADDRESS
        if new and address == Command.INTERVAL.register and not 2 <= new[0] <= 1800:
            return ExcCodes.ILLEGAL_VALUE
        return None

    memory = [registers.get(i, 0) for i in range(0x60)]
    device = SimDevice(0x61, simdata=[SimData(0, values=memory, datatype=DataType.REGISTERS)], action=action)
    server = ModbusSerialServer([device], port=path, baudrate=19200)
    await server.serve_forever(background=True)
    try:
        yield
    finally:
        await server.shutdown()


def registers() -> dict[int, int]:
    measured = enumerate(struct.unpack(">6H", EXAMPLE))
    other = {command.register: 0 for command in Command}
    return other | {0x20: 0x0342, 0x25: 60, 0x27: 1} | {0x28 + i: word for i, word in measured}


async def test_pymodbus_as_the_sensor_through_a_real_port(tmp_path):
    calls: list[tuple[int, int]] = []
    with crossed(tmp_path) as (theirs, ours):
        async with (
            pymodbus_scd30(str(theirs), registers(), calls),
            open_bus(f"serial:{ours}?baud=19200", wanted=Scd30Modbus.BUS) as line,
        ):
            driver = Scd30Modbus(line, Scd30Options(interval_s=2, altitude_m=300))
            await driver.start()
            samples = await driver.read()
            assert await line.read_registers(0x61, 0x25, 1, 4) == (2,)
            assert await line.read_registers(0x61, 0x38, 1) == (300,)
            with pytest.raises(BadData, match=r"illegal data value \(3\)"):
                await line.write_register(0x61, 0x25, 1)
            with pytest.raises(BadData, match=r"illegal data address \(2\)"):
                await line.read_registers(0x61, 0x50, 1)
            await driver.stop()
    assert samples == scd30.decode(scd30_chip.checked(EXAMPLE))
    assert (6, 0x36) in calls
    assert calls[-1] == (6, 0x37)


async def test_pymodbus_does_not_answer_a_damaged_request_and_goes_on(tmp_path):
    with crossed(tmp_path) as (theirs, ours):
        async with (
            pymodbus_scd30(str(theirs), registers(), []),
            open_bus(f"serial:{ours}") as port,
        ):
            line = ModbusRtu(FaultyLine(port, {1: Flip(20), 4 + 1: Lost(3)}))
            kinds = []
            for _ in range(5):
                try:
                    kinds.append(await line.read_registers(0x61, 0x20, 1))
                except (BusTimeout, BadData) as error:
                    kinds.append(type(error))
    assert kinds[0] is BusTimeout
    assert kinds[-1] == (0x0342,)


async def test_pymodbus_without_these_registers_is_another_device(tmp_path):
    with crossed(tmp_path) as (theirs, ours):
        async with (
            pymodbus_scd30(str(theirs), {0: 1}, []),
            open_bus(f"serial:{ours}", wanted=Scd30Modbus.BUS) as line,
        ):
            with pytest.raises(WrongDevice, match=r"not the registers of an SCD30 .*illegal data address"):
                await Scd30Modbus(line, Scd30Options()).start()
