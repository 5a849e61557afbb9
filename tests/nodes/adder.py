"""Adds and removes bundles for ever, and says what it was told: `python -m tests.nodes.adder FOLDER SEED`.

Lines: `adding DIGEST`, `added DIGEST`, `removing DIGEST`, `removed DIGEST`.
"""

import asyncio
import random
import sys
from pathlib import Path

from gateway.nodes.ota import bundle
from tests.nodes.bundles import PUBLIC, built, manifest, shelf


def content(seed: str, number: int) -> bytes:
    """The bundle of this number: three files of some blocks."""
    chance = random.Random(f"{seed}-{number}")
    files = {f"node/{name}": chance.randbytes(20_000) for name in ("app.py", "other.py", "third.py")}
    return built(manifest(f"{seed}.{number}.0", files), files)


def _say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


async def add(folder: Path, seed: str) -> None:
    async with shelf(folder) as made:
        _say("open")
        for number in range(1_000):
            found = bundle.check(content(seed, number), [PUBLIC])
            _say("adding", found.digest)
            await made.add(found, "local")
            _say("added", found.digest)
            if number % 2:
                _say("removing", found.digest)
                await made.remove(found.digest)
                _say("removed", found.digest)


if __name__ == "__main__":
    asyncio.run(add(Path(sys.argv[1]), sys.argv[2]))
