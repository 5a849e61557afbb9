"""What a contestant says about itself, and what all of them share: a broker, programs with logs, a clean end."""

import asyncio
import getpass
import os
import re
import signal
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import ClassVar, TypeVar

from bench.contestants.fleet import HOST, Row
from bench.contestants.groups import Group, end, grouped
from bench.processes import free_ports
from gateway.broker.mosquitto import find
from gateway.broker.supervise import ChildBroker
from gateway.child import command as dying_with_us

PEERS = Path(__file__).parent.parent.parent / ".cache" / "bench"
PROGRAMS = Path(__file__).parent / "programs"
LOOK_EVERY_S = 0.1
STOP_WITHIN_S = 25.0
KEPT_OF_A_LINE = 200
WORD = re.compile("[a-z]{3}")
# Queues without bounds, or mosquitto drops what a slow contestant has not taken; a window that no batch fills.
BROKER = """\
listener {port} {host}
allow_anonymous true
user {user}
persistence false
max_queued_messages 0
max_queued_bytes 0
max_inflight_messages 1000
set_tcp_nodelay true
log_dest file {log}
log_type subscribe
log_type error
log_type warning
"""
T = TypeVar("T")


class Contestant(ABC):
    """One way from the broker to stored readings. Every program is started by `spawn`, which makes it count.

    `subscriptions`: SUBSCRIBE lines in the broker's log that mean "ready". `most_messages`: a slow one gets no more.
    `settles_after_s`: no new reading for so long is the end. `persistent`: its session outlives its connection.
    `stores`: there is something to be lost when it is killed.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    notes: ClassVar[str]
    environment: ClassVar[str] = ""
    form: ClassVar[str] = "minimal"
    subscriptions: ClassVar[int] = 1
    most_messages: ClassVar[int] = 10**9
    look_every_s: ClassVar[float] = LOOK_EVERY_S
    settles_after_s: ClassVar[float] = 12.0
    ready_within_s: ClassVar[float] = 90.0
    persistent: ClassVar[bool] = True
    stores: ClassVar[bool] = True

    def __init__(self, folder: Path, port: int, group: Group) -> None:
        self.folder, self.port, self.group = folder, port, group
        self.data = folder / "data"
        self.at_rest_bytes = 0
        self._programs: list[asyncio.subprocess.Process] = []
        self._ingest: asyncio.subprocess.Process | None = None
        self._subscribed = 0

    # What a contestant says.

    @classmethod
    def missing(cls) -> str:
        """Why it cannot run here, "" where it can."""
        return not_set_up(cls.environment)

    async def prepare(self) -> None:  # noqa: B027 - most need nothing
        """Start what has to be there before the ingest: once, the broker runs."""

    @abstractmethod
    async def ingest(self) -> asyncio.subprocess.Process:
        """Start what takes messages from the broker."""

    @abstractmethod
    async def count(self) -> int:
        """How many readings its own interface shows; asked often, its cost is the contestant's."""

    async def stored(self) -> "Counter[Row] | None":
        """Every reading that it holds and how often, None for those that keep nothing."""
        return None

    def data_bytes(self) -> int:
        """What its data takes on the medium."""
        return taken_bytes(self.data)

    async def leave(self) -> None:  # noqa: B027 - most need nothing
        """Let go of clients of ours, before its programs are ended."""

    # What is given.

    def broker(self) -> AbstractAsyncContextManager[object]:
        """A mosquitto for the whole trial."""
        conf = self.folder / "mosquitto.conf"
        text = BROKER.format(host=HOST, port=self.port, user=getpass.getuser(), log=self._broker_log)
        binary = os.path.realpath(find() or "mosquitto")
        return ChildBroker("mosquitto", (binary, "-c", str(conf)), HOST, self.port, prepare=lambda: _write(conf, text))

    async def start(self) -> None:
        """Start the ingest and return when messages would reach it."""
        self._subscribed = self._subscriptions()
        self._ingest = await self.ingest()
        await self.until(self.is_ready, self.ready_within_s, "did not subscribe")

    async def is_ready(self) -> bool:
        """Whether messages published now would reach it."""
        return self._subscriptions() >= self._subscribed + self.subscriptions

    def signal(self, number: signal.Signals) -> None:
        """To the ingest and the helpers in its process group, not to databases."""
        assert self._ingest is not None
        os.killpg(self._ingest.pid, number)

    async def kill(self) -> None:
        """Kill -9 the ingest."""
        assert self._ingest is not None
        self.signal(signal.SIGKILL)
        await self._ingest.wait()

    async def halt(self) -> None:
        """Stop in good order, the newest program first, and look what is left on disk; a second time does nothing."""
        await self.leave()
        for each in reversed(self._programs):
            await stop(each)
        if self._programs:
            self.at_rest_bytes = self.data_bytes()
        self._programs = []

    async def spawn(
        self, *command: object, environment: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> asyncio.subprocess.Process:
        """Start one of its programs in a process group of its own; its words go to a log in the trial's folder."""
        program = self.group.inside(dying_with_us(*(str(word) for word in command)))
        with (self.folder / f"{len(self._programs)}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *program,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder or self.folder,
                env=os.environ | (environment or {}),
                start_new_session=True,
            )
        self.group.started(process.pid)
        self._programs.append(process)
        return process

    async def until(self, happened: Callable[[], Awaitable[bool]], within_s: float, otherwise: str) -> None:
        """Look until it happened; RuntimeError with its last words where it does not or a program ends."""
        ends_s = asyncio.get_running_loop().time() + within_s
        while not await happened():
            ended = [each.returncode for each in self._programs if each.returncode not in {None, -signal.SIGKILL}]
            if ended or asyncio.get_running_loop().time() > ends_s:
                raise RuntimeError(f"{otherwise}{f' and ended with {ended[0]}' if ended else ''}: {self.last_words()}")
            await asyncio.sleep(LOOK_EVERY_S)

    def last_words(self) -> str:
        """The last line of each of its programs' logs."""
        said = []
        for log in sorted(self.folder.glob("*.log")):
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            said += [line.strip()[-KEPT_OF_A_LINE:] for line in lines if WORD.search(line)][-1:]
        return "; ".join(said) or "nothing was said"

    @property
    def _broker_log(self) -> Path:
        return self.folder / "mosquitto.subscriptions"

    def _subscriptions(self) -> int:
        try:
            return self._broker_log.read_text(encoding="utf-8").count(" devices/")
        except FileNotFoundError:
            return 0


@asynccontextmanager
async def playing(kind: type[Contestant], folder: Path) -> AsyncIterator[Contestant]:
    """A contestant that has subscribed, all of it in this empty folder; every process is gone when the block ends."""
    (port,) = free_ports(1)
    os.chmod(folder, 0o755)  # PostgreSQL runs as another user
    with grouped(kind.name) as group:
        contestant = kind(folder, port, group)
        contestant.data.mkdir()
        try:
            async with contestant.broker():
                try:
                    await contestant.prepare()
                    await contestant.start()
                    yield contestant
                finally:
                    await contestant.halt()
        finally:
            await end(group)


async def stop(process: asyncio.subprocess.Process) -> None:
    """SIGTERM; SIGKILL where that takes too long."""
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_WITHIN_S):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def not_set_up(environment: str) -> str:
    """Why `scripts/bench-peers` has not made this environment, "" where it has."""
    if not environment or (PEERS / environment / "installed").exists():
        return ""
    reason = PEERS / f"{environment}.failed"
    if reason.exists():
        return reason.read_text(encoding="utf-8").strip()
    return f"run scripts/bench-peers {environment}"


def python_of(environment: str) -> Path:
    """The interpreter of an environment of `scripts/bench-peers`."""
    return PEERS / environment / "bin" / "python"


def taken_bytes(folder: Path) -> int:
    """Blocks on the medium of all files below."""
    taken = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # replaced meanwhile
            taken += file.stat().st_blocks * 512 if file.is_file() else 0
    return taken


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
