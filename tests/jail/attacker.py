"""`attacker.py`: run snippets in the Python jail as some user, with some of the kernel's layers away; report as JSON.

Reads {"uid", "less", "jobs": [{name, kind, code, limit_s}]} from standard input. Where it is root it works in a mount
namespace of its own with empty /tmp, /var/tmp and /dev/shm, so that whatever a snippet leaves behind is seen, and opens
the way to this Python for other users there. `less`: a filter makes unshare(2) and Landlock fail, as on a kernel
without them.
"""

import asyncio
import ctypes
import json
import os
import socket
import stat
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway.jail import seccomp
from gateway.jail.analysis import Analysis, AnalysisError
from gateway.jail.table import Builder

libc = ctypes.CDLL(None, use_errno=True)
NEEDED = (Path(sys.executable).resolve(), Path(sys.prefix), Path(sys.base_prefix), Path(seccomp.__file__))
EMPTY = [place for place in ("/tmp", "/var/tmp", "/dev/shm") if not any(each.is_relative_to(place) for each in NEEDED)]


def table(rows: int = 400) -> Any:
    """df of every snippet: device_id, ts, value, n, ok, with NULLs."""
    builder = Builder(
        [("device_id", "VARCHAR", "text"), ("ts", "TIMESTAMP", "ts"), ("value", "DOUBLE", "f8"), ("n", "BIGINT", "i8")]
    )
    minute_us, first_us = 60_000_000, 1_767_225_600_000_000  # 2026-01-01
    builder.extend([("ab"[i % 2], first_us + i * minute_us, 20 + i / 40, i if i % 5 else None) for i in range(rows)])
    return builder.table()


def own_room() -> None:
    """A mount namespace with empty folders, and a way for everybody to this Python and its libraries."""
    assert libc.unshare(0x00020000) == 0  # CLONE_NEWNS
    _mount(b"none", "/", None, 0x4000 | 0x40000)  # MS_REC | MS_PRIVATE
    for place in EMPTY:
        _mount(b"tmpfs", place, b"tmpfs", 0, b"mode=1777")
    for needed in NEEDED:
        while blocked := next((p for p in reversed(needed.parents) if not p.stat().st_mode & stat.S_IXOTH), None):
            child = blocked / needed.relative_to(blocked).parts[0]
            stash = Path("/dev/shm/stash")
            stash.mkdir(exist_ok=True)
            _mount(os.fsencode(blocked), str(stash), None, 0x1000 | 0x4000)  # MS_BIND | MS_REC
            _mount(b"tmpfs", str(blocked), b"tmpfs", 0, b"mode=755")
            child.mkdir()
            _mount(os.fsencode(stash / child.name), str(child), None, 0x1000 | 0x4000)
            libc.umount2(os.fsencode(stash), 2)  # MNT_DETACH
            stash.rmdir()


def _mount(source: bytes, place: str, kind: bytes | None, flags: int, words: bytes = b"") -> None:
    if libc.mount(source, os.fsencode(place), kind, ctypes.c_ulong(flags), words) != 0:
        raise OSError(ctypes.get_errno(), f"mount {source!r} {place}")


