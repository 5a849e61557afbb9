"""Pseudo-terminals as serial ports: one end is opened by path, the other is the test's or another pty's."""

import asyncio
import os
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

WITHIN_S = 15.0


class Cable:
    """A port that can be plugged in and out: `path` is a link, as those of /dev/serial/by-id are."""

    def __init__(self, folder: Path, name: str = "usb-ESP32-if00") -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / name
        self.master = -1
        self._slave = -1

    def plug(self) -> None:
        """Make the port appear."""
        self.master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self.master, False)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(self._slave))

    def unplug(self) -> None:
        """Take it away from whoever has it open."""
        self.path.unlink(missing_ok=True)
        for fd in (self._slave, self.master):
            os.close(fd)
        self.master = self._slave = -1

    def close(self) -> None:
        """At the end of a test."""
        if self.master >= 0:
            self.unplug()

    async def read(self) -> bytes:
        """What the other end wrote; waits for it."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self.master, ready.set)
        try:
            async with asyncio.timeout(WITHIN_S):
                await ready.wait()
        finally:
            loop.remove_reader(self.master)
        return os.read(self.master, 4096)

    def write(self, data: bytes) -> None:
        """Say something short to the other end: the kernel holds no more than 4 KiB that nobody reads."""
        assert os.write(self.master, data) == len(data)

    async def feed(self, data: bytes) -> None:
        """Say something of any length, as fast as the other end takes it."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        left = memoryview(data)
        loop.add_writer(self.master, ready.set)
        try:
            async with asyncio.timeout(WITHIN_S):
                while left:
                    await ready.wait()
                    ready.clear()
                    with suppress(BlockingIOError):
                        left = left[os.write(self.master, left) :]
        finally:
            loop.remove_writer(self.master)


@contextmanager
def cable(folder: Path) -> Iterator[Cable]:
    """One that is plugged in."""
    made = Cable(folder)
    made.plug()
    try:
        yield made
    finally:
        made.close()


@contextmanager
def crossed(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Two ports with a cable between them, inside a running loop."""
    loop = asyncio.get_running_loop()
    a, b = Cable(folder, "a"), Cable(folder, "b")
    a.plug()
    b.plug()

    def relay(source: int, target: int) -> None:
        with suppress(BlockingIOError):
            os.write(target, os.read(source, 4096))

    loop.add_reader(a.master, relay, a.master, b.master)
    loop.add_reader(b.master, relay, b.master, a.master)
    try:
        yield a.path, b.path
    finally:
        for end in (a, b):
            loop.remove_reader(end.master)
            end.close()
