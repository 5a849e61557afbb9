"""`gateway run` and `gateway check`."""

import argparse
import asyncio
import logging
import sys
from pathlib import Path
from typing import Any

from gateway import config
from gateway.cli import data, scan
from gateway.config import Config, ConfigError

DEFAULT_CONFIG = Path("gateway.toml")


def run(options: argparse.Namespace) -> int:
    """Run until interrupted."""
    from gateway import app, demo

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for chatty in ("mcp", "uvicorn", "amqtt", "transitions", "zeroconf", "httpx2"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    settings = settle(options)
    if not options.demo and _path(options.config) is None:
        settings = scan.adopt(settings)
    folder = data.folder(options.data, demo=options.demo)
    play = demo.Demo() if options.demo else None
    path = _path(options.config)
    asyncio.run(app.run(play.configure(settings) if play else settings, folder, play, path and path.resolve()))
    return 0


def check(options: argparse.Namespace) -> int:
    """Read the settings, load every driver they name, say what would run; open no bus."""
    from gateway import sensors

    path = _path(options.config)
    settings = config.load(path)
    plans = sensors.plan(settings)
    print(f"{path or 'defaults'}: ok, {len(settings.device)} devices, {len(plans)} sensors", file=sys.stderr)
    return 0


def settle(options: argparse.Namespace) -> Config:
    """The settings of file and environment with the command line's addresses over them."""
    settings = config.load(_path(options.config))
    changes: dict[str, Any] = {}
    if options.http:
        host, port = address("--http", options.http)
        changes["http"] = {"host": host, "port": port}
    if options.https:
        host, port = address("--https", options.https)
        changes.setdefault("http", {}).update(https_host=host, https_port=port)
    if options.mqtt:
        host, port = address("--mqtt", options.mqtt)
        changes["mqtt"] = {"host": host, "port": port}
    return settings.model_copy(
        update={name: getattr(settings, name).model_copy(update=values) for name, values in changes.items()}
    )


def address(option: str, text: str) -> tuple[str, int]:
    """Split HOST:PORT; an IPv6 host stands in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{option} {text!r}: expected HOST:PORT with a port up to 65535, such as 127.0.0.1:8080")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - ":8080" means everywhere, as for other servers


def _path(given: Path | None) -> Path | None:
    return given or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
