"""MicroPython's raw REPL over a serial port: code goes in by raw paste with its flow control, its output comes back.

The protocol is in MicroPython's documentation, "The MicroPython Interactive Interpreter Mode (REPL)", "Raw mode" and
"Raw-paste mode". mpremote speaks it too, but says itself that its classes are no settled interface, and prints what it
reads, secrets too, on standard output.
"""

import asyncio
from contextlib import suppress
from typing import Protocol

from drivers.bus import SerialPort
from drivers.errors import BusError, BusTimeout, NoDevice
from gateway.nodes.provision.errors import NoAnswer, OnBoard, ProvisionError

INTERRUPT, RAW, END = b"\x03", b"\x01", b"\x04"
PASTE = b"\x05A\x01"
PROMPT = b"raw REPL; CTRL-B to exit\r\n>"
REBOOTED = b"soft reboot\r\n"

QUIET_S = 0.3
NOISE_S = 1.0
"""For so long at most the last words of an interrupted program are listened to."""
ENTER_S = 2.0
START_S = 4.0
"""After a reset: the ROM, the bootloader and MicroPython's own start."""
RUN_S = 15.0
HELD_MOST = 1 << 16
TRIES = 3


class BoardPort(SerialPort, Protocol):
    """A serial port whose two control lines reach a board's reset."""

    async def pulse_reset(self) -> bool:
        """Reset the board by its control lines; False where the port has none."""


