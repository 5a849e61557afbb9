"""kill -9 at any point: what was acknowledged is there, no batch in part, nothing twice."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.store.db import Store
from tests.store.appender import SIZE, batch

ROOT = Path(__file__).parent.parent.parent


def append_until_killed(folder: Path, number: int, lines: int, chance: random.Random) -> int:
    """The last batch that the child called durable; it is killed somewhere in the batches after `lines` of them."""
    command = [sys.executable, "-m", "tests.store.appender", str(folder), str(number)]
    acked = number - 1
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            for _ in range(lines):
                acked = int(child.stdout.readline())
            # Anywhere within the batch that now runs: some idle work instead of a pause.
            sum(range(chance.randrange(150_000)))
        finally:
            child.kill()
        rest = child.stdout.read().splitlines()
    # A line is printed after its COMMIT; a torn last one says nothing.
    return max([acked, *(int(line) for line in rest if line.isdigit())])


async def values(store: Store, device: str) -> list[float]:
    """What is stored of a device whose values count."""
    ids = {each.series_id for each in store.series().values() if each.device == device}
    query = "select value from {} order by value"
    return [one for (one,) in await store.ask(lambda view: view.db.execute(query.format(view.raw(ids))).fetchall())]


@pytest.mark.slow
async def test_ten_kills(tmp_path: Path) -> None:
    chance = random.Random(7)
    acked = 0
    for _ in range(10):
        acked = append_until_killed(tmp_path, acked + 1, chance.randrange(12), chance)
        async with Store(tmp_path) as store:
            assert store.lost_batches is None
            # The child may have died between COMMIT and its word: at most one batch more than it said.
            commit = await store.append(batch(acked)) if acked else None
            assert commit is None or (commit.stored, commit.duplicates) == (0, SIZE + 1)
            stored = [seq - 400 for seq in await values(store, "node")]
            assert stored == list(range(1, len(stored) + 1)), "lost or doubled"
            assert len(stored) in {0, SIZE // 2 * (acked + 1), SIZE // 2 * (acked + 2)}, "a batch in part"
            dated = await values(store, "dated")
            assert dated == list(range(1, len(dated) + 1))
            assert len(dated) in {acked, acked + 1}
    assert acked > 10
