"""The gateways that this user has paired with: who they are (a certificate) and the token for each."""

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gateway.discovery.txt import normal_fingerprint

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pin:
    """A paired gateway. The fingerprint is its identity; id, name and address (`HOST:PORT`) only help to find it."""

    gateway_id: str
    name: str
    fingerprint: str
    token: str
    address: str = ""
    path: str = "/mcp"


class PinError(Exception):
    """The pin file cannot be read or written; the message says what to do."""


def default_file(environment: Mapping[str, str]) -> Path:
    """`$XDG_CONFIG_HOME/ambient-gateway/gateways.json`, by default below `~/.config`."""
    home = environment.get("XDG_CONFIG_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".config") / "ambient-gateway" / "gateways.json"


class Pins:
    """The file, read at each question and written whole: several bridges may run at once."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def all(self) -> list[Pin]:
        """Every pin; none if there is no file. PinError."""
        try:
            entries = json.loads(self.file.read_text("utf-8"))["gateways"]
            return [_pin(entry) for entry in entries]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise PinError(f"cannot read {self.file}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PinError(f"{self.file} is damaged ({error!r}); delete it and pair again") from error

    def by_fingerprint(self, fingerprint: str) -> Pin | None:
        return next((pin for pin in self.all() if pin.fingerprint == fingerprint), None)

    def save(self, pin: Pin) -> None:
        """Store or replace the pin of this fingerprint; the file is 0600 from its first byte. PinError."""
        others = [other for other in self.all() if other.fingerprint != pin.fingerprint]
        text = json.dumps({"gateways": [asdict(one) for one in [*others, pin]]}, indent=2) + "\n"
        try:
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self.file.parent, prefix=".gateways-")  # mkstemp makes it 0600
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.file)
        except OSError as error:
            raise PinError(f"cannot write {self.file}: {error.strerror}") from error

    def moved(self, fingerprint: str, address: str) -> None:
        """Remember where the gateway was met last; nothing for one that is not paired. PinError."""
        pin = self.by_fingerprint(fingerprint)
        if pin is not None and pin.address != address:
            self.save(replace(pin, address=address))


def _pin(entry: Mapping[str, Any]) -> Pin:
    """ValueError, KeyError, TypeError, AttributeError for what is no pin."""
    texts = {key: str(entry.get(key) or "") for key in ("gateway_id", "name", "token", "address")}
    return Pin(fingerprint=normal_fingerprint(entry["fingerprint"]), path=str(entry.get("path") or "/mcp"), **texts)
