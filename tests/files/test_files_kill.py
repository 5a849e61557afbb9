"""kill -9 while files are put and uploaded: what was said to be there is, whole, and nothing is there by half."""

import random
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from gateway.files.files import Files
from gateway.store.db import Store
from tests.files.sender import LIMITS, content, piece
from tests.web.house import HandClock

ROOT = Path(__file__).parent.parent.parent


def send_until_killed(folder: Path, seed: str, lines: int, chance: random.Random) -> list[list[str]]:
    """What the sender said before it was killed, somewhere after so many lines."""
    command = [sys.executable, "-m", "tests.files.sender", str(folder), seed]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "open\n"
            said = [child.stdout.readline() for _ in range(lines)]
            sum(range(chance.randrange(200_000)))  # some idle work instead of a pause
        finally:
            child.kill()
        said += child.stdout.readlines()
    return [line.split() for line in said if line.endswith("\n")]


@pytest.mark.slow
async def test_five_kills(tmp_path: Path) -> None:
    chance = random.Random(5)
    whole: dict[str, str] = {}
    for trial in range(5):
        said = send_until_killed(tmp_path, str(trial), chance.randrange(1, 14), chance)
        begun = {words[1]: words[2] for words in said if words[0] == "begun"}
        here = {words[1]: int(words[2]) for words in said if words[0] == "here"}
        whole |= {words[1]: words[2] for words in said if words[0] in {"put", "done"}}
        folder = tmp_path / "data" / "files"
        async with Store(tmp_path / "data") as store, Files(folder, store, HandClock(), LIMITS) as files:
            for file_id, digest in whole.items():
                _, path = await files.fetch(file_id, "anna")
                assert sha256(path.read_bytes()).hexdigest() == digest
            for file_id, name in begun.items():
                entry, offset = await files.offset(file_id, "anna")
                assert offset >= here.get(file_id, 0)
                if not entry.complete:
                    rest = piece(content(name)[offset:])
                    entry = await files.append(file_id, "anna", offset, rest, complete=True)
                whole[file_id] = sha256(content(name)).hexdigest()
                assert entry.sha256 == whole[file_id]
            # At most one file more than it spoke of, and each of them complete or resumable.
            assert len(list(folder.iterdir())) == files.count <= len(whole) + trial + 1
    assert len(whole) > 10
