"""The nouns every driver speaks. Standard library only."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Quantity(StrEnum):
    """What is measured. Each has exactly one unit, so a value can never carry a wrong one."""

    CO2 = "co2"
    TEMPERATURE = "temperature"
    HUMIDITY = "humidity"
    PRESSURE = "pressure"  # station pressure, never reduced to sea level
    VOLTAGE = "voltage"
    BATTERY = "battery"
    RSSI = "rssi"
    ILLUMINANCE = "illuminance"
    PM25 = "pm25"
    PM10 = "pm10"
    TVOC = "tvoc"
    POWER = "power"
    ENERGY = "energy"
    CURRENT = "current"
    MOISTURE = "moisture"
    COUNT = "count"

    @property
    def unit(self) -> str:
        """The one unit of this quantity, as text for people and assistants."""
        return UNITS[self]


UNITS: dict[Quantity, str] = {
    Quantity.CO2: "ppm",
    Quantity.TEMPERATURE: "degC",
    Quantity.HUMIDITY: "%RH",
    Quantity.PRESSURE: "hPa",
    Quantity.VOLTAGE: "V",
    Quantity.BATTERY: "%",
    Quantity.RSSI: "dBm",
    Quantity.ILLUMINANCE: "lx",
    Quantity.PM25: "ug/m3",
    Quantity.PM10: "ug/m3",
    Quantity.TVOC: "ug/m3",
    Quantity.POWER: "W",
    Quantity.ENERGY: "Wh",
    Quantity.CURRENT: "A",
    Quantity.MOISTURE: "%",
    Quantity.COUNT: "1",
}


class Quality(IntEnum):
    """How far a value may be believed (OPC UA Part 8: top two bits of the status code)."""

    GOOD = 0
    UNCERTAIN = 1
    BAD = 2
    MISSING = 3

    def __str__(self) -> str:
        return self.name.lower()


class Reason(IntEnum):
    """Why a quality is not good. The numbers are stored on disk (6 bits): add, never renumber."""

    NONE = 0
    UNSPECIFIED = 1
    LAST_USABLE = 2  # a stale value repeated
    SUBSTITUTE = 3  # filled in or interpolated
    WARM_UP = 4  # first samples after a start, a reset or a changed setting
    NOT_ACCURATE = 5  # uncalibrated
    UNUSUAL = 6  # inside the hard limits, outside the usual range
    SUB_NORMAL = 7  # fewer sources than expected
    RATE = 8  # changed faster than the quantity usually does
    TIME_UNKNOWN = 9  # nobody could date it
    CLOCK_UNTRUSTED = 10  # dated by a clock that was not set
    CLAMPED = 11  # slightly outside a physical bound, clamped to it
    CONFIGURATION = 32
    NOT_CONNECTED = 33
    DEVICE_FAILURE = 34
    SENSOR_FAILURE = 35
    NO_COMMUNICATION = 36
    OUT_OF_SERVICE = 37
    WAITING = 38
    NOT_A_NUMBER = 39
    ZERO = 40  # the SCD30's exact zero after a restart
    OUT_OF_RANGE = 41
    FROZEN = 42
    SPIKE = 43

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Channel:
    """One value a sensor produces. Outside low..high it cannot be true; outside the usual range it is suspicious.

    All bounds in the unit of the quantity. `frozen_after` identical new samples mean the sensor hangs (0 = never).
    """

    quantity: Quantity
    low: float
    high: float
    usual_low: float | None = None
    usual_high: float | None = None
    frozen_after: int = 0
    warm_up_s: float = 0.0
    name: str = ""

    @property
    def key(self) -> str:
        """The channel's name within its sensor; the quantity's unless a sensor has two of a kind."""
        return self.name or self.quantity.value


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured value, in the unit of its channel's quantity; NaN where the sensor said nothing usable."""

    channel: str
    value: float
    quality: Quality = Quality.GOOD
    reason: Reason = Reason.NONE
