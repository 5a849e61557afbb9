"""The real bus up to the system call, which is the one thing replaced here."""

import asyncio
import errno
import os
import threading

import pytest
from smbus2 import i2c_msg

from drivers.errors import BusError, BusTimeout, BusUnavailable, NoDevice
from drivers.host.linux_i2c import REOPEN_AFTER, TIMEOUT_TICKS, LinuxI2c, unavailable

READ = 0x0001  # I2C_M_RD, linux/i2c.h


class Kernel:
    """Stands where the system calls are: logs messages, answers reads with 1, 2, 3..., fails as told."""

    def __init__(self) -> None:
        self.opened = 0
        self.closed = 0
        self.log: list[tuple[tuple[str, int, bytes | int], ...]] = []
        self.threads: set[int] = set()
        self.fail: dict[str, int] = {}
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def open(self, path: str) -> "Kernel":
        self._may("open")
        self.path = path
        self.opened += 1
        return self

    def claim(self, address: int) -> None:
        self._may("claim")
        self.log.append((("claim", address, 0),))

    def transfer(self, *messages: i2c_msg) -> None:
        self.threads.add(threading.get_ident())
        self.entered.set()
        assert self.go_on.wait(10)
        self.log.append(tuple(self._seen(m) for m in messages))
        self._may("transfer")

    def close(self) -> None:
        self.closed += 1

    def transfers(self) -> list[tuple[tuple[str, int, bytes | int], ...]]:
        return [m for m in self.log if m[0][0] != "claim"]

    def _may(self, call: str) -> None:
        if number := self.fail.get(call):
            raise OSError(number, os.strerror(number))

    @staticmethod
    def _seen(message: i2c_msg) -> tuple[str, int, bytes | int]:
        if not message.flags & READ:
            return ("w", message.addr, bytes(message))
        for i in range(message.len):
            message.buf[i] = i + 1
        return ("r", message.addr, message.len)


@pytest.fixture
def kernel():
    return Kernel()


async def test_each_call_is_the_right_transfer(kernel):
    async with LinuxI2c(7, opener=kernel.open) as bus:
        await bus.write(0x61, b"\x02\x02")
        assert await bus.read(0x61, 3) == b"\x01\x02\x03"
        assert await bus.write_read(0x76, b"\xf7", 6) == b"\x01\x02\x03\x04\x05\x06"
    assert kernel.path == "/dev/i2c-7"
    assert kernel.transfers() == [
        (("w", 0x61, b"\x02\x02"),),
        (("r", 0x61, 3),),
        (("w", 0x76, b"\xf7"), ("r", 0x76, 6)),
    ]
    assert [m for m in kernel.log if m[0][0] == "claim"] == [(("claim", 0x61, 0),), (("claim", 0x76, 0),)]
    assert len(kernel.threads) == 1
    assert threading.get_ident() not in kernel.threads
    assert (kernel.opened, kernel.closed) == (1, 1)


async def test_no_thread_outlives_the_bus(kernel):
    before = threading.active_count()
    async with LinuxI2c(1, opener=kernel.open) as bus:
        await bus.write(0x61, b"a")
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    kernel.fail["open"] = errno.ENOENT
    with pytest.raises(BusUnavailable):
        await LinuxI2c(1, opener=kernel.open).__aenter__()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (errno.ENXIO, NoDevice, "0x61: nothing acknowledges"),
        (errno.EREMOTEIO, NoDevice, "wiring, power and address"),
        (errno.ENODEV, NoDevice, "nothing acknowledges"),
        (errno.ETIMEDOUT, BusTimeout, "the line hangs"),
        (errno.EAGAIN, BusTimeout, "the line hangs"),
        (errno.EBUSY, BusError, "a kernel driver holds it; remove its dtoverlay"),
        (errno.EIO, BusError, "Input/output error"),
        (errno.EOPNOTSUPP, BusError, "not supported"),
    ],
)
async def test_what_an_errno_means(kernel, number, kind, says):
    kernel.fail["transfer"] = number
    async with LinuxI2c(1, opener=kernel.open) as bus:
        for transfer in (bus.write(0x61, b"a"), bus.read(0x61, 1), bus.write_read(0x61, b"a", 1)):
            with pytest.raises(BusError, match=says) as caught:
                await transfer
            assert type(caught.value) is kind
            assert isinstance(caught.value.__cause__, OSError)


async def test_an_address_that_a_kernel_driver_holds_is_left_alone(kernel):
    kernel.fail["claim"] = errno.EBUSY
    async with LinuxI2c(1, opener=kernel.open) as bus:
        for _ in range(2 * REOPEN_AFTER):
            with pytest.raises(BusError, match="a kernel driver holds it"):
                await bus.write(0x76, b"a")
        assert kernel.transfers() == []
        assert kernel.opened == 1
        kernel.fail.clear()
        await bus.write(0x76, b"a")


