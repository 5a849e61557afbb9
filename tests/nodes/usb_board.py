"""An ESP32 on a USB port: a pseudo-terminal behind which MicroPython's REPL is spoken and MicroPython runs the code.

The unix port has no raw REPL, so its protocol (shared/runtime/pyexec.c of MicroPython) is here; each piece of code runs
in a real MicroPython with a folder for its flash, and so does `main.py` after a reset, with the firmware's stand-ins.
"""

import asyncio
import os
import signal
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto
from pathlib import Path

from bench.boards import HERE, INTERPRETER, RESET
from tests.ptys import Cable

ROM = b"ets Jul 29 2019 12:21:46\r\n\r\nrst:0x1 (POWERON_RESET),boot:0x13 (SPI_FAST_FLASH_BOOT)\r\nload:0x3fff0030\r\n"
BANNER = (
    b'MicroPython v1.25.0 on 2025-04-15; Generic ESP32 module with ESP32\r\nType "help()" for more information.\r\n>>> '
)
RAW_BANNER = b"raw REPL; CTRL-B to exit\r\n>"
NONSENSE = b"def def"
"""The tests' syntax error: MicroPython parses while code still comes in."""
WINDOW = 128
WITHIN_S = 15.0
CTRL_A, CTRL_B, CTRL_C, CTRL_D, CTRL_E = b"\x01", b"\x02", b"\x03", b"\x04", b"\x05"


class Ended(Enum):
    """How a life of the board ended."""

    SOFT = auto()
    HARD = auto()


class Kind(Enum):
    """What hangs on the cable."""

    MICROPYTHON = auto()
    BLANK = auto()
    """No MicroPython: the ROM looks for a program again and again."""
    DEAF = auto()
    NOISY = auto()


