"""The whole contract between the gateway and a sensor."""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

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

    def __init__(self, bus: Any, options: Any) -> None: ...

    async def start(self) -> None:
        """Identify and configure the device; WrongDevice if another one answers. May be called again to recover."""

    async def read(self) -> Sequence[Sample]:
        """Return the next measurement, waiting for it where the device decides when."""

    async def stop(self) -> None:
        """Leave the device in its lowest-power state; never raises."""
