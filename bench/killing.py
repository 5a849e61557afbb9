"""Is anything lost while the store keeps house? Cycles of kill -9, each followed by a look at everything it holds.

The child is tests/store/housekeeper.py. It is killed after a step that it names and some random milliseconds, while a
merge stands still, while it stands still itself beside a merge, or while it opens the data after a kill.
"""

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil  # type: ignore[import-untyped,unused-ignore]

from bench.aftermath import Said, files, look
from bench.figures import Figure, Goal

ROOT = Path(__file__).parent.parent
TARGETS = (
    *3 * (("seal", "rearrange"),),
    *2 * (("seal", "work"),),
    ("seal", "checkpoint"),
    *2 * (("compact", "merge"),),
    *2 * (("compact", "rearrange"),),
    ("expire", "merge"),
    ("mark", "merge"),
    ("mark", "rearrange"),
    ("save_copy", "copy"),
)
"""What housekeeping begins with, and the step within it that a kill is meant for."""
LATER_MS = {"merge": 400, "copy": 60, "work": 40, "rearrange": 15}
"""How much later than the line of a step a kill may come; 8 ms where it says nothing else."""
MERGING = "gateway.store.segments.merge"
NEVER_S = 100.0
PATIENCE_S = 0.6
"""A step that does not come within this time is not waited for: the kill falls where the child is."""
RAW_DAYS = (0, 4, 65)
A_FOLDER = 25
"""Cycles in one folder; then a new one begins, or looking at it all would take most of the time."""
LOOK_MS = 5


@dataclass(frozen=True, slots=True)
class Size:
    """How often it is killed."""

    cycles: int


FULL = Size(500)
QUICK = Size(5)
ENDS_WITHIN_S = 3600.0


class House:
    """One run of the child, to be used in a `with`; it is dead afterwards."""

    def __init__(self, folder: Path, said: Said, raw_days: int, first_step: str) -> None:
        arguments = [str(folder), str(said.acked + 1), str(raw_days), first_step]
        command = [sys.executable, "-m", "tests.store.housekeeper", *arguments]
        self.child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        self.within: list[str] = []
        self._said, self._rest, self._over = said, b"", False

    def kill(self) -> list[psutil.Process]:
        """The processes it leaves behind."""
        left: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            left = self.children()
        self.child.kill()
        self.child.wait()
        while not self._over:
            self.listen(NEVER_S)
        self._said.hit["between" if not self.within else " in ".join(self.within[::-1])] += 1
        return left

    def children(self) -> list[psutil.Process]:
        return list(psutil.Process(self.child.pid).children())

    def merges(self) -> list[psutil.Process]:
        """Its merging children that run their own program: who stops one before that stops the parent, which waits."""
        found = []
        for each in self.children():
            with suppress(psutil.Error):
                found += [each] if MERGING in each.cmdline() else []
        return found

    def listen(self, for_s: float) -> list[str]:
        """What it says within this time: the next lines, if any; EOFError where it ended by itself."""
        assert self.child.stdout is not None
        if self._over or not select.select([self.child.stdout], [], [], for_s)[0]:
            return []
        got = os.read(self.child.stdout.fileno(), 1 << 16)
        if not got:
            self._over = True
            if self.child.wait(NEVER_S) != -signal.SIGKILL:
                raise EOFError(f"the child ended with {self.child.returncode}")
        *lines, self._rest = (self._rest + got).split(b"\n")
        for line in lines:
            self._note(line.decode())
        return [line.decode() for line in lines]

    def wait(self, wanted: Callable[[str], bool], within_s: float = NEVER_S) -> bool:
        """Until it says such a line; whether it did. TimeoutError where it never does."""
        ends_s = time.monotonic() + within_s
        while (left_s := ends_s - time.monotonic()) > 0 and not self._over:
            if any(map(wanted, self.listen(left_s))):
                return True
        if within_s == NEVER_S:
            raise TimeoutError(f"the child says nothing any more; last within {self.within}")
        return False

    def go_on(self, for_ms: float) -> None:
        """Listen for this long."""
        ends_s = time.monotonic() + for_ms / 1e3
        while (left_s := ends_s - time.monotonic()) > 0 and not self._over:
            self.listen(left_s)

    def _note(self, line: str) -> None:
        kind, _, step = line.partition(" ")
        if line.isdigit():
            self._said.acked = max(self._said.acked, int(line))
        elif kind == ">":
            self.within.append(step.split()[0])
        elif kind == "<":
            self.within.remove(step.split()[0])
        elif kind == "!":
            self._said.wrong.append(step)
        if step.startswith("marks "):
            first, behind = map(int, step.split()[1:])
            (self._said.begun if kind == ">" else self._said.marked).update(range(first, behind))


