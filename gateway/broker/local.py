"""The local broker as a whole: where it listens, whom it lets in, and how a change of either is made true.

`[mqtt] host = "auto"`: on loopback for anybody until the first login is made, and from then on everywhere, for nobody
without one. What mosquitto reads is derived from the logins before each start and at each change.
"""

import asyncio
import logging
import os
import re
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from aiomqtt import Client, MqttError

from gateway.access.authority import Authority, keep
from gateway.access.logins import hashed
from gateway.broker.config import (
    CERTIFICATE,
    EVERYWHERE,
    KEY,
    OURS,
    PASSWORDS,
    TOPICS,
    Doors,
    password_file,
    topic_file,
)
from gateway.broker.errors import BrokerError
from gateway.broker.mosquitto import mosquitto
from gateway.clock import Clock
from gateway.hosts import is_loopback
from gateway.store.login_rows import BrokerLogin

log = logging.getLogger(__name__)

AUTO = "auto"
HEARD_WITHIN_S = 1.0
ANSWER_WITHIN_S = 10.0
READY_WITHIN_S = 20.0
LOOK_AGAIN_S = 12 * 3600.0
RELOADING = "Reloading config."
_CAME = re.compile(r"New client connected from .* as (\S+) \(p\d+, c\d, k\d+, u'([^']*)'\)\.")
_WENT = re.compile(r"Client (\S+) (?:disconnected|closed its connection|has exceeded timeout).*")
_THROWN_OUT = re.compile(r"Bad socket read/write on client (\S+): Unknown error\.")
"""What mosquitto says of one that published what it may not, after which it ends the connection."""
_REFUSED = re.compile(r"Client (\S+) disconnected, not authorised\.")
SAY_AGAIN = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Address:
    """Where devices find it: `host` is AUTO or as the settings say, `tls_port` 0 for none."""

    host: str
    port: int
    tls_port: int = 0


@dataclass(frozen=True, slots=True)
class Entrance:
    """How the gateway itself comes in."""

    host: str
    port: int
    username: str | None = None
    password: str | None = None


@dataclass(frozen=True, slots=True)
class People:
    """Whom to let in, asked anew at each change: the `logins` that count, whether there ever was one (`guarded`)."""

    logins: Callable[[], Sequence[BrokerLogin]]
    guarded: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Tls:
    """`authority` signs the server's certificate, for these `hosts` (names and addresses, asked anew)."""

    authority: Callable[[], Authority]
    hosts: Callable[[], Sequence[str]]
    clock: Clock