async def test_failures_in_a_row_reopen_the_adapter(kernel):
    async with LinuxI2c(1, opener=kernel.open) as bus:
        kernel.fail["transfer"] = errno.ETIMEDOUT
        for _ in range(REOPEN_AFTER):
            assert (kernel.opened, kernel.closed) == (1, 0)
            with pytest.raises(BusTimeout):
                await bus.write(0x61, b"a")
        assert kernel.closed == 1
        kernel.fail.clear()
        await bus.write(0x61, b"a")
        assert kernel.opened == 2
    assert kernel.closed == 2
    assert kernel.log.count((("claim", 0x61, 0),)) == 2


@pytest.mark.parametrize("between", [None, errno.EREMOTEIO])
async def test_a_success_or_a_missing_device_ends_the_row(kernel, between):
    async with LinuxI2c(1, opener=kernel.open) as bus:
        for i in range(3 * REOPEN_AFTER):
            kernel.fail = {"transfer": errno.EIO} if i % 2 else {"transfer": between} if between else {}
            if i % 2 or between:
                with pytest.raises(BusError):
                    await bus.write(0x61, b"a")
            else:
                await bus.write(0x61, b"a")
    assert kernel.opened == 1


async def test_an_adapter_that_was_unplugged_is_unavailable_until_it_is_back(kernel):
    async with LinuxI2c(1, opener=kernel.open) as bus:
        kernel.fail = {"transfer": errno.ENODEV, "open": errno.ENOENT}
        with pytest.raises(NoDevice):
            await bus.write(0x61, b"a")
        assert kernel.closed == 1
        with pytest.raises(BusUnavailable, match="does not exist"):
            await bus.write(0x61, b"a")
        kernel.fail.clear()
        assert await bus.read(0x61, 1) == b"\x01"


async def test_an_adapter_whose_driver_only_says_not_acknowledged_is_missed_by_its_file(kernel):
    there = True
    async with LinuxI2c(20, opener=kernel.open, present=lambda path: there and path == "/dev/i2c-20") as bus:
        kernel.fail = {"transfer": errno.EREMOTEIO}
        for _ in range(2 * REOPEN_AFTER):
            with pytest.raises(NoDevice):
                await bus.write(0x61, b"a")
        assert kernel.closed == 0
        there = False
        with pytest.raises(NoDevice):
            await bus.write(0x61, b"a")
        assert kernel.closed == 1
        there = True
        kernel.fail.clear()
        assert await bus.read(0x61, 1) == b"\x01"
        assert kernel.opened == 2


async def test_a_cancelled_transfer_does_not_spoil_the_next(kernel):
    loop = asyncio.get_running_loop()
    async with LinuxI2c(1, opener=kernel.open) as bus:
        kernel.go_on.clear()
        first = asyncio.create_task(bus.read(0x61, 18))
        await loop.run_in_executor(None, kernel.entered.wait, 10)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        second = asyncio.create_task(bus.read(0x76, 2))
        waiting = asyncio.create_task(bus.write(0x77, b"never"))
        await asyncio.sleep(0)  # both are handed to the thread, which is busy
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        kernel.go_on.set()
        assert await second == b"\x01\x02"
    assert kernel.transfers() == [(("r", 0x61, 18),), (("r", 0x76, 2),)]


async def test_a_closed_bus_says_so(kernel):
    bus = LinuxI2c(1, opener=kernel.open)
    with pytest.raises(RuntimeError, match="async with"):
        await bus.write(0x61, b"a")
    assert kernel.opened == 0


async def test_a_real_missing_bus_names_the_way_out():
    with pytest.raises(BusUnavailable, match=r"/dev/i2c-250 does not exist: .*dtparam=i2c_arm=on"):
        async with LinuxI2c(250):
            pass


def test_the_busses_that_are_there_are_named(tmp_path):
    (tmp_path / "i2c-1").touch()
    (tmp_path / "i2c-11").touch()
    missing = OSError(errno.ENOENT, "x")
    assert "available are i2c:1, i2c:11" in str(unavailable("/dev/i2c-4", missing, tmp_path))
    assert "no I2C bus is available" in str(unavailable("/dev/i2c-4", missing, tmp_path / "none"))


async def test_no_permission_names_group_and_command(kernel):
    kernel.fail["open"] = errno.EACCES
    with pytest.raises(BusUnavailable, match=r"usermod -aG i2c \$USER.*group i2c"):
        async with LinuxI2c(1, opener=kernel.open):
            pass


async def test_another_failure_to_open_is_told_as_it_is(kernel):
    kernel.fail["open"] = errno.EMFILE
    with pytest.raises(BusUnavailable, match="Too many open files"):
        async with LinuxI2c(1, opener=kernel.open):
            pass


def test_the_clock_may_be_stretched_for_200_ms():
    assert TIMEOUT_TICKS * 10 >= 200
