"""System-call filters by hand: which calls a confined process may make, as a BPF program for seccomp(2).

Standard library only. Numbers are those of <asm/unistd_64.h> and <asm-generic/unistd.h>. Whatever is not listed fails
with EPERM; a call of another architecture (32-bit entry, x32) ends the process.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

_NUMBERS: Mapping[str, tuple[int | None, int | None]] = {  # name: (x86-64, aarch64)
    "read": (0, 63), "write": (1, 64), "open": (2, None), "close": (3, 57), "stat": (4, None), "fstat": (5, 80),
    "lstat": (6, None), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215),
    "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "pread64": (17, 67), "readv": (19, 65), "writev": (20, 66), "access": (21, None), "sched_yield": (24, 124),
    "mremap": (25, 216), "madvise": (28, 233), "nanosleep": (35, 101), "recvmsg": (47, 212), "getpid": (39, 172),
    "clone": (56, 220),
    "wait4": (61, 260), "kill": (62, 129), "fcntl": (72, 25), "getcwd": (79, 17), "readlink": (89, None),
    "gettimeofday": (96, 169), "getrusage": (98, 165), "sysinfo": (99, 179), "times": (100, 153), "getuid": (102, 174),
    "getgid": (104, 176), "geteuid": (107, 175), "getegid": (108, 177), "getppid": (110, 173),
    "sigaltstack": (131, 132), "statfs": (137, 43), "fstatfs": (138, 44), "prctl": (157, 167), "gettid": (186, 178),
    "time": (201, None), "futex": (202, 98), "sched_getaffinity": (204, 123), "getdents64": (217, 61),
    "restart_syscall": (219, 128), "fadvise64": (221, 223), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115), "exit": (60, 93), "exit_group": (231, 94), "openat": (257, 56),
    "newfstatat": (262, 79), "readlinkat": (267, 78), "faccessat": (269, 48), "ppoll": (271, 73), "poll": (7, None),
    "set_robust_list": (273, 99), "get_robust_list": (274, 100), "preadv": (295, 69), "prlimit64": (302, 261),
    "getcpu": (309, 168), "seccomp": (317, 277), "getrandom": (318, 278), "membarrier": (324, 283),
    "statx": (332, 291), "rseq": (334, 293), "clone3": (435, 435), "faccessat2": (439, 439),
    "setgroups": (116, 159), "setresuid": (117, 147), "setresgid": (119, 149), "capset": (126, 91),
    "ioprio_set": (251, 30), "unshare": (272, 97), "close_range": (436, 436),
    "pipe2": (293, 59), "dup2": (33, None), "dup3": (292, 24), "sched_getscheduler": (145, 120), "openat2": (437, 437),
}  # fmt: skip
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # <linux/audit.h>, AUDIT_ARCH_*
_X32 = 0x40000000

_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06  # <linux/bpf_common.h>
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000  # <linux/seccomp.h>
_SET_MODE_FILTER, _TSYNC = 1, 1

_LOW = 0xFFFFFFFF
_PROT_EXEC = 4
_CLONE_THREAD = 0x00010000 | 0x00000100  # CLONE_THREAD | CLONE_VM
_CLONE_APART = 0x7E020000 | _CLONE_THREAD  # CLONE_NEW*
_OPEN_WRITES = 0o3 | 0o100 | 0o1000 | 0o2000 | 0o20000000  # ACCMODE, CREAT, TRUNC, APPEND, TMPFILE (0: O_RDONLY)


@dataclass(frozen=True, slots=True)
class Check:
    """`argument & mask == value`, all of them as unsigned 64 bits."""

    argument: int
    mask: int
    value: int


@dataclass(frozen=True, slots=True)
class Profile:
    """`free` may be called at will, `checked` where one of the alternatives holds (all checks of it), `absent` fails
    with ENOSYS (so that libc falls back), everything else with EPERM."""

    name: str
    free: frozenset[str]
    checked: Mapping[str, tuple[tuple[Check, ...], ...]] = field(default_factory=dict)
    absent: frozenset[str] = frozenset({"clone3"})


def _calls(names: str) -> frozenset[str]:
    return frozenset(names.split())


_NOT_EXECUTABLE = ((Check(2, _PROT_EXEC, 0),),)
_OWN_LIMITS_READ = ((Check(0, _LOW, 0), Check(2, 0xFFFFFFFFFFFFFFFF, 0)),)
_MEMORY = {"mmap": _NOT_EXECUTABLE, "mprotect": _NOT_EXECUTABLE, "prlimit64": _OWN_LIMITS_READ}
_BASE = _calls(
    "read write readv writev close lseek fstat munmap mremap brk madvise rt_sigaction rt_sigprocmask rt_sigreturn "
    "sigaltstack futex clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time getpid gettid getppid "
    "getuid geteuid getgid getegid getrandom exit exit_group sched_yield sched_getaffinity getrusage times "
    "restart_syscall membarrier rseq set_robust_list get_robust_list getcpu"
)

PYTHON = Profile("python", _BASE, _MEMORY)
"""For what an assistant wrote: compute, read and write what is open, nothing else. No thread, no file, no socket."""

READER = Profile(
    "reader",
    _BASE
    | _calls(
        "pread64 preadv stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getcwd getdents64 "
        "statfs fstatfs fadvise64 sysinfo poll ppoll"
    ),
    {
        **_MEMORY,
        "open": ((Check(1, _OPEN_WRITES, 0),),),
        "openat": ((Check(2, _OPEN_WRITES, 0),),),
        "clone": ((Check(0, _CLONE_THREAD, _CLONE_THREAD),),),
        "fcntl": tuple((Check(1, _LOW, command),) for command in (1, 2, 3, 1030)),  # GETFD SETFD GETFL DUPFD_CLOEXEC
    },
    frozenset({"clone3", "openat2"}),
)
"""For a process that reads files and runs threads: opens for reading only, no write-like call on a name, no socket, no
program, no second process. `openat2` is refused because its flags stand behind a pointer."""

KEEPER = Profile(
    "keeper",
    _BASE | _calls("wait4 kill pipe2 dup2 dup3 close_range poll ppoll prctl prlimit64 seccomp sched_getscheduler"),
    {"mmap": _NOT_EXECUTABLE, "mprotect": _NOT_EXECUTABLE, "clone": ((Check(0, _CLONE_APART, 0),),)},
)
"""For a zygote: forks (no thread, no namespace), ends its children, narrows itself further; opens nothing."""


class NoFilter(OSError):
    """This machine or kernel cannot filter system calls; nothing foreign may run."""


def unsupported() -> str:
    """Why no filter can be had here; "" where it can (asks the kernel, changes nothing)."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _MACHINES or struct.calcsize("P") != 8:
        return f"{sys.platform} on {machine} ({8 * struct.calcsize('P')} bit): a system-call filter needs 64-bit Linux"
    action = ctypes.c_uint32(_KILL)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number("seccomp"), 2, 0, ctypes.byref(action)) != 0:  # 2: SECCOMP_GET_ACTION_AVAIL
        return f"this kernel has no system-call filter ({os.strerror(ctypes.get_errno())})"
    return ""


