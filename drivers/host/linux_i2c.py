"""An I2C bus of this machine: /dev/i2c-N."""

import asyncio
import errno
import fcntl
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, Self

from smbus2 import SMBus, i2c_msg

from drivers.errors import BusError, BusTimeout, BusUnavailable, NoDevice

log = logging.getLogger(__name__)

I2C_TIMEOUT, I2C_SLAVE = 0x0702, 0x0703  # linux/i2c-dev.h
TIMEOUT_TICKS = 25  # of 10 ms: the SCD30 stretches the clock for up to 150 ms once a day (interface description 1.1)
REOPEN_AFTER = 5  # failures in a row

NOT_ACKNOWLEDGED = (errno.ENXIO, errno.EREMOTEIO, errno.ENODEV)
TOO_LATE = (errno.ETIMEDOUT, errno.EAGAIN)


class Adapter(Protocol):
    """The system calls; each raises OSError."""

    def claim(self, address: int) -> None:
        """EBUSY if a kernel driver holds the address."""

    def transfer(self, *messages: i2c_msg) -> None:
        """One I2C_RDWR: a start before each message, one stop at the end."""

    def close(self) -> None:
        """Give the file descriptor back."""


class LinuxI2c:
    """One adapter with one thread of its own, so transfers never overlap; `async with` opens and closes it.

    A transfer whose caller was cancelled is finished by the thread before the next begins. User space cannot clock
    SCL over i2c-dev: a stuck bus is freed, if at all, by the kernel's adapter driver. What is done here after
    REOPEN_AFTER failures in a row is to close and re-open the device file; if that does not help, the sensor needs its
    power cycled. A USB adapter that is pulled out is closed at once: the kernel keeps its number taken for as long as
    somebody has it open, and plugged in again it would get another one.
    """

    def __init__(
        self,
        number: int,
        *,
        opener: Callable[[str], Adapter] | None = None,
        present: Callable[[str], bool] | None = None,
    ) -> None:
        self._path = f"/dev/i2c-{number}"
        self._opener = opener or SystemAdapter
        self._present = present or (os.path.exists if opener is None else lambda _path: True)
        self._adapter: Adapter | None = None
        self._claimed: set[int] = set()
        self._failures = 0
        self._thread: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=self._path.rpartition("/")[2])
        try:
            await self._do(self._open)
        except BaseException:
            self._thread.shutdown()
            self._thread = None
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        thread, self._thread = self._thread, None
        assert thread is not None
        closed = asyncio.get_running_loop().run_in_executor(thread, self._close)
        thread.shutdown(wait=False)  # takes no more work
        await closed
        thread.shutdown()

    async def write(self, address: int, data: bytes) -> None:
        """As I2cBus."""
        await self._do(lambda: self._transfer(address, i2c_msg.write(address, data)))

    async def read(self, address: int, size: int) -> bytes:
        """As I2cBus."""
        answer = i2c_msg.read(address, size)
        await self._do(lambda: self._transfer(address, answer))
        return bytes(answer)

    async def write_read(self, address: int, data: bytes, size: int) -> bytes:
        """As I2cBus."""
        answer = i2c_msg.read(address, size)
        await self._do(lambda: self._transfer(address, i2c_msg.write(address, data), answer))
        return bytes(answer)

    async def _do(self, work: Callable[[], None]) -> None:
        if self._thread is None:
            raise RuntimeError(f"{self._path} is not open: use it inside `async with`")
        await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self) -> None:
        try:
            self._adapter = self._opener(self._path)
        except OSError as error:
            raise unavailable(self._path, error) from error
        self._claimed.clear()

    def _close(self) -> None:
        adapter, self._adapter = self._adapter, None
        if adapter is not None:
            adapter.close()

    def _transfer(self, address: int, *messages: i2c_msg) -> None:
        if self._adapter is None:
            self._open()
        assert self._adapter is not None
        try:
            if address not in self._claimed:
                self._adapter.claim(address)
                self._claimed.add(address)
            self._adapter.transfer(*messages)
        except OSError as error:
            self._failed(error)
            raise meaning(error, self._path, address) from error
        self._failures = 0

    def _failed(self, error: OSError) -> None:
        if error.errno == errno.ENODEV or not self._present(self._path):
            log.warning("%s: unplugged (%s)", self._path, error)
            self._failures = 0
            self._close()
            return
        if error.errno in (errno.ENXIO, errno.EREMOTEIO, errno.EBUSY):  # the wire itself is well
            self._failures = 0
            return
        self._failures += 1
        if self._failures >= REOPEN_AFTER:
            log.warning("%s: %d failures in a row, the last %s: re-opening it", self._path, self._failures, error)
            self._failures = 0
            self._close()


class SystemAdapter:
    """The kernel's i2c-dev through smbus2."""

    def __init__(self, path: str) -> None:
        self._bus = SMBus(path)
        try:
            self._ioctl(I2C_TIMEOUT, TIMEOUT_TICKS)
        except OSError:
            self.close()
            raise

    def claim(self, address: int) -> None:
        """As Adapter: I2C_RDWR would talk over a kernel driver's head, only I2C_SLAVE asks."""
        self._ioctl(I2C_SLAVE, address)

    def _ioctl(self, request: int, argument: int) -> None:
        assert self._bus.fd is not None
        fcntl.ioctl(self._bus.fd, request, argument)

    def transfer(self, *messages: i2c_msg) -> None:
        """As Adapter."""
        self._bus.i2c_rdwr(*messages)

    def close(self) -> None:
        """As Adapter."""
        self._bus.close()


def meaning(error: OSError, path: str, address: int) -> BusError:
    """What a failed transfer says about the wire."""
    at = f"{path} address {address:#04x}"
    if error.errno in NOT_ACKNOWLEDGED:
        return NoDevice(f"{at}: nothing acknowledges ({error.strerror}); look at wiring, power and address")
    if error.errno in TOO_LATE:
        return BusTimeout(f"{at}: the line hangs or the clock is stretched for too long ({error.strerror})")
    if error.errno == errno.EBUSY:
        return BusError(f"{at}: a kernel driver holds it; remove its dtoverlay (such as i2c-sensor) or unbind it")
    return BusError(f"{at}: {error.strerror or error}")


def unavailable(path: str, error: OSError, devices: Path = Path("/dev")) -> BusUnavailable:
    """Why the bus cannot be opened and what to do."""
    if error.errno == errno.EACCES:
        return BusUnavailable(f"{path}: no permission; `sudo usermod -aG i2c $USER`, then log in again (group i2c)")
    if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        present = sorted(p.name.removeprefix("i2c-") for p in devices.glob("i2c-*"))
        there = f"available are {', '.join(f'i2c:{n}' for n in present)}" if present else "no I2C bus is available"
        return BusUnavailable(
            f"{path} does not exist: {there}. On a Raspberry Pi put `dtparam=i2c_arm=on` into config.txt and reboot; "
            "elsewhere `sudo modprobe i2c-dev`"
        )
    return BusUnavailable(f"{path}: {error.strerror or error}")