@contextmanager
def house(folder: Path, said: Said, raw_days: int, first_step: str) -> Iterator[House]:
    """Whatever happens, it does not outlive the block."""
    found = House(folder, said, raw_days, first_step)
    try:
        yield found
    finally:
        found.child.kill()
        found.child.wait()
        if found.child.stdout is not None:
            found.child.stdout.close()


def play(folder: Path, said: Said, chance: random.Random) -> list[psutil.Process]:
    """Start it and kill it somewhere; what it left running."""
    raw_days, (first_step, step) = chance.choice(RAW_DAYS), chance.choice(TARGETS)
    if chance.random() < 0.15:  # the data of the last kill are opened by one that is killed at that
        with house(folder, said, raw_days, first_step) as opening:
            opening.go_on(chance.uniform(150, 700))
            opening.kill()
    with house(folder, said, raw_days, first_step) as living:
        living.wait(lambda line: line == "open")
        if step == "merge" and chance.random() < 0.5:
            _stand_still(living, chance)
        else:
            living.wait(lambda line: line == f"> {step}", PATIENCE_S)
            living.go_on(chance.uniform(0, LATER_MS.get(step, 8)))
        return living.kill()


def _stand_still(living: House, chance: random.Random) -> None:
    """Stop a merge while the gateway goes on, or the gateway while a merge goes on; then continue, or not."""
    if not living.wait(lambda line: line == "> merge", PATIENCE_S):
        return
    ends_s = time.monotonic() + PATIENCE_S
    while not (merges := living.merges()) and time.monotonic() < ends_s:
        living.go_on(LOOK_MS)
    living.go_on(chance.uniform(0, 300))
    for merge in merges:
        with suppress(psutil.NoSuchProcess):
            if chance.random() < 0.5:
                merge.suspend()
                living.wait(str.isdigit, PATIENCE_S)
                if chance.random() < 0.5:
                    merge.resume()
            else:
                living.child.send_signal(signal.SIGSTOP)
                living.go_on(chance.uniform(0, 1e3 * PATIENCE_S))  # the merge ends in it, or waits for its task
                living.child.send_signal(signal.SIGCONT)
                living.wait(lambda line: line == "< merge", PATIENCE_S)
    living.go_on(chance.uniform(0, 20))


def let_go(left: Iterable[psutil.Process]) -> None:
    """Until what a kill left running has noticed that its parent is gone."""
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.resume()
            process.wait(NEVER_S)


async def cycle(folder: Path, said: Said, chance: random.Random) -> list[str]:
    """One kill and what is wrong afterwards."""
    left = play(folder, said, chance)
    wrong = await look(folder, said, catch_up=chance.random() < 0.3)
    before = files(folder)
    let_go(left)
    return [*wrong, *(f"{name} came after the kill" for name in files(folder) - before)]


async def measure(size: Size) -> list[Figure]:
    """Cycles, and what was wrong after them; what it was goes to standard error."""
    began_s = time.monotonic()
    bad = batches = 0
    hit: Counter[str] = Counter()
    for seed in range(-(-size.cycles // A_FOLDER)):
        chance, said = random.Random(seed), Said()
        with TemporaryDirectory() as folder:
            for _ in range(min(A_FOLDER, size.cycles - seed * A_FOLDER)):
                wrong = await cycle(Path(folder), said, chance)
                bad += bool(wrong)
                for each in wrong:
                    print(f"seed {seed}, cycle {said.hit.total()}: {each}", file=sys.stderr, flush=True)
        batches += said.acked
        hit += said.hit
    merging = sum(count for steps, count in hit.items() if "merge" in steps)
    return [
        Figure("killed while it keeps house: cycles after which anything was wrong", bad, "", goal=Goal(0)),
        Figure("killed while it keeps house: cycles", size.cycles, ""),
        Figure("killed while it keeps house: kills within a merge", merging, ""),
        Figure("killed while it keeps house: acknowledged batches", batches, ""),
        Figure("killed while it keeps house: a cycle", (time.monotonic() - began_s) / size.cycles, "s"),
    ]
