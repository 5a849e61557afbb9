"""What may be changed of a sensor's calibration, as values: what each is called, does, and makes uncertain."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from drivers.api import Calibratable, Calibration
from drivers.model import Quantity

CO2_SETTLES_S = 120.0
TEMPERATURE_SETTLES_S = 600.0
LOW_PPM, HIGH_PPM = 400, 2000


@dataclass(frozen=True, slots=True)
class Recalibration:
    """Forced recalibration: the air measured now has this much CO2."""

    reference_ppm: int
    OPTION: ClassVar[str] = ""
    SETTLES: ClassVar[Mapping[Quantity, float]] = {Quantity.CO2: CO2_SETTLES_S}

    def __str__(self) -> str:
        return f"forced recalibration to {self.reference_ppm} ppm"

    def held(self, _now: Calibration) -> bool:
        """Never done already: the air has changed."""
        return False

    async def on(self, driver: Calibratable) -> Calibration:
        """Do it."""
        return await driver.recalibrate(self.reference_ppm)


@dataclass(frozen=True, slots=True)
class SelfCalibration:
    """Automatic self-calibration on or off; what it found stays in force."""

    on_: bool
    OPTION: ClassVar[str] = "self_calibration"
    SETTLES: ClassVar[Mapping[Quantity, float]] = {}

    def __str__(self) -> str:
        return f"self-calibration {'on' if self.on_ else 'off'}"

    def held(self, now: Calibration) -> bool:
        """Whether the sensor holds it already."""
        return now.self_calibration is self.on_

    async def on(self, driver: Calibratable) -> Calibration:
        """Do it."""
        return await driver.set_self_calibration(self.on_)


@dataclass(frozen=True, slots=True)
class TemperatureOffset:
    """What is subtracted from the temperature; the humidity follows."""

    offset_degc: float
    OPTION: ClassVar[str] = "temperature_offset_degc"
    SETTLES: ClassVar[Mapping[Quantity, float]] = {
        Quantity.TEMPERATURE: TEMPERATURE_SETTLES_S,
        Quantity.HUMIDITY: TEMPERATURE_SETTLES_S,
    }

    def __str__(self) -> str:
        return f"temperature offset {self.offset_degc:g} degC"

    def held(self, now: Calibration) -> bool:
        """Whether the sensor holds it already."""
        return round(now.temperature_offset_degc * 100) == round(self.offset_degc * 100)

    async def on(self, driver: Calibratable) -> Calibration:
        """Do it."""
        return await driver.set_temperature_offset(self.offset_degc)


@dataclass(frozen=True, slots=True)
class Altitude:
    """Metres above sea level; counts where no pressure is set."""

    altitude_m: int
    OPTION: ClassVar[str] = "altitude_m"
    SETTLES: ClassVar[Mapping[Quantity, float]] = {Quantity.CO2: CO2_SETTLES_S}

    def __str__(self) -> str:
        return f"altitude {self.altitude_m} m"

    def held(self, now: Calibration) -> bool:
        """Whether the sensor holds it already."""
        return now.altitude_m == self.altitude_m

    async def on(self, driver: Calibratable) -> Calibration:
        """Do it."""
        return await driver.set_altitude(self.altitude_m)


@dataclass(frozen=True, slots=True)
class Pressure:
    """Station pressure; None compensates by the altitude."""

    pressure_hpa: float | None
    OPTION: ClassVar[str] = "pressure_hpa"
    SETTLES: ClassVar[Mapping[Quantity, float]] = {Quantity.CO2: CO2_SETTLES_S}

    def __str__(self) -> str:
        return "pressure off" if self.pressure_hpa is None else f"pressure {self.pressure_hpa:.0f} hPa"

    def held(self, now: Calibration) -> bool:
        """Whether the sensor holds it already."""
        if self.pressure_hpa is None or now.pressure_hpa is None:
            return self.pressure_hpa is now.pressure_hpa
        return round(now.pressure_hpa) == round(self.pressure_hpa)

    async def on(self, driver: Calibratable) -> Calibration:
        """Do it."""
        return await driver.set_pressure(self.pressure_hpa)


Change = Recalibration | SelfCalibration | TemperatureOffset | Altitude | Pressure


def check(change: Change, options: Any) -> None:
    """ValueError for a value that the sensor cannot hold, by the rules of its driver's own options."""
    if isinstance(change, Recalibration):
        if not LOW_PPM <= change.reference_ppm <= HIGH_PPM:
            raise ValueError(f"reference {change.reference_ppm} ppm: it must be {LOW_PPM} to {HIGH_PPM}")
    elif change.OPTION in {field.name for field in dataclasses.fields(options)}:
        value = getattr(change, dataclasses.fields(change)[0].name)
        dataclasses.replace(options, **{change.OPTION: value})
