"""What a child does to itself before it touches anything foreign: limits, idle priority, no privileges, no files, a
filter of its system calls. Standard library and ctypes only; each layer stands by itself.

The layers that every kernel has (limits, no_new_privs, the filter) must come true or `GuardError` is raised; Landlock
and namespaces come on top where there are any, and the answer says which.
"""

import contextlib
import ctypes
import os
import resource
import signal
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.child import yield_the_medium
from gateway.jail import seccomp
from gateway.jail.seccomp import KEEPER, PYTHON, READER, Profile

__all__ = ["KEEPER", "PYTHON", "READER", "GuardError", "Limits", "Profile", "confine", "die_with", "unsupported"]

NOBODY = 65534  # the overflow user: owns nothing
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 4, 24, 38, 47
_NEWUTS, _NEWIPC, _NEWUSER, _NEWNET = 0x04000000, 0x08000000, 0x10000000, 0x40000000  # <linux/sched.h>
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # everywhere the same
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3  # <linux/landlock.h>

unsupported = seccomp.unsupported


class GuardError(RuntimeError):
    """A layer that must stand does not; nothing foreign may run in this process."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`memory_bytes`: address space; `cpu_s`: processor time, then SIGKILL (None: the owner's clock decides);
    `descriptors`: open at once; `processes` of this user (None where the child runs threads)."""

    memory_bytes: int
    cpu_s: int | None = None
    descriptors: int = 16
    processes: int | None = 0


def confine(
    profile: Profile,
    limits: Limits,
    keep: Iterable[int],
    *,
    parent: int,
    readable: Sequence[str] = (),
    keep_user: bool = False,
    landlock: bool = True,
) -> tuple[str, ...]:
    """All layers in their order; the names of those that stand. After it only `keep` is open, and nothing comes back.

    `parent` is who started this process. `readable`: folders and files that Landlock leaves open for reading; (): none.
    `keep_user`: root stays user 0 without any capability, because the files to read are root's alone.
    """
    step_back()
    close_others(keep)
    stand = ["limits", *drop_privileges(keep_user=keep_user)]
    die_with(parent)  # after the change of user, which forgets it
    limit(limits)
    if landlock and deny_files(readable):
        stand.append("landlock")
    try:
        seccomp.install(profile)
    except OSError as error:
        raise GuardError(str(error)) from error
    return (*stand, f"seccomp {profile.name}")


def die_with(parent: int) -> None:
    """Get SIGKILL when the parent ends, however it ends; exit now if it has already."""
    _must(_libc().prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(0)


def step_back() -> None:
    """Whatever else wants the processor or the medium goes first, and where memory runs out this process ends first.
    What the kernel refuses is left out."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 19)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="utf-8") as file:
        file.write("1000")
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    yield_the_medium()


def close_others(keep: Iterable[int]) -> None:
    """Every descriptor but `keep`."""
    low = 0
    for each in sorted(set(keep)):
        if each > low:  # of an empty range Python 3.11 makes "all of them"
            os.closerange(low, each)
        low = each + 1
    os.closerange(low, max(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 16))


def limit(limits: Limits) -> None:
    """Hard limits: nothing raises them again."""
    wanted = {
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: limits.descriptors,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_CPU: limits.cpu_s,
        resource.RLIMIT_NPROC: limits.processes,
    }
    for which, value in wanted.items():
        if value is not None:
            hard = resource.getrlimit(which)[1]
            most = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (most, most))


def drop_privileges(*, keep_user: bool = False) -> tuple[str, ...]:
    """Away from the machine's network and shared memory where the kernel lets us, then no way up: root becomes nobody
    (unless `keep_user`), no capability, no_new_privs. What stands; GuardError where a step that must is refused."""
    libc = _libc()
    rooms = _NEWNET | _NEWIPC | _NEWUTS
    apart = libc.unshare(rooms) == 0  # root's way
    for capability in range(64):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # refused without CAP_SETPCAP: nothing to drop then
    stand = ["nobody"] if os.geteuid() == 0 and not keep_user and _become_nobody() else []
    apart = apart or libc.unshare(rooms | _NEWUSER) == 0  # everybody else's, where it is allowed
    libc.prctl(_PR_CAP_AMBIENT, 4, 0, 0, 0)  # 4: PR_CAP_AMBIENT_CLEAR_ALL
    header = struct.pack("II", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    _must(libc.capset(header, bytes(24)), "capset")
    _must(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    return (*stand, *(["namespaces"] if apart else []), "no_new_privs")


def deny_files(readable: Sequence[str] = ()) -> bool:
    """Landlock: no file, no connection, no signal to others; `readable` stays open for reading. False: no Landlock."""
    libc = _libc()
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, 1)  # 1: LANDLOCK_CREATE_RULESET_VERSION
    if version < 1:
        return False
    files = (1 << 13) - 1 | sum(1 << bit for since, bit in ((2, 13), (3, 14), (5, 15)) if version >= since)
    attributes = struct.pack("QQQ", files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    attributes = attributes[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = libc.syscall(_LANDLOCK_CREATE, attributes, len(attributes), 0)
    _must(min(rules, 0), "landlock_create_ruleset")
    try:
        for path in readable:
            _allow(libc, rules, path)
        _must(libc.syscall(_LANDLOCK_RESTRICT, rules, 0), "landlock_restrict_self")
    finally:
        os.close(rules)
    return True


def show(*, seen: bool) -> None:
    """Whether other processes of this user may look into this one (its memory's size, for a start)."""
    _must(_libc().prctl(_PR_SET_DUMPABLE, int(seen), 0, 0, 0), "prctl(PR_SET_DUMPABLE)")


def _allow(libc: ctypes.CDLL, rules: int, path: str) -> None:
    below = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rights = _READ_FILE | _READ_DIR if os.path.isdir(path) else _READ_FILE
        rule = struct.pack("=Qi", rights, below)  # struct landlock_path_beneath_attr, packed
        _must(libc.syscall(_LANDLOCK_ADD, rules, 1, rule, 0), f"landlock_add_rule({path})")
    finally:
        os.close(below)


def _become_nobody() -> bool:
    """False for the root of a user namespace that maps nobody else: outside of it this is an ordinary user."""
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError as error:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            mapped = sum(int(line.split()[2]) for line in file)
        if mapped > 1:
            raise GuardError(f"root cannot become nobody: {error}") from error
        return False
    return True


def _must(code: int, what: str) -> None:
    if code != 0:
        raise GuardError(f"{what}: {os.strerror(ctypes.get_errno())}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
