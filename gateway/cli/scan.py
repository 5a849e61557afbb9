"""`gateway scan`, and what `gateway run` does where nobody wrote settings yet."""

import argparse
import asyncio
import json
import socket
import sys
from dataclasses import asdict, replace
from pathlib import Path

from gateway import config
from gateway.config import Config
from gateway.discovery import proposal
from gateway.discovery.scan import LISTEN_S, Machine, Scan, machine, scan

DEFAULT_CONFIG = Path("gateway.toml")


def scan_command(options: argparse.Namespace) -> int:
    """Print what would use the sensors that are found, or add it to the settings; exit code 1 where there are none."""
    return report(options, machine())


def report(options: argparse.Namespace, where: Machine, listen_s: float = LISTEN_S) -> int:
    """`gateway scan` on these wires."""
    path: Path = options.config or DEFAULT_CONFIG
    settings = Config() if _is_new(path, options) else config.load(path)
    seen = asyncio.run(scan(where, proposal.known(settings), listen_s))
    taken = {device.id for device in settings.device}
    device = proposal.device(seen.found, socket.gethostname(), taken)
    text = proposal.toml(device) if device else ""
    if options.write and device:
        proposal.add(path, device)
    if options.json:
        written = str(path) if options.write and device else None
        print(json.dumps(asdict(seen) | {"toml": text, "written": written}))
    else:
        print("\n".join(part for part in (text, proposal.hints(seen, taken)) if part), end="")
    _say(seen)
    if options.write:
        word = f"added to {path}; start the gateway again" if device else f"nothing to add to {path}"
        print(word, file=sys.stderr)
    return 0 if device else 1


def adopt(settings: Config, where: Machine | None = None) -> Config:
    """The settings with every wired sensor that a scan finds, for this run only; says so on standard error."""
    wires = replace(where or machine(), ble=(), ports=())
    seen = asyncio.run(scan(wires, proposal.known(settings)))
    device = proposal.device(seen.found, socket.gethostname(), {each.id for each in settings.device})
    if device is None:
        print("no gateway.toml, and no sensor is found on this machine's I2C buses:", file=sys.stderr)
        for note in seen.notes:
            if not note.startswith(("no serial port", "no Bluetooth", "Bluetooth")):
                print(f"  {note}", file=sys.stderr)
        return settings
    print(f"no gateway.toml: using what a scan found, as device {device.id!r}, for this run only:", file=sys.stderr)
    for each in seen.found:
        print(f"  {each.what} on {each.bus}", file=sys.stderr)
    print("  keep it with `gateway scan --write`", file=sys.stderr)
    return settings.model_copy(update={"device": (*settings.device, device)})


def _is_new(path: Path, options: argparse.Namespace) -> bool:
    """Whether there are no settings yet: a named file that is missing is a mistake unless it shall be written."""
    return not path.exists() and (options.config is None or options.write)


def _say(seen: Scan) -> None:
    for each in seen.found:
        print(f"found {each.what} on {each.bus} (driver {each.driver})", file=sys.stderr)
    for port in seen.ports:
        print(f"serial port {port.bus.removeprefix('serial:')}: nothing was sent to it", file=sys.stderr)
    for beacon in seen.beacons:
        print(
            f"beacon in reach: {beacon.what!r}; a scan does not add beacons: they may be a neighbour's", file=sys.stderr
        )
    for note in seen.notes:
        print(note, file=sys.stderr)
    if not seen.found:
        print("no new sensor found", file=sys.stderr)
