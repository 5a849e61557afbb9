"""A small house to ask about, and what an assistant's statement came to."""

import json
from pathlib import Path
from typing import Any

from drivers.model import Quantity
from gateway.jail.questions import QueryFailed, QueryRefused, Questions
from gateway.store import commands
from gateway.store.db import Store
from gateway.store.types import Event, Zone
from tests.store.builders import T0, local, reading

ATTACKS = Path(__file__).parent / "attacks"
SECRET = "c0ffee" * 10 + "beef"
"""Stands where the hash of a token, the key of a node, a setting and a line of the audit stand."""
READINGS = 500


def attacks(*verdicts: str) -> list[str]:
    """All strings whose verdict must be one of these."""
    found = [each for name in ("sql.json", "sql_ours.json") for each in json.loads((ATTACKS / name).read_text())]
    return [each["sql"] for each in found if each["must_be"] in verdicts]


async def furnish(store: Store) -> None:
    """Some readings of five devices, a zone, an event, and secrets."""
    for start in range(0, READINGS // 2, 50):
        await store.append(
            [
                local(
                    reading(400.0 + at, at, device=f"d{at % 5}"),
                    reading(20 + at / 100, at, device=f"d{at % 5}", quantity=Quantity.TEMPERATURE),
                )
                for at in range(start, start + 50)
            ]
        )
    await commands.save_zone(store, Zone("attic", "Attic"))
    await commands.add_event(store, Event(T0, "started", "", "the gateway started", {}))
    await store.write(_hide)


def _hide(db: Any) -> None:
    db.execute("insert into token (token_id, name, scope, sha256, created) values ('t', '', 2, $1, now())", [SECRET])
    db.execute("insert into audit (time, principal, allowed, reason) values (now(), $1, true, $1)", [SECRET])
    db.execute("insert into node_key (device_id, key) values ('d1', $1::BLOB)", [SECRET.encode()])
    db.execute("insert into setting (name, value) values ('secret', $1)", [SECRET])


async def state(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that no question may change; not the settings, where the writer keeps its own notes."""
    names = ("device", "sensor", "series", "zone", "event", "token", "audit", "node_key", "migration", "segment")
    return await store.read(
        lambda db: {name: db.execute(f"select * from {name} order by all").fetchall() for name in names}
    )


async def verdict(questions: Questions, sql: str, owner: str = "someone") -> tuple[str, str]:
    """(allowed or refused, what was said)."""
    try:
        answer = await questions.run(sql, owner=owner)
    except (QueryRefused, QueryFailed) as error:
        said = str(error)
        assert not said.startswith("SQL is not available"), said
        assert "\n" not in said
        assert len(said) <= 600
        return "refused", said
    return "allowed", str(answer.rows)


def memory_mb(pid: int, what: str = "VmHWM") -> int:
    """What the kernel says of a process: VmHWM is the most it ever had in memory, VmRSS what it has now."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(f"{what}:"))
