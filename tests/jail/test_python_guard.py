"""The filter of system calls as a program, its tables, and what a weakened jail makes of itself."""

import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.jail import guard, seccomp
from gateway.jail.analysis import Analysis, AnalysisOff, CodeFailed
from gateway.jail.seccomp import KEEPER, PYTHON, READER, Profile

ALLOW, KILL, EPERM, ENOSYS = "allow", "kill", "EPERM", "ENOSYS"
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
COLUMN = {"x86_64": 0, "aarch64": 1}


def judge(profile: Profile, machine: str, number: int, *arguments: int, arch: int | None = None) -> str:
    """What the kernel would answer: a reading of <linux/filter.h>, as far as the filters use it."""
    six = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("=IIQ6Q", number, AUDIT[machine] if arch is None else arch, 0, *six)
    program = seccomp.program(profile, machine)
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at = accumulator = 0
    while True:
        kind, jump, other, value = code[at]
        at += 1
        match kind:
            case 0x20:
                accumulator = struct.unpack_from("=I", data, value)[0]
            case 0x54:
                accumulator &= value
            case 0x15:
                at += jump if accumulator == value else other
            case 0x35:
                at += jump if accumulator >= value else other
            case 0x06:
                return {0x7FFF0000: ALLOW, 0x80000000: KILL, 0x00050001: EPERM, 0x00050026: ENOSYS}[value]
            case _:
                raise AssertionError(kind)


def number(name: str, machine: str) -> int:
    known = seccomp._NUMBERS[name][COLUMN[machine]]
    assert known is not None
    return known


@pytest.mark.parametrize("machine", AUDIT)
def test_what_the_filters_decide(machine: str) -> None:
    def says(profile: Profile, name: str, *arguments: int) -> str:
        return judge(profile, machine, number(name, machine), *arguments)

    assert says(PYTHON, "read") == says(READER, "read") == says(KEEPER, "read") == ALLOW
    assert says(PYTHON, "openat") == says(KEEPER, "openat") == EPERM
    assert says(READER, "openat", 0, 0, os.O_RDONLY | os.O_CLOEXEC) == ALLOW
    for flag in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_APPEND, 0o20000000, 3):
        assert says(READER, "openat", 0, 0, flag) == EPERM
    assert says(READER, "openat2") == ENOSYS
    assert says(READER, "newfstatat") == ALLOW
    assert says(PYTHON, "newfstatat") == EPERM
    for profile in (PYTHON, READER, KEEPER):
        assert says(profile, "mmap", 0, 4096, 3) == says(profile, "mprotect", 0, 4096, 3) == ALLOW
        assert {says(profile, name, 0, 4096, 4 | more) for name in ("mmap", "mprotect") for more in range(4)} == {EPERM}
        assert says(profile, "clone3") == ENOSYS
    threads, fork = 0x3D0F00, 0x1200011
    assert says(READER, "clone", threads) == says(KEEPER, "clone", fork) == ALLOW
    assert {says(PYTHON, "clone", flags) for flags in (threads, fork, 0)} == {EPERM}
    assert says(READER, "clone", fork) == says(KEEPER, "clone", threads) == EPERM
    assert says(KEEPER, "clone", fork | 0x10000000) == EPERM
    assert says(PYTHON, "prlimit64", 0, 3, 0, 99) == ALLOW
    assert says(PYTHON, "prlimit64", 0, 3, 1 << 40, 99) == says(PYTHON, "prlimit64", 1, 3, 0) == EPERM
    assert says(PYTHON, "kill") == says(READER, "kill") == EPERM


@pytest.mark.parametrize("machine", AUDIT)
@pytest.mark.parametrize("profile", [PYTHON, READER, KEEPER], ids=lambda each: each.name)
def test_nothing_else_is_allowed(machine: str, profile: Profile) -> None:
    """Of all numbers only those that are named; another architecture's entry and x32 end the process."""
    named = {seccomp._NUMBERS[name][COLUMN[machine]] for name in profile.free | set(profile.checked)}
    open_ = {each for each in range(1024) if judge(profile, machine, each, 0, 0, 0) == ALLOW}
    assert open_ <= named
    assert judge(profile, machine, 0, arch=0x40000003) == KILL
    if machine == "x86_64":
        assert judge(profile, machine, 0x40000000) == judge(profile, machine, 0x40000000 | 59) == KILL


