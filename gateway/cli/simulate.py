"""`gateway simulate`: ESP32-like nodes against a broker, many in one process, and what became of what they said."""

import argparse
import asyncio
import sys
from pathlib import Path

from gateway.cli.run import address
from gateway.config import ConfigError
from gateway.nodes.fleet import Fleet, Login, allow_files, fleet, logins, made_up

DRAINED_WITHIN_S = 60.0


def simulate(options: argparse.Namespace) -> int:
    """Run nodes until interrupted, or for so many seconds: 1 if something was not acknowledged in the minute after."""
    host, port = address("--mqtt", options.mqtt)
    nodes = _nodes(options)
    try:
        allow_files(len(nodes))
    except OSError as error:
        raise ConfigError(f"--nodes {len(nodes)}: {error}") from error
    print(f"{len(nodes)} nodes against {host}:{port}, Ctrl-C ends them", file=sys.stderr)
    return asyncio.run(_run(nodes, host, port, options))


def _nodes(options: argparse.Namespace) -> list[Login]:
    if options.logins is None:
        if options.nodes is None:
            raise ConfigError("how many nodes? say --nodes N, or --logins FILE")
        return made_up(options.nodes)
    path: Path = options.logins
    try:
        known = logins(path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as error:
        raise ConfigError(f"--logins {path}: {error}") from error
    if not known or (options.nodes or 0) > len(known):
        raise ConfigError(f"--logins {path}: it has {len(known)} nodes, make more with `gateway node add`")
    return known[: options.nodes]


async def _run(nodes: list[Login], host: str, port: int, options: argparse.Namespace) -> int:
    made = fleet(nodes, host, port, options.interval)
    done = True
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(made.run(), name="fleet"),
                group.create_task(_tell(made, options.report), name="report"),
            ]
            if options.seconds is None:
                await asyncio.get_running_loop().create_future()
            done = await _for_so_long(made, options.seconds)
            for task in tasks:
                task.cancel()
    finally:
        print(made.summary().line(), file=sys.stderr)
        if options.json:
            print(made.summary().json(), flush=True)
    return int(not done)


async def _for_so_long(made: Fleet, seconds: float) -> bool:
    """Whether all that was measured in that time was acknowledged."""
    await asyncio.sleep(seconds)
    made.rest()
    try:
        async with asyncio.timeout(DRAINED_WITHIN_S):
            await made.acked()
    except TimeoutError:
        return False
    return True


async def _tell(made: Fleet, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        print(made.summary().line(), file=sys.stderr, flush=True)
