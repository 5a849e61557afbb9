"""From the names and units that senders use to the one metric name and the one unit of a quantity. Pure."""

import re
from dataclasses import dataclass
from functools import lru_cache

from drivers.model import Quantity

ALIASES = {
    "carbon_dioxide": "co2",
    "relative_humidity": "humidity",
    "atmospheric_pressure": "pressure",
    "battery_level": "battery",
    "pm2_5": "pm25",
    "signal_strength": "rssi",
}

SYNONYMS: dict[Quantity, frozenset[str]] = {
    Quantity.CO2: frozenset({"ppm"}),
    Quantity.TEMPERATURE: frozenset({"degc", "°c", "c", "celsius"}),
    Quantity.HUMIDITY: frozenset({"%rh", "%"}),
    Quantity.PRESSURE: frozenset({"hpa", "mbar"}),
    Quantity.VOLTAGE: frozenset({"v"}),
    Quantity.BATTERY: frozenset({"%"}),
    Quantity.RSSI: frozenset({"dbm"}),
    Quantity.ILLUMINANCE: frozenset({"lx", "lux"}),
    Quantity.PM25: frozenset({"ug/m3", "µg/m³", "µg/m3", "ug/m³"}),
    Quantity.PM10: frozenset({"ug/m3", "µg/m³", "µg/m3", "ug/m³"}),
    Quantity.TVOC: frozenset({"ug/m3", "µg/m³", "µg/m3", "ug/m³"}),
    Quantity.POWER: frozenset({"w"}),
    Quantity.ENERGY: frozenset({"wh"}),
    Quantity.CURRENT: frozenset({"a"}),
    Quantity.MOISTURE: frozenset({"%"}),
    Quantity.COUNT: frozenset({"1", ""}),
}
"""What senders write for a quantity's own unit, in lower case."""

FOREIGN: dict[tuple[Quantity, str], tuple[float, float]] = {
    (Quantity.TEMPERATURE, "degf"): (5 / 9, -160 / 9),
    (Quantity.TEMPERATURE, "°f"): (5 / 9, -160 / 9),
    (Quantity.TEMPERATURE, "f"): (5 / 9, -160 / 9),
    (Quantity.TEMPERATURE, "k"): (1, -273.15),
    (Quantity.PRESSURE, "pa"): (0.01, 0),
    (Quantity.PRESSURE, "kpa"): (10, 0),
    (Quantity.PRESSURE, "bar"): (1000, 0),
    (Quantity.PRESSURE, "mmhg"): (1.333_223_87, 0),
    (Quantity.PRESSURE, "inhg"): (33.863_886_7, 0),
    (Quantity.PRESSURE, "psi"): (68.947_572_9, 0),
    (Quantity.VOLTAGE, "mv"): (0.001, 0),
    (Quantity.CURRENT, "ma"): (0.001, 0),
    (Quantity.POWER, "mw"): (0.001, 0),
    (Quantity.POWER, "kw"): (1000, 0),
    (Quantity.ENERGY, "kwh"): (1000, 0),
    (Quantity.PM25, "mg/m3"): (1000, 0),
    (Quantity.PM10, "mg/m3"): (1000, 0),
    (Quantity.TVOC, "mg/m3"): (1000, 0),
}
"""(quantity, foreign unit in lower case) -> (factor, offset) to the quantity's own unit."""

NAME = re.compile(r"[A-Za-z0-9]+(?:_[A-Za-z0-9_]+)?")
NAME_LIMIT = 64


class MetricError(ValueError):
    """No quantity can be told from this name; the message says why and what to write instead."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's stored name and what it measures."""

    name: str
    quantity: Quantity


@lru_cache(maxsize=4096)
def metric(name: str) -> Metric:
    """The metric of a name: a quantity, an alias, a quantity with a suffix ("temperature_probe"); or MetricError."""
    if len(name) > NAME_LIMIT or NAME.fullmatch(name) is None:
        raise MetricError(f"a metric is a quantity, optionally with _suffix, at most {NAME_LIMIT} of A-Z a-z 0-9 _")
    plain = ALIASES.get(name.lower(), name.lower())
    if plain in _BY_NAME:
        return Metric(plain, _BY_NAME[plain])
    head, _, suffix = name.partition("_")
    quantity = _BY_NAME.get(head.lower())
    if quantity is None:
        raise MetricError(f"no such quantity; known are {', '.join(_BY_NAME)}")
    meant = suffix.rpartition("_")[2].lower()
    if meant in _BY_NAME and _BY_NAME[meant] is not quantity:
        raise MetricError(f"either {head} or {meant}: write {meant}_{head} or {head}_1")
    return Metric(f"{quantity.value}_{suffix}", quantity)


@lru_cache(maxsize=1024)
def conversion(quantity: Quantity, unit: str) -> tuple[float, float] | None:
    """(factor, offset) from a sender's unit to the quantity's own, None where they are the same; or LookupError."""
    plain = unit.strip().replace("\u03bc", "\u00b5").lower()
    if plain in SYNONYMS[quantity]:
        return None
    found = FOREIGN.get((quantity, plain))
    if found is None:
        raise LookupError(f"{quantity.value} is in {quantity.unit} here, and no conversion from that unit is known")
    return found


_BY_NAME = {quantity.value: quantity for quantity in Quantity}
