"""Damaged files: what can be put right is, nothing is deleted, and an event names what is missing."""

import asyncio
import shutil
import sys
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest

from gateway.store import queries
from gateway.store.db import Store
from gateway.store.engine import Engine
from gateway.store.errors import StoreDamaged, StoreTooNew
from gateway.store.mend import repair, wal
from gateway.store.note import LockFile, Note, Phase
from tests.store.builders import T0
from tests.store.damage import FOLDED, Crashed, batch, crash, laid, opened, stored

BATCHES = 20
ALL = list(range(1, BATCHES + 1))


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Crashed:
    return asyncio.run(crash(tmp_path_factory.mktemp("store"), BATCHES))


def spoil(data: bytes, at: int, size: int = 1) -> bytes:
    """Other bytes from an offset on."""
    return data[:at] + bytes(byte ^ 0x55 for byte in data[at : at + size]) + data[at + size :]


def with_copy(folder: Path) -> Path:
    """Beside the file a good copy as of its last checkpoint."""
    shutil.copy(folder / "hot.duckdb", folder / repair.GOOD_COPY)
    return folder


async def test_the_log_is_as_we_know_it(crashed: Crashed) -> None:
    head = wal.read_head(crashed.folder / "hot.duckdb")
    assert head is not None
    assert head.iterations == head.claimed
    found = wal.walk(crashed.folder / "hot.duckdb.wal", crashed.start, thorough=True)
    assert found.is_clean
    assert set(crashed.ends.values()) <= set(found.commits)
    assert crashed.log[: crashed.start] == wal.Belonging(head.identifier, head.iteration or 0).encode()


async def test_a_clean_stop_leaves_no_log_and_no_doubt(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.append(batch(1))
    assert not (tmp_path / "hot.duckdb.wal").exists()
    lock = LockFile(tmp_path)
    assert (lock.take().batch, lock.note.phase) == (1, Phase.CLOSED)
    assert lock.note.commit_ms > T0.timestamp() - 86_400
    lock.release()


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (b"", Note()),
        (b"       123                    7\n", Note(7, 0, Phase.OPEN)),
        (b"gone to lunch", Note()),
    ],
)
def test_notes_of_earlier_versions(tmp_path: Path, text: bytes, note: Note) -> None:
    (tmp_path / "hot.lock").write_bytes(text)
    lock = LockFile(tmp_path)
    assert lock.take() == note
    lock.committed(8)
    lock.release()
    # An earlier version reads two words in the first 64 bytes, and overwrites 32 of them.
    written = (tmp_path / "hot.lock").read_bytes()
    assert written[:64].split()[1:] == [b"8"]
    (tmp_path / "hot.lock").write_bytes(b"       123                    9\n" + written[32:])
    assert lock.take() == Note(9, 0, Phase.OPEN)
    lock.release()


async def test_the_head_of_the_log_is_written_anew(crashed: Crashed, tmp_path: Path) -> None:
    # DuckDB alone drops the whole log, without a word, for most of these bytes.
    for at in (*range(0, crashed.start - 5, 4), crashed.start - 5, crashed.start - 4, crashed.start - 2):
        found = await opened(laid(crashed, tmp_path / "data", log=spoil(crashed.log, at)))
        assert (found.stored, found.lost, found.kinds) == (ALL, None, ["store_repaired"]), at
        assert found.left == {"hot.duckdb.wal.damaged-1"}


async def test_a_log_of_another_state_of_the_file_is_not_replayed(crashed: Crashed, tmp_path: Path) -> None:
    # The last byte of the head but two is the number of the checkpoint.
    found = await opened(laid(crashed, tmp_path / "data", log=spoil(crashed.log, crashed.start - 3)))
    assert (found.stored, found.lost) == (ALL[:FOLDED], (FOLDED + 1, BATCHES))
    folder = laid(crashed, tmp_path / "data", log=spoil(crashed.log, crashed.start - 3))
    assert repair.look_at_log(folder / "hot.duckdb") is None  # it is the engine that refuses it
    assert found.left == {"hot.duckdb.wal.damaged-1"}


async def test_an_end_that_was_never_finished_is_no_loss(crashed: Crashed, tmp_path: Path) -> None:
    found = await opened(
        laid(crashed, tmp_path / "data", log=crashed.log + crashed.log[crashed.ends[BATCHES - 1] : -30])
    )
    assert (found.stored, found.lost, found.kinds, found.left) == (ALL, None, ["store_repaired"], frozenset())


async def test_the_end_is_kept_where_the_note_knows_of_more(crashed: Crashed, tmp_path: Path) -> None:
    found = await opened(laid(crashed, tmp_path / "data", log=crashed.log[:-1]))
    assert (found.lost, found.kinds) == ((BATCHES, BATCHES), ["store_loss"])
    assert found.left == {"hot.duckdb.wal.damaged-1"}


