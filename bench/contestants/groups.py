"""The processes of one contestant, whatever they start in turn: what they burn and hold, and their end.

A control group counts also what has ended. Where none can be made (no root) the process tree is looked at instead.
"""

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import psutil  # type: ignore[import-untyped,unused-ignore]

from bench.processes import memory

CGROUP_2 = Path("/sys/fs/cgroup")
CGROUP_1 = CGROUP_2 / "cpuacct"
ENTER = 'echo $$ >"$0" && exec "$@"'
LOOK_EVERY_S = 0.25
GONE_WITHIN_S = 10.0


class Group(Protocol):
    """Processes that are counted together."""

    def inside(self, command: Sequence[str]) -> tuple[str, ...]:
        """The command line that starts a program as part of it, with the process id it would have."""
        ...

    def started(self, pid: int) -> None:
        """A program was started by such a command line."""
        ...

    def leave(self, pid: int) -> None:
        """From here on this process is not counted."""
        ...

    def processes(self) -> list[psutil.Process]:
        """Those that live."""
        ...

    def cpu_s(self) -> float:
        """CPU time since the start."""
        ...


class Cgroup:
    """cgroups(7), version 1 (cpuacct) or 2."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def inside(self, command: Sequence[str]) -> tuple[str, ...]:
        return ("/bin/sh", "-c", ENTER, str(self._folder / "cgroup.procs"), *command)

    def started(self, pid: int) -> None:
        pass

    def leave(self, pid: int) -> None:
        (self._folder.parent / "cgroup.procs").write_text(str(pid), encoding="ascii")

    def processes(self) -> list[psutil.Process]:
        found = []
        for pid in (self._folder / "cgroup.procs").read_text(encoding="ascii").split():
            with suppress(psutil.NoSuchProcess):
                if (each := psutil.Process(int(pid))).status() != psutil.STATUS_ZOMBIE:
                    found.append(each)
        return found

    def cpu_s(self) -> float:
        usage = self._folder / "cpuacct.usage"
        if usage.exists():
            return int(usage.read_text(encoding="ascii")) / 1e9
        return int((self._folder / "cpu.stat").read_text(encoding="ascii").split()[1]) / 1e6


class Tree:
    """Processes that were started here and their descendants."""

    def __init__(self) -> None:
        self._roots: list[psutil.Process] = []
        self._left: dict[int, float] = {}

    def inside(self, command: Sequence[str]) -> tuple[str, ...]:
        return tuple(command)

    def started(self, pid: int) -> None:
        self._roots.append(psutil.Process(pid))

    def leave(self, pid: int) -> None:
        self._left[pid] = 0.0

    def processes(self) -> list[psutil.Process]:
        found: dict[int, psutil.Process] = {}
        for root in self._roots:
            with suppress(psutil.NoSuchProcess):
                found |= {each.pid: each for each in (root, *root.children(recursive=True))}
        return [each for each in found.values() if each.pid not in self._left and each.is_running()]

    def cpu_s(self) -> float:
        total = 0.0
        for each in self.processes():
            with suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total


@contextmanager
def grouped(name: str) -> Iterator[Group]:
    """A group without processes; the folder of a control group is removed again."""
    parent = CGROUP_1 if CGROUP_1.exists() else CGROUP_2
    folder = parent / f"bench-{os.getpid()}-{name}"
    try:
        folder.mkdir()
    except OSError:
        yield Tree()
        return
    try:
        yield Cgroup(folder)
    finally:
        folder.rmdir()


async def end(group: Group) -> None:
    """Kill whoever is left; TimeoutError where that does not help."""
    async with asyncio.timeout(GONE_WITHIN_S):
        while left := group.processes():
            for each in left:
                with suppress(psutil.NoSuchProcess):
                    each.send_signal(signal.SIGKILL)
            await asyncio.sleep(0.05)


class Peak:
    """The most that a group held (PSS: what is shared counts once), looked at now and then; `run` is a task."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self.bytes = 0

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            held = 0
            for each in self._group.processes():
                with suppress(OSError, KeyError):  # it ended meanwhile
                    held += memory([each]).pss
            self.bytes = max(self.bytes, held)
            await asyncio.sleep(LOOK_EVERY_S)
