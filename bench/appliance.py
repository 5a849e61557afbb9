"""A gateway that is killed and started again at once, as a service manager would, and what a round of that showed."""

import asyncio
import os
import random
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

HOST = "127.0.0.1"
START_WITHIN_S, STOP_WITHIN_S = 20.0, 10.0
LOOK_EVERY_S = 0.005  # where the system has no event for us
MAX_FAULTS = 5


@dataclass
class Outcome:
    """What a round showed. `kills` and `telling` (messages were under way) by who was killed. Starts that failed:
    `port_taken` by the broker of the gateway before, `bereaved` of a broker that was killed before it answered."""

    kind: str
    seed: int
    messages: int
    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter)
    telling: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    port_taken: int = 0
    bereaved: int = 0
    repeated: int = 0
    doubles: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def told(self) -> bool:
        """Whether a kill of each party hit messages under way."""
        return bool(self.kills) and all(self.telling[party] for party in self.kills)

    def line(self) -> str:
        kills = ", ".join(f"{party} {self.telling[party]}/{count}" for party, count in sorted(self.kills.items()))
        verdict = "FAILED" if self.faults else "ok" if self.told else "not telling"
        return (
            f"{self.kind:8} seed {self.seed:<6} {self.seconds:5.1f} s  {self.messages} messages, {self.repeated} sent "
            f"again, telling kills: {kills}; {self.starts} starts, {self.port_taken} found the port "
            f"taken, {self.bereaved} lost their broker; "
            f"{self.doubles} doubles allowed: {verdict}"
        )


class Level:
    """A number that only rises, for those who wait for it."""

    def __init__(self, value: int = 0) -> None:
        self.value = value
        self._moved = asyncio.Event()

    def rise(self, value: int) -> None:
        if value > self.value:
            self.value = value
            self._moved.set()
            self._moved = asyncio.Event()

    async def reached(self, value: int) -> None:
        while self.value < value:
            await self._moved.wait()


class Appliance:
    """`gateway run` as a service that is started again at once whenever it ends, until `stop`.

    An end that nobody caused is a fault; a start that failed for a kill's sake is counted in the outcome.
    `under_way` is asked right before each kill, `autopsy` runs between a death and the next start.
    """

    def __init__(self, outcome: Outcome, program: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self._outcome, self._program, self._folder = outcome, tuple(program), folder
        self._environment = os.environ | environment
        self._began_s = time.monotonic()
        self.ready = asyncio.Event()
        self.under_way: Callable[[], bool] = lambda: False
        self.autopsy: Callable[[], None] = lambda: None
        self.output: deque[str] = deque(maxlen=5000)
        self._running = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._killed: set[int] = set()
        self._bereaved: set[int] = set()
        self._stopping = False

    @property
    def pid(self) -> int:
        """Of the gateway that runs, or ran last; -1 before the first start."""
        return self._process.pid if self._process else -1

    async def run(self) -> None:
        """Start it again and again until `stop`."""
        while not self._stopping and len(self._outcome.faults) < MAX_FAULTS:
            process = self._process = await asyncio.create_subprocess_exec(
                *self._program,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=self._folder,
                env=self._environment,
            )
            self._running.set()
            self._outcome.starts += 1
            self._say(f"--- process {process.pid}")
            try:
                await self._listen(process)
            finally:
                self._running.clear()
                self.ready.clear()
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            self._judge(process)
            self.autopsy()

    async def up(self) -> None:
        """Return when it printed its welcome."""
        async with asyncio.timeout(START_WITHIN_S):
            await self.ready.wait()

    async def kill(self) -> None:
        """Kill -9 the gateway, whatever it is doing; waits for one to be there."""
        while True:
            await self._running.wait()
            assert self._process is not None
            if self._process.pid not in self._killed:
                break
            await asyncio.sleep(LOOK_EVERY_S)
        with suppress(ProcessLookupError):
            self._count("gateway", self._process.pid)
            self.ready.clear()
            self._process.kill()

    async def kill_broker(self) -> None:
        """Kill -9 its mosquitto; waits for one to be there."""
        while True:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(self._process.pid if self._process else -1).children():
                    if child.name() == "mosquitto" and child.pid not in self._killed:
                        self._count("broker", child.pid)
                        if not self.ready.is_set():
                            self._bereaved.add(self._process.pid if self._process else -1)
                        child.kill()
                        return
            await asyncio.sleep(LOOK_EVERY_S)

    def _count(self, party: str, pid: int) -> None:
        self._killed.add(pid)
        self._outcome.kills[party] += 1
        self._outcome.telling[party] += self.under_way()
        self._say(f"--- kill {party} {pid}")

    async def stop(self) -> None:
        """End it as the system would: SIGTERM; a fault where it does not end well."""
        try:
            await self.up()
        except TimeoutError:
            self._outcome.faults.append(f"not up within {START_WITHIN_S:g} s: {self._last()}")
            return
        assert self._process is not None
        self._stopping = True
        self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_WITHIN_S):
                code = await self._process.wait()
        except TimeoutError:
            self._outcome.faults.append(f"SIGTERM did not end it within {STOP_WITHIN_S:g} s")
            self._process.kill()
            return
        if code != 0:
            self._outcome.faults.append(f"SIGTERM ended it with {code}: {self._last()}")

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while raw := await process.stdout.readline():
            line = raw.decode(errors="replace").rstrip()
            self._say(line)
            if line.startswith(("  token ", "  Tokens exist")) and process.pid not in self._killed:
                self.ready.set()
        await process.wait()

    def _judge(self, process: asyncio.subprocess.Process) -> None:
        if self._stopping or process.pid in self._killed:
            return
        if "is taken" in self._last():
            self._outcome.port_taken += 1
        elif process.pid in self._bereaved and "mosquitto does not start" in self._last():
            self._outcome.bereaved += 1
        else:
            self._outcome.faults.append(f"the gateway ended by itself with {process.returncode}: {self._last()}")

    def _say(self, line: str) -> None:
        self.output.append(f"{time.monotonic() - self._began_s:7.3f} {line}")

    def _last(self) -> str:
        return self.output[-1][8:] if self.output else ""


def low_ports(count: int) -> list[int]:
    """Ports that nobody listens on, from below those that clients get: nobody may take one while its server is dead."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server((HOST, port)):
            ports += {port} - set(ports)
    return ports
