"""A real port up to the kernel: pseudo-terminals that are plugged in and out."""

import asyncio
import errno
import fcntl
import logging
import os
import stat
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import serial

from drivers.bus import I2cBus, ModbusLine, SerialPort
from drivers.errors import BadData, BusError, BusTimeout, BusUnavailable, NoDevice
from drivers.host import serial_port
from drivers.host.open import open_bus
from drivers.host.serial_port import LinuxSerial, stable_name, system_port, unavailable
from drivers.modbus import ModbusRtu
from drivers.serial_input import Received
from tests.ptys import WITHIN_S, Cable, cable


@pytest.fixture
def plugged(tmp_path: Path) -> Iterator[Cable]:
    with cable(tmp_path / "by-id") as made:
        yield made


@asynccontextmanager
async def port(plugged: Cable, **more) -> AsyncIterator[LinuxSerial]:
    async with LinuxSerial(str(plugged.path), 115_200, by_id=plugged.path.parent, **more) as opened:
        yield opened


# ---- bytes


async def test_what_is_written_comes_out_and_what_comes_in_is_read(plugged):
    async with port(plugged) as opened:
        await opened.write(b"\x00\x03\r\n\x11\x13\xff")  # nothing that a terminal would eat or change
        assert await plugged.read() == b"\x00\x03\r\n\x11\x13\xff"
        reading = asyncio.create_task(opened.read(4, WITHIN_S))
        await asyncio.sleep(0)
        plugged.write(b"\x04\x0d\x0a\x7f\x00")
        assert await reading == b"\x04\x0d\x0a\x7f"
        assert await opened.read(100, WITHIN_S) == b"\x00"


class Lines(serial.Serial):
    """A port with control lines, which a pseudo-terminal has not: they are written down as (DTR, RTS)."""

    told: list[tuple[bool, bool]]

    def _update_dtr_state(self):
        self.told = [*getattr(self, "told", []), (self.dtr, self.rts)]

    _update_rts_state = _update_dtr_state


async def test_a_board_is_reset_by_the_control_lines_and_not_sent_into_its_boot_loader(plugged):
    made: list[Lines] = []

    def opener(path: str, baud: int) -> serial.Serial:
        made.append(Lines(path, baud, exclusive=True, timeout=0, inter_byte_timeout=0))
        made[0].told.clear()
        return made[0]

    async with port(plugged, opener=opener) as opened:
        assert await opened.pulse_reset() is True
    # EN is low while RTS is on and DTR off; GPIO 0 while DTR is on and RTS off, which never happens.
    assert made[0].told == [(False, True), (False, True), (False, False)]
    async with port(plugged) as opened:
        assert await opened.pulse_reset() is False


async def test_silence_is_a_timeout_and_the_port_goes_on(plugged):
    async with port(plugged) as opened:
        for ask in (opened.read, opened.readline):
            with pytest.raises(BusTimeout, match=r"silent for 0\.01 s"):
                await ask(10, 0.01)
        plugged.write(b"x")
        assert await opened.read(1, WITHIN_S) == b"x"


async def test_lines_are_put_together_and_told_apart(plugged):
    async with port(plugged) as opened:
        plugged.write(b"one\r\ntwo\n\nthr")
        assert [await opened.readline(10, WITHIN_S) for _ in range(3)] == [b"one", b"two", b""]
        with pytest.raises(BusTimeout):
            await opened.readline(10, 0.01)
        plugged.write(b"ee\n")
        assert await opened.readline(10, WITHIN_S) == b"three"


async def test_a_line_that_is_too_long_is_skipped(plugged):
    async with port(plugged) as opened:
        plugged.write(b"x" * 30 + b"\nshort\n")
        with pytest.raises(BadData, match="30 bytes, at most 10"):
            await opened.readline(10, WITHIN_S)
        assert await opened.readline(10, WITHIN_S) == b"short"


async def test_a_cancelled_wait_loses_nothing(plugged):
    async with port(plugged) as opened:
        plugged.write(b"ha")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await opened.readline(10, WITHIN_S)
        plugged.write(b"lf\n")
        assert await opened.readline(10, WITHIN_S) == b"half"


async def test_discard_forgets_what_waits_here_and_in_the_kernel(plugged):
    async with port(plugged) as opened:
        plugged.write(b"old")
        assert await opened.read(1, WITHIN_S) == b"o"
        plugged.write(b"older")
        await opened.discard()
        plugged.write(b"new")
        assert await opened.read(10, WITHIN_S) == b"new"


async def test_a_side_that_takes_nothing_is_a_timeout(plugged, monkeypatch):
    monkeypatch.setattr(serial_port, "WRITE_SLACK_S", -9.5)  # the bytes alone would take 9.55 s
    async with port(plugged) as opened:
        with pytest.raises(BusTimeout, match=r"took only \d+ of \d+ bytes"):
            await opened.write(bytes(100_000))


