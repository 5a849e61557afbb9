"""The whole contract between the gateway and a sensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from drivers.bus import I2cBus
from drivers.model import Channel, Sample

GROUP = "gateway.drivers"
"""The entry-point group: an entry names a package whose modules are drivers, each with a `DRIVER`."""


class Driver(Protocol):
    """A sensor on a bus. Construction stores; only the three coroutines touch the wire."""

    BUS: ClassVar[type]
    """The bus protocol the constructor wants: `drivers.bus.I2cBus`."""
    Options: ClassVar[type[Any]]
    """A frozen dataclass, every field defaulted; wrong values raise ValueError on construction."""
    CHANNELS: ClassVar[tuple[Channel, ...]]
    # KIND: ClassVar[str] may name the chip where several drivers speak to one kind, as scd30_modbus does.

    def __init__(self, bus: Any, options: Any) -> None: ...

    async def start(self) -> None:
        """Identify and configure the device; WrongDevice if another one answers. May be called again to recover."""

    async def read(self) -> Sequence[Sample]:
        """Return the next measurement, waiting for it where the device decides when."""

    async def stop(self) -> None:
        """Leave the device in its lowest-power state; never raises."""


@runtime_checkable
class Patient(Protocol):
    """Optional: a driver whose `read` may take over a minute says how long at worst, its own revival included."""

    @property
    def patience_s(self) -> float:
        """Seconds after which `read` has failed, whatever it is doing."""


@runtime_checkable
class Probeable(Protocol):
    """Optional for a driver on an I2C bus: find its device without configuring anything (`gateway scan`)."""

    ADDRESSES: ClassVar[tuple[int, ...]]
    """Where the device may be, its usual address first; `Options` has a field `address` if there are several."""

    @staticmethod
    async def probe(bus: I2cBus, address: int) -> str | None:
        """Ask for the device's identity and nothing else: what it says of itself ("SCD30, firmware 3.66").

        None if something answers that is not this device; WrongDevice if it is known what else it is; BusError where
        nothing answers.
        """


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a sensor says of its own calibration. `pressure_hpa` None: it compensates by the altitude instead.

    `reference_ppm` is that of the last forced recalibration, where the device still knows it.
    """

    self_calibration: bool
    temperature_offset_degc: float
    altitude_m: int
    pressure_hpa: float | None
    reference_ppm: int
    firmware: str


@runtime_checkable
class Calibratable(Protocol):
    """Optional: a CO2 sensor that can be calibrated while it is read; the calls wait for their turn on the wire.

    Each says what the device holds afterwards, read back. ValueError for what is out of range, before anything is
    written; BadData if the device does not hold what was written, NotReady where it first needs something else.
    """

    async def read_calibration(self) -> Calibration:
        """What the device holds now; changes nothing."""

    async def recalibrate(self, reference_ppm: int) -> Calibration:
        """Take the air it measures now as `reference_ppm`, for good (forced recalibration)."""

    async def set_self_calibration(self, on: bool) -> Calibration:
        """Let the device take the lowest value of some days as fresh air, or stop that."""

    async def set_temperature_offset(self, offset_degc: float) -> Calibration:
        """Subtract this from every temperature."""

    async def set_altitude(self, altitude_m: int) -> Calibration:
        """Compensate for metres above sea level, where no pressure is set."""

    async def set_pressure(self, pressure_hpa: float | None) -> Calibration:
        """Compensate for this station pressure instead of the altitude; None goes back to that."""
