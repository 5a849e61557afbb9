"""Our I2C over the kernel's i2c-dev: a USB bridge (hid-cp2112) with our chips behind it, and the kernel's SMBus stub.

The bytes of the chips are ours; the adapter, the device files, their permissions and the errors are the kernel's, and
the kernel's own bmp280 driver is a second opinion on our simulated chip.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from drivers.errors import BusError, BusTimeout, BusUnavailable
from drivers.host.linux_i2c import LinuxI2c
from drivers.model import Quality
from drivers.sensors.bmp280 import Bmp280, Bmp280Options
from drivers.sensors.scd30 import Scd30, Scd30Options

T = TypeVar("T")
DEADLINE_S = 30
SYSFS = Path("/sys/bus/i2c/devices")
CP2112 = Path(__file__).with_name("cp2112.py")
OPEN = """
import asyncio, sys
from drivers.errors import BusUnavailable
from drivers.host.linux_i2c import LinuxI2c
async def main():
    async with LinuxI2c(int(sys.argv[1])):
        print("opened")
try:
    asyncio.run(main())
except BusUnavailable as error:
    print(error)
"""


def number_of(name: str) -> int | None:
    """N of the /dev/i2c-N whose adapter has this in its name, None while there is none."""
    for adapter in SYSFS.glob("i2c-*/name"):
        n = adapter.parent.name.removeprefix("i2c-")
        with suppress(FileNotFoundError):  # it is being pulled out
            if name in adapter.read_text() and Path(f"/dev/i2c-{n}").exists():
                return int(n)
    return None


async def until(ask: Callable[[], T | None]) -> T:
    """What `ask` says once it is not None; the kernel tells nobody."""
    async with asyncio.timeout(DEADLINE_S):
        while (answer := ask()) is None:
            await asyncio.to_thread(Path("/proc/uptime").read_text)
        return answer


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge that is plugged in as this bus."""

    number: int
    process: asyncio.subprocess.Process

    def pull(self) -> None:
        """Pull it out. Its process only ends when nobody has the bus open any longer: the kernel waits for that."""
        with suppress(ProcessLookupError):
            self.process.kill()


async def answered(number: int) -> None:
    """The bus is there before hid-cp2112 listens to its bridge, and a transfer in between gets no answer."""
    async with asyncio.timeout(DEADLINE_S), LinuxI2c(number) as bus:
        while True:
            with suppress(BusTimeout):
                await bus.write_read(0x76, b"\xd0", 1)
                return


