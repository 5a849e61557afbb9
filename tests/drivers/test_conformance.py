"""Every driver of the house keeps to the contract, and the suite notices one that does not."""

import asyncio
from dataclasses import dataclass

import pytest

from drivers import registry
from drivers.bus import I2cBus
from drivers.errors import DriverError, WrongDevice
from drivers.modbus import ModbusRtu, framed
from drivers.model import Channel, Quantity, Sample
from drivers.sensors.bmp280 import Bmp280, Bmp280Options
from drivers.sensors.bthome import Bthome, BthomeOptions
from drivers.sensors.ess import Ess, EssOptions
from drivers.sensors.scd30 import Scd30
from drivers.sensors.scd30_modbus import Scd30Modbus
from drivers.testing import ble
from drivers.testing.bmp280_chip import Bmp280Chip
from drivers.testing.buses import SimulatedI2c
from drivers.testing.conformance import CHECKS, DriverCase
from drivers.testing.recording import Wave
from drivers.testing.scd30_chip import Scd30Chip
from drivers.testing.serial_line import FaultyLine, SimulatedSerial
from drivers.testing.serial_scd30 import Scd30Uart
from drivers.testing.virtual import run_virtual


class Stranger:
    """A chip that acknowledges everything and answers the same two bytes over and over."""

    def __init__(self, address: int) -> None:
        self.address = address

    def write(self, data: bytes, now_s: float) -> None:
        pass

    def read(self, size: int, now_s: float) -> bytes:
        return (b"\xa5\x5a" * size)[:size]


def scd30_bus(zeros: int = 1) -> I2cBus:
    return SimulatedI2c([Scd30Chip(Wave(), zeros=zeros)])


class ForeignUnit:
    """A Modbus unit without the registers that it is asked for."""

    def receive(self, data: bytes, now_s: float) -> bytes:
        return framed(bytes((data[0], data[1] | 0x80, 2)))


def scd30_port(zeros: int = 1) -> SimulatedSerial:
    return SimulatedSerial(Scd30Uart(Scd30Chip(Wave(), zeros=zeros)))


def bmp280_bus() -> I2cBus:
    return SimulatedI2c([Bmp280Chip(Wave())])


BEACON = "A4:C1:38:8D:18:B2"
FOREIGN_UUID = "0000feaa-0000-1000-8000-00805f9b34fb"


def beacon(payload=lambda n: bytes((0x40, 0x00, n % 256, 0x02, 0xCA, n % 256)), uuid=ble.BTHOME) -> ble.SimulatedAir:
    return ble.SimulatedAir([ble.Beacon(BEACON, payload, uuid=uuid)])


def peripheral(*numbers: str) -> ble.SimulatedAir:
    values = [ble.Value(f"0000{n}-0000-1000-8000-00805f9b34fb", lambda _: b"\x66\x08", period_s=5) for n in numbers]
    return ble.SimulatedAir(peripherals=[ble.Peripheral(BEACON, values)])


CASES = {
    "bthome": DriverCase(
        Bthome,
        beacon,
        lambda: beacon(uuid=FOREIGN_UUID),
        BthomeOptions(BEACON),
        faults=ble.FaultyAir,
        refuses_at="read",
    ),
    "ess": DriverCase(
        Ess, lambda: peripheral("2a6e", "2a6f"), lambda: peripheral("2a00"), EssOptions(BEACON), faults=ble.FaultyAir
    ),
    "ess notify": DriverCase(
        Ess,
        lambda: peripheral("2a6e", "2a6f"),
        lambda: peripheral("2a00"),
        EssOptions(BEACON, mode="notify"),
        faults=ble.FaultyAir,
    ),
    "scd30": DriverCase(Scd30, scd30_bus, lambda: SimulatedI2c([Stranger(0x61)])),
    "scd30_modbus": DriverCase(
        Scd30Modbus, scd30_port, lambda: SimulatedSerial(ForeignUnit()), faults=FaultyLine, over=ModbusRtu
    ),
    "bmp280": DriverCase(Bmp280, bmp280_bus, lambda: SimulatedI2c([Stranger(0x76)])),
    "bmp280 normal": DriverCase(
        Bmp280, bmp280_bus, lambda: SimulatedI2c([Stranger(0x76)]), Bmp280Options(mode="normal", filter=4)
    ),
}


