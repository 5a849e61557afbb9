"""A broker as a child process: started when it answers, restarted when it dies, gone when we are."""

import asyncio
import errno
import fcntl
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.broker.errors import BrokerError
from gateway.child import command

log = logging.getLogger(__name__)

READY_WITHIN_S = 20.0
STOP_WITHIN_S = 5.0
PREVIOUS_WITHIN_S = 30.0  # a full queue on a slow card
SAVED_WITHIN_S = 30.0  # the same: what is not saved is lost
ASK_AGAIN_S = 0.5
LOOK_EVERY_S = 0.1  # between lines of output, which usually come first
RETRY_FIRST_S = 0.2
RETRY_LAST_S = 60.0
LIVED_S = 60.0  # a child that ran this long is restarted without delay again
KEPT_LINES = 20


class ChildBroker:
    """Owns one broker process on (host, port); `async with` returns when it accepts connections, or raises BrokerError.

    `program` is an absolute command line. `prepare` runs before each start. `repair` is asked once a start when the
    process ended before it was ready: given its output it may put something right and say what. `on_problem` hears of
    deaths and repairs, one line each, `on_line` every word of it. `ready` is set while it is known to accept
    connections, on loopback at `ready_port` where that is not its own.
    """

    def __init__(
        self,
        name: str,
        program: Sequence[str],
        host: str,
        port: int,
        *,
        prepare: Callable[[], None] = lambda: None,
        repair: Callable[[str], str | None] = lambda _output: None,
        on_problem: Callable[[str], None] = lambda _text: None,
        on_line: Callable[[str], None] = lambda _line: None,
        lock: Path | None = None,
        ready_port: int | None = None,
    ) -> None:
        self._lock_file, self._lock = lock, -1
        self.name, self.host, self.port = name, host, port
        self._program = tuple(program)
        self._prepare, self._repair, self._on_problem, self._on_line = prepare, repair, on_problem, on_line
        self._ready_at = (host, port) if ready_port is None else ("127.0.0.1", ready_port)
        self._renewed: asyncio.Future[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._output: deque[str] = deque(maxlen=KEPT_LINES)
        self._said = asyncio.Event()
        self.ready = asyncio.Event()
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._previous_gone()
        try:
            check_port(self.host, self.port)
            await self._start()
        except BaseException:
            await self._end()
            self._unlock()
            raise
        await self._group.__aenter__()
        self._keeper = self._group.create_task(self._keep(), name=f"broker.{self.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keeper.cancel()
        try:
            await self._group.__aexit__(None, None, None)
        finally:
            await self._end()
            self._unlock()

    async def _previous_gone(self) -> None:
        """Take the lock that each broker inherits: one that outlived a killed gateway saves its database first."""
        if self._lock_file is None:
            return None
        self._prepare()  # makes the folder
        self._lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with suppress(TimeoutError):  # the port's check says what to do
            async with asyncio.timeout(PREVIOUS_WITHIN_S):
                while True:
                    with suppress(BlockingIOError):
                        return fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    await asyncio.sleep(LOOK_EVERY_S)

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def renew(self, host: str) -> None:
        """Begin again in an orderly way, as `prepare` says by now, and from now on be known to listen on `host`.
        BrokerError where it does not start so; it is tried again until it does."""
        self.host = host
        if self._renewed is None:
            self._renewed = asyncio.get_running_loop().create_future()
        renewed = self._renewed
        self.ready.clear()
        if self._process is not None:
            await _ended(self._process, SAVED_WITHIN_S)
        await asyncio.shield(renewed)

    @property
    def pid(self) -> int | None:
        """The process id of the broker while there is one."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def _keep(self) -> None:
        """Restart it for as long as it dies."""
        loop = asyncio.get_running_loop()
        delay_s = RETRY_FIRST_S
        while True:
            began_s = loop.time()
            if self._process is not None:
                code = await self._process.wait()
                self.ready.clear()
                if self._renewed is None:
                    self._problem(f"{self.name} ended with {code}, starting it again: {self._last()}")
            if loop.time() - began_s > LIVED_S or self._renewed is not None:
                delay_s = RETRY_FIRST_S
            if self._renewed is None:
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_LAST_S)
            failed: BrokerError | None = None
            try:
                await self._start()
            except BrokerError as error:
                failed = error
                self._problem(str(error))
                await self._end()
            self._tell_renewed(failed)

    def _tell_renewed(self, failed: BrokerError | None) -> None:
        """Whoever waits for a new beginning hears how this one went."""
        renewed, self._renewed = self._renewed, None
        if renewed is None:
            return
        if failed is None:
            renewed.set_result(None)
        else:
            renewed.set_exception(failed)
            renewed.exception()  # whoever waited may be gone

    async def _start(self) -> None:
        """Start it and wait until it accepts connections; one repair is allowed."""
        for repaired in (False, True):
            self._prepare()
            self._output.clear()
            self._process = await asyncio.create_subprocess_exec(
                *command(*self._program),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(self._lock,) if self._lock >= 0 else (),
                start_new_session=True,  # a terminal's Ctrl-C is for the gateway, which still has to write
            )
            assert self._process.stderr is not None
            self._reader = asyncio.create_task(self._read(self._process.stderr), name=f"broker.{self.name}.output")
            if await self._accepting(self._process):
                self.ready.set()
                return
            code = self._process.returncode
            await self._end()
            text = None if repaired else self._repair("\n".join(self._output))
            if text is None and not repaired and code is not None and code < 0:
                text = f"{self.name} was ended by signal {-code} before it was ready, starting it again"
            if text is None:
                why = self._last() or f"it ended with {code}"
                raise BrokerError(f"{self.name} does not start on {self.host}:{self.port}: {why}")
            self._problem(text)

    async def _accepting(self, process: asyncio.subprocess.Process) -> bool:
        """True when it accepts a connection, False when it ended or the deadline passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(READY_WITHIN_S):
                while process.returncode is None:
                    self._said.clear()
                    if await _accepts(*self._ready_at):
                        return True
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_EVERY_S):
                            await self._said.wait()
        return False

    async def _read(self, stream: asyncio.StreamReader) -> None:
        """Pass its words on until it ends; a line that is too long is cut."""
        while True:
            try:
                line = (await stream.readline()).decode(errors="replace").strip()
            except ValueError:
                continue
            if not line:
                if stream.at_eof():
                    self._said.set()
                    return
                continue
            self._output.append(line)
            self._said.set()
            self._on_line(line)
            log.log(logging.WARNING if "rror" in line else logging.DEBUG, "%s: %s", self.name, line)

    async def _end(self) -> None:
        """No process and no reader are left when this returns."""
        self.ready.clear()
        process, self._process = self._process, None
        if process is not None:
            await _ended(process, STOP_WITHIN_S)
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader

    def _last(self) -> str:
        """What it complained of, or its last words."""
        complaints = [line for line in self._output if "rror" in line]
        return " ".join(complaints or list(self._output)[-1:])

    def _problem(self, text: str) -> None:
        log.warning("%s", text)
        self._on_problem(text)


async def _ended(process: asyncio.subprocess.Process, within_s: float) -> None:
    """Ask it to end, and end it where it does not. Asked again and again: mosquitto forgets it where it just starts."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while process.returncode is None:
                with suppress(ProcessLookupError):
                    process.terminate()
                with suppress(TimeoutError):
                    async with asyncio.timeout(ASK_AGAIN_S):
                        await process.wait()
    if process.returncode is None:
        process.kill()
    await process.wait()


def check_port(host: str, port: int) -> None:
    """BrokerError unless a server could listen there now."""
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(info[0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(info[4])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise BrokerError(
                f"port {port} on {host} is taken, perhaps by a broker that runs already: use that one with "
                f'broker = "external" in [mqtt], or choose another port with --mqtt {host}:PORT'
            ) from None
        raise BrokerError(f"nothing can listen on {host}:{port} ({error}): choose another with --mqtt") from None


async def _accepts(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True
