"""Which broker, and why."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from gateway.broker.config import MAX_INFLIGHT
from gateway.broker.embedded import PROMISES_NOT, embedded, installed
from gateway.broker.errors import BrokerError
from gateway.broker.local import AUTO, Address, LocalBroker, People, Tls
from gateway.broker.mosquitto import find
from gateway.broker.supervise import ChildBroker

LOOPBACK = "127.0.0.1"


class BrokerKind(StrEnum):
    """What carries the messages; EXTERNAL is somebody else's broker."""

    MOSQUITTO = "mosquitto"
    EMBEDDED = "embedded"
    EXTERNAL = "external"


@dataclass(frozen=True, slots=True)
class Choice:
    """A broker, why it was taken, and what it does not promise (empty if nothing).

    `window`: how many messages it sends without being acknowledged. `flush_within_s`: how soon it wants to be.
    """

    kind: BrokerKind
    reason: str
    warning: str = ""
    window: int = 20
    flush_within_s: float = 5.0


def choose(kind: str) -> Choice:
    """Take what was asked for, or with "auto" the best that is installed; BrokerError names the way out."""
    binary = find() if kind in {"auto", "mosquitto"} else None
    if binary is not None:
        return Choice(BrokerKind.MOSQUITTO, f"mosquitto is installed ({binary})", window=MAX_INFLIGHT)
    match kind:
        case "mosquitto":
            raise BrokerError('mosquitto is not installed: install it, or set broker = "auto" in [mqtt]')
        case "auto" | "embedded" if installed():
            reason = "configured" if kind == "embedded" else "mosquitto is not installed"
            # amqtt gives up on a message that is not acknowledged within 5 s.
            return Choice(BrokerKind.EMBEDDED, reason, PROMISES_NOT, MAX_INFLIGHT, 2.0)
        case "auto" | "embedded":
            raise BrokerError("no broker is installed: install mosquitto, or ambient-gateway[demo]")
        case "external":
            return Choice(BrokerKind.EXTERNAL, "configured")
    raise BrokerError(f"broker is auto, mosquitto, embedded or external, not {kind!r}")


def start(
    choice: Choice,
    address: Address,
    folder: Path,
    people: People,
    *,
    now: Callable[[], datetime],
    tls: Tls | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> LocalBroker | ChildBroker | None:
    """The broker that has to run (`async with` it), None where it is somebody else's; `say` hears where it listens."""
    match choice.kind:
        case BrokerKind.MOSQUITTO:
            return LocalBroker(address, folder, people, now=now, tls=tls, say=say)
        case BrokerKind.EMBEDDED:
            return embedded(LOOPBACK if address.host == AUTO else address.host, address.port)
        case BrokerKind.EXTERNAL:
            return None
