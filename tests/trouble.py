"""Two sensors on a bus where single addresses are in trouble for a while, for healing tests and their benchmark."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from itertools import pairwise

from drivers.bus import I2cBus
from drivers.errors import BusTimeout, DriverError
from drivers.testing.bmp280_chip import Bmp280Chip
from drivers.testing.buses import SimulatedI2c
from drivers.testing.recording import Row, Source, Wave
from drivers.testing.scd30_chip import Scd30Chip
from gateway import sensors
from gateway.config import Config, DeviceSettings, SensorSettings
from gateway.reading import Message
from tests.brokers import FixedClock

STRETCH_S = 0.25
"""What one hanging transfer costs on a real bus: the time-out that LinuxI2c asks of the kernel."""


INTERVAL_S = 5
SETTINGS = Config(
    device=(
        DeviceSettings(
            id="attic",
            sensor=tuple(
                SensorSettings(driver=name, bus="replay:living-room", interval_s=INTERVAL_S)
                for name in ("scd30", "bmp280")
            ),
        ),
    )
)


class TroubledI2c:
    """Passes transfers on. `trouble[address]` spoils those of one device until it is deleted:

    an error is raised at once, "hangs" after the kernel's time-out, "never ends" waits for ever, "flips" and "shortens"
    spoil answers. `one_thread` serialises transfers as a real adapter does, else each waits on its own.
    """

    def __init__(self, bus: I2cBus, *, one_thread: bool = False) -> None:
        self._bus = bus
        self._line: AbstractAsyncContextManager[object] = asyncio.Lock() if one_thread else nullcontext()
        self.trouble: dict[int, DriverError | str] = {}

    async def write(self, address: int, data: bytes) -> None:
        """As I2cBus."""
        async with self._line:
            await self._before(address)
            await self._bus.write(address, data)

    async def read(self, address: int, size: int) -> bytes:
        """As I2cBus."""
        async with self._line:
            spoil = await self._before(address)
            return spoil(await self._bus.read(address, size))

    async def write_read(self, address: int, data: bytes, size: int) -> bytes:
        """As I2cBus."""
        async with self._line:
            spoil = await self._before(address)
            return spoil(await self._bus.write_read(address, data, size))

    async def _before(self, address: int) -> Callable[[bytes], bytes]:
        match self.trouble.get(address):
            case DriverError() as error:
                raise error
            case "never ends":
                await asyncio.get_running_loop().create_future()
            case "hangs":
                await asyncio.sleep(STRETCH_S)
                raise BusTimeout(f"{address:#04x}: the line hangs")
            case "flips":
                return lambda answer: bytes((answer[0] ^ 0x10,)) + answer[1:]
            case "shortens":
                return lambda answer: answer[:-1]
        return lambda answer: answer


class House:
    """An SCD30 and a BMP280 on one troubled bus, each read by its own task; times are the loop's."""

    def __init__(self, *, one_thread: bool = False) -> None:
        self.air: Source = Wave()
        self.scd30, self.bmp280 = Scd30Chip(self._now), Bmp280Chip(self._now)
        self.bus = TroubledI2c(SimulatedI2c([self.scd30, self.bmp280]), one_thread=one_thread)
        self.put: dict[str, list[float]] = {"scd30": [], "bmp280": []}
        self.said: dict[str, list[tuple[float, Exception | None]]] = {"scd30": [], "bmp280": []}

    async def run(self, script: Callable[[], Awaitable[None]]) -> None:
        """Read until the script ends."""
        loop = asyncio.get_running_loop()

        async def put(message: Message) -> None:
            self.put[message.sensor].append(loop.time())

        plans = sensors.plan(SETTINGS)
        wired = sensors.Wired(lambda _device, sensor, error: self.said[sensor].append((loop.time(), error)))
        async with asyncio.TaskGroup() as group:
            attached = [(plan, plan.driver(self.bus, plan.options)) for plan in plans]
            tasks = wired.start(group, attached, put, FixedClock(), lambda *_: None)
            await script()
            for task in tasks:
                task.cancel()

    def worst_gap(self, sensor: str) -> float:
        """The longest time between two readings."""
        return max(later - earlier for earlier, later in pairwise(self.put[sensor]))

    def kinds(self, sensor: str) -> list[str]:
        """What was said of it: "ok", or the kind of failure."""
        return ["ok" if error is None else type(error).__name__ for _, error in self.said[sensor]]

    def _now(self, t_s: float) -> Row:
        return self.air(t_s)
