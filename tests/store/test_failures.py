"""What can go wrong with the files: every error names its way out, and nothing acknowledged is lost."""

import asyncio
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from gateway.store import commands, queries, schema
from gateway.store.db import Store
from gateway.store.errors import StoreDamaged, StoreError, StoreFull, StoreLocked, StoreNotWritable, StoreTooNew
from gateway.store.schema import Migration, migrate
from tests.store.builders import local, numbered, reading


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes: what a full disk does, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parent.parent.parent
    return subprocess.run([sys.executable, "-c", code, folder], cwd=root, capture_output=True, text=True, check=False)


async def seqs(store: Store) -> list[int]:
    """Numbers of what `numbered` made: its values are 400 more."""
    query = "select value::INTEGER - 400 from dated where series_id = 1 order by 1"
    return [seq for (seq,) in await store.read(lambda db: db.execute(query).fetchall())]


async def break_checkpoints(store: Store, how: str = "before_header") -> None:
    """From now on each COMMIT is followed by a checkpoint that fails and takes the instance with it."""

    def change(db: duckdb.DuckDBPyConnection) -> None:
        db.execute("set checkpoint_threshold = '1KB'")
        db.execute(f"set debug_checkpoint_abort = '{how}'")

    await store.read(change)


async def test_one_owner_at_a_time(tmp_path: Path) -> None:
    async with Store(tmp_path):
        with pytest.raises(StoreLocked, match=r"in use by process \d+: stop that gateway"):
            await Store(tmp_path).__aenter__()
        code = (
            "import asyncio, sys; from pathlib import Path; from gateway.store.db import Store\n"
            "asyncio.run(Store(Path(sys.argv[1])).__aenter__())"
        )
        assert "StoreLocked" in run_python(code, tmp_path).stderr
    async with Store(tmp_path):
        pass


async def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreNotWritable, match="--data"):
        await Store(tmp_path / "file" / "data").__aenter__()


