"""A serial port of this machine, named by /dev/serial/by-id so that it keeps its name."""

import asyncio
import errno
import fcntl
import logging
import os
import termios
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import serial

from drivers.errors import BusError, BusTimeout, BusUnavailable, NoDevice
from drivers.serial_input import SerialInput

log = logging.getLogger(__name__)

BY_ID = Path("/dev/serial/by-id")
CHUNK = 4096  # a tty holds no more
WRITE_SLACK_S = 1.0
RESET_S = 0.1
MISSING = (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.EIO)
BUSY = (errno.EBUSY, errno.EAGAIN)

Opener = Callable[[str, int], serial.Serial]


class LinuxSerial(SerialInput):
    """One port, 8N1, raw, opened for us alone; `async with` opens and closes it.

    The loop watches the descriptor only while somebody waits, so an idle port costs nothing. A port that was unplugged
    says NoDevice until it is back: each use tries to open it again.
    """

    def __init__(self, path: str, baud: int, *, opener: Opener | None = None, by_id: Path = BY_ID) -> None:
        super().__init__(path)
        self._path, self._baud, self._by_id = path, baud, by_id
        self._opener = opener or system_port
        self._entered = False
        self._port: serial.Serial | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._opening, self._writing = asyncio.Lock(), asyncio.Lock()

    async def __aenter__(self) -> Self:
        if better := stable_name(self._path, self._by_id):
            log.warning("%s may be another device after the next start: write serial:%s instead", self._path, better)
        try:
            self._port = await self._open()
        except (OSError, termios.error) as error:
            raise unavailable(self._path, error, self._by_id) from error
        self._entered = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._entered = False
        self._close(NoDevice(f"{self._path} was closed"))

    async def write(self, data: bytes) -> None:
        """As SerialPort; BusTimeout where the other side takes nothing."""
        async with self._writing:
            port = await self._usable()
            left = memoryview(data)
            try:
                async with asyncio.timeout(len(data) * 11 / self._baud + WRITE_SLACK_S):
                    while left:
                        try:
                            left = left[os.write(port.fd, left) :]
                        except BlockingIOError:
                            await self._ready(port.fd, writing=True)
            except TimeoutError:
                raise BusTimeout(f"{self._path} took only {len(data) - len(left)} of {len(data)} bytes") from None
            except OSError as error:
                raise self._lost(error) from error

    async def discard(self) -> None:
        """As SerialPort."""
        port = await self._usable()
        self._received.clear()
        try:
            termios.tcflush(port.fd, termios.TCIFLUSH)
        except termios.error as error:
            raise self._lost(OSError(*error.args)) from error

    async def pulse_reset(self) -> bool:
        """Reset an ESP32 board as esptool does: RTS holds its EN low for a moment, DTR leaves GPIO 0 alone. False where
        the port has no such lines."""
        port = await self._usable()
        try:
            port.dtr, port.rts = False, True
            await asyncio.sleep(RESET_S)
            port.rts = False
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL):  # a pseudo-terminal
                return False
            raise self._lost(error) from error
        return True

    async def _more(self) -> bytes:
        port = await self._usable()
        try:
            while True:
                try:
                    data = os.read(port.fd, CHUNK)
                except BlockingIOError:
                    await self._ready(port.fd)
                    continue
                if not data:
                    raise OSError(errno.EIO, "the line was hung up")
                return data
        except OSError as error:
            raise self._lost(error) from error

    async def _ready(self, fd: int, *, writing: bool = False) -> None:
        """Wait for the descriptor; raises what closed the port meanwhile."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        self._waiting.add(ready)
        (loop.add_writer if writing else loop.add_reader)(fd, _set, ready)
        try:
            await ready
        finally:
            self._waiting.discard(ready)
            if self._port is not None and self._port.fd == fd:  # else _close has done so
                (loop.remove_writer if writing else loop.remove_reader)(fd)

    async def _usable(self) -> serial.Serial:
        """The open port, opened again if it was lost."""
        if not self._entered:
            raise RuntimeError(f"{self._path} is not open: use it inside `async with`")
        async with self._opening:
            if self._port is None:
                try:
                    self._port = await self._open()
                except (OSError, termios.error) as error:
                    kind = NoDevice if error.args[0] in MISSING else BusError
                    raise kind(str(unavailable(self._path, error, self._by_id))) from error
                log.info("%s is back", self._path)
            return self._port

    async def _open(self) -> serial.Serial:
        """Open in a thread of the moment: a broken adapter may let the kernel wait for seconds."""
        opening = asyncio.ensure_future(asyncio.to_thread(self._opener, self._path, self._baud))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_abandon)
            raise

    def _lost(self, error: OSError) -> BusError:
        """Close a port that failed and say what that means."""
        kind = NoDevice if error.errno in MISSING else BusError
        lost = kind(f"{self._path} went away ({error.strerror or error}): was it unplugged?")
        self._close(lost)
        return lost

    def _close(self, reason: BusError) -> None:
        port, self._port = self._port, None
        self._received.clear()
        if port is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(port.fd)
        loop.remove_writer(port.fd)
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(reason)
        close(port)


def system_port(path: str, baud: int) -> serial.Serial:
    """Open and configure through pyserial; OSError or termios.error."""
    # inter_byte_timeout 0 is pyserial's way to VMIN 1: only so "nothing yet" and "hung up" differ
    port = serial.Serial(path, baud, exclusive=True, timeout=0, inter_byte_timeout=0)
    fcntl.ioctl(port.fd, termios.TIOCEXCL)  # the lock above only keeps those out who ask for one too
    return port


def close(port: serial.Serial) -> None:
    """Give the port back at once: without the flush the kernel may wait half a minute for a dead line."""
    with suppress(OSError, termios.error):
        fcntl.ioctl(port.fd, termios.TIOCNXCL)
        termios.tcflush(port.fd, termios.TCOFLUSH)
    with suppress(OSError):
        port.close()


def stable_name(path: str, by_id: Path = BY_ID) -> str | None:
    """The by-id name of a port that was named otherwise, None where there is none or it is one."""
    if Path(path).parent == by_id:
        return None
    real = os.path.realpath(path)
    return next((str(link) for link in _links(by_id) if os.path.realpath(link) == real), None)


def unavailable(path: str, error: OSError | termios.error, by_id: Path = BY_ID) -> BusUnavailable:
    """Why the port cannot be opened and what to do."""
    number = error.args[0] if error.args else None
    if number in (errno.EACCES, errno.EPERM):
        return BusUnavailable(
            f"{path}: no permission; `sudo usermod -aG dialout $USER`, then log in again (group dialout)"
        )
    if number in BUSY:
        return BusUnavailable(
            f"{path} is in use; `sudo fuser -v {path}` says by whom. Often it is ModemManager, brltty, a login console "
            "(serial-getty), a serial monitor or a second gateway"
        )
    if number in MISSING:
        links = ", ".join(f"serial:{link}" for link in _links(by_id))
        there = f"available are {links}" if links else f"nothing is plugged in ({by_id} is empty)"
        return BusUnavailable(
            f"{path} does not exist: {there}. The pins of a Raspberry Pi are serial:/dev/serial0 after `enable_uart=1` "
            "in config.txt and a reboot"
        )
    if number == errno.ENOTTY:
        return BusUnavailable(f"{path} is no serial port")
    return BusUnavailable(f"{path}: {error}")


def _links(by_id: Path) -> list[Path]:
    return sorted(by_id.iterdir()) if by_id.is_dir() else []


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _abandon(opening: asyncio.Future[serial.Serial]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        close(opening.result())
