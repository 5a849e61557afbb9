"""Boards: the firmware's own files under the real MicroPython, one process and one folder for its flash each."""

import asyncio
import binascii
import json
import os
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from gateway.ingest import command_wire
from gateway.nodes.boots import Boots
from gateway.nodes.commander import Commander
from gateway.nodes.orders import Orders

ROOT = Path(__file__).parent.parent
INTERPRETER = ROOT / ".cache" / "micropython" / "bin" / "micropython"
FIRMWARE = ROOT / "firmware"
HERE = ROOT / "tests" / "firmware"
RESET = 42
"""Exit code of machine.reset() in the stubs."""
BITTEN = -signal.SIGALRM
"""Exit code where the watchdog of the stubs bit."""

Held = tuple[str, int, str, Mapping[str, float]]
"""A record in a board's flash: boot, number, sensor, value."""


class Board:
    """`run()` keeps it going as power does: started again after each reset and each `kill`, until it is cancelled.

    `speed` is how much faster its time goes. `path` are more folders of stand-ins, before those of all boards.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        *,
        speed: int = 1,
        environment: Mapping[str, str] | None = None,
        path: Sequence[Path] = (),
        options: Sequence[str] = (),
        interpreter: Path = INTERPRETER,
    ) -> None:
        self.folder = folder
        self.device, self.key = str(config["device"]), str(config.get("key") or "")
        folders = [*path, *([HERE / "fast"] if speed > 1 else []), HERE / "stubs", ".frozen"]
        more = {"MICROPYPATH": ":".join(map(str, folders)), "SPEED": str(speed), "RESET_CAUSE": "1"}
        self._environment = {**os.environ, **more, **(environment or {})}
        self._options, self._interpreter = tuple(options), interpreter
        self._process: asyncio.subprocess.Process | None = None
        self._running = asyncio.Event()
        self._more = asyncio.Condition()
        self.output: deque[str] = deque(maxlen=2000)
        self.starts = self.resets = self.kills = 0
        self.crashes: list[int | None] = []
        flash(folder)
        (folder / "node.json").write_text(json.dumps(config))

    async def run(self) -> None:
        """Start it again and again."""
        while True:
            process = self._process = await asyncio.create_subprocess_exec(
                self._interpreter,
                *self._options,
                "main.py",
                cwd=self.folder,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            self.starts += 1
            self._running.set()
            try:
                assert process.stdout is not None
                while raw := await process.stdout.readline():
                    self.output.append(raw.decode(errors="replace").rstrip())
                    async with self._more:
                        self._more.notify_all()
                code = await process.wait()
            finally:
                self._running.clear()
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            if code == RESET:
                self.resets += 1
                self._environment["RESET_CAUSE"] = "5"
            elif code == BITTEN:
                self.resets += 1
                self._environment["RESET_CAUSE"] = "3"
            elif code != -9:
                self.crashes.append(code)
                return

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when the condition holds; it is looked at after each line that it prints (with HEAP one a minute)."""
        async with self._more:
            await self._more.wait_for(condition)

    async def kill(self) -> None:
        """Cut its power; waits for it to have some."""
        await self._running.wait()
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._running.clear()
            self._process.kill()
            self.kills += 1
            self._environment["RESET_CAUSE"] = "1"

    def pause(self) -> None:
        """Let it stand still until `resume`: it keeps its connections and says nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def held(self) -> list[Held]:
        """What lies in its flash; a parser of its own, so that the firmware's cannot hide its mistakes."""
        return held(self.folder / "ring")


def orders(host: str, port: int, key: Callable[[str], bytes | None]) -> Orders:
    """Commands to boards by the gateway's own way."""
    commander = Commander(host, port)
    return Orders(command_wire, lambda _device: commander.exchange, key, Boots(), lambda: int(time.time() * 1000))


def flash(folder: Path) -> None:
    """Copy the firmware to a board as `mpremote` would, and the tests' drivers beside its own."""
    (folder / "a").mkdir(parents=True, exist_ok=True)
    shutil.copy(FIRMWARE / "main.py", folder)
    shutil.copytree(FIRMWARE / "node", folder / "a" / "node", ignore=shutil.ignore_patterns("__pycache__"))
    for driver in (HERE / "extra").glob("*.py"):
        shutil.copy(driver, folder / "a" / "node" / "sensors")


def held(ring: Path) -> list[Held]:
    """The records of a ring's files that are whole."""
    found = []
    for path in sorted(ring.glob("[0-9]*")) if ring.is_dir() else ():
        for line in path.read_bytes().splitlines(keepends=True):
            crc, _, text = line.rstrip(b"\n").partition(b" ")
            if not line.endswith(b"\n") or crc != b"%08x" % binascii.crc32(text):
                continue
            boot, seq, rest = text.decode().split(" ", 2)
            sensor, _, _, value = json.loads(rest)
            found.append((boot, int(seq), sensor, value))
    return found


class Wire:
    """The way between boards and a broker, for `async with`: `port` is where boards connect. It can be cut, or led to
    another broker (`to`)."""

    def __init__(self, port: int) -> None:
        self.to, self.port = port, 0
        self._silent = False
        self._refused = asyncio.Semaphore(0)
        self._streams: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        left = list(self._streams)
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(stream.wait_closed() for stream in left), return_exceptions=True)

    def silence(self) -> None:
        """Nothing passes any more, and nobody is told: what was under way is gone, connections stay half open."""
        self._silent = True

    def reset(self) -> None:
        """Every connection breaks."""
        for stream in list(self._streams):
            stream.transport.abort()

    async def refused(self, times: int) -> None:
        """Return when so many connections more were refused since nobody was there."""
        for _ in range(times):
            await self._refused.acquire()

    def mend(self) -> None:
        """New connections pass; those from before stay dead."""
        self._silent = False

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            writer.transport.abort()
            self._refused.release()
            return
        dead = asyncio.Event()
        if self._silent:
            dead.set()
        self._streams |= {writer, back}
        for source, target in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._carry(source, target, dead))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, dead: asyncio.Event) -> None:
        with suppress(OSError):
            while data := await source.read(4096):
                if self._silent:
                    dead.set()
                if dead.is_set():
                    continue
                target.write(data)
                await target.drain()
        if not dead.is_set():
            target.close()
            self._streams.discard(target)
