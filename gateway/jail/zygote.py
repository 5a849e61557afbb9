"""The process that assistants' code is forked from: it has imported everything once, holds no secret, opens no file.

`python -m gateway.jail.zygote PARENT plain` knows the standard library, `… full CACHE_FOLDER` pandas and matplotlib as
well. It confines itself, attacks its own jail in a real child, and is ready only if every attack failed. Each question
is answered by a child of its own: forked, confined further, killed at its time limit. What the child writes is passed
on unread, beside what the zygote itself saw of its end; so code can forge its own answer and nothing else.
"""

import gc
import math
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn

from gateway.jail import frames, guard, libraries, probe, runner, seccomp

MEMORY_BYTES = 256 << 20
"""Address space of a child beyond what it inherits and its table."""
CHILD_BYTES = frames.ANSWER_BYTES - (1 << 16)
"""What a child may write; the zygote's own words fit beside it."""
PROBE_S = 20.0
_RESULT = 3  # the child's only way out


class Zygote:
    """`prepare` once, then `serve`."""

    def __init__(self, parent: int, known: libraries.Known) -> None:
        self._parent = parent
        self._known = known
        self._nothing = -1
        self._base_bytes = 0

    def prepare(self) -> dict[str, Any]:
        """Confine this process and try the jail; the greeting."""
        try:
            layers = self._confine()
            broken = self._probe()
        except (guard.GuardError, OSError) as error:
            layers, broken = (), str(error)
        if broken:
            return {"ready": False, "unsafe": True, "error": broken}
        return {"ready": True, "layers": layers, "versions": self._known.versions}

    def serve(self) -> None:
        """Answer until the gateway hangs up."""
        while (asked := frames.read(0, 1 << 30)) is not None:
            answer = frames.pack(*self.run(*asked))
            del asked  # tables are not kept while nobody asks
            frames.write(0, answer)
            del answer

    def run(self, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        """(what the zygote saw: end, status, cpu_ms, peak_bytes; what the child wrote, unread)."""
        deadline_s = time.monotonic() + header["limit_s"]
        answer, theirs = os.pipe()
        zygote = os.getpid()
        child = os.fork()
        if child == 0:
            self._be_child(zygote, theirs, header, body)
        os.close(theirs)
        try:
            end, text = _collect(answer, deadline_s)
        finally:
            os.close(answer)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            _, status, used = os.wait4(child, 0)
        seen = {
            "end": end,
            "status": os.waitstatus_to_exitcode(status),
            "cpu_ms": round((used.ru_utime + used.ru_stime) * 1000),
            "peak_bytes": used.ru_maxrss << 10,
        }
        return seen, bytes(text) if end == "done" else b""

    def _confine(self) -> tuple[str, ...]:
        if threading.active_count() > 1 or len(os.listdir("/proc/self/task")) > 1:
            raise guard.GuardError("the zygote has threads: it cannot be forked safely")
        if os.environ.keys() - libraries.ENVIRONMENT.keys() - {"LC_CTYPE"}:  # Python sets LC_CTYPE
            raise guard.GuardError("the zygote was given an environment")
        self._nothing = os.open("/dev/null", os.O_RDWR)
        guard.close_others((0, 1, 2, self._nothing))
        stand = ["limits", *guard.drop_privileges()]
        guard.die_with(self._parent)  # the change of user forgot it
        guard.show(seen="nobody" not in stand)  # a namespace hides it, also from the gateway's own user
        with open("/proc/self/statm", encoding="ascii") as file:
            self._base_bytes = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        if guard.deny_files():
            stand.append("landlock")
        try:
            seccomp.install(guard.KEEPER)
        except OSError as error:
            raise guard.GuardError(str(error)) from error
        gc.collect()
        gc.freeze()  # what is shared with the children stays shared
        return (*stand, f"seccomp {guard.PYTHON.name}")

    def _probe(self) -> str:
        """What the jail lets through, as a line; "" when it holds."""
        header = {"kind": "call", "code": probe.CODE, "function": "attack", "limit_s": PROBE_S}
        header["arguments"] = {"too_much": MEMORY_BYTES * 2, "ours": [0, 1, 2, _RESULT]}
        seen, text = self.run(header, b"")
        return probe.verdict(seen, text)

    def _be_child(self, zygote: int, result: int, header: dict[str, Any], body: bytes) -> NoReturn:
        """Never returns, whatever happens."""
        status = 70
        try:
            guard.die_with(zygote)
            for standard in (0, 1, 2):
                os.dup2(self._nothing, standard)
            os.dup2(result, _RESULT)
            guard.close_others((0, 1, 2, _RESULT))
            guard.show(seen=False)
            most_bytes = self._base_bytes + len(body) + MEMORY_BYTES
            guard.limit(guard.Limits(most_bytes, math.ceil(header["limit_s"]) + 1))
            seccomp.install(guard.PYTHON)
            runner.run(header, body, self._known, _RESULT)
            status = 0
        finally:
            os._exit(status)


def _collect(answer: int, deadline_s: float) -> tuple[str, bytearray]:
    """("done", all that the child wrote until it closed the pipe), or why it is not read any further."""
    text = bytearray()
    waiting = select.poll()
    waiting.register(answer, select.POLLIN)
    while True:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or not waiting.poll(left_s * 1000):
            return "late", text
        piece = os.read(answer, 1 << 16)
        if not piece:
            return "done", text
        text += piece
        if len(text) > CHILD_BYTES:
            return "long", text


def main() -> int:
    """A zygote's life."""
    parent, kind, *rest = sys.argv[1:]
    guard.die_with(int(parent))
    guard.step_back()
    zygote = Zygote(int(parent), libraries.load_full(rest[0]) if kind == "full" else libraries.load_plain())
    greeting = zygote.prepare()
    frames.write(0, frames.pack(greeting))
    if greeting["ready"]:
        zygote.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