# ---- unplugged


async def test_an_unplugged_port_is_opened_again_when_it_is_back(plugged):
    async with port(plugged) as opened:
        waiting = asyncio.create_task(opened.read(1, WITHIN_S))
        await asyncio.sleep(0)
        plugged.unplug()
        with pytest.raises(NoDevice, match=r"went away .*unplugged\?"):
            await waiting
        for use in (opened.write(b"x"), opened.read(1, 1), opened.readline(1, 1), opened.discard()):
            with pytest.raises(NoDevice, match="does not exist: nothing is plugged in"):
                await use
        plugged.plug()
        await opened.discard()  # opens it; what came before is old
        plugged.write(b"hello")
        assert await opened.read(10, WITHIN_S) == b"hello"


async def test_half_a_line_from_before_is_not_joined_to_one_from_after(plugged):
    async with port(plugged) as opened:
        plugged.write(b'{"half')
        with pytest.raises(BusTimeout):
            await opened.readline(100, 0.02)
        plugged.unplug()
        with pytest.raises(NoDevice):
            await opened.write(b"x")
        plugged.plug()
        await opened.write(b"x")
        plugged.write(b"whole\n")
        assert await opened.readline(100, WITHIN_S) == b"whole"


async def test_a_reader_hears_that_a_writer_found_the_port_gone(plugged):
    async with port(plugged) as opened:
        reading = asyncio.create_task(opened.read(1, WITHIN_S))
        await asyncio.sleep(0)
        opened._close(NoDevice("gone"))
        with pytest.raises(NoDevice, match="gone"):
            await reading
        await opened.discard()
        plugged.write(b"y")
        assert await opened.read(1, WITHIN_S) == b"y"


async def test_a_port_that_comes_back_without_permission_is_tried_again(plugged):
    refuse = [False]

    def opener(path: str, baud: int) -> serial.Serial:
        if refuse[0]:
            raise PermissionError(errno.EACCES, "Permission denied")
        return system_port(path, baud)

    async with port(plugged, opener=opener) as opened:
        plugged.unplug()
        with pytest.raises(NoDevice):
            await opened.write(b"x")
        plugged.plug()
        refuse[0] = True  # udev sets the rights a moment after the node
        with pytest.raises(BusError, match="dialout") as caught:
            await opened.write(b"x")
        assert type(caught.value) is BusError
        refuse[0] = False
        await opened.write(b"x")
        assert await plugged.read() == b"x"


async def test_a_port_outside_its_with_is_refused(plugged):
    opened = LinuxSerial(str(plugged.path), 9600)
    with pytest.raises(RuntimeError, match="async with"):
        await opened.read(1, 1)
    async with opened:
        await opened.write(b"x")
    with pytest.raises(RuntimeError, match="async with"):
        await opened.write(b"x")


async def test_no_descriptor_is_left_behind(plugged):
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        async with port(plugged) as opened:
            plugged.unplug()
            with pytest.raises(NoDevice):
                await opened.write(b"x")
            plugged.plug()
            await opened.write(b"x")
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1  # the loop's own waking pipe


# ---- opening


async def test_a_second_user_is_told_who_may_hold_it(plugged):
    async with port(plugged):
        with pytest.raises(BusUnavailable, match=r"in use; `sudo fuser -v .*ModemManager"):
            async with port(plugged):
                pass
    async with port(plugged) as again:
        await again.write(b"x")


async def test_it_is_ours_alone_while_open_and_free_afterwards(plugged):
    def exclusive() -> bool:
        return bool(fcntl.ioctl(plugged._slave, 0x80045440, bytes(4))[0])  # TIOCGEXCL

    async with port(plugged):
        assert exclusive()
    assert not exclusive()


async def test_a_missing_port_names_those_that_are_there(plugged):
    with pytest.raises(BusUnavailable, match=f"usb-other does not exist: available are serial:{plugged.path}"):
        async with LinuxSerial(str(plugged.path.parent / "usb-other"), 9600, by_id=plugged.path.parent):
            pass


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(errno.EACCES, "x"), "usermod -aG dialout"),
        (OSError(errno.EBUSY, "x"), "serial-getty"),
        (OSError(errno.ENOENT, "x"), "nothing is plugged in"),
        (OSError(errno.EIO, "x"), "enable_uart=1"),
        (OSError(errno.ENOTTY, "x"), "is no serial port"),
        (termios.error(errno.ENOTTY, "x"), "is no serial port"),
        (serial.SerialException("Could not configure port"), "Could not configure"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
    ],
)
def test_why_it_cannot_be_opened(error, says, tmp_path):
    text = str(unavailable("/dev/ttyUSB7", error, tmp_path))
    assert "/dev/ttyUSB7" in text
    assert says in text


