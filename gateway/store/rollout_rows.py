"""Rollouts of firmware, running and past, and which firmware each node runs: tables `rollout`, `rollout_device` and
`node_firmware`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.store import codes
from gateway.store.db import Connection, Store

INSERT_NODES = """
    insert into node_firmware select unnest($1::VARCHAR[]), unnest($2::VARCHAR[]), unnest($3::VARCHAR[]),
        unnest($4::INTEGER[]), unnest($5::VARCHAR[]), make_timestamp_ms(unnest($6::BIGINT[]))
"""
KEPT = 500
"""Rollouts that have ended; older ones are forgotten when another begins."""


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """A rollout: `targets` in words, `detail` is what else its machine needs (JSON)."""

    rollout_id: str
    digest: str
    version: str
    principal: str
    targets: str
    course: str
    reason: str
    created: datetime
    ended: datetime | None
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RolloutDevice:
    """One device of a rollout; `position` is its turn."""

    rollout_id: str
    position: int
    device_id: str
    state: str
    reason: str
    started: datetime | None
    ended: datetime | None
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NodeFirmware:
    """What a node says that it runs; `since` is when it was first heard to. `mpy` is None where it takes no compiled
    files; `slots` says what it can replace, "" where it does not say."""

    device_id: str
    version: str
    board: str
    mpy: int | None
    slots: str
    since: datetime


async def save_rollout(store: Store, row: RolloutRow | None, devices: Sequence[RolloutDevice]) -> None:
    """Insert or replace a rollout (None: it did not change) and some of its devices, all or none."""

    def change(db: Connection) -> None:
        if row is not None:
            db.execute("delete from rollout where rollout_id = ?", [row.rollout_id])
            texts = [row.rollout_id, row.digest, row.version, row.principal, row.targets, row.course, row.reason]
            rest = [_ms(row.created), _ms(row.ended), json.dumps(row.detail)]
            db.execute("insert into rollout values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", [*texts, *rest])
        for each in devices:
            where = [each.rollout_id, each.position]
            db.execute("delete from rollout_device where rollout_id = ? and position = ?", where)
            texts = [each.device_id, each.state, each.reason]
            rest = [_ms(each.started), _ms(each.ended), json.dumps(each.detail)]
            db.execute("insert into rollout_device values (?, ?, ?, ?, ?, ?, ?, ?)", [*where, *texts, *rest])

    await store.write(change)


async def forget_old(store: Store) -> None:
    """Forget the oldest of too many rollouts that have ended."""

    def change(db: Connection) -> None:
        query = "select rollout_id from rollout where ended is not null order by created desc, rollout_id offset ?"
        gone = [row[0] for row in db.execute(query, [KEPT]).fetchall()]
        for table in ("rollout", "rollout_device"):
            db.execute(f"delete from {table} where list_contains(?::VARCHAR[], rollout_id)", [gone])  # noqa: S608

    await store.write(change)


async def rollouts(store: Store, *, active: bool = False, limit: int = KEPT) -> list[RolloutRow]:
    """The newest first; with `active` only those that have not ended."""
    query = f"""select rollout_id, digest, version, principal, targets, course, reason, created, ended, detail
                from rollout {"where ended is null" if active else ""}
                order by created desc, rollout_id limit ?"""  # noqa: S608
    rows = await store.read(lambda db: db.execute(query, [limit]).fetchall())
    return [_rollout(row) for row in rows]


async def rollout_devices(store: Store, rollout_id: str) -> list[RolloutDevice]:
    """The devices of a rollout, in their turn."""
    query = """select rollout_id, position, device_id, state, reason, started, ended, detail from rollout_device
               where rollout_id = ? order by position"""
    rows = await store.read(lambda db: db.execute(query, [rollout_id]).fetchall())
    return [_device(row) for row in rows]


async def counts(store: Store, rollout_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many devices of each of these rollouts are in which state."""
    query = """select rollout_id, state, count(*) from rollout_device
               where list_contains(?::VARCHAR[], rollout_id) group by all"""
    found: dict[str, dict[str, int]] = {each: {} for each in rollout_ids}
    for rollout_id, state, many in await store.read(lambda db: db.execute(query, [list(rollout_ids)]).fetchall()):
        found[rollout_id][state] = many
    return found


async def outcomes(store: Store) -> dict[str, RolloutDevice]:
    """What became of the last rollout that offered something to each device."""
    query = """select rollout_id, position, device_id, state, reason, started, ended, detail from rollout_device
               where started is not null
               qualify row_number() over (partition by device_id order by started desc) = 1"""
    rows = await store.read(lambda db: db.execute(query).fetchall())
    return {row[2]: _device(row) for row in rows}


async def save_nodes(store: Store, said: Sequence[NodeFirmware]) -> None:
    """Insert or replace what nodes say that they run; of one that said it twice the last word counts."""
    last = {each.device_id: each for each in said}

    def change(db: Connection) -> None:
        db.execute("delete from node_firmware where list_contains($1::VARCHAR[], device_id)", [list(last)])
        rows = [(n.device_id, n.version, n.board, n.mpy, n.slots, codes.to_ms(n.since)) for n in last.values()]
        db.execute(INSERT_NODES, codes.columns(rows))

    if last:
        await store.write(change)


async def nodes(store: Store) -> dict[str, NodeFirmware]:
    """What each node said last, by its id."""
    query = "select device_id, version, board, mpy, slots, since from node_firmware"
    rows = await store.read(lambda db: db.execute(query).fetchall())
    return {row[0]: NodeFirmware(row[0], row[1], row[2], row[3], row[4], codes.made_aware(row[5])) for row in rows}


def _rollout(row: Sequence[Any]) -> RolloutRow:
    id_, digest, version, principal, targets, course, reason, created, ended, detail = row
    times = codes.made_aware(created), codes.from_db(ended)
    return RolloutRow(id_, digest, version, principal, targets, course, reason, *times, json.loads(detail or "{}"))


def _device(row: Sequence[Any]) -> RolloutDevice:
    rollout_id, position, device_id, state, reason, started, ended, detail = row
    times = codes.from_db(started), codes.from_db(ended)
    return RolloutDevice(rollout_id, position, device_id, state, reason, *times, json.loads(detail or "{}"))


def _ms(time: datetime | None) -> datetime | None:
    return None if time is None else codes.from_ms(codes.to_ms(time)).replace(tzinfo=None)
