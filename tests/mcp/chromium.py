"""A real browser without a screen, spoken to over two pipes (the DevTools protocol), and its pictures as pixels."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
import zlib
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

DEADLINE_S = 30.0
SWITCHES = (
    "--headless",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "--force-device-scale-factor=1",
    "--font-render-hinting=none",
    "--touch-events=enabled",
    "--disable-features=IsolateSandboxedIframes",  # so that a test may read what the frame says
)


@dataclass(frozen=True, slots=True)
class Picture:
    """Rows of (red, green, blue)."""

    width: int
    height: int
    rows: list[list[tuple[int, int, int]]]

    def count(self, colour: str, *, near: int = 40, box: tuple[int, int, int, int] | None = None) -> int:
        """Pixels of about this colour (#rrggbb), within left, top, right, bottom."""
        return len(self.places(colour, near=near, box=box))

    def places(
        self, colour: str, *, near: int = 40, box: tuple[int, int, int, int] | None = None
    ) -> list[tuple[int, int]]:
        """Where pixels of about this colour are."""
        red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
        left, top, right, bottom = box or (0, 0, self.width, self.height)
        return [
            (x, y)
            for y in range(max(0, top), min(bottom, self.height))
            for x, (r, g, b) in enumerate(self.rows[y][max(0, left) : right], max(0, left))
            if -near <= r - red <= near and -near <= g - green <= near and -near <= b - blue <= near
        ]


def decode_png(data: bytes) -> Picture:
    """A PNG of 8-bit RGB or RGBA without interlacing, as browsers and matplotlib write them."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed, head = 8, b"", b""
    while at < len(data):
        size, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + size]
        head = body if kind == b"IHDR" else head
        packed += body if kind == b"IDAT" else b""
        at += size + 12
    width, height = int.from_bytes(head[:4]), int.from_bytes(head[4:8])
    step = {2: 3, 6: 4}[head[9]]
    assert (head[8], head[12]) == (8, 0)
    raw, line, rows = zlib.decompress(packed), bytearray(width * step), []
    for row in range(height):
        start = row * (width * step + 1)
        line = _unfiltered(raw[start], raw[start + 1 : start + 1 + width * step], line, step)
        rows.append(list(zip(line[::step], line[1::step], line[2::step], strict=True)))
    return Picture(width, height, rows)


def _unfiltered(kind: int, given: bytes, above: bytearray, step: int) -> bytearray:
    line = bytearray(given)
    if kind == 1 and len(set(given[step:])) == 1 and not given[-1]:
        return bytearray(given[:step] * (len(given) // step))
    if kind == 2:
        return bytearray((a + b) & 255 for a, b in zip(line, above, strict=True))
    for at in range(len(line)) if kind else ():
        left = line[at - step] if at >= step else 0
        corner = above[at - step] if at >= step else 0
        guess = left + above[at] - corner
        paeth = min((left, above[at], corner), key=lambda each: abs(guess - each))
        line[at] = (line[at] + {1: left, 3: (left + above[at]) // 2, 4: paeth}[kind]) & 255
    return line


@dataclass
class Page:
    """One tab."""

    write: int
    read: int
    session: str = ""
    buffer: bytes = b""
    number: int = 0
    said: list[str] = field(default_factory=list)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.write, data) :]
        until = time.monotonic() + DEADLINE_S
        while True:
            answer = self._next(until)
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            if answer.get("method") in {"Runtime.exceptionThrown", "Log.entryAdded"}:
                self.said.append(json.dumps(answer["params"]))

    def evaluate(self, expression: str) -> Any:
        """What JavaScript gives, promises awaited."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def picture(self) -> tuple[Picture, bytes]:
        """What is to be seen now."""
        data = b64decode(self.call("Page.captureScreenshot", format="png", optimizeForSpeed=True)["data"])
        return decode_png(data), data

    def size(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, file: Path) -> None:
        self.call("Page.navigate", url=file.as_uri())

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.read], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"the browser was silent for {DEADLINE_S:g} s"
            more = os.read(self.read, 1 << 20)
            assert more, "the browser ended"
            self.buffer += more
        message, _, self.buffer = self.buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


@contextmanager
def browser(folder: Path, width: int = 800, height: int = 520) -> Iterator[Page]:
    """A tab of a browser that ends with the block."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.fail("no chromium: `scripts/system-packages` installs it")
    ours, theirs = [], []
    for reading in (True, False):
        pair = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 100) for end in pair]
        for end in pair:
            os.close(end)
        theirs.append(high[0] if reading else high[1])
        ours.append(high[1] if reading else high[0])

    def place() -> None:
        for number, end in zip((3, 4), theirs, strict=True):
            os.dup2(end, number)

    switches = [*SWITCHES, f"--user-data-dir={folder / 'profile'}"] + (["--no-sandbox"] if os.geteuid() == 0 else [])
    child = subprocess.Popen(
        [program, *switches, "about:blank"],
        preexec_fn=place,  # noqa: PLW1509
        pass_fds=(3, 4),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in theirs:
        os.close(end)
    try:
        yield _tab(Page(*ours), width, height)
    finally:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(10)
        child.kill()
        child.wait()
        for end in ours:
            os.close(end)


def _tab(page: Page, width: int, height: int) -> Page:
    target = page.call("Target.createTarget", url="about:blank")["targetId"]
    page.session = page.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Log"):
        page.call(f"{domain}.enable")
    page.size(width, height)
    return page


def runs(columns: list[int]) -> list[tuple[int, int]]:
    """Sorted numbers as stretches without a hole."""
    found: list[tuple[int, int]] = []
    start = columns[0]
    for before, after in pairwise([*columns, columns[-1] + 1000]):
        if after - before > 1:
            found.append((start, before))
            start = after
    return found
