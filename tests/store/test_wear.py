"""What spares the card: a commit allocates nothing and changes no file's times but the log's."""

import os
from pathlib import Path

from gateway.store.db import Store
from gateway.store.engine import BLOCK_BYTES, LOG_AHEAD_BYTES
from gateway.store.files import reserve
from gateway.store.note import LockFile, Note, Phase
from tests.store.damage import batch

BATCHES = 50
BLOCK = 4096


def allocated(file: Path) -> int:
    return file.stat().st_blocks * BLOCK_BYTES


async def test_the_log_has_blocks_for_what_comes(tmp_path: Path) -> None:
    log = tmp_path / "hot.duckdb.wal"
    async with Store(tmp_path) as store:
        await store.append(batch(1))
        first, size = allocated(log), log.stat().st_size
        assert first - size > LOG_AHEAD_BYTES // 2
        for number in range(2, BATCHES):
            await store.append(batch(number))
        assert log.stat().st_size > size + 4 * BLOCK
        assert allocated(log) - first in (0, BLOCK)  # one where a crowded file system writes down where the parts lie


def test_reserving_leaves_the_end_where_it_is(tmp_path: Path) -> None:
    file = tmp_path / "grows"
    file.write_bytes(b"some")
    assert reserve(file, 1 << 20)
    assert file.read_bytes() == b"some"
    assert allocated(file) >= 1 << 20
    with file.open("ab") as opened:
        opened.write(b"thing")
    assert file.read_bytes() == b"something"


def test_a_note_is_seen_at_once_and_outlives_its_writer(tmp_path: Path) -> None:
    lock = LockFile(tmp_path)
    lock.take()
    lock.enter(Phase.OPEN)
    before = os.stat(tmp_path / "hot.lock")
    for number in range(1, BATCHES):
        lock.committed(number)
        assert (tmp_path / "hot.lock").read_bytes()[:64].split()[1] == str(number).encode()
    after = os.stat(tmp_path / "hot.lock")
    assert (after.st_size, after.st_blocks) == (before.st_size, before.st_blocks)
    lock.release()
    again = LockFile(tmp_path)
    assert again.take() == Note(BATCHES - 1, lock.note.commit_ms, Phase.OPEN)
    again.release()
