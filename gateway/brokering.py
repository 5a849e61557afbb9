"""The broker of the house: ours or somebody else's, who may come in, and where it is reached."""

import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from gateway import __version__
from gateway.access import authority
from gateway.access.authority import Authority
from gateway.broker import choice as brokers
from gateway.broker.choice import Choice
from gateway.broker.local import AUTO, Address, Entrance, LocalBroker, People, Tls
from gateway.config import secret
from gateway.core import Core
from gateway.discovery.addresses import addresses, watching
from gateway.ingest.dialects.home_assistant import Origin
from gateway.store.types import Event

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """The broker as the rest of the gateway sees it: how it comes in, `words` for people ({} is where it listens), and
    what `local` tells where it is our child with logins."""

    entrance: Entrance
    words: str
    local: LocalBroker | None = None

    def __str__(self) -> str:
        return self.words.replace("{}", self.local.where) if self.local else self.words

    @property
    def listens(self) -> str:
        """The address that others find it at."""
        if self.local is None:
            return self.entrance.host
        return self.local.listens

    @property
    def outside(self) -> tuple[int, int] | None:
        """Its port and that with TLS (0: none), where others on the network reach it; None where they do not, or where
        it is not ours."""
        return self.local.outside if self.local else None

    @property
    def unguarded(self) -> str:
        """Why nobody has to log in, "" where everybody has."""
        return self.local.unguarded if self.local else ""

    def connected(self) -> Mapping[str, datetime]:
        """Who with a login is connected, and since when."""
        return self.local.connected() if self.local else {}

    def follow(self, moved: Callable[[], Awaitable[None]]) -> None:
        """Call this when it listens elsewhere than before."""
        if self.local is not None:
            self.local.followers.append(moved)


async def open_broker(core: Core, choice: Choice | None, stack: AsyncExitStack) -> Standing:
    """The broker, ours or somebody else's, and who hears of changes of its logins."""
    settings = core.config.mqtt
    host = "127.0.0.1" if settings.host == AUTO else settings.host
    entrance = Entrance(host, settings.port, settings.username, secret(settings.password_file))
    if choice is None:
        core.logins.attach(partial(_only_said, "the broker is off in the settings"))
        return Standing(entrance, "off")
    if choice.warning:
        log.warning("%s broker: %s", choice.kind, choice.warning)
    address = Address(settings.host, settings.port, settings.tls_port)
    people = People(core.logins.live, lambda: core.logins.guarded)
    tls = Tls(partial(_authority, core), partial(_names, core), core.clock) if settings.tls_port else None
    folder = core.folder / "broker"
    child = brokers.start(
        choice, address, folder, people, now=core.clock.now, tls=tls, say=partial(_broker_moved, core)
    )
    if child is not None:
        await stack.enter_async_context(child)
    if isinstance(child, LocalBroker):
        ours = (settings.client_id, f"{Origin(core.identity.gateway_id, __version__).ours}out")
        core.logins.attach(child.apply, reserved=ours)
        if tls is not None:
            await stack.enter_async_context(watching(child.look))
        return Standing(child.entrance, f"{choice.kind} at {{}} ({choice.reason})", child)
    where = f"{choice.kind} at {host}:{settings.port} ({choice.reason})"
    if child is None:
        elsewhere = f"the broker at {host}:{settings.port} is not this gateway's: make logins there, by its own means"
        core.logins.attach(partial(_only_said, ""), elsewhere=elsewhere)
    else:
        core.logins.attach(partial(_only_said, "the embedded broker asks nobody for a login: install mosquitto"))
    return Standing(entrance, where)


async def _only_said(text: str) -> str:
    return text


def _authority(core: Core) -> Authority:
    return authority.load_or_create(core.folder / "identity", core.identity.gateway_id)


def _names(core: Core) -> list[str]:
    """By which nodes may know the broker."""
    host = socket.gethostname().partition(".")[0]
    return [f"{core.identity.gateway_id}.local", host, f"{host}.local", "localhost", *{a.ip for a in addresses()}]


def _broker_moved(core: Core, text: str) -> None:
    log.warning("%s", text)
    core.journal.note(Event(core.clock.now(), "broker", "", text))