def number(name: str) -> int:
    """Of a system call on this machine; NoFilter where it has none."""
    column, _ = _machine()
    found = _NUMBERS[name][column]
    if found is None:
        raise NoFilter(errno.ENOSYS, f"no system call {name} on {platform.machine()}")
    return found


def program(profile: Profile, machine: str) -> bytes:
    """The filter as <linux/filter.h> wants it: 8 bytes an instruction (pure; `machine` as uname says it)."""
    column, audit = _MACHINES[machine]
    code = [
        (_LOAD, 0, 0, 4),  # seccomp_data.arch
        (_EQUAL, 1, 0, audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # seccomp_data.nr
    ]
    if machine == "x86_64":
        code += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    ends = [(name, _ALLOW) for name in sorted(profile.free)]
    ends += [(name, _ERRNO | errno.ENOSYS) for name in sorted(profile.absent)]
    for name, end in ends:
        known = _NUMBERS[name][column]
        if known is not None:
            code += [(_EQUAL, 0, 1, known), (_RETURN, 0, 0, end)]
    for name in sorted(profile.checked):
        known = _NUMBERS[name][column]
        if known is not None:
            body = _alternatives(profile.checked[name])
            code += [(_EQUAL, 0, len(body), known), *body]
    code.append((_RETURN, 0, 0, _ERRNO | errno.EPERM))
    return b"".join(struct.pack("=HBBI", *each) for each in code)


def install(profile: Profile) -> None:
    """From here on this process and whatever it makes is held to `profile`, for ever; no_new_privs must be set."""
    _machine()
    text = program(profile, platform.machine())
    instructions = ctypes.create_string_buffer(text, len(text))
    header = struct.pack("HxxxxxxP", len(text) // 8, ctypes.addressof(instructions))  # struct sock_fprog
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number("seccomp"), _SET_MODE_FILTER, _TSYNC, header) != 0:
        raise NoFilter(ctypes.get_errno(), f"seccomp({profile.name}): {os.strerror(ctypes.get_errno())}")


def _machine() -> tuple[int, int]:
    known = _MACHINES.get(platform.machine())
    if known is None or struct.calcsize("P") != 8:
        raise NoFilter(errno.ENOSYS, f"no system-call filter for {platform.machine()}")
    return known


def _alternatives(alternatives: tuple[tuple[Check, ...], ...]) -> list[tuple[int, int, int, int]]:
    """Allow where one alternative holds, else EPERM; ends in every case."""
    code: list[tuple[int, int, int, int]] = []
    for checks in alternatives:
        tests: list[tuple[int, int, int]] = []  # offset, mask, value of each half that counts
        for check in checks:
            offset = 16 + 8 * check.argument  # seccomp_data.args
            halves = (
                (offset, check.mask & _LOW, check.value & _LOW),
                (offset + 4, check.mask >> 32, check.value >> 32),
            )
            tests += [each for each in halves if each[1]]
        for index, (offset, mask, value) in enumerate(tests):
            left = 3 * (len(tests) - index - 1) + 1  # over the tests that follow and the return
            code += [(_LOAD, 0, 0, offset), (_AND, 0, 0, mask), (_EQUAL, 0, left, value)]
        code.append((_RETURN, 0, 0, _ALLOW))
    code.append((_RETURN, 0, 0, _ERRNO | errno.EPERM))
    return code
