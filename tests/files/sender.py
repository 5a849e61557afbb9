"""Puts and uploads files for ever, and says what it was told: `python -m tests.files.sender FOLDER SEED`.

Lines: `put ID SHA256`, `begun ID`, `here ID OFFSET`, `done ID SHA256`. What a file holds follows from its name.
"""

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from gateway.files.entry import Limits
from gateway.files.files import Files
from gateway.store.db import Store
from tests.web.house import HandClock

LIMITS = Limits(least_free_bytes=0, owner_files=100_000, all_files=100_000)
PIECE = 3000
PIECES = 3


def content(name: str) -> bytes:
    """The bytes of the file of this name."""
    return random.Random(name).randbytes(PIECE * PIECES)


async def piece(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 1000):
        yield data[at : at + 1000]


def _say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def send(folder: Path, seed: str) -> None:
    async with Store(folder / "data") as store, Files(folder / "data" / "files", store, HandClock(), LIMITS) as files:
        _say("open")
        for number in range(1_000_000):
            name = f"{seed}-{number}"
            data = content(name)
            scratch = files.scratch()
            scratch.write_bytes(data)
            put = await files.put(name, "", scratch, owner="anna", lives_s=3600)
            _say("put", put.file_id, put.sha256)
            begun = await files.begin(name, "", owner="anna", size_bytes=len(data))
            _say("begun", begun.file_id, name)
            for step in range(PIECES):
                at = step * PIECE
                last = step == PIECES - 1
                entry = await files.append(begun.file_id, "anna", at, piece(data[at : at + PIECE]), complete=last)
                _say("here", begun.file_id, at + PIECE)
            _say("done", entry.file_id, entry.sha256)


if __name__ == "__main__":
    asyncio.run(send(Path(sys.argv[1]), sys.argv[2]))