async def test_data_of_a_newer_version(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.append([numbered(1)])
        add = "insert into migration values (?, 'from tomorrow', ?)"
        await store.write(lambda db: db.execute(add, [schema.SCHEMA + 1, schema.SCHEMA]))
    async with Store(tmp_path) as store:
        # It says that this version may still write to it: an update can be taken back.
        assert (await store.append([numbered(2)])).batch == 2
        await store.write(lambda db: db.execute(add, [schema.SCHEMA + 2, schema.SCHEMA + 2]))
    with pytest.raises(StoreTooNew, match=f"schema {schema.SCHEMA + 2}.*install the newer gateway"):
        await Store(tmp_path).__aenter__()


def test_migrations_go_forward_once(tmp_path: Path) -> None:
    steps = (
        Migration(1, "a", 1, ("create table a (x INTEGER)",)),
        Migration(2, "b", 1, ("alter table a add y INTEGER",)),
    )
    with duckdb.connect(str(tmp_path / "x.duckdb")) as db:
        assert migrate(db, "x", steps[:1]) == 1
        assert migrate(db, "x", steps) == 1
        assert migrate(db, "x", steps) == 0
        assert migrate(db, "x", steps[:1]) == 0
        assert len(db.execute("describe a").fetchall()) == 2


async def test_something_else_under_our_name(tmp_path: Path) -> None:
    other = b"not a database" * 1000
    (tmp_path / "hot.duckdb").write_bytes(other)
    for _ in range(2):
        with pytest.raises(StoreDamaged, match="restore a backup"):
            await Store(tmp_path).__aenter__()
    assert (tmp_path / "hot.duckdb").read_bytes() == other
    # Where there was a store before, it begins anew beside what was kept.
    (tmp_path / "segments").mkdir()
    (tmp_path / "segments" / "00000001-hour.raw.parquet.damaged").touch()
    async with Store(tmp_path) as store:
        assert "begins anew" in (await queries.events(store))[0].message
    assert (tmp_path / "hot.duckdb.damaged-1").read_bytes() == other


async def test_batches_that_vanish_are_named_and_their_numbers_not_used_again(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.append([numbered(1)])
    shutil.copy(tmp_path / "hot.duckdb", tmp_path / "old")
    async with Store(tmp_path) as store:
        await store.append([numbered(2)])
        await store.append([numbered(3)])
    shutil.copy(tmp_path / "old", tmp_path / "hot.duckdb")
    async with Store(tmp_path) as store:
        assert store.lost_batches == (2, 3)
        (event,) = await queries.events(store)
        assert "lost batches 2 to 3, received after 2026-11-20 12:00:01 and committed until 20" in event.message
        assert "its medium lies about writes" in event.message
    async with Store(tmp_path) as store:
        assert store.lost_batches is None
        assert (await store.append([numbered(4, 4)])).batch == 4
        assert [(gap.first_seq, gap.last_seq) for gap in await queries.gaps(store)] == [(2, 3)]


async def test_no_room_for_a_batch(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.append([numbered(1)])
        big = [local(*(reading(float(n), n) for n in range(20_000))), numbered(2)]
        with room((tmp_path / "hot.duckdb.wal").stat().st_size + 20_000), pytest.raises(StoreFull, match="free some"):
            await store.append(big)
        assert (store.batch, await seqs(store)) == (1, [1])
        assert "attic" not in {series.device for series in store.series().values()}
        assert (await store.append(big)).stored == 20_001
        assert (await store.append([numbered(2)])).duplicates == 1
    async with Store(tmp_path) as store:
        assert (await queries.counts(store)).readings == 20_002


@pytest.mark.parametrize("how", ["before_header", "before_truncate"])
async def test_a_checkpoint_that_fails_after_the_commit_doubles_nothing(tmp_path: Path, how: str) -> None:
    async with Store(tmp_path) as store:
        await store.append([numbered(1)])
        await break_checkpoints(store, how)
        commit = await store.append([local(reading(7.0)), *(numbered(seq) for seq in range(1, 200))])
        assert (commit.batch, commit.stored, commit.marks) == (2, 199, {("node", "1-aa"): 199})
        assert store.batch == 2
        assert queries.latest(store, device="attic")[0].value == 7.0
        again = await store.append([numbered(199), numbered(200)])
        assert (again.batch, again.stored) == (3, 1)
    async with Store(tmp_path) as store:
        assert store.lost_batches is None
        assert (await queries.counts(store)).readings == 201


async def test_a_small_change_survives_a_failed_checkpoint(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await break_checkpoints(store)
        await commands.set_setting(store, "name", "x" * 5000)
        assert len(await queries.get_setting(store, "name") or "") == 5000


async def test_an_instance_that_died_between_batches_is_opened_again(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.append([numbered(1)])

        def kill(db: duckdb.DuckDBPyConnection) -> None:
            db.execute("set debug_checkpoint_abort = 'before_header'")
            db.execute("checkpoint")

        with pytest.raises(StoreError):
            await store.read(kill)
        assert (await store.append([numbered(1), numbered(2)])).stored == 1
        assert await seqs(store) == [1, 2]


async def test_where_it_could_not_find_out_the_same_messages_are_not_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Store(tmp_path) as store:
        untimed = [local(*(reading(float(n)) for n in range(500)))]
        await break_checkpoints(store)
        connect = store._writer.engine.connect

        def refuse() -> None:
            raise StoreFull("no room to open")

        monkeypatch.setattr(store._writer.engine, "connect", refuse)
        with pytest.raises(StoreFull):
            await store.append(untimed)
        with pytest.raises(StoreFull):
            await queries.counts(store)
        monkeypatch.setattr(store._writer.engine, "connect", connect)
        commit = await store.append(untimed)
        assert (commit.batch, commit.stored) == (1, 500)
        assert (await queries.counts(store)).readings == 500
        assert (await store.append(untimed)).batch == 2


async def test_questions_and_batches_at_once(tmp_path: Path) -> None:
    async with Store(tmp_path) as store, asyncio.TaskGroup() as group:
        await store.append([numbered(1)])
        for number in range(2, 30):
            group.create_task(store.append([numbered(number)]), name=f"append-{number}")
            group.create_task(queries.counts(store), name=f"counts-{number}")
