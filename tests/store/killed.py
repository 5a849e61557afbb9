"""Does something again and again and is killed at each of its steps: `python -m tests.store.killed SCENARIO FOLDER`.

A step is a file that is opened to write, linked, renamed, cut or removed, or a folder that is made or removed. Some
kills come in the midst of a write, when a file has reached a size. Each trial is a process of its own (a fork, for a
start costs half a second) and works on fresh copies; another one looks at what is left. Prints how many kills there
were; what a look finds wrong ends it with a traceback.
"""

import asyncio
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from gateway.store.backups import vault
from gateway.store.errors import BackupError
from tests.store.archives import PASSPHRASE, bring_back, contents, identity, opened, verify, write

STEPS = frozenset({"os.link", "os.rename", "os.truncate", "os.remove", "os.mkdir", "os.rmdir"})
MOST = 200
SIZES = (100, 1_000, 50_000, 1_000_000)


def kill_at(number: int) -> None:
    """From now on, kill this process before its step of this number (from 1)."""
    count = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in STEPS or writes:
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def kill_at_size(size: int) -> None:
    """From now on, kill this process when a file of its becomes larger."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def forked(work: Callable[[], None]) -> int:
    """Do this in a process of its own: 0 done, 9 killed, 1 failed (with words on standard error)."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - whatever it is, the parent has to know
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def backing_up(folder: Path, target: str) -> tuple[Callable[[], None], Callable[[bool], None]]:
    """A second backup to where one is: `first` and `second` are snapshots, `data` is what they were taken of."""
    place, data = folder / "trial" / target, contents(folder / "data")
    before, after = (len(list((folder / name / "segments").iterdir())) for name in ("first", "second"))
    assert before != after

    def work() -> None:
        write(folder / "second", f"{folder}/trial/{target}", PASSPHRASE, identity(folder / "data"))

    def look(done: bool) -> None:
        found = verify(place, PASSPHRASE)
        assert sum(each.name.startswith("segments") for each in found.entries) in ({after} if done else {before, after})
        assert contents(folder / "data") == data

    return work, look


def first_backup(folder: Path, target: str) -> tuple[Callable[[], None], Callable[[bool], None]]:
    """A backup to where nothing is but what earlier kills left: there is none, or a whole one."""
    place = folder / "trial" / target

    def work() -> None:
        write(folder / "second", f"{folder}/trial/{target}", PASSPHRASE, identity(folder / "data"))

    def look(done: bool) -> None:
        try:
            verify(place, PASSPHRASE)
        except BackupError as error:
            assert "there is no backup" in str(error) or "never finished" in str(error), error  # noqa: PT017
            assert not done
        assert not done or not [name for name in contents(folder / "trial") if ".part" in name]

    return work, look


def restoring(folder: Path, target: str) -> tuple[Callable[[], None], Callable[[bool], None]]:
    """A restore of `target` over other data, or to where nothing is."""
    place, data = folder / target, folder / "trial" / "data"
    wanted = asyncio.run(opened(_copied(folder / "data", folder / "look")))
    files = contents(folder / "old") if (folder / "old").exists() else {}

    def work() -> None:
        bring_back(place, data, passphrase=PASSPHRASE, force=bool(files))

    def look(done: bool) -> None:
        signs = (".restore-ready", ".restore-moving", ".restore-old", "before-restore-1")
        decided = done or any((data / name).exists() for name in signs)
        if not decided and files:
            assert {name: data for name, data in contents(data).items() if not name.startswith(".")} == files
            return
        if not decided and not (data / "hot.duckdb").exists():
            return
        assert asyncio.run(opened(data)) == wanted
        assert not [each.name for each in data.iterdir() if each.name.startswith(".")]
        if files:
            assert contents(data / "before-restore-1") == files
            assert (data / "identity" / "id").read_text() == "id of data\n"

    return work, look


def _copied(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))


SCENARIOS = {
    "folder": (backing_up, "backup/"),
    "tar": (backing_up, "backup.tar"),
    "new-folder": (first_backup, "new/"),
    "new-tar": (first_backup, "new.tar"),
    "restore": (restoring, "backup.tar"),
    "new-restore": (restoring, "backup.tar"),
}


def main(scenario: str, folder: Path) -> int:
    vault.COST = 1 << 4
    kind, target = SCENARIOS[scenario]
    work, look = kind(folder, target)
    for number in (*(-size for size in SIZES), *range(1, MOST)):
        if number == -SIZES[0] or kind is not first_backup:
            _copied(folder / "start", folder / "trial")

        def trial(number: int = number) -> None:
            kill_at(number) if number > 0 else kill_at_size(-number)
            work()

        how = forked(trial)
        done = how == 0
        if how == 1 or (done and number < 0) or forked(lambda done=done: look(done)):  # type: ignore[misc]
            print(f"at step {number}: {how}", file=sys.stderr)  # noqa: T201
            return 1
        if done:
            print(number - 1)  # noqa: T201
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