@pytest.mark.parametrize("what", ["file", "null"])
async def test_what_is_no_port_is_unavailable(what, tmp_path):
    path = tmp_path / "file"
    path.write_text("no port")
    with pytest.raises(BusUnavailable):
        async with LinuxSerial("/dev/null" if what == "null" else str(path), 9600):
            pass


async def test_a_name_that_may_change_is_warned_of(plugged, caplog):
    plain = os.ttyname(plugged._slave)
    with caplog.at_level(logging.WARNING):
        async with LinuxSerial(plain, 9600, by_id=plugged.path.parent):
            pass
    assert f"write serial:{plugged.path} instead" in caplog.text
    caplog.clear()
    async with port(plugged):
        assert not caplog.records
    assert stable_name(plain, plugged.path.parent / "none") is None


async def test_a_cancelled_opening_leaves_nothing_open(plugged):
    entered, go_on, opened = asyncio.Event(), asyncio.Event(), []
    loop = asyncio.get_running_loop()

    def opener(path: str, baud: int) -> serial.Serial:
        loop.call_soon_threadsafe(entered.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(WITHIN_S)
        opened.append(system_port(path, baud))
        return opened[0]

    async def use() -> None:
        async with port(plugged, opener=opener):
            raise AssertionError("it was cancelled")

    using = asyncio.create_task(use())
    await entered.wait()
    using.cancel()
    await asyncio.wait([using])
    go_on.set()
    async with asyncio.timeout(WITHIN_S):
        while not opened or opened[0].is_open:
            await asyncio.to_thread(lambda: None)
    assert using.cancelled()


# ---- from the text of a configuration


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("serial:", "serial:PATH"),
        ("serial:ttyUSB0", "serial:PATH"),
        ("serial:/dev/ttyUSB0?", None),
        ("serial:/dev/ttyUSB0?baud", "baud is a number from 300 to 4000000"),
        ("serial:/dev/ttyUSB0?baud=0", "baud is a number"),
        ("serial:/dev/ttyUSB0?baud=9600x", "baud is a number"),
        ("serial:/dev/ttyUSB0?speed=9600", "unknown option 'speed'"),
        ("serial:/dev/ttyUSB0?&", "serial:PATH"),
    ],
)
def test_a_malformed_text_is_refused_at_once(spec, says):
    if says is None:
        open_bus(spec)
        return
    with pytest.raises(ValueError, match=says):
        open_bus(spec)


@pytest.mark.parametrize(
    ("spec", "wanted", "says"),
    [
        ("serial:/dev/ttyUSB0", I2cBus, "needs i2c:NUMBER"),
        ("i2c:1", ModbusLine, "needs serial:PATH"),
        ("i2c:1", SerialPort, "needs serial:PATH"),
        ("replay:station", ModbusLine, "needs serial:PATH"),
    ],
)
def test_a_bus_that_the_driver_cannot_use_is_refused_at_once(spec, wanted, says):
    with pytest.raises(ValueError, match=says):
        open_bus(spec, wanted=wanted)


@pytest.mark.parametrize(
    ("query", "wanted", "kind", "baud"),
    [
        ("", None, LinuxSerial, 115_200),
        ("", SerialPort, LinuxSerial, 115_200),
        ("?baud=9600", None, LinuxSerial, 9600),
        ("", ModbusLine, ModbusRtu, 19_200),
        ("?baud=9600", ModbusLine, ModbusRtu, 9600),
    ],
)
async def test_the_wire_is_what_the_driver_wants_at_the_rate_that_was_asked(query, wanted, kind, baud, plugged):
    async with open_bus(f"serial:{plugged.path}{query}", wanted=wanted) as bus:
        assert type(bus) is kind
        speeds = termios.tcgetattr(plugged._slave)[4:6]
        assert speeds == [getattr(termios, f"B{baud}")] * 2
        assert stat.S_ISCHR(os.fstat(plugged._slave).st_mode)


# ---- the buffer


def test_memory_is_bounded_whatever_comes():
    received = Received()
    for _ in range(1000):
        received.feed(b"x" * 4096)
        assert received.line(100) is None
        assert len(received._bytes) <= 101
    received.feed(b"\nend\n")
    with pytest.raises(BadData, match=f"{1000 * 4096} bytes"):
        received.line(100)
    assert received.line(100) == b"end"


@pytest.mark.parametrize(("size", "end"), [(100, b"\n"), (100, b"\r\n"), (0, b"\n")])
def test_a_line_of_just_the_limit_passes(size, end):
    received = Received()
    for byte in b"y" * size + end:
        received.feed(bytes((byte,)))
        if (line := received.line(100)) is not None:
            assert line == b"y" * size
            return
    raise AssertionError("no line")
