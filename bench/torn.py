"""Damaged files: a log cut at every byte of its last 64 KiB, bits flipped in log and file. Does each start open, keep
what stands before the damage, and name what is missing? Counts of wrong starts, and what looking first costs.
"""

import asyncio
import logging
import os
import random
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from bench.figures import Figure, Goal
from gateway.store.db import Store
from gateway.store.mend import repair, wal
from tests.store.builders import local, reading
from tests.store.damage import Crashed, crash, faults, laid

WORKERS = 2
SHARE = 256


@dataclass(frozen=True, slots=True)
class Size:
    """Batches of the small store, bytes cut off its log and in which steps, flips; the log that looking is timed on."""

    batches: int
    cut_bytes: int
    step_bytes: int
    flips: int
    log_mb: int


FULL, QUICK = Size(120, 65_536, 1, 2000, 30), Size(30, 4096, 256, 20, 2)

Damage = Callable[[Crashed, int, Path], int]
"""Lays the files down, damaged, for one trial; returns the last batch that has to be there."""


def cut(crashed: Crashed, number: int, folder: Path) -> int:
    """The log ends so many bytes early."""
    at = len(crashed.log) - number
    laid(crashed, folder, log=crashed.log[:at])
    return crashed.before(at)


def flip_log(crashed: Crashed, number: int, folder: Path) -> int:
    """One bit of the log."""
    at, flipped = _flipped(crashed.log, number)
    laid(crashed, folder, log=flipped)
    return crashed.before(at)


def flip_file(crashed: Crashed, number: int, folder: Path) -> int:
    """One bit of the file; a good copy of its last checkpoint stands beside it."""
    _, flipped = _flipped(crashed.file, number)
    laid(crashed, folder, file=flipped)
    shutil.copy(crashed.folder / "hot.duckdb", folder / repair.GOOD_COPY)
    return crashed.batches


def _flipped(data: bytes, number: int) -> tuple[int, bytes]:
    chance = random.Random(number)
    at, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
    return at, data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


def trials(crashed: Crashed, damage: Damage, numbers: range) -> list[str]:
    """What went wrong in these trials, in a process of their own."""
    logging.disable()
    wrong = []
    with TemporaryDirectory() as folder:
        for number in numbers:
            least = damage(crashed, number, Path(folder) / "data")
            try:
                wrong += [f"{damage.__name__} {number}: {why}" for why in faults(crashed, Path(folder) / "data", least)]
            except Exception as error:  # noqa: BLE001 - a start that fails is what is looked for
                wrong.append(f"{damage.__name__} {number}: {error!r}")
    return wrong


async def wrong_starts(crashed: Crashed, damage: Damage, numbers: range) -> list[str]:
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(WORKERS) as pool:
        shares = [numbers[first : first + SHARE] for first in range(0, len(numbers), SHARE)]
        running = [loop.run_in_executor(pool, partial(trials, crashed, damage, share)) for share in shares]
        found = [why for each in await asyncio.gather(*running) for why in each]
    for why in found[:10]:
        print(f"    {why}", flush=True)
    return found


async def long_log(place: Path, log_mb: int) -> Path:
    """A store with a log of that length, as a crash leaves it."""
    async with Store(place / "live") as store:
        log = place / "live" / "hot.duckdb.wal"
        number = 0
        while not log.exists() or log.stat().st_size < log_mb << 20:
            number += 1
            await store.append([local(*(reading(400.0 + n, number * 1000 + n) for n in range(1000)))])
        shutil.copytree(place / "live", place / "long")
    return place / "long" / "hot.duckdb"


def timed(look: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    look()
    return time.perf_counter() - began_s


async def measure(size: Size) -> list[Figure]:
    """Wrong starts (none may be), and seconds."""
    figures = []
    with TemporaryDirectory(prefix="torn-") as folder:
        crashed = await crash(Path(folder), size.batches)
        cuts = range(0, min(size.cut_bytes, len(crashed.log)), size.step_bytes)
        for what, damage, numbers in (
            ("log cut at each of its last bytes", cut, cuts),
            ("a bit of the log flipped", flip_log, range(size.flips)),
            ("a bit of the file flipped, beside a good copy", flip_file, range(size.flips)),
        ):
            wrong = await wrong_starts(crashed, damage, numbers)
            figures.append(Figure(f"{what}: wrong starts of {len(numbers)}", len(wrong), "", goal=Goal(0)))
        file = await long_log(Path(folder), size.log_mb)
        head = wal.read_head(file)
        assert head is not None
        assert head.iteration is not None
        start = len(wal.Belonging(head.identifier, head.iteration).encode())
        walk = partial(wal.walk, repair.log_of(file), start)
        replay_s = timed(lambda: duckdb.connect(str(file), read_only=True).close())
        for what, seconds in (
            ("its records followed before each opening", timed(partial(walk, thorough=False))),
            ("its checksums verified after a refusal", timed(partial(walk, thorough=True))),
            ("the same in a child process", timed(lambda: repair.probe(file))),
        ):
            figures.append(Figure(f"log of {size.log_mb} MB: {what}", seconds, "s", "replaying it", replay_s))
        os.sync()
    return figures
