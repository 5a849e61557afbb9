"""Logins of the local broker: table `broker_login`, and with them the keys that nodes got together with theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from gateway.store import codes
from gateway.store.db import Connection, Store

GUARDED = "broker_guarded"
"""A setting: the first login was made, and from then on the broker lets nobody in without one."""

Kind = Literal["node", "other"]


@dataclass(frozen=True, slots=True)
class BrokerLogin:
    """Who may connect to the local broker. `hash` is mosquitto's, of a random password, and "" once it is revoked; a
    node's topics follow from its id, `may_write` and `may_read` are those of a device of another maker."""

    user: str
    hash: str
    kind: Kind
    created: datetime
    may_write: tuple[str, ...] = ()
    may_read: tuple[str, ...] = ()
    rotated: datetime | None = None
    revoked: datetime | None = None


async def save_login(store: Store, login: BrokerLogin, key: bytes | None = None) -> None:
    """Insert or replace a login; `key` replaces the node's key with it, or neither is."""

    def change(db: Connection) -> None:
        db.execute("delete from broker_login where device_id = ?", [login.user])
        topics = ["\n".join(each) for each in (login.may_write, login.may_read)]
        times = [_naive(time) for time in (login.created, login.rotated, login.revoked)]
        row = [login.user, login.hash, login.kind, *topics, *times]
        db.execute("insert into broker_login values (?, ?, ?, ?, ?, ?, ?, ?)", row)
        db.execute("delete from setting where name = ?", [GUARDED])
        db.execute("insert into setting values (?, 'yes')", [GUARDED])
        if key is not None or login.revoked is not None:
            db.execute("delete from node_key where device_id = ?", [login.user])
        if key is not None:
            db.execute("insert into node_key values (?, ?)", [login.user, key])

    await store.write(change)


async def logins(store: Store) -> tuple[Sequence[BrokerLogin], bool]:
    """Every login, revoked ones included, by user; and whether there ever was one."""
    query = """select device_id, hash, kind, may_write, may_read, created, rotated, revoked from broker_login
               order by device_id"""
    rows = await store.read(lambda db: db.execute(query).fetchall())
    told = await store.read(lambda db: db.execute("select 1 from setting where name = ?", [GUARDED]).fetchall())
    return [_login(row) for row in rows], bool(rows or told)


def _login(row: tuple[str, str, Kind, str, str, datetime, datetime | None, datetime | None]) -> BrokerLogin:
    user, hashed, kind, may_write, may_read, created, rotated, revoked = row
    topics = tuple(may_write.splitlines()), tuple(may_read.splitlines())
    times = codes.from_db(rotated), codes.from_db(revoked)
    return BrokerLogin(user, hashed, kind, codes.made_aware(created), *topics, *times)


def _naive(time: datetime | None) -> datetime | None:
    return None if time is None else codes.from_ms(codes.to_ms(time)).replace(tzinfo=None)