@asynccontextmanager
async def bridge() -> AsyncIterator[Bridge]:
    """Plugged in inside."""
    process = await asyncio.create_subprocess_exec(sys.executable, str(CP2112))
    try:
        number = await until(lambda: number_of("CP2112") if process.returncode is None else -1)
        assert number >= 0, "the emulated bridge ended"
        await answered(number)
        yield Bridge(number, process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        async with asyncio.timeout(DEADLINE_S):
            await process.wait()


@pytest.fixture
async def bus() -> AsyncIterator[LinuxI2c]:
    async with bridge() as plugged, LinuxI2c(plugged.number) as opened:
        yield opened


async def read(driver: Bmp280 | Scd30) -> dict[str, float]:
    await driver.start()
    samples = await driver.read()
    assert all(sample.quality is Quality.GOOD for sample in samples), samples
    return {sample.channel: sample.value for sample in samples}


def is_the_data_sheets(values: dict[str, float]) -> bool:
    return (round(values["temperature"], 2), round(values["pressure"], 2)) == (25.08, 1006.53)


async def test_bmp280_gives_the_data_sheets_example(bus: LinuxI2c) -> None:
    assert is_the_data_sheets(await read(Bmp280(bus, Bmp280Options())))


async def test_scd30_measures(bus: LinuxI2c) -> None:
    values = await read(Scd30(bus, Scd30Options()))
    assert values["co2"] == 1234.5
    assert values["temperature"] == pytest.approx(25.08247)
    assert values["humidity"] == 48.25


async def test_two_sensors_share_one_bus(bus: LinuxI2c) -> None:
    bmp280, scd30 = await asyncio.gather(
        read(Bmp280(bus, Bmp280Options(mode="normal"))), read(Scd30(bus, Scd30Options()))
    )
    assert is_the_data_sheets(bmp280)
    assert scd30["co2"] == 1234.5


async def test_both_are_found_by_a_probe(bus: LinuxI2c) -> None:
    assert await Bmp280.probe(bus, 0x76) == "BMP280, chip id 0x58"
    assert await Scd30.probe(bus, 0x61) == "SCD30, firmware 3.66"


async def test_an_empty_address_is_an_error_of_the_bus_and_the_next_transfer_is_well(bus: LinuxI2c) -> None:
    with pytest.raises(BusTimeout, match="address 0x44"):  # hid-cp2112 says ETIMEDOUT for a missing acknowledge
        await bus.read(0x44, 2)
    assert await bus.write_read(0x76, b"\xd0", 1) == b"\x58"


def kernel_bmp280() -> Path | None:
    """The only industrial I/O device of the guest, None while there is none."""
    return next((each.parent for each in Path("/sys/bus/iio/devices").glob("*/in_pressure_input")), None)


async def test_the_kernels_driver_agrees_with_our_chip_and_is_named_where_it_holds_the_address(bus: LinuxI2c) -> None:
    number = number_of("CP2112")
    (SYSFS / f"i2c-{number}/new_device").write_text("bmp280 0x76")
    try:
        await asyncio.to_thread(subprocess.run, ["modprobe", "bmp280-i2c"], check=True)
        device = await until(kernel_bmp280)
        temperature = float(await asyncio.to_thread((device / "in_temp_input").read_text)) / 1000
        pressure = float(await asyncio.to_thread((device / "in_pressure_input").read_text)) * 10
        assert is_the_data_sheets({"temperature": temperature, "pressure": pressure})
        with pytest.raises(BusError, match="a kernel driver holds it"):
            await Bmp280(bus, Bmp280Options()).start()
    finally:
        (SYSFS / f"i2c-{number}/delete_device").write_text("0x76")
    assert is_the_data_sheets(await read(Bmp280(bus, Bmp280Options())))


async def test_a_bridge_that_was_pulled_out_and_plugged_in_again_is_read_again() -> None:
    async with bridge() as first, LinuxI2c(first.number) as bus:
        sensor = Bmp280(bus, Bmp280Options())
        assert is_the_data_sheets(await read(sensor))
        first.pull()
        await until(lambda: number_of("CP2112") is None or None)
        with pytest.raises(BusError):  # it notices and lets go, so that the number is free
            await sensor.read()
        async with asyncio.timeout(DEADLINE_S):
            await first.process.wait()
        with pytest.raises(BusUnavailable, match="does not exist"):
            await sensor.read()
        async with bridge() as again:
            assert again.number == first.number
            assert is_the_data_sheets(await read(sensor))
            again.pull()
            await until(lambda: number_of("CP2112") is None or None)
            with pytest.raises(BusError):
                await sensor.read()


async def test_a_bus_that_only_speaks_smbus_is_refused_with_its_reason() -> None:
    number = number_of("SMBus stub")
    assert number is not None
    async with LinuxI2c(number) as bus:
        with pytest.raises(BusError, match="Operation not supported"):
            await Bmp280(bus, Bmp280Options()).start()


async def test_a_missing_bus_names_those_there_are() -> None:
    with pytest.raises(BusUnavailable, match=rf"/dev/i2c-99 does not exist: available are .*i2c:{number_of('stub')}"):
        await LinuxI2c(99).__aenter__()


@pytest.mark.parametrize(
    ("group", "said"),
    [("nogroup", "no permission; `sudo usermod -aG i2c $USER`, then log in again (group i2c)"), ("i2c", "opened")],
)
async def test_a_normal_user_is_told_to_join_the_group_and_that_helps(group: str, said: str) -> None:
    number = number_of("stub")
    await until(lambda: Path(f"/dev/i2c-{number}").stat().st_gid or None)  # udev has been there
    user = ["setpriv", "--reuid=nobody", "--regid=nogroup", f"--groups={group}"]
    done = await asyncio.to_thread(
        subprocess.run, [*user, sys.executable, "-c", OPEN, str(number)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith(said)