@pytest.mark.slow
async def test_a_sound_log_that_cannot_be_replayed_is_cut_by_trying(crashed: Crashed, tmp_path: Path) -> None:
    log = crashed.log
    spoilt = log[: crashed.ends[15]] + table_made_again(tmp_path) + log[crashed.ends[15] :]
    found = await opened(laid(crashed, tmp_path / "data", log=spoilt))
    assert (found.stored, found.lost, found.kinds) == (ALL[:15], (16, BATCHES + 1), ["store_loss"])
    assert (tmp_path / "data" / "hot.duckdb.wal.damaged-1").read_bytes() == spoilt


async def test_a_start_that_did_not_end_is_tried_in_a_child_first(crashed: Crashed, tmp_path: Path) -> None:
    folder = laid(crashed, tmp_path / "data", log=crashed.log + table_made_again(tmp_path))
    lock = LockFile(folder)
    lock.take()
    lock.enter(Phase.OPENING)
    lock.release()
    engine = Engine(folder, 64, 1)
    engine.lock()
    engine.connect()
    mended, _ = engine.mended()
    assert [each.beyond for each in mended] == [1]
    assert "could not be replayed" in mended[0].what
    engine.disconnect()
    engine.unlock()


def test_why_a_file_does_not_open(crashed: Crashed, tmp_path: Path) -> None:
    file = laid(crashed, tmp_path / "data") / "hot.duckdb"
    assert repair.probe(file) is None
    assert repair.probe(file, crashed.ends[FOLDED + 1]) is None
    repair.log_of(file).write_bytes(spoil(crashed.log, crashed.start + 20))
    assert "byte position" in (repair.probe(file) or "")
    hurt(file, "empty")
    assert "not a valid DuckDB database" in (repair.probe(file) or "")


async def test_damage_behind_the_fields_of_a_head_is_undone(crashed: Crashed, tmp_path: Path) -> None:
    for at in (4000, 4096 + 70, 8192 + 2000):
        found = await opened(laid(crashed, tmp_path / "data", file=spoil(crashed.file, at, 9)))
        assert (found.stored, found.lost, found.kinds) == (ALL, None, ["store_repaired"])
        assert found.left == {"hot.duckdb.head.damaged-1"}


@pytest.mark.parametrize("at", [4096 + 20, 8192 + 20])
async def test_a_torn_head_beside_a_copy(crashed: Crashed, tmp_path: Path, at: int) -> None:
    folder = with_copy(laid(crashed, tmp_path / "data"))
    (folder / "hot.duckdb").write_bytes(spoil(crashed.file, at, 300))
    found = await opened(folder)
    assert (found.stored, found.lost, found.kinds) == (ALL, None, ["store_repaired"])


async def test_a_log_of_a_newer_engine_is_not_touched(crashed: Crashed, tmp_path: Path) -> None:
    newer = crashed.log[:5] + b"\x09" + spoil(crashed.log, crashed.start)[6:]
    folder = laid(crashed, tmp_path / "data", log=newer)
    with pytest.raises(StoreTooNew, match="newer gateway"):
        await Store(folder).__aenter__()
    assert repair.log_of(folder / "hot.duckdb").read_bytes() == newer


async def test_a_torn_head_of_the_file(crashed: Crashed, tmp_path: Path) -> None:
    for at in (4096 + 20, 8192 + 20):
        found = await opened(laid(crashed, tmp_path / "data", file=spoil(crashed.file, at, 300)))
        head = wal.read_head(crashed.folder / "hot.duckdb")
        assert head is not None
        old = head.iterations.index(min(each for each in head.iterations if each is not None))
        if at // 4096 - 1 == old:
            assert (found.stored, found.lost, found.kinds) == (ALL, None, ["store_repaired"])
        else:
            assert found.kinds == ["store_loss"]


@pytest.mark.parametrize("damage", ["head", "empty", "missing", "catalog", "block"])
async def test_a_damaged_file_with_a_copy_of_its_checkpoint_loses_nothing(
    crashed: Crashed, tmp_path: Path, damage: str
) -> None:
    folder = with_copy(laid(crashed, tmp_path / "data"))
    hurt(folder / "hot.duckdb", damage)
    found = await opened(folder)
    assert (found.stored, found.lost, found.kinds) == (ALL, None, ["store_repaired"])
    assert "last good copy" in found.events[0].message
    assert "hot.duckdb.damaged-1.wal" in found.left


@pytest.mark.parametrize("damage", ["head", "empty", "missing", "catalog"])
async def test_with_an_older_copy_the_range_that_is_lost_is_named(
    crashed: Crashed, tmp_path: Path, damage: str
) -> None:
    folder = laid(crashed, tmp_path / "data")
    async with Store(tmp_path / "older") as store:
        for number in range(1, 4):
            await store.append(batch(number))
    shutil.copy(tmp_path / "older" / "hot.duckdb", folder / repair.GOOD_COPY)
    hurt(folder / "hot.duckdb", damage)
    found = await opened(folder)
    assert (found.stored, found.lost, found.kinds) == ([1, 2, 3], (4, BATCHES), ["store_loss"])
    assert found.events[0].detail["after"] == (T0 + timedelta(seconds=3)).isoformat()
    assert found.left >= {"hot.duckdb.damaged-1.wal"}


