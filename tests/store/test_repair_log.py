"""A damaged log: everything before the damage is there, and an event names what is not."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.store.damage import Crashed, Opened, crash, damaged, faults, laid, opened

BATCHES = 40


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Crashed:
    return asyncio.run(crash(tmp_path_factory.mktemp("store"), BATCHES))


def check(found: Opened, at_least: int) -> None:
    """A gapless prefix, as long as it can be; the rest is named."""
    last = len(found.stored)
    assert found.stored == list(range(1, last + 1))
    assert last >= at_least
    if last == BATCHES:
        assert "store_loss" not in found.kinds
        assert found.lost is None
        return
    assert found.lost == (last + 1, BATCHES)
    (event,) = found.events
    assert event.kind == "store_loss"
    assert f"lost batches {last + 1} to {BATCHES}, received after " in event.message
    assert {"after", "until"} <= set(event.detail)
    assert event.detail["kept"] == sorted(found.left)
    assert (event.detail["first_batch"], event.detail["last_batch"]) == (last + 1, BATCHES)


async def start(crashed: Crashed, folder: Path, log: bytes, at_least: int, *, whole: bool) -> None:
    """Open the files, or (`whole`) a store on them."""
    laid(crashed, folder, log=log)
    if not whole:
        assert list(faults(crashed, folder, at_least)) == []
    else:
        check(await opened(folder), at_least)


@pytest.mark.slow
async def test_cut_anywhere(crashed: Crashed, tmp_path: Path) -> None:
    log = crashed.log
    chance = random.Random(4)
    borders = {end + step for end in crashed.ends.values() for step in (-1, 0, 1)}
    offsets = borders | set(range(60)) | {chance.randrange(len(log)) for _ in range(160)}
    for number, at in enumerate(sorted(offsets - {len(log) + 1})):
        await start(crashed, tmp_path / "cut", log[:at], crashed.before(at), whole=number % 10 == 0)
    assert len(offsets) >= 300


@pytest.mark.slow
async def test_a_bit_flipped_anywhere(crashed: Crashed, tmp_path: Path) -> None:
    chance = random.Random(5)
    log = crashed.log
    for number in range(200):
        at, bit = chance.randrange(len(log)), 1 << chance.randrange(8)
        flipped = log[:at] + bytes([log[at] ^ bit]) + log[at + 1 :]
        await start(crashed, tmp_path / "flip", flipped, crashed.before(at), whole=number % 10 == 0)
        assert damaged(tmp_path / "flip"), "what was cut off is kept"
