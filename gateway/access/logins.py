"""Who may speak to the local broker: a login for each device, and for our nodes the key that comes with it.

The store is the truth; what mosquitto reads is derived from it. Passwords are 256 random bits, shown once; the store
keeps a salted hash of them.
"""

import base64
import hashlib
import os
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from gateway.clock import Clock
from gateway.store import commands, login_rows, queries
from gateway.store.db import Store
from gateway.store.login_rows import BrokerLogin

USER = re.compile(r"[A-Za-z0-9._-]{1,64}")
ITERATIONS = 1
"""A guess at 256 random bits costs more than enough; each reload of the broker asks this again for everybody."""
SALT_BYTES = 12
NODE_WRITES = ("capabilities", "status", "error", "sensors/+/data", "commands/+/result", "update/status")
NODE_READS = ("ack", "commands/+", "update")
"""What a node may say and is told, under devices/{its id}/."""
OWN_ROOTS = ("gateway", "ambient-gateway")
"""What the gateway says of itself begins so."""
OPEN_TO_READ = frozenset({"devices/+/sensors/+/state", "devices/+/status", "gateway/+/status"})
"""What is said for everybody, such as Home Assistant: states and who is online."""
MOST_TOPICS, MOST_BYTES = 32, 200


class LoginError(ValueError):
    """A login cannot be made or changed; the message is one line with the way out."""


@dataclass(frozen=True, slots=True)
class Issued:
    """New secrets, shown this once; None where there is none or it stays as it was. `note` is what else happened."""

    user: str
    key: str | None = None
    password: str | None = None
    note: str = ""


class NodeKeys:
    """The nodes' keys: in memory for every acknowledgement, in the store for the next start."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys: dict[str, bytes] = {}

    async def load(self) -> None:
        """Read all keys from the store."""
        self._keys = dict(await queries.node_keys(self._store))

    def get(self, device: str) -> bytes | None:
        """The key of a device, None where it has none."""
        return self._keys.get(device)

    async def add(self, device: str) -> str:
        """Make a node's key and no login, replacing an older one; 64 hexadecimal digits."""
        key = secrets.token_bytes(32)
        await commands.save_node_key(self._store, device, key)
        self.put(device, key)
        return key.hex()

    def put(self, device: str, key: bytes | None) -> None:
        """What the store holds by now; None where it holds none."""
        if key is None:
            self._keys.pop(device, None)
        else:
            self._keys[device] = key


async def _at_the_next_start() -> str:
    return "no gateway runs on this data: it counts from the next start on"


