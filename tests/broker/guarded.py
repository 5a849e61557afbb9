"""A local broker with logins, for tests: the real mosquitto, the real store, sessions that tell what became of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiomqtt import Client, MqttError

from gateway.access.authority import Authority, load_or_create
from gateway.access.logins import Issued, Logins, NodeKeys
from gateway.broker.local import AUTO, Address, LocalBroker, People, Tls
from gateway.clock import SystemClock
from gateway.store.db import Store
from tests.brokers import WITHIN_S, FixedClock, free_port

OURS = "ambient-gateway"
REFUSED = "[code:135] Not authorized"


@dataclass
class Guarded:
    """The broker and what stands behind it. `said` is what it told of where it listens, `lines` its own words."""

    broker: LocalBroker
    logins: Logins
    store: Store
    port: int
    tls_port: int
    folder: Path
    said: list[str]
    lines: list[str] = field(default_factory=list)
    spoke: asyncio.Event = field(default_factory=asyncio.Event)

    async def add(self, user: str, **topics: Any) -> Issued:
        return await self.logins.add(user, **topics)

    def node(self, login: Issued | None, *, name: str = "", **more: Any) -> "Session":
        """A session of this login on the port for devices."""
        user, password = (login.user, login.password) if login is not None else (None, None)
        return Session(("127.0.0.1", self.port), name or user or "nobody", (user, password), **more)

    def ours(self, name: str = OURS, login: tuple[str | None, str | None] | None = None, **more: Any) -> "Session":
        """The gateway's own, or one of another `login` at its entrance."""
        way = self.broker.entrance
        return Session((way.host, way.port), name, login or (way.username, way.password), **more)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when it holds; it is looked at after each line that the broker says."""
        async with asyncio.timeout(WITHIN_S):
            while not condition():
                self.spoke.clear()
                await self.spoke.wait()

    @property
    def reloads(self) -> int:
        return self.lines.count("Reloading config.")


class Session:
    """One MQTT session, for `async with`: `heard` is what it was sent, `gone` is set once the broker ended it."""

    def __init__(self, where: tuple[str, int], name: str, login: tuple[str | None, str | None], **more: Any) -> None:
        self.client = Client(*where, identifier=name, username=login[0], password=login[1], **more)
        self.heard: list[tuple[str, bytes]] = []
        self.gone = asyncio.Event()
        self._more = asyncio.Condition()

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(WITHIN_S):
            await self.client.__aenter__()
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        try:
            await self.client.__aexit__(None, None, None)
        except MqttError:
            assert self.gone.is_set()

    async def _listen(self) -> None:
        try:
            async for message in self.client.messages:
                async with self._more:
                    self.heard.append((message.topic.value, bytes(message.payload)))
                    self._more.notify_all()
        except MqttError:
            self.gone.set()

    async def say(self, topic: str, payload: bytes = b"x", **more: Any) -> None:
        async with asyncio.timeout(WITHIN_S):
            await self.client.publish(topic, payload, qos=1, **more)

    async def hears(self, topic: str, payload: bytes | None = None) -> None:
        """Return when such a message came."""

        def came() -> bool:
            return any(heard == topic and payload in {None, said} for heard, said in self.heard)

        async with asyncio.timeout(WITHIN_S), self._more:
            await self._more.wait_for(came)

    async def ended(self) -> None:
        async with asyncio.timeout(WITHIN_S):
            await self.gone.wait()


async def refused(session: Session) -> bool:
    """Whether the broker does not let it in."""
    try:
        async with session:
            return False
    except MqttError as error:
        if REFUSED not in str(error):
            raise
        return True


@asynccontextmanager
async def guarded(
    folder: Path, host: str = AUTO, *, port: int = 0, tls: bool = False, hosts: list[str] | None = None
) -> AsyncIterator[Guarded]:
    """Until the block ends; the data stay in `folder`."""
    clock, said = FixedClock(), list[str]()
    address = Address(host, port or free_port(), free_port() if tls else 0)
    async with Store(folder) as store:
        keys = NodeKeys(store)
        logins = Logins(store, clock, keys)
        await logins.load()
        people = People(logins.live, lambda: logins.guarded)
        names = hosts if hosts is not None else ["localhost", "127.0.0.1"]
        (folder / "identity").mkdir(exist_ok=True)
        with_tls = Tls(lambda: authority(folder), lambda: names, SystemClock()) if tls else None
        broker = LocalBroker(address, folder / "broker", people, tls=with_tls, say=said.append, now=clock.now)
        found = Guarded(broker, logins, store, address.port, address.tls_port, folder, said)
        heard = broker.child._on_line

        def listen(line: str) -> None:
            found.lines.append(line)
            heard(line)
            found.spoke.set()

        broker.child._on_line = listen
        async with broker:
            logins.attach(broker.apply, reserved=(OURS,))
            yield found


def authority(folder: Path) -> Authority:
    return load_or_create(folder / "identity", "agw-test")