def confined(program: str, profile: str = "READER", *more: str) -> subprocess.CompletedProcess[str]:
    """A child that confines itself and then runs `program`."""
    text = (
        "import os, sys, threading, socket, mmap, ctypes\nfrom gateway.jail import guard\n"
        f"guard.confine(guard.{profile}, guard.Limits(4 << 30, descriptors=32, processes=None), (0, 1, 2),"
        f" parent=os.getppid(), {', '.join(more)})\n{program}"
    )
    return subprocess.run([sys.executable, "-I", "-c", text], capture_output=True, text=True, check=False)


def test_a_reader_reads_and_does_no_more(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_text("words", encoding="utf-8")
    tmp_path.chmod(0o755)
    done = confined(
        f"assert open({str(file)!r}).read() == 'words'\n"
        "thread = threading.Thread(target=print, args=('thread',)); thread.start(); thread.join()\n"
        "def refused(call, *arguments):\n"
        "    try: call(*arguments)\n"
        "    except PermissionError: return True\n"
        f"name = {str(file)!r}\n"
        "for flags in (os.O_RDWR, os.O_WRONLY | os.O_CREAT, os.O_RDONLY | os.O_TRUNC, os.O_RDONLY | os.O_CREAT):\n"
        "    assert refused(os.open, name, flags), flags\n"
        "for call in (os.unlink, os.rmdir, os.mkdir, lambda name: os.rename(name, name + 'x'), os.listxattr,\n"
        "             lambda name: os.link(name, name + 'x'), lambda name: os.symlink(name, name + 'x'),\n"
        "             lambda name: os.truncate(name, 0), lambda name: os.chmod(name, 0), lambda name: os.utime(name),\n"
        "             lambda name: os.execv(name, [name]), lambda _: os.fork(), lambda _: socket.socket(),\n"
        "             lambda _: os.kill(os.getppid(), 0), lambda _: mmap.mmap(-1, 4096, prot=5), os.chdir):\n"
        "    assert refused(call, name), call\n"
        "said = open('/proc/self/status').read().splitlines()\n"
        "assert {'CapEff:\\t' + '0' * 16, 'CapPrm:\\t' + '0' * 16, 'NoNewPrivs:\\t1'} <= set(said), said\n"
        f"assert {os.geteuid()} or 'CapBnd:\\t' + '0' * 16 in said, said\n"
        "import resource as r\n"
        "assert {r.getrlimit(each) for each in (r.RLIMIT_FSIZE, r.RLIMIT_CORE, r.RLIMIT_MEMLOCK)} == {(0, 0)}\n"
        "assert r.getrlimit(r.RLIMIT_NOFILE) == (32, 32) and r.getrlimit(r.RLIMIT_AS) == (4 << 30, 4 << 30)\n"
        "print('done')",
        "READER",
        "keep_user=True",
        "landlock=False",
    )
    assert done.stdout.split() == ["thread", "done"], done.stderr
    assert file.read_text(encoding="utf-8") == "words"


def test_a_reader_of_one_folder_sees_no_other(tmp_path: Path) -> None:
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").write_text(name, encoding="utf-8")
    done = confined(
        f"print(open({str(tmp_path / 'mine' / 'data')!r}).read())\n"
        f"try: print(open({str(tmp_path / 'other' / 'data')!r}).read())\nexcept PermissionError: print('refused')",
        "READER",
        "keep_user=True",
        f"readable=({str(tmp_path / 'mine')!r},)",
    )
    if guard._libc().syscall(444, None, 0, 1) < 1:
        pytest.skip("this kernel has no Landlock")
    assert done.stdout.split() == ["mine", "refused"], done.stderr


def test_only_what_is_kept_stays_open() -> None:
    """Also where the lowest is kept: of an empty range Python's closerange makes everything."""
    for keep in ((0, 1, 2), (1, 2, 7), (2,)):
        program = (
            "import os\nfrom gateway.jail import guard\nos.dup2(1, 7)\nos.dup2(1, 900)\n"
            f"guard.close_others({keep})\nopen_ = []\n"
            "for each in range(1000):\n"
            "    try: os.fstat(each)\n    except OSError: continue\n    open_.append(each)\n"
            "os.write(2, repr(open_).encode())"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.stderr == repr(list(keep))


WEAK = {
    "no filter": ("seccomp.install = lambda profile: None", "list files"),
    "the reader's filter": ("guard.PYTHON = allowing(*seccomp.READER.free, 'open', 'openat')", "list files"),
    "opens": ("guard.PYTHON = allowing('openat')", "open a file"),
    "looks": ("guard.PYTHON = allowing('newfstatat', 'stat')", "look at a file"),
    "forks": ("guard.PYTHON = allowing('clone')\nguard.limit = limits(resource.RLIMIT_NPROC)", "fork"),
    "threads": (
        "guard.PYTHON = allowing('clone')\nguard.limit = limits(resource.RLIMIT_NPROC)",
        "start a thread",
    ),
    "signals": ("guard.PYTHON = allowing('kill')", "signal others"),
    "code": ("guard.PYTHON = allowing('mmap')", "make code"),
    "limits": ("guard.PYTHON = allowing('prlimit64')", "set limits"),
    "namespaces": ("guard.PYTHON = allowing('unshare')", "leave the namespace"),
    "no limit of memory": ("guard.limit = limits(resource.RLIMIT_AS)", "take too much memory"),
    "open files": ("guard.close_others = lambda keep: None", "find open files"),
    "root": ("guard.drop_privileges = lambda: ()\nimport ctypes; ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)", "be root"),
}
HELPERS = """
import resource, sys
from dataclasses import replace
from gateway.jail import guard, seccomp, zygote
guard.deny_files = lambda readable=(): False
def allowing(*names):
    def more(profile):
        checked = {name: rule for name, rule in profile.checked.items() if name not in names}
        return replace(profile, free=profile.free | set(names), checked=checked)
    guard.KEEPER = more(seccomp.KEEPER)  # the zygote's own filter binds its children too
    return more(seccomp.PYTHON)
def limits(*but):
    def limit(limits):
        for which, value in ((resource.RLIMIT_AS, limits.memory_bytes), (resource.RLIMIT_NPROC, 0)):
            if which not in but: resource.setrlimit(which, (value, value))
    return limit
"""


@pytest.mark.parametrize("weakness", WEAK)
async def test_a_jail_that_does_not_hold_is_never_used(weakness: str, tmp_path: Path) -> None:
    change, attack = WEAK[weakness]
    if weakness == "root" and os.geteuid() != 0:
        pytest.skip("only root can stay root")
    program = tmp_path / "weak.py"
    program.write_text(f"{HELPERS}\n{change}\nsys.exit(zygote.main())", encoding="utf-8")
    async with Analysis(tmp_path, zygote=program) as analysis:
        assert analysis.unavailable == ""
        why = await analysis.check()
        assert "the jail does not hold; code could:" in why
        assert attack in why
        assert "the jail does not hold" in analysis.unavailable
        with pytest.raises(AnalysisOff, match="the jail does not hold"):
            await analysis.call("def f(): return 1", "f", {})
        assert analysis.counts["functions"].started == 1
        assert not analysis.pids


async def test_a_probe_that_was_not_made_is_no_proof(tmp_path: Path) -> None:
    for change in (
        'from gateway.jail import probe\nprobe.CODE = \'def attack(**more): return {"held": [], "broken": []}\'',
        "from gateway.jail import probe\nprobe.CODE = 'import os\\nos._exit(0)'",
        "from gateway.jail import probe\nprobe.CODE = '1/0'",
    ):
        program = tmp_path / "weak.py"
        program.write_text(f"{HELPERS}\n{change}\nsys.exit(zygote.main())", encoding="utf-8")
        async with Analysis(tmp_path, zygote=program) as analysis:
            assert "the jail could not be tried" in await analysis.check()
            assert analysis.calls_unavailable


async def test_every_other_system_call_is_refused(tmp_path: Path) -> None:
    """All numbers up to 600, as the kernel answers them in a real child. Newer kernels pass 335 and 336 (x86-64, for
    their own probes) by every filter; called by anybody else they do nothing."""
    free = {seccomp.number(name) for name in PYTHON.free | set(PYTHON.checked) if seccomp._NUMBERS[name][0] is not None}
    free |= {335, 336}
    code = (
        "import ctypes\nl=ctypes.CDLL(None,use_errno=True)\n"
        "def f(skip):\n  found=[]\n  for n in range(600):\n    if n in skip: continue\n"
        "    if l.syscall(n,-1,-1,-1,-1,-1,-1)!=-1 or ctypes.get_errno() not in (1,38): found.append(n)\n  return found"
    )
    async with Analysis(tmp_path) as analysis:
        assert await analysis.call(code, "f", {"skip": sorted(free)}, limit_s=60) == []
        with pytest.raises(CodeFailed, match="SIGSYS"):
            await analysis.call("import ctypes\ndef f(): ctypes.CDLL(None).syscall(0x40000000)", "f", {}, limit_s=60)


def test_a_machine_without_a_table_is_refused() -> None:
    with pytest.raises(KeyError):
        seccomp.program(replace(PYTHON, name="x"), "mips")
    assert guard.unsupported() == ""
