"""A CO2 sensor on a node of ours, calibrated as a wired one is: judged by the same air, with commands to its node."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from drivers.api import Calibration
from drivers.errors import BadData, BusError, BusTimeout, NotReady
from drivers.sensors.scd30 import Scd30
from gateway.calibration.service import WITHIN_S, Target
from gateway.store import queries
from gateway.store.db import Store

Send = Callable[[str, str, Mapping[str, Any], float], Awaitable[tuple[bool, Any]]]
"""(device, name, arguments, seconds to wait) -> (ok, result or error text)."""
KNOWS = "recalibrate_sensor"
"""Who tells that it has this command is such a sensor."""


class RemoteSensor:
    """Calibratable. Each answer is what the sensor held when its node read it back."""

    def __init__(self, device: str, sensor: str, send: Send) -> None:
        self._device, self._sensor, self._send = device, sensor, send

    async def read_calibration(self) -> Calibration:
        return await self._ask("show_calibration")

    async def recalibrate(self, reference_ppm: int) -> Calibration:
        return await self._ask(KNOWS, reference_ppm=reference_ppm)

    async def set_self_calibration(self, on: bool) -> Calibration:
        return await self._ask("set_self_calibration", on=on)

    async def set_temperature_offset(self, offset_degc: float) -> Calibration:
        return await self._ask("set_temperature_offset", offset_degc=offset_degc)

    async def set_altitude(self, altitude_m: int) -> Calibration:
        return await self._ask("set_altitude", altitude_m=altitude_m)

    async def set_pressure(self, pressure_hpa: float | None) -> Calibration:
        return await self._ask("set_pressure", pressure_hpa=pressure_hpa)

    async def _ask(self, name: str, **args: Any) -> Calibration:
        try:
            ok, said = await self._send(self._device, name, {"sensor": self._sensor, **args}, WITHIN_S)
        except TimeoutError as error:
            raise BusTimeout(str(error)) from error
        except (ConnectionError, LookupError) as error:
            raise BusError(str(error)) from error
        if not ok:
            # A node says the rule that was broken; what failed while it was done begins with the kind of the error.
            failed = str(said).partition(":")[0].endswith("Error")
            raise (BadData if failed else NotReady)(f"{self._device} says: {said}")
        return _calibration(self._device, said)


def find(store: Store, key: Callable[[str], bytes | None], send: Send, device: str, sensor: str) -> Target | None:
    """A sensor of a node of ours that can be calibrated; None where this is none."""
    if key(device) is None:
        return None
    for each in queries.sensors(store):
        told = each.metadata.get("commands")
        if (each.device_id, each.sensor) == (device, sensor) and isinstance(told, str) and KNOWS in told.split():
            remote = RemoteSensor(device, sensor, send)
            return Target(device, sensor, remote, Scd30.CHANNELS, Scd30.Options(), keeper="node")
    return None


def _calibration(device: str, said: Any) -> Calibration:
    """What a node told, as a value; BadData for what is none."""
    told = said if isinstance(said, dict) else {}
    kinds = {"self_calibration": bool, "altitude_m": int, "reference_ppm": int, "firmware": str}
    number = {name: told.get(name) for name in ("temperature_offset_degc", "pressure_hpa")}
    known = all(type(told.get(name)) is kind for name, kind in kinds.items())
    if not known or any(type(value) not in {int, float, type(None)} for value in number.values()):
        raise BadData(f"{device} told no calibration")
    offset_degc = float(number["temperature_offset_degc"] or 0)
    return Calibration(
        **{name: told[name] for name in kinds}, temperature_offset_degc=offset_degc, pressure_hpa=number["pressure_hpa"]
    )
