"""`python -m tests.jail.sql_attacker FOLDER UID LESS`: every SQL attack as some user, or with fewer of the layers.

UID "" stays who we are; LESS "less" makes unshare(2) and Landlock fail. Prints what came out otherwise than it must,
and what the worker says of itself, as JSON.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from gateway.jail.questions import Questions
from gateway.store.db import Store
from tests.jail.attacker import become, own_room, take_layers_away
from tests.jail.sql_tools import SECRET, attacks, furnish, state, verdict

LIMIT_S = 0.5


def status(pid: int | None) -> dict[str, str]:
    """What the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return dict(line.split(":\t", 1) for line in lines)


async def report(folder: Path) -> dict[str, Any]:
    """The strings that must be refused, and those that must be answered."""
    wrong: list[tuple[str, str]] = []
    async with Store(folder) as store:
        await furnish(store)
        before = await state(store)
        for must_be, limit_s in (("refused", LIMIT_S), ("allowed", 10.0)):
            async with Questions(store, limit_s=limit_s) as questions:
                for sql in attacks(must_be):
                    got, said = await verdict(questions, sql)
                    wrong += [(sql[:200], said)] * (got != must_be or SECRET in said)
                told, layers = status(questions.worker.pid), list(questions.worker.greeting["layers"])
                open_now = None if os.geteuid() else sorted(os.listdir(f"/proc/{questions.worker.pid}/fd"), key=int)
        return {
            "wrong": wrong,
            "changed": await state(store) != before,
            "layers": layers,
            "uid": told["Uid"].split()[0],
            "capabilities": int(told["CapEff"], 16) | int(told["CapBnd"], 16) * (os.geteuid() == 0),
            "descriptors": open_now,
        }


def main() -> None:
    """One report on standard output."""
    folder, uid, less = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    if os.geteuid() == 0:
        own_room()
    folder.mkdir(exist_ok=True)
    if uid:
        os.chown(folder, int(uid), int(uid))
        become(int(uid))
    if less:
        take_layers_away()
    print(json.dumps(asyncio.run(report(folder))))  # noqa: T201 - that is its answer


if __name__ == "__main__":
    main()
