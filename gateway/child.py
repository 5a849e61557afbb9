"""Start a program that dies with its parent: `python -m gateway.child PARENT_PID PROGRAM ARGUMENTS…`.

The kernel's parent-death signal (prctl(2), PR_SET_PDEATHSIG) survives exec but not a change of user. It is set here, in
the child, because code between fork and exec may deadlock in a process with threads.
"""

import ctypes
import os
import resource
import signal
import sys

FILES = 16_384
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "armv7l": 314, "armv6l": 314}
_IOPRIO_IDLE = 3 << 13  # <linux/ioprio.h>, IOPRIO_CLASS_IDLE


def die_with_parent(parent: int) -> None:
    """Get SIGTERM when the parent ends, however it ends; exit now if it has already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before the signal was armed
        sys.exit(0)


def take_connections() -> None:
    """Let this process have FILES open where it may: a thousand nodes are a thousand, and 1,024 is the usual limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def yield_the_medium() -> None:
    """Whoever else wants to read or write goes first; nothing on a machine whose number for that is not known."""
    call = _IOPRIO_SET.get(os.uname().machine)
    if call is not None:
        ctypes.CDLL(None).syscall(call, 1, 0, _IOPRIO_IDLE)  # 1: IOPRIO_WHO_PROCESS


def command(*program: str) -> tuple[str, ...]:
    """The command line that runs `program` so; for use by the process that becomes the parent."""
    return (sys.executable, "-m", "gateway.child", str(os.getpid()), *program)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    take_connections()
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - no shell is the point