class Logins:
    """The logins of one gateway, cached in memory; every change must come through this object while it lives.

    Call `load` once before use. A change returns when the broker obeys it; `attach` says how that is done.
    """

    def __init__(self, store: Store, clock: Clock, keys: NodeKeys) -> None:
        self._store, self._clock, self._keys = store, clock, keys
        self._rows: dict[str, BrokerLogin] = {}
        self._apply: Callable[[], Awaitable[str]] = _at_the_next_start
        self._reserved: frozenset[str] = frozenset()
        self._elsewhere = ""
        self.guarded = False
        """There was a login once: nobody comes in without one any more, off loopback or on it."""

    async def load(self) -> None:
        """Read all rows from the store."""
        rows, self.guarded = await login_rows.logins(self._store)
        self._rows = {row.user: row for row in rows}

    def attach(self, apply: Callable[[], Awaitable[str]], *, reserved: Sequence[str] = (), elsewhere: str = "") -> None:
        """`apply` makes the broker obey the logins as they are and says what else that changed; nobody may be called
        one of `reserved`. `elsewhere`: why this gateway makes no logins, "" where it does."""
        self._apply, self._reserved, self._elsewhere = apply, frozenset(reserved), elsewhere

    def live(self) -> list[BrokerLogin]:
        """Those that may connect, by user; no name that the gateway itself needs."""
        return [row for user, row in self._rows.items() if row.revoked is None and user not in self._reserved]

    def rows(self) -> list[BrokerLogin]:
        """All of them, revoked ones included, by user."""
        return sorted(self._rows.values(), key=lambda row: row.user)

    def named(self, user: str) -> BrokerLogin:
        """The live login of this user; LoginError names the nearest."""
        row = self._rows.get(user)
        if row is None or row.revoked is not None:
            near = get_close_matches(user, [each.user for each in self.live()], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else "`gateway node list` shows them"
            raise LoginError(f"{user!r} has no login; {hint}")
        return row

    def expect(self, user: str, write: Sequence[str] = (), read: Sequence[str] = ()) -> BrokerLogin | None:
        """The login that such a one would replace; LoginError where it cannot be made."""
        if not USER.fullmatch(user):
            raise LoginError(f"{user!r} is no id: 1 to 64 of A-Z a-z 0-9 . _ -")
        if user in self._reserved:
            raise LoginError(f"{user!r} is the gateway's own name at the broker: choose another id")
        if self._elsewhere and (write or read):
            raise LoginError(self._elsewhere)
        check_topics(user, write, read)
        old = self._rows.get(user)
        kind = "other" if write or read else "node"
        if old is not None and old.revoked is None and old.kind != kind:
            was = "a node of ours" if old.kind == "node" else "a device of another maker"
            raise LoginError(f"{user!r} is {was} already: `gateway node revoke {user}` first, or choose another id")
        return old if old is not None and old.revoked is None else None

    async def add(self, user: str, write: Sequence[str] = (), read: Sequence[str] = ()) -> Issued:
        """A login and, for a node of ours, its key; those it had end. With topics it is a device of another maker."""
        self.expect(user, write, read)
        if self._elsewhere:
            return Issued(user, await self._keys.add(user), None, self._elsewhere)
        if write or read:
            row = BrokerLogin(user, "", "other", self._clock.now(), tuple(write), tuple(read))
            return await self._issue(row, None)
        row = BrokerLogin(user, "", "node", self._clock.now())
        return await self._issue(row, secrets.token_bytes(32))

    async def add_once(self, user: str) -> Issued | None:
        """The same for a node that has neither key nor login; None where it has one."""
        row = self._rows.get(user)
        has_login = row is not None and row.revoked is None
        return None if has_login or self._keys.get(user) is not None else await self.add(user)

    async def rotate(self, user: str, *, key: bool = False) -> Issued:
        """Another password, and with `key` another key; the one before ends at once. LoginError."""
        self.expect_rotation(user, key=key)
        if self._elsewhere:
            return Issued(user, await self._keys.add(user), None, self._elsewhere)
        row = replace(self.named(user), rotated=self._clock.now())
        return await self._issue(row, secrets.token_bytes(32) if key else None)

    def expect_rotation(self, user: str, *, key: bool) -> None:
        """LoginError where `rotate` would refuse."""
        if self._elsewhere:
            if not key or self._keys.get(user) is None:
                raise LoginError(f"{self._elsewhere}; --key makes another key for a node that has one")
            return
        if key and self.named(user).kind != "node":
            raise LoginError(f"{user!r} is a device of another maker: it has no key")
        self.named(user)

    async def revoke(self, user: str) -> str:
        """End a login and a node's key with it, at once; what else that changed. LoginError."""
        if self.expect_end(user) is None:
            await self._forget_key(user)
            return self._elsewhere
        row = replace(self.named(user), hash="", revoked=self._clock.now())
        await login_rows.save_login(self._store, row)
        self._rows[user] = row
        self._keys.put(user, None)
        return await self._apply()

    def expect_end(self, user: str) -> BrokerLogin | None:
        """What `revoke` would end: a login, or None for a key alone; LoginError where there is neither."""
        row = self._rows.get(user)
        if (row is None or row.revoked is not None) and self._keys.get(user) is not None:
            return None
        return self.named(user)

    async def forget(self, user: str) -> None:
        """A device whose rows are gone."""
        self._keys.put(user, None)
        if self._rows.pop(user, None) is not None:
            await self._apply()

    async def _forget_key(self, user: str) -> None:
        await commands.drop_node_key(self._store, user)
        self._keys.put(user, None)

    async def _issue(self, row: BrokerLogin, key: bytes | None) -> Issued:
        password = secrets.token_urlsafe(32)
        row = replace(row, hash=hashed(password))
        await login_rows.save_login(self._store, row, key)
        self._rows[row.user] = row
        self.guarded = True
        if key is not None or row.kind == "other":
            self._keys.put(row.user, key)
        return Issued(row.user, key.hex() if key is not None else None, password, await self._apply())


def hashed(password: str) -> str:
    """As mosquitto keeps it: $7$iterations$salt$PBKDF2-HMAC-SHA512."""
    salt = os.urandom(SALT_BYTES)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS, 64)
    return f"$7${ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def topics_of(login: BrokerLogin) -> tuple[Sequence[str], Sequence[str]]:
    """What it may write, what it may read."""
    if login.kind == "other":
        return login.may_write, login.may_read
    own = f"devices/{login.user}/"
    return [own + each for each in NODE_WRITES], [own + each for each in NODE_READS]


def check_topics(user: str, write: Sequence[str], read: Sequence[str]) -> None:
    """LoginError where one of them is malformed, or reaches what is not this device's."""
    for option, topics in (("--write", write), ("--read", read)):
        if len(topics) > MOST_TOPICS:
            raise LoginError(f"{option}: {len(topics)} topics are more than {MOST_TOPICS}: use + and #")
        for topic in topics:
            if option == "--read" and topic in OPEN_TO_READ:
                continue
            if (fault := _fault(user, topic)) is not None:
                raise LoginError(f"{option} {topic!r}: {fault}")


def _fault(user: str, topic: str) -> str | None:
    """What is wrong with a topic for this user, None where it is fine."""
    first, *rest = levels = topic.split("/")
    is_plain = 0 < len(topic.encode()) <= MOST_BYTES and not any(ord(c) <= 32 or ord(c) == 127 for c in topic)
    of_others = first in {"devices", "+"} and rest and rest[0] != user
    faults = (
        (not is_plain, f"a topic is 1 to {MOST_BYTES} bytes without spaces and control characters"),
        ("#" in topic[:-1] or levels[-1] not in {"#", levels[-1].replace("#", "")}, "# stands alone, and last"),
        (any("+" in level and level != "+" for level in levels), "+ stands alone between slashes"),
        (first == "#", "this is everything: name the device's own topics, as in tele/plug-1/#"),
        (first.startswith("$"), "what begins with $ is the broker's own"),
        (of_others, f"this reaches devices/ of others: only devices/{user}/ is its own"),
        (first in OWN_ROOTS, "this reaches what the gateway says of itself: name the device's own topics"),
    )
    return next((text for found, text in faults if found), None)