def become(uid: int) -> None:
    """An ordinary user, as if logged in."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE


def take_layers_away() -> None:
    """unshare: EPERM; Landlock: ENOSYS; for this process and its children."""
    codes = [(0x20, 0, 0, 0)]
    for number, error in ((seccomp.number("unshare"), 1), (444, 38), (445, 38), (446, 38)):
        codes += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | error)]
    codes.append((0x06, 0, 0, 0x7FFF0000))
    text = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *code) for code in codes))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, struct.pack("HxxxxxxP", len(codes), ctypes.addressof(text)), 0, 0) == 0


class Traps:
    """What an attack could reach: a port, an abstract socket, a file. `touched` says what was."""

    def __init__(self, folder: Path) -> None:
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._tcp.getsockname()[1]
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", self.port))
        self._unix = socket.socket(socket.AF_UNIX)
        self._unix.bind(f"\0sectest{os.getpid()}")
        self._unix.listen()
        self.file = folder / "hot.duckdb"
        self.file.write_bytes(b"data" * 100)
        self._before = self._file()
        for each in (self._tcp, self._udp, self._unix):
            each.setblocking(False)

    def touched(self) -> list[str]:
        """Names of what is not as it was."""
        found = [] if self._file() == self._before else ["file"]
        for name, call in (("tcp", self._tcp.accept), ("unix", self._unix.accept), ("udp", lambda: self._udp.recv(9))):
            with suppress(BlockingIOError):
                call()
                found.append(name)
        return found

    def _file(self) -> tuple[object, ...]:
        if not self.file.exists():
            return ()
        seen = self.file.stat()
        return seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns, self.file.read_bytes()

    def close(self) -> None:
        """All sockets."""
        for each in (self._tcp, self._udp, self._unix):
            each.close()


def processes(session: int) -> list[int]:
    """Of a session, zombies included."""
    found = []
    for each in Path("/proc").iterdir():
        with suppress(OSError):
            if each.name.isdigit() and int((each / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                found.append(int(each.name))
    return found


def own_bytes(pid: int) -> int:
    """Memory that is of no file."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Anonymous:"))


def files() -> list[str]:
    """Whatever lies in the folders that were empty."""
    return sorted(str(Path(top) / name) for place in EMPTY for top, _, names in os.walk(place) for name in names)


async def run(analysis: Analysis, jobs: list[dict[str, Any]], traps: Traps) -> list[dict[str, Any]]:
    """What came of each."""
    answers = []
    data = table()
    for job in jobs:
        code = job["code"].replace("PORT", str(traps.port)).replace("PPID", str(os.getpid()))
        code = code.replace("sectest", f"sectest{os.getpid()}")
        code = code.replace("'DATA_FILE'", "DATA_FILE").replace("DATA_FILE", repr(str(traps.file)))
        began_s = time.monotonic()
        answer: dict[str, Any] = {"name": job["name"], "result": None, "error": "", "stdout": ""}
        try:
            if job["kind"] == "plot":
                plotted = await analysis.plot(data, code, limit_s=job["limit_s"])
                answer["result"] = f"picture of {len(plotted.inline)} bytes"
            else:
                analyzed = await analysis.analyze(data, code, limit_s=job["limit_s"])
                answer |= {"result": analyzed.result, "stdout": analyzed.stdout}
        except AnalysisError as error:
            answer["error"] = f"{type(error).__name__}: {error}"
        answers.append(answer | {"took_s": time.monotonic() - began_s, "touched": traps.touched()})
    return answers


async def report(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Everything that is asked, and what is left of it."""
    traps = Traps(folder)
    async with Analysis(folder / "analysis") as analysis:
        await analysis.warm()
        pid = analysis.pids["analysis"]
        layers = analysis.layers
        await run(analysis, task["jobs"][:3], traps)
        descriptors = [len(os.listdir(f"/proc/{each}/fd")) for each in (os.getpid(), pid)]
        before = {
            "descriptors": descriptors,
            "own_bytes": own_bytes(pid),
            "files": files(),
            "processes": processes(pid),
        }
        answers = await run(analysis, task["jobs"], traps)
        same = analysis.pids["analysis"] == pid
        descriptors = [len(os.listdir(f"/proc/{each}/fd")) for each in (os.getpid(), pid)]
        after = {"descriptors": descriptors, "own_bytes": own_bytes(pid), "files": files(), "processes": processes(pid)}
    traps.close()
    return {
        "answers": answers,
        "before": before,
        "after": after,
        "same": same,
        "layers": layers,
        "left": processes(pid),
    }


def main() -> None:
    """One report on standard output."""
    task = json.load(sys.stdin)
    if os.geteuid() == 0:
        own_room()
    folder = Path(task["folder"])
    folder.mkdir(exist_ok=True)
    if task["uid"] is not None:
        os.chown(folder, task["uid"], task["uid"])
        become(task["uid"])
    if task["less"]:
        take_layers_away()
    print(json.dumps(asyncio.run(report(task, folder))))  # noqa: T201 - that is its answer


if __name__ == "__main__":
    main()