class LocalBroker:
    """Owns mosquitto and what it reads; `async with`. `entrance` is for the gateway's own clients, and stays.

    `say` hears when it begins to listen elsewhere, one line. Without `tls` it has no TLS port. BrokerError as the
    child's.
    """

    def __init__(
        self,
        address: Address,
        folder: Path,
        people: People,
        *,
        tls: Tls | None = None,
        say: Callable[[str], None] = lambda _text: None,
        on_problem: Callable[[str], None] = lambda _text: None,
        now: Callable[[], datetime],
    ) -> None:
        self._address, self._folder, self._people, self._tls = address, folder.absolute(), people, tls
        self._say, self._now = say, now
        self._password = secrets.token_urlsafe(32)
        self._ours = hashed(self._password)
        self._inner_port = _free_port()
        self._inside = False  # it could not listen where it should
        self._doors = self._wanted()
        self.child = mosquitto(
            lambda: self._doors, self._folder, write=self._write, on_problem=on_problem, on_line=self._heard
        )
        self._turn = asyncio.Lock()
        self._asked = self._done = 0
        self._reloading = asyncio.Event()
        self._look = asyncio.Event()
        self._since: dict[str, datetime] = {}
        self._told: dict[str, datetime] = {}
        self.refused = 0
        """Connections without a login that is good."""
        self._group = asyncio.TaskGroup()
        self.followers: list[Callable[[], Awaitable[None]]] = []
        """Called when it listens elsewhere than before."""

    async def __aenter__(self) -> Self:
        if self._doors.tls_port:
            await asyncio.to_thread(self._certify)
        await self.child.__aenter__()
        await self._group.__aenter__()
        self._care = self._group.create_task(self._renew_certificate(), name="broker.certificate")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._care.cancel()
        try:
            await self._group.__aexit__(None, None, None)
        finally:
            await self.child.__aexit__(kind, error, trace)

    @property
    def entrance(self) -> Entrance:
        """For the gateway's own clients, whoever else is let in."""
        return Entrance("127.0.0.1", self._inner_port, OURS, self._password)

    @property
    def outside(self) -> tuple[int, int] | None:
        """The port, and that with TLS or 0, where others on the network reach it; None where they do not."""
        return None if is_loopback(self._doors.host) else (self._doors.port, self._doors.tls_port)

    @property
    def listens(self) -> str:
        """The address of its ports."""
        return self._doors.host or EVERYWHERE

    @property
    def where(self) -> str:
        """Where it listens, in words."""
        host, port = self._doors.host, self._doors.port
        place = f"{f'[{host}]' if ':' in host else host}:{port}" if host else f"port {port} of every address"
        tls = f", TLS on {self._doors.tls_port}" if self._doors.tls_port else ""
        return f"{place}{tls}{', for logins only' if self._doors.guarded else ''}"

    @property
    def unguarded(self) -> str:
        """Why nobody has to log in, "" where everybody has."""
        if self._doors.guarded:
            return ""
        why = f'[mqtt] host = "{self._address.host}"; leave that out to open it to logins'
        why = why if self._address.host != AUTO else "the first login opens it"
        return f"the broker listens on loopback only, where nobody is asked for a login ({why})"

    def connected(self) -> Mapping[str, datetime]:
        """Who with a login is connected, and since when."""
        return dict(self._since)

    def look(self) -> None:
        """The machine's addresses may be others: the certificate has to name them."""
        self._look.set()

    async def apply(self) -> str:
        """Make it obey the logins as they are; what else that changed, in words. Calls that come together are
        answered by one reload."""
        self._asked += 1
        mine = self._asked
        async with self._turn:
            if self._done >= mine:
                return self.unguarded
            asked = self._asked
            said = await self._obey()
            self._done = asked
            return said

    def _wanted(self) -> Doors:
        address, guarded = self._address, self._people.guarded()
        if address.host == AUTO:
            host = "" if guarded and not self._inside else "127.0.0.1"
        else:
            host, guarded = address.host, not is_loopback(address.host)
        return Doors(host, address.port, self._inner_port, address.tls_port if self._tls else 0, guarded)

    async def _obey(self) -> str:
        with suppress(TimeoutError):
            async with asyncio.timeout(READY_WITHIN_S):
                await self.child.ready.wait()
        if (wanted := self._wanted()) != self._doors:
            return await self._move(wanted)
        if not self._doors.guarded:
            return self.unguarded
        await asyncio.to_thread(self._keep, self._people.logins())
        await self._reload()
        return ""

    async def _move(self, wanted: Doors) -> str:
        """Listen elsewhere: the child begins again, with all that it kept."""
        self._doors = wanted
        text = f"the broker listens on {self.where} from now on: devices that came without a login need one"
        try:
            await self.child.renew(self.listens)
        except BrokerError as error:
            self._inside = True
            self._doors = self._wanted()
            text = f"the broker stays on loopback, for logins only ({error}); free the port and start the gateway again"
            with suppress(BrokerError):  # said by the child, which goes on trying
                await self.child.renew(self.listens)
        self._say(text)
        for each in self.followers:
            await each()
        return text

    def _write(self) -> None:
        """Before each start."""
        self._keep(self._people.logins())

    def _keep(self, rows: Sequence[BrokerLogin]) -> None:
        """What mosquitto reads beside its configuration, each file by one rename: half a file would lock all out."""
        logins = sorted(rows, key=lambda row: row.user)
        for name, text in ((TOPICS, topic_file(logins)), (PASSWORDS, password_file(self._ours, logins))):
            draft = self._folder / f".{name}.new"
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)  # not synced: made anew at each start
            draft.replace(self._folder / name)

    async def _reload(self) -> None:
        """Have it read the files, and return when it has: a signal that comes while it reads would be lost."""
        for _ in range(2):
            pid, self._reloading = self.child.pid, asyncio.Event()
            if pid is None:
                return  # its next start reads them
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARD_WITHIN_S):
                    await self._reloading.wait()
                    break
        ours = self.entrance
        try:
            async with Client(
                ours.host,
                ours.port,
                identifier=f"gateway-look-{secrets.token_hex(4)}",
                username=ours.username,
                password=ours.password,
                timeout=ANSWER_WITHIN_S,
            ):
                pass
        except MqttError as error:
            log.warning("the broker did not answer after it was told of other logins: %s", error)

    def _heard(self, line: str) -> None:
        if line == RELOADING:
            self._reloading.set()
        elif (came := _CAME.fullmatch(line)) is not None:
            if came[1] == came[2]:  # a device: the session's name is its login's
                self._since[came[1]] = self._now()
        elif (out := _THROWN_OUT.fullmatch(line)) is not None and self._since.pop(out[1], None) is not None:
            self._thrown_out(out[1])
        elif _REFUSED.fullmatch(line) is not None:
            self.refused += 1
        elif (went := _WENT.fullmatch(line)) is not None:
            self._since.pop(went[1], None)
        elif line.startswith("mosquitto version"):  # it starts or ends
            self._since.clear()

    def _thrown_out(self, user: str) -> None:
        """It will come and be thrown out again: said once an hour."""
        now = self._now()
        if user not in self._told or now - self._told[user] >= SAY_AGAIN:
            self._told[user] = now
            self._say(f"{user} was disconnected: it said something that its login may not (`gateway node list`)")

    def _certify(self) -> bool:
        """See to it that the server's certificate names what it should; whether it had to be made anew."""
        assert self._tls is not None
        authority, hosts, now = self._tls.authority(), self._tls.hosts(), self._tls.clock.now()
        file = self._folder / CERTIFICATE
        if file.exists() and (self._folder / KEY).exists() and authority.serves(file.read_bytes(), hosts, now):
            return False
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        certificate, key = authority.server(hosts, now)
        keep(self._folder / KEY, key)
        keep(file, certificate)
        return True

    async def _renew_certificate(self) -> None:
        """Look at each change of addresses, and now and then."""
        while self._doors.tls_port:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self._look.wait()
            self._look.clear()
            try:
                async with self._turn:
                    if await asyncio.to_thread(self._certify):
                        await self._reload()
            except OSError as error:
                log.warning("the broker's certificate could not be renewed: %s", error)


def _free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