class UsbBoard:
    """`path` is its port. `environment` is what its interpreters get, `speed` how much faster its program's time goes,
    `pastes` whether it knows raw paste, `cut_after` how many bytes of the host's it takes before somebody pulls the
    cable out."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str] | None = None, speed: int = 1, *, pastes: bool = True
    ) -> None:
        self.flash = folder / "flash"
        self.flash.mkdir(exist_ok=True, parents=True)
        self._cable = Cable(folder)
        self.path = str(self._cable.path)
        self.environment = {**os.environ, "SPEED": str(speed), "RESET_CAUSE": "1", **(environment or {})}
        self._speed, self._pastes = speed, pastes
        self.cut_after: int | None = None
        self.taken = self.starts = 0
        self.codes: list[bytes] = []
        self.cut = asyncio.Event()
        self._more = asyncio.Condition()
        self._bytes: asyncio.Queue[bytes] = asyncio.Queue()
        self._agent: asyncio.subprocess.Process | None = None
        self._main: asyncio.subprocess.Process | None = None

    async def started(self, times: int) -> None:
        """Wait until its main.py was started so often."""
        async with asyncio.timeout(WITHIN_S), self._more:
            await self._more.wait_for(lambda: self.starts >= times)

    # The cable.

    @asynccontextmanager
    async def plugged(self, kind: Kind = Kind.MICROPYTHON) -> AsyncIterator["UsbBoard"]:
        """The board on the port, powered by it."""
        self._cable.plug()
        self._bytes, self.cut = asyncio.Queue(), asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._cable.master, self._hear)
        life = asyncio.create_task(self._live(kind), name="usb board")
        try:
            yield self
        finally:
            life.cancel()
            (how,) = await asyncio.gather(life, return_exceptions=True)
            await self._power_off()
            if self._cable.master >= 0:
                self._pull()
                if not isinstance(how, asyncio.CancelledError | None):
                    raise how

    def _pull(self) -> None:
        asyncio.get_running_loop().remove_reader(self._cable.master)
        self._cable.unplug()
        self.cut.set()

    def _hear(self) -> None:
        with suppress(OSError):
            data = os.read(self._cable.master, 4096)
            for value in data:
                self.taken += 1
                self._bytes.put_nowait(bytes([value]))

    async def _next(self) -> bytes:
        byte = await self._bytes.get()
        if self.cut_after is not None:
            self.cut_after -= 1
            if self.cut_after <= 0:
                self.cut_after = None
                await self._power_off()
                self._pull()
                await asyncio.get_running_loop().create_future()  # it has no power any more
        return byte

    async def _tell(self, data: bytes) -> None:
        await self._cable.feed(data)

    async def _power_off(self) -> None:
        powered, self._agent, self._main = (self._agent, self._main), None, None
        for process in powered:
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()

    # The board.

    async def _live(self, kind: Kind) -> None:
        if kind is Kind.DEAF:
            return
        while kind is Kind.BLANK:
            await self._tell(ROM + b"invalid header: 0xffffffff\r\n" * 20)
            await self._next()
        while kind is Kind.NOISY:
            await self._tell(os.urandom(200).replace(b"\n", b"\xfe"))
            await self._next()
        while True:
            await self._tell(ROM)
            await self._from_power_on()
            self.environment["RESET_CAUSE"] = "5"

    async def _from_power_on(self) -> None:
        raw = False
        while True:
            if not raw and (self.flash / "main.py").exists() and await self._program() is Ended.HARD:
                return
            ended, raw = await self._repl(raw)
            await self._power_off()
            if ended is Ended.HARD:
                return
            await self._tell(b"MPY: soft reboot\r\n")

    async def _program(self) -> Ended:
        """main.py, until it ends or is interrupted."""
        fast = [HERE / "fast"] if self._speed > 1 else []
        process = self._main = await self._start("main.py", *fast, stdin=asyncio.subprocess.DEVNULL)
        self.starts += 1
        async with self._more:
            self._more.notify_all()
        watching = asyncio.create_task(self._interrupting(process))
        try:
            assert process.stdout is not None
            while data := await process.stdout.read(4096):
                await self._tell(data.replace(b"\n", b"\r\n"))
            code = await process.wait()
            if self._main is not process:
                await asyncio.get_running_loop().create_future()  # it has no power any more
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        return Ended.HARD if code == RESET else Ended.SOFT

    async def _interrupting(self, process: asyncio.subprocess.Process) -> None:
        while True:
            if await self._next() == CTRL_C and process.returncode is None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGINT)  # send_signal looks first, and takes the exit code of who ended

    async def _repl(self, raw: bool) -> tuple[Ended, bool]:
        line = b""
        await self._tell(RAW_BANNER if raw else BANNER)
        while True:
            byte = await self._next()
            if not raw:
                if byte == CTRL_A:
                    raw, line = True, b""
                    await self._tell(b"\r\n" + RAW_BANNER)
                elif byte == CTRL_B:
                    await self._tell(b"\r\n" + BANNER)
                elif byte == CTRL_D:
                    await self._tell(b"\r\n")
                    return Ended.SOFT, False
                else:
                    await self._tell(b"\r\n>>> " if byte in {b"\r", CTRL_C} else byte)
            elif byte == CTRL_A and line == CTRL_E + b"A":
                if await self._paste() is Ended.HARD:
                    return Ended.HARD, False
                line = b""
            elif byte == CTRL_A:
                line = b""
                await self._tell(RAW_BANNER)
            elif byte == CTRL_B:
                raw, line = False, b""
                await self._tell(b"\r\n" + BANNER)
            elif byte == CTRL_C:
                line = b""
            elif byte == CTRL_D:
                await self._tell(b"OK")
                if not line:
                    await self._tell(b"\r\n")
                    return Ended.SOFT, True
                if await self._execute(line) is Ended.HARD:
                    return Ended.HARD, False
                line = b""
            else:
                line += byte

    async def _paste(self) -> Ended | None:
        """Raw paste: a window is offered again as soon as one was used up; what cannot be parsed ends it at once."""
        if not self._pastes:
            await self._tell(RAW_BANNER)
            return None
        await self._tell(b"R\x01" + struct.pack("<H", WINDOW) + b"\x01")
        code, remain, granted = bytearray(), WINDOW, 2 * WINDOW
        while (byte := await self._next()) not in {CTRL_C, CTRL_D}:
            granted -= 1
            assert self._bytes.qsize() <= granted + len(CTRL_D), "more was sent than the windows that were offered"
            code += byte
            if code.endswith(NONSENSE):
                await self._tell(b"\x04")
                while await self._next() not in {CTRL_C, CTRL_D}:
                    pass
                return await self._execute(bytes(code))
            remain -= 1
            if not remain:
                remain, granted = WINDOW, granted + WINDOW
                await self._tell(b"\x01")
        await self._tell(b"\x04")
        return await self._execute(bytes(code))

    async def _execute(self, code: bytes) -> Ended | None:
        self.codes.append(code)
        if self._agent is None:
            self._agent = await self._start(str(HERE / "inside" / "agent.py"), stdin=asyncio.subprocess.PIPE)
        agent = self._agent
        assert agent.stdin is not None
        assert agent.stdout is not None
        agent.stdin.write(struct.pack(">I", len(code)) + code)
        watching = asyncio.create_task(self._interrupting(agent))
        ends = 0
        try:
            while ends < 2:
                data = await agent.stdout.read(4096)
                if not data and self._agent is not agent:
                    await asyncio.get_running_loop().create_future()  # it has no power any more
                if not data:
                    assert await agent.wait() == RESET, "the agent ended"
                    return Ended.HARD
                ends += data.count(b"\x04")
                await self._tell(data.replace(b"\n", b"\r\n"))
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        await self._tell(b">")
        return None

    async def _start(self, program: str, *path: Path, stdin: int) -> asyncio.subprocess.Process:
        folders = ":".join(map(str, (*path, HERE / "stubs", ".frozen")))
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                INTERPRETER,
                program,
                cwd=self.flash,
                env={**self.environment, "MICROPYPATH": folders},
                stdin=stdin,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        )
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:  # unplugged at that moment
            process = await starting
            process.kill()
            await process.wait()
            raise
