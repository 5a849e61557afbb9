"""From the text in a configuration to an open bus."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from drivers.bus import I2cBus
from drivers.errors import BusUnavailable

SCHEMES = {"i2c": "i2c:NUMBER, as in i2c:1", "replay": "replay:RECORDING, a packaged name or a CSV's path"}
ROOM, STATION = "plant-room", "station"  # fill what a replayed recording lacks


def open_bus(spec: str, now: Callable[[], float] = time.time) -> AbstractAsyncContextManager[I2cBus]:
    """The bus that `spec` names, opened by `async with` (BusUnavailable); ValueError at once for a malformed spec.

    "replay:FILE" is a simulated bus with an SCD30 and a BMP280 (0x76) in the air of the recording at `now()` seconds
    modulo its span; quantities that FILE lacks come from packaged recordings.
    """
    scheme, colon, rest = spec.partition(":")
    if not colon or scheme not in SCHEMES:
        raise ValueError(f"bus {spec!r}: it must be one of {'; '.join(SCHEMES.values())}")
    if scheme == "replay":
        if not rest:
            raise ValueError(f"bus {spec!r}: it must be {SCHEMES[scheme]}")
        return _replay(rest, now)
    if not (rest.isascii() and rest.isdigit()):
        raise ValueError(f"bus {spec!r}: it must be {SCHEMES[scheme]}")
    return _linux(int(rest))


@asynccontextmanager
async def _linux(number: int) -> AsyncIterator[I2cBus]:
    from drivers.host.linux_i2c import LinuxI2c  # noqa: PLC0415 - a replaying machine may lack its library

    async with LinuxI2c(number) as bus:
        yield bus


@asynccontextmanager
async def _replay(name: str, now: Callable[[], float]) -> AsyncIterator[I2cBus]:
    from drivers.testing.bmp280_chip import Bmp280Chip  # noqa: PLC0415 - only a demo needs the simulators
    from drivers.testing.buses import SimulatedI2c  # noqa: PLC0415
    from drivers.testing.recording import Recording  # noqa: PLC0415
    from drivers.testing.scd30_chip import Scd30Chip  # noqa: PLC0415

    try:
        recording = Recording.load(name)
    except (OSError, ValueError) as error:
        raise BusUnavailable(f"bus replay:{name}: {error}") from error
    first = recording.rows()[0]
    room = recording if first.co2 is not None else Recording.load(ROOM)
    station = recording if first.pressure is not None else Recording.load(STATION)
    yield SimulatedI2c([Scd30Chip(room.replay(now)), Bmp280Chip(station.replay(now))])