def test_every_driver_of_the_house_has_a_case():
    ours = {name for name, module in registry.available().items() if module.startswith("drivers.sensors.")}
    assert ours == {name.split()[0] for name in CASES}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_conformance(check, name):
    run_virtual(check(CASES[name]))


# ---- the suite itself: a small good driver, and one fault at a time


class Counter:
    """A chip that says 0x2A in register 0 and a count in register 1."""

    address = 0x20

    def __init__(self) -> None:
        self._register = 0

    def write(self, data: bytes, now_s: float) -> None:
        self._register = data[0]

    def read(self, size: int, now_s: float) -> bytes:
        return (b"\x2a\x07"[self._register :]).ljust(size, b"\0")[:size]


@dataclass(frozen=True, slots=True)
class CountOptions:
    address: int = 0x20


class Count:
    BUS = I2cBus
    Options = CountOptions
    CHANNELS = (Channel(Quantity.COUNT, 0, 255),)

    def __init__(self, bus: I2cBus, options: CountOptions) -> None:
        self.bus, self.address = bus, options.address

    async def start(self) -> None:
        if await self.bus.write_read(self.address, b"\0", 1) != b"\x2a":
            raise WrongDevice(f"at {self.address:#04x} is no counter")

    async def read(self) -> tuple[Sample, ...]:
        return (Sample("count", int.from_bytes(await self.bus.write_read(self.address, b"\1", 1), "big")),)

    async def stop(self) -> None:
        try:
            await self.bus.write(self.address, b"\2")
        except DriverError:
            return


class EagerConstructor(Count):
    def __init__(self, bus, options):
        super().__init__(bus, options)
        bus.write(options.address, b"\2").close()


@dataclass
class Loose:
    address: int = 0x20


class LooseOptions(Count):
    Options = Loose


class TwinChannels(Count):
    CHANNELS = (Channel(Quantity.COUNT, 0, 255), Channel(Quantity.COUNT, 0, 9))


class UpsideDown(Count):
    CHANNELS = (Channel(Quantity.COUNT, 255, 0),)


class StopRaises(Count):
    async def stop(self):
        await self.bus.write(self.address, b"\2")


class TrustsAnybody(Count):
    async def start(self):
        await self.bus.write_read(self.address, b"\0", 1)


class OtherError(Count):
    async def read(self):
        try:
            return await super().read()
        except DriverError as error:
            raise OSError(str(error)) from error


class HidesTheKind(Count):
    async def read(self):
        try:
            return await super().read()
        except DriverError as error:
            raise WrongDevice("something went wrong") from error


class IndexesBlindly(Count):
    async def read(self):
        return (Sample("count", (await self.bus.write_read(self.address, b"\1", 1))[0]),)


class Uncancellable(Count):
    async def read(self):
        try:
            return await super().read()
        except asyncio.CancelledError:
            return ()


class UnknownChannel(Count):
    async def read(self):
        return (Sample("other", 1.0),)


class StaysBroken(Count):
    broken = False

    async def start(self):
        if self.broken:
            raise WrongDevice("once broken, always broken")
        await super().start()

    async def read(self):
        try:
            return await super().read()
        except DriverError:
            self.broken = True
            raise


def case(driver):
    return DriverCase(driver, lambda: SimulatedI2c([Counter()]), lambda: SimulatedI2c([Stranger(0x20)]))


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_a_good_driver_passes(check):
    run_virtual(check(case(Count)))


@pytest.mark.parametrize(
    ("driver", "caught_by"),
    [
        (EagerConstructor, "construction_touches_no_wire"),
        (LooseOptions, "options_are_defaulted_and_frozen"),
        (TwinChannels, "channels_are_distinct"),
        (UpsideDown, "channels_are_distinct"),
        (StopRaises, "stop_never_raises"),
        (TrustsAnybody, "a_stranger_is_refused"),
        (OtherError, "every_failing_transfer_keeps_its_kind"),
        (HidesTheKind, "every_failing_transfer_keeps_its_kind"),
        (IndexesBlindly, "every_wrong_answer_is_a_driver_error"),
        (Uncancellable, "a_cancelled_read_harms_nothing"),
        (UnknownChannel, "start_read_stop"),
        (StaysBroken, "an_outage_is_survived"),
    ],
)
def test_a_bad_driver_is_caught(driver, caught_by):
    check = next(c for c in CHECKS if c.__name__ == caught_by)
    with pytest.raises((AssertionError, DriverError, OSError, IndexError)):
        run_virtual(check(case(driver)))
