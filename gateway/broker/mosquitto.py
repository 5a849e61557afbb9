"""Mosquitto as a supervised child: the broker that keeps messages while the gateway is away."""

import getpass
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from gateway.broker.config import DATABASE, EVERYWHERE, Doors, mosquitto_conf
from gateway.broker.errors import BrokerError
from gateway.broker.supervise import ChildBroker

BESIDE_PATH = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"  # distributions put it where users' PATH does not look


def find() -> str | None:
    """The absolute path of mosquitto, None where it is not installed."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=BESIDE_PATH)


def mosquitto(
    doors: Callable[[], Doors],
    folder: Path,
    *,
    write: Callable[[], None] = lambda: None,
    on_problem: Callable[[str], None] = lambda _text: None,
    on_line: Callable[[str], None] = lambda _line: None,
) -> ChildBroker:
    """A broker with its configuration and data in `folder`; BrokerError where it is not installed. Before each start
    `doors` is asked where it listens, and `write` puts there what else it reads."""
    binary = find()
    if binary is None:
        raise BrokerError('mosquitto is not installed: install it, or set broker = "embedded" in [mqtt] for a demo')
    folder = folder.absolute()
    conf = folder / "mosquitto.conf"
    first = doors()
    mosquitto_conf(first, folder, getpass.getuser())  # what is wrong with it is said at once

    def prepare() -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write()
            conf.write_text(mosquitto_conf(doors(), folder, getpass.getuser()), encoding="utf-8")
        except OSError as error:
            raise BrokerError(f"the broker's folder cannot be written ({error}): choose another with --data") from error

    program = (os.path.realpath(binary), "-c", str(conf))
    return ChildBroker(
        "mosquitto",
        program,
        first.host or EVERYWHERE,
        first.port,
        prepare=prepare,
        repair=lambda output: set_aside(folder / DATABASE, output, datetime.now(UTC)),
        on_problem=on_problem,
        on_line=on_line,
        lock=folder / "lock",
        ready_port=first.inner_port or None,
    )


def set_aside(database: Path, output: str, now: datetime) -> str | None:
    """Rename a database that mosquitto refused, so that it starts with an empty one; what was done, or None."""
    if "database" not in output or not database.exists():
        return None
    kept = database.with_name(f"{database.name}.damaged-{now:%Y%m%dT%H%M%SZ}")
    database.rename(kept)
    return f"mosquitto could not read its database: kept as {kept}, retained messages and sessions start empty"
