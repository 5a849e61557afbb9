"""A gateway to be killed: appends numbered and dated messages and prints each batch's number once it is durable."""

import asyncio
import sys
from pathlib import Path

from gateway.reading import Message
from gateway.store import engine
from gateway.store.db import Store
from tests.store.builders import local, numbered, reading

SIZE = 40


def batch(number: int) -> list[Message]:
    """The messages of the batch that a node numbers so; each batch overlaps the one before by half."""
    first = (number - 1) * SIZE // 2 + 1
    nodes = [numbered(seq, first) for seq in range(first, first + SIZE)]
    return [*nodes, local(reading(float(number), number, device="dated"), timed=True)]


async def run(folder: Path, number: int) -> None:
    engine.CHECKPOINT_AT_MB = 0.02  # so that kills fall into checkpoints too
    async with Store(folder) as store:
        print("open", flush=True)  # noqa: T201
        while True:
            await store.append(batch(number))
            print(number, flush=True)  # noqa: T201
            number += 1


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2])))
