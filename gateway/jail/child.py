"""One confined child of the gateway: started when it is needed, asked one thing at a time, killed when it overruns,
gone after five idle minutes.

The child is `python -I -m MODULE PARENT_PID ARGUMENTS…` with an empty environment, `/` as its folder, one end of a
socket pair as descriptor 0 and nothing else open but 1 and 2; it calls `guard.confine` (or its steps) and then
`frames.serve`. It gets SIGKILL when the gateway ends, and sees the end of the conversation besides.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from gateway.jail import frames

IDLE_S = 300.0
READY_S = 60.0
LAST_WORDS_S = 1.0
"""How long a child that hung up may take to end by itself."""
WAITING = 8
"""Questions that may wait for the one being answered; more are refused and counted."""

log = logging.getLogger(__name__)


class ChildError(RuntimeError):
    """The question has no answer, and it is not its own fault to say so; one line."""


class ChildOverran(ChildError):
    """It took longer than its time limit and was killed; the next question gets a new child."""


class ChildDied(ChildError):
    """It ended, or broke the agreement and was killed, before it had answered."""


class ChildUnready(ChildError):
    """It could not start; the line says why."""


class ChildBusy(ChildError):
    """Too many questions wait already."""


@dataclass(slots=True)
class Counts:
    """Since the gateway's start: children started; killed for overrunning; that died or broke the agreement; ended for
    want of questions; questions refused because too many waited."""

    started: int = 0
    killed: int = 0
    crashed: int = 0
    retired: int = 0
    refused: int = 0


class Child:
    """`async with Child("gateway.jail.zygote")`: owns at most one process; none is left when it ends. A path instead
    of a module's name is a program file."""

    def __init__(
        self,
        module: str | Path,
        arguments: Sequence[str] = (),
        *,
        name: str = "",
        idle_s: float = IDLE_S,
        ready_s: float = READY_S,
        answer_bytes: int = frames.ANSWER_BYTES,
        waiting: int = WAITING,
    ) -> None:
        program = ("-m", module) if isinstance(module, str) else (str(module),)
        self.name = name or (module.rpartition(".")[2] if isinstance(module, str) else module.stem)
        self.counts = Counts()
        self.greeting: Mapping[str, Any] = {}
        """What the present (or last) child said when it was ready."""
        self._program = (sys.executable, "-I", *program, str(os.getpid()), *arguments)
        self._idle_s, self._ready_s = idle_s, ready_s
        self._answer_bytes = answer_bytes
        self._most_waiting = waiting
        self._waiting = 0
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._wire: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._words: deque[str] = deque(maxlen=5)
        self._listener: asyncio.Task[None] | None = None
        self._bell: asyncio.TimerHandle | None = None
        self._retiring: asyncio.Task[None] | None = None
        self._fit = False  # ready, and nothing unanswered on the wire
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        if self._retiring is not None:
            await self._retiring
        self._kill()  # a question under way gets ChildDied
        async with self._turn:
            await self._end()

    @property
    def pid(self) -> int | None:
        """Of the process while there is one that may be asked."""
        alive = self._fit and self._process is not None and self._process.returncode is None
        return self._process.pid if alive and self._process is not None else None

    async def start(self) -> Mapping[str, Any]:
        """Have one ready; its greeting. ChildUnready where it cannot."""
        async with self._turn:
            try:
                await self._have()
            except BaseException as error:
                self._drop(error)
                raise
            finally:
                self._rest()
            return self.greeting

    async def stop(self) -> None:
        """End the process (the next question starts another)."""
        async with self._turn:
            await self._end()

    async def ask(self, header: Mapping[str, Any], body: bytes = b"", *, limit_s: float) -> tuple[frames.Header, bytes]:
        """Its answer. `limit_s` counts from the moment it has the question. ChildError in one line otherwise."""
        if self._waiting > self._most_waiting:
            self.counts.refused += 1
            raise ChildBusy(f"{self._waiting} questions wait for the {self.name} already: ask again in a moment")
        question = frames.pack(header, body)
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            await self._have()
            return await self._exchange(question, limit_s)
        except BaseException as error:
            self._drop(error)
            raise
        finally:
            self._rest()
            self._turn.release()

    async def _exchange(self, question: bytes, limit_s: float) -> tuple[frames.Header, bytes]:
        assert self._wire is not None
        reader, writer = self._wire
        try:
            async with asyncio.timeout(limit_s):
                writer.write(question)
                await writer.drain()
                return await self._read(reader)
        except TimeoutError as error:
            raise ChildOverran(f"the {self.name} was stopped: no answer within {limit_s:g} s") from error
        except (OSError, EOFError, frames.FrameError) as error:
            raise ChildDied(f"the {self.name} ended without an answer ({await self._why(error)})") from error

    async def _read(self, reader: asyncio.StreamReader) -> tuple[frames.Header, bytes]:
        text_bytes, body_bytes = frames.sizes(await reader.readexactly(frames.HEAD.size), self._answer_bytes)
        text = await reader.readexactly(text_bytes)
        return frames.parse(text), await reader.readexactly(body_bytes)

    async def _have(self) -> None:
        """A process that is ready."""
        if self._closed:
            raise ChildUnready(f"the {self.name} is not open")
        if self._bell is not None:
            self._bell.cancel()
            self._bell = None
        if self.pid is not None:
            return
        await self._end()
        await self._spawn()
        assert self._wire is not None
        try:
            async with asyncio.timeout(self._ready_s):
                greeting, _ = await self._read(self._wire[0])
        except TimeoutError as error:
            raise ChildUnready(f"the {self.name} was not ready within {self._ready_s:g} s") from error
        except (OSError, EOFError, frames.FrameError) as error:
            raise ChildUnready(f"the {self.name} does not start ({await self._why(error)})") from error
        self.greeting = greeting
        if greeting.get("ready") is not True:
            raise ChildUnready(f"the {self.name} does not start ({greeting.get('error', 'it said so')})")
        self._fit = True

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    *self._program,
                    stdin=theirs.fileno(),
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    env={},
                    cwd="/",
                    start_new_session=True,
                )
            ours.setblocking(False)
            self._wire = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()
            self._kill()
            raise
        self.counts.started += 1
        assert self._process.stderr is not None
        self._words.clear()
        self._listener = asyncio.create_task(self._listen(self._process.stderr), name=f"jail.{self.name}.words")

    async def _listen(self, stream: asyncio.StreamReader) -> None:
        """Keep its last words; what it says at length is cut."""
        while words := await stream.read(4096):
            self._words.extend(words.decode(errors="replace").splitlines())

    async def _why(self, error: Exception) -> str:
        """End it, if it does not do so itself; what is known of its end, in one line."""
        if isinstance(error, frames.FrameError):
            self._kill()
            return str(error)
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_S):
                    await self._process.wait()
            self._kill()
            await self._process.wait()
        if self._listener is not None:
            await asyncio.wait({self._listener})
        code = self._process.returncode if self._process is not None else None
        return " ".join((self._words[-1] if self._words else f"it ended with {code}").split())[:200]

    def _drop(self, error: BaseException) -> None:
        """After a question that failed or was given up nobody knows where the conversation stands: end the child."""
        if isinstance(error, ChildOverran):
            self.counts.killed += 1
        elif isinstance(error, ChildDied | ChildUnready):
            self.counts.crashed += 1
        log.warning(
            "%s", error if isinstance(error, ChildError) else f"the {self.name} is ended: its question was given up"
        )
        self._kill()

    def _rest(self) -> None:
        """Ring when it has been idle for long enough."""
        if self.pid is not None and not self._closed:
            self._bell = asyncio.get_running_loop().call_later(self._idle_s, self._ring)

    def _ring(self) -> None:
        self._bell = None
        self._retiring = asyncio.create_task(self._retire(), name=f"jail.{self.name}.retire")

    async def _retire(self) -> None:
        async with self._turn:
            if self._bell is None and self.pid is not None:
                self.counts.retired += 1
                await self._end()

    def _kill(self) -> None:
        self._fit = False
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _end(self) -> None:
        """No process, no descriptor and no task are left when this returns."""
        if self._bell is not None:
            self._bell.cancel()
            self._bell = None
        self._kill()
        process, self._process = self._process, None
        wire, self._wire = self._wire, None
        listener, self._listener = self._listener, None
        if wire is not None:
            wire[1].close()
            with contextlib.suppress(OSError):
                await wire[1].wait_closed()
        if process is not None:
            await process.wait()
        if listener is not None:
            await listener


def pss_bytes(pid: int) -> int:
    """Memory of one process, shared pages by their share (needs its user or root)."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