@pytest.mark.parametrize("damage", ["head", "missing"])
async def test_without_any_copy_it_begins_anew_and_says_so(crashed: Crashed, tmp_path: Path, damage: str) -> None:
    folder = laid(crashed, tmp_path / "data")
    hurt(folder / "hot.duckdb", damage)
    found = await opened(folder)
    assert (found.stored, found.lost, found.kinds) == ([], (1, BATCHES), ["store_loss"])
    assert found.left >= {"hot.duckdb.damaged-1.wal"}


async def test_a_copy_is_made_while_the_store_is_open_and_stays_its_own(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    async with Store(tmp_path / "live") as store:
        for number in range(1, 4):
            await store.append(batch(number))
        await store.save_copy()
        for number in range(4, 7):
            await store.append(batch(number))
        code = f"import duckdb; duckdb.connect({str(tmp_path / 'live' / 'hot.duckdb')!r}, read_only=True)"
        other = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE)
        _, complaint = await other.communicate()
        assert b"lock on file" in complaint, "making a copy gave the lock away"
        shutil.copytree(tmp_path / "live", tmp_path / "crashed")
    hurt(tmp_path / "crashed" / "hot.duckdb", "head")
    found = await opened(tmp_path / "crashed")
    assert (found.stored, found.lost, found.kinds) == (list(range(1, 7)), None, ["store_repaired"])


async def test_a_damaged_file_does_not_become_the_good_copy(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        for number in ALL:
            await store.append(batch(number))
        await store.save_copy()
    good = (tmp_path / repair.GOOD_COPY).read_bytes()
    hurt(tmp_path / "hot.duckdb", "block")
    with pytest.raises(duckdb.Error, match="Corrupt"):
        repair.save_copy(tmp_path / "hot.duckdb")
    assert (tmp_path / repair.GOOD_COPY).read_bytes() == good


async def test_without_a_copy_what_can_be_read_is_read(crashed: Crashed, tmp_path: Path) -> None:
    folder = laid(crashed, tmp_path / "data")
    hurt(folder / "hot.duckdb", "block")
    found = await opened(folder)
    assert found.kinds == ["store_loss"]
    assert "damaged blocks" in found.events[0].message
    assert found.left == {"hot.duckdb.damaged-1", "hot.duckdb.damaged-1.wal"}


async def test_damage_that_a_question_finds_is_repaired_at_once(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        for number in ALL:
            await store.append(batch(number))
    with_copy(tmp_path)
    hurt(tmp_path / "hot.duckdb", "block")
    async with Store(tmp_path) as store:
        with pytest.raises(StoreDamaged, match="damaged block"):
            await stored(store)
        assert await stored(store) == ALL
        assert [event.kind for event in await queries.events(store)] == ["store_repaired"]
        assert (await store.append(batch(BATCHES + 1))).stored == 5


def table_made_again(place: Path) -> bytes:
    """A transaction whose records are sound, and that no log of ours can be replayed with: a table made twice."""
    file = place / "again" / "hot.duckdb"
    file.parent.mkdir()
    with duckdb.connect(str(file)) as db:
        db.execute("create table newest (x INTEGER)")
        head = wal.read_head(file)
        assert head is not None
        start = len(wal.Belonging(head.identifier, 0).encode())
        return repair.log_of(file).read_bytes()[start:]


async def test_damage_that_a_start_finds_is_repaired_at_once(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.append(batch(1))
    with_copy(tmp_path)
    hurt(tmp_path / "hot.duckdb", "names")
    async with Store(tmp_path) as store:
        assert await stored(store) == [1]
        assert [event.kind for event in await queries.events(store)] == ["store_repaired"]


def hurt(file: Path, how: str) -> None:
    """Damage a file in one of the ways that media have."""
    data = file.read_bytes()
    match how:
        case "head":
            file.write_bytes(spoil(data, 100, 4))
        case "empty":
            file.write_bytes(b"")
        case "missing":
            file.unlink()
        case "catalog":
            at = data.rindex(b"delivery")
            file.write_bytes(spoil(data, at))
        case "block":
            file.write_bytes(spoil(data, block_of(file, "dated", "reading")))
        case "names":
            file.write_bytes(spoil(data, block_of(file, "series")))


def block_of(file: Path, *tables: str) -> int:
    """An offset within a block that holds rows of these tables."""
    query = "select block_id from pragma_storage_info('{}') where block_id >= 0 limit 1"
    with duckdb.connect(str(file), read_only=True) as db:
        found = [row for table in tables for row in db.execute(query.format(table)).fetchall()]
    return 3 * wal.HEAD_BYTES + int(found[0][0]) * 262_144 + 40