class RawRepl:
    """One board. `enter` first; then `run` any number of times; `let_go` or `reset` at the end. `enter_s` is how long
    each of the first questions waits for an answer, `quiet_s` after how long a board has nothing more to say."""

    def __init__(self, port: BoardPort, enter_s: float = ENTER_S, quiet_s: float = QUIET_S) -> None:
        self._port, self._enter_s, self._quiet_s = port, enter_s, quiet_s
        self._held = b""
        self.in_raw = False

    async def enter(self) -> None:
        """Interrupt whatever runs and begin with an empty memory, `main.py` not started. NoAnswer where nothing there
        speaks MicroPython."""
        heard = await self._knock()
        if not self.in_raw and await self._reset_by_wire():
            heard += await self._knock(START_S)
        if not self.in_raw:
            raise NoAnswer(heard)
        await self._port.write(END)  # an empty program: soft reset, which frees what the program before held
        await self._until(REBOOTED, RUN_S)
        await self._until(PROMPT, RUN_S)

    async def run(self, code: str, within_s: float = RUN_S) -> str:
        """What the code prints; OnBoard where it raises, ProvisionError where the board is silent or hangs up."""
        await self._send(code.encode())
        output = await self._until(END, within_s)
        error = await self._until(END, within_s)
        await self._until(b">", within_s)
        if error:
            raise OnBoard(error.decode(errors="replace"))
        return output.decode(errors="replace").replace("\r\n", "\n")

    async def reset(self) -> None:
        """A hard reset: the board starts as after power on. What it says from then on is read by `line`."""
        self.in_raw = False
        with suppress(NoDevice):  # with a USB of its own it is gone before it has said yes
            await self._send(b"import machine\nmachine.reset()")

    async def let_go(self) -> None:
        """Let the board go on with what it did before, if it is still there: a node goes on measuring."""
        if self.in_raw:
            with suppress(BusError, ProvisionError):
                await self.reset()

    async def line(self, within_s: float) -> str | None:
        """The next line on the console, None where none came in time. A port that goes away is waited for."""
        end = asyncio.get_running_loop().time() + within_s
        while b"\n" not in self._held:
            left = end - asyncio.get_running_loop().time()
            if left <= 0:
                return None
            try:
                self._hold(await self._port.read(4096, left))
            except BusTimeout:
                return None
            except NoDevice:
                await asyncio.sleep(min(0.2, left))
        line, _, self._held = self._held.partition(b"\n")
        return line.decode(errors="replace").strip("\r")

    async def _knock(self, within_s: float = 0.0) -> bytes:
        """Interrupt and ask for the raw REPL a few times, at least for so long; what was heard meanwhile."""
        heard, began = b"", asyncio.get_running_loop().time()
        for count in range(100):
            if count >= TRIES and asyncio.get_running_loop().time() - began >= within_s:
                break
            try:
                await self._port.write(b"\r" + INTERRUPT)
                heard += await self._noise()
                self._held = b""
                await self._port.write(b"\r" + RAW)
                await self._until(PROMPT, self._enter_s if not within_s else self._quiet_s)
            except ProvisionError:
                heard = (heard + self._held)[-HELD_MOST:]
                self._held = b""
            except NoDevice:  # a board with a USB of its own goes away while it is reset
                if not within_s:
                    raise
                await asyncio.sleep(0.2)
            else:
                self.in_raw = True
                break
        return heard[-HELD_MOST:]

    async def _noise(self) -> bytes:
        """What comes until it is quiet, or for NOISE_S."""
        heard, end = b"", asyncio.get_running_loop().time() + NOISE_S
        with suppress(BusTimeout):
            while asyncio.get_running_loop().time() < end and len(heard) < HELD_MOST:
                heard += await self._port.read(4096, self._quiet_s)
        return heard

    async def _reset_by_wire(self) -> bool:
        try:
            return await self._port.pulse_reset()
        except BusError:
            return False

    async def _send(self, code: bytes) -> None:
        """Hand code over by raw paste, or at once where the board does not know it."""
        await self._port.write(PASTE)
        answer = await self._exactly(2)
        if answer != b"R\x01":
            await self._send_plainly(code, answer)
            return
        size = int.from_bytes(await self._exactly(2), "little")
        if not size:
            raise ProvisionError("the board offers no room for code: reset it and try again")
        room, left = size, memoryview(code)
        while left:
            while not room or self._held:
                flow = await self._exactly(1)
                if flow == END:  # it gave up early, such as for a syntax error: what follows says why
                    await self._port.write(END)
                    return
                if flow != b"\x01":
                    raise ProvisionError("the board answers out of turn: is another program using the port?")
                room += size
            await self._port.write(bytes(left[:room]))
            room, left = max(0, room - len(left)), left[room:]
        await self._port.write(END)
        await self._until(END, RUN_S)

    async def _send_plainly(self, code: bytes, answer: bytes) -> None:
        """To one of old, which took the question for another Ctrl-A; `answer` is the beginning of its banner."""
        self._held = answer + self._held
        await self._until(b">", ENTER_S)
        for begin in range(0, len(code), 128):
            await self._port.write(code[begin : begin + 128])
            await asyncio.sleep(0.02)  # there is no flow control
        await self._port.write(END)
        if await self._exactly(2) != b"OK":
            raise ProvisionError("the board did not take our code: reset it and try again")

    async def _exactly(self, count: int) -> bytes:
        while len(self._held) < count:
            self._hold(await self._read(RUN_S))
        found, self._held = self._held[:count], self._held[count:]
        return found

    async def _until(self, ending: bytes, within_s: float) -> bytes:
        """What comes before `ending`, which is taken too."""
        end = asyncio.get_running_loop().time() + within_s
        while ending not in self._held:
            self._hold(await self._read(max(0.01, end - asyncio.get_running_loop().time())))
            if ending not in self._held and asyncio.get_running_loop().time() >= end:
                raise ProvisionError(f"the board does not come to an end within {within_s:g} s: reset it and try again")
        before, _, self._held = self._held.partition(ending)
        return before

    async def _read(self, within_s: float) -> bytes:
        try:
            return await self._port.read(4096, within_s)
        except BusTimeout:
            raise ProvisionError("the board fell silent: plug it in again and repeat the command") from None

    def _hold(self, data: bytes) -> None:
        self._held = (self._held + data)[-HELD_MOST:]
