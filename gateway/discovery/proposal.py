"""From what a scan found to settings: as values for this run, and as text that is added to a file."""

import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from drivers import registry
from gateway.config import Config, ConfigError, DeviceSettings, SensorSettings, parse
from gateway.discovery.scan import Found, Port, Scan

BY_HAND = "add the lines that `gateway scan` prints by hand"


def device(found: Sequence[Found], host: str, taken: Collection[str] = ()) -> DeviceSettings | None:
    """One device, named after the machine, with every sensor found; None without any. Ids in `taken` are not reused.

    A sensor is named so that another one's absence does not rename it: by its driver, its address where that is not the
    usual one, and its bus where two would be called the same.
    """
    if not found:
        return None
    names = [each.driver if each.usual else f"{each.driver}-{each.options['address']:02x}" for each in found]
    often = Counter(names)
    sensors = []
    for each, name in zip(found, names, strict=True):
        unique = name if often[name] == 1 else f"{name}-{each.bus.replace(':', '')}"
        given = None if unique == each.driver else unique
        sensors.append(SensorSettings(driver=each.driver, bus=each.bus, name=given, options=dict(each.options)))
    return DeviceSettings(id=_free(_identifier(host), taken), sensor=tuple(sensors))


def toml(device: DeviceSettings) -> str:
    """The settings of a device as they stand in the file."""
    lines = ["[[device]]", f"id = {_value(device.id)}"]
    for sensor in device.sensor:
        lines += ["", "  [[device.sensor]]", f"  driver = {_value(sensor.driver)}", f"  bus = {_value(sensor.bus)}"]
        if sensor.name is not None:
            lines.append(f"  name = {_value(sensor.name)}")
        if sensor.options:
            inside = ", ".join(f"{key} = {_value(value)}" for key, value in sensor.options.items())
            lines.append(f"  options = {{ {inside} }}")
    return "\n".join(lines) + "\n"


def hints(scan: Scan, taken: Collection[str] = ()) -> str:
    """What only a person can decide, as settings in comments: serial ports, and beacons that may be a neighbour's."""
    blocks = [_port(port) for port in scan.ports if port.might_fit]
    for each in scan.beacons:
        settings = SensorSettings(driver=each.driver, bus=each.bus, options=dict(each.options))
        offered = DeviceSettings(id=_free(_identifier(str(each.options["address"])), taken), sensor=(settings,))
        blocks.append(f"a beacon in reach: {_line(each.what)}\n{toml(offered)}")
    return "\n".join("".join(f"# {line}\n" for line in block.splitlines()) for block in blocks)


def known(config: Config) -> set[tuple[str, int]]:
    """The I2C addresses that are configured: (bus, address)."""
    return {where for device in config.device for sensor in device.sensor if (where := _where(sensor)) is not None}


def add(path: Path, new: DeviceSettings) -> None:
    """Append a device to the file (made where it is missing); what is there stays byte for byte.

    ConfigError, and nothing is written, where a sensor on the same bus and address or the id is configured already,
    where the result would be no valid settings, or where the file cannot be written.
    """
    before = _read(path)
    config = _parsed(before, path)
    clash = known(config) & {where for sensor in new.sensor if (where := _where(sensor)) is not None}
    if clash:
        raise ConfigError("; ".join(f"{path}: {bus} address {at:#04x} is configured already" for bus, at in clash))
    joint = b"" if not before else b"\n" if before.endswith(b"\n") else b"\n\n"
    addition = joint + toml(new).encode()
    _parsed(before + addition, path)
    try:
        with path.open("ab") as file:
            file.write(addition)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); {BY_HAND}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {BY_HAND}") from error


def _parsed(content: bytes, path: Path) -> Config:
    try:
        document = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: nothing can be appended ({error}); {BY_HAND}") from error
    return parse(document, str(path), {})


def _where(sensor: SensorSettings) -> tuple[str, int] | None:
    """Bus and I2C address of configured settings; None for other wires and for settings that are wrong."""
    try:
        address = getattr(registry.load(sensor.driver).Options(**sensor.options), "address", None)
    except (LookupError, TypeError, ValueError, ImportError):
        return None
    return (sensor.bus, address) if isinstance(address, int) else None


def _port(port: Port) -> str:
    return (
        f"a serial port; nothing was sent to it. Drivers that might fit: {', '.join(port.might_fit)}\n"
        f'[[device.sensor]]\ndriver = "{port.might_fit[0]}"\nbus = {_value(port.bus)}'
    )


def _identifier(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text.partition(".")[0]).strip("-").lower()[:56] or "gateway"


def _free(wanted: str, taken: Iterable[str]) -> str:
    used = set(taken)
    return next(name for n in range(1, len(used) + 2) if (name := wanted if n == 1 else f"{wanted}-{n}") not in used)


def _line(text: str) -> str:
    """A stranger's words, for a comment: printable and on one line, or a beacon's name could add settings."""
    return "".join(c if c.isprintable() else "?" for c in text)[:120]


def _value(value: Any) -> str:
    """A string, a number or a truth as TOML; integers in the notation of addresses."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:#04x}"
    return json.dumps(value) if not isinstance(value, Mapping) else "{}"
