"""The query worker's layers one by one: each holds with those before it taken away, and the secrets are nowhere."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.jail.questions import Questions
from gateway.store.db import Store
from tests.jail.sql_tools import SECRET, furnish, state, verdict

NOTHING = "()"
"""No rows: where not even the status of a file can be had, a pattern matches none."""
LOOSE = Path(__file__).with_name("loose_worker.py")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(tmp_path / "data") as opened:
        await furnish(opened)
        await opened.checkpoint()
        _open_to_all(tmp_path)
        yield opened


def _open_to_all(folder: Path) -> None:
    """What is refused here shall be refused by the worker's layers, not by the owner of a file."""
    for each in (folder, *folder.rglob("*")):
        each.chmod(0o777)
    for parent in folder.parents:
        if parent.owner() == folder.owner():
            parent.chmod(parent.stat().st_mode | 0o555)


def _left(folder: Path) -> list[Path]:
    return [*sorted(folder.rglob("*")), *Path("/dev/shm").glob("ambient-test*")]


@asynccontextmanager
async def loose(store: Store, *layers: str) -> AsyncIterator[Questions]:
    """Questions to a worker that has only these layers: "engine", "filter"."""
    async with Questions(store, worker=LOOSE, arguments=layers, limit_s=2) as questions:
        yield questions


def statements(store: Store) -> list[str]:
    """What would read or write a file, with everything else allowed."""
    data, out = store.folder, store.folder.parent
    return [
        "select content from read_text('/etc/passwd')",
        "select content from read_blob('/proc/self/environ')",
        "from read_csv('/proc/self/maps', header=false, columns={'a': 'VARCHAR'}, delim='|')",
        f"select content from read_blob('{data}/hot.duckdb')",
        f"from read_duckdb('{data}/hot.duckdb', table_name='token')",
        f"attach '{data}/hot.duckdb' as hot (read_only)",
        f"attach '{out}/new.duckdb' as fresh",
        f"from '{data}/hot.duckdb'",
        f"copy (select 1) to '{out}/x.csv'",
        f"copy (select 1) to '{data}/segments/x.parquet' (format parquet)",
        f"copy (select 1) to '{out}/x.json'",
        "copy (select 1) to '/dev/shm/ambient-test.csv'",
        "copy (select 1) to 'segment://x.csv'",
        "copy (select 1) to 'segment://x.parquet' (format parquet)",
        f"export database '{out}/all'",
        f"import database '{out}/all'",
        "install httpfs",
        "load httpfs",
        f"load '{out}/x.duckdb_extension'",
        "select content from read_text('http://127.0.0.1:9/x')",
        f"copy (select 1) to '{out}/x.parquet' (format parquet, use_tmp_file false)",
    ]


async def test_the_tools_of_this_test_can_do_harm(store: Store) -> None:
    """Without any layer the same statements read the secret and write files: so the tests below mean something."""
    async with loose(store) as questions:
        harmful = [sql for sql in statements(store) if (await verdict(questions, sql))[0] == "allowed"]
        assert len(harmful) > 10, harmful
        (store.folder.parent / "x.csv").unlink()
        got, said = await verdict(questions, f"select content from read_blob('{store.folder}/hot.duckdb')")
        assert (got, SECRET in said) == ("allowed", True), said[:300]
        assert "root:" in (await verdict(questions, "select content from read_text('/etc/passwd')"))[1]
        await verdict(questions, f"copy (select 1) to '{store.folder.parent}/x.csv'")
        assert (store.folder.parent / "x.csv").exists()


@pytest.mark.parametrize("layer", ["engine", "filter"])
async def test_one_layer_alone_keeps_every_file(store: Store, layer: str) -> None:
    before = await state(store)
    files = _left(store.folder.parent)
    async with loose(store, layer) as questions:
        for sql in statements(store):
            got, said = await verdict(questions, sql)
            assert got == "refused" or said == NOTHING, (sql, said)
        assert (await verdict(questions, "select count(*) from measurements"))[0] == "allowed"
    assert _left(store.folder.parent) == files
    assert await state(store) == before


async def test_the_engine_alone_keeps_its_settings(store: Store) -> None:
    async with loose(store, "engine") as questions:
        for sql in (
            "set enable_external_access = true",
            "set memory_limit = '10GB'",
            "set lock_configuration = false",
            "reset disabled_filesystems",
            "set temp_directory = '/tmp'",
            "pragma memory_limit='10GB'",
            "set allowed_directories = ['/']",
        ):
            assert (await verdict(questions, sql))[0] == "refused", sql
        assert "etc" not in (await verdict(questions, "from glob('/etc/*')"))[1]


async def test_every_question_finds_the_settings(store: Store) -> None:
    """Each has a connection of its own, which inherits only what was set for all."""
    wanted = {
        "TimeZone": "UTC",
        "python_enable_replacements": "False",
        "enable_external_access": "False",
        "lock_configuration": "True",
        "temp_directory": "''",
        "autoload_known_extensions": "False",
        "autoinstall_known_extensions": "False",
        "allow_community_extensions": "False",
        "allowed_directories": "['segment://']",
        "threads": "2",
        "lambda_syntax": "ENABLE_SINGLE_ARROW",
    }
    async with loose(store, "engine", "filter") as questions:
        for name, value in wanted.items():
            _, said = await verdict(questions, f"select current_setting('{name}')")
            assert value.strip("'") in said, (name, said)
        got, said = await verdict(questions, "from wanted")
        assert (got, "does not exist" in said) == ("refused", True)


async def test_nothing_is_left_for_the_next_caller(store: Store) -> None:
    """Even where the check let it pass: each question has a connection of its own."""
    async with loose(store, "engine", "filter") as questions:
        for sql in (
            "set variable mine = 'hidden'",
            "create temp table mine as select 'hidden'",
            "prepare mine as select 'hidden'",
        ):
            await verdict(questions, sql)
        for sql in ("select getvariable('mine')", "from mine", "execute mine"):
            assert "hidden" not in (await verdict(questions, sql, "another"))[1]


@pytest.mark.parametrize("table", ["token", "audit", "node_key", "setting", "migration"])
async def test_tables_with_secrets_are_not_there(store: Store, table: str) -> None:
    async with loose(store, "engine", "filter") as questions:
        assert "does not exist" in (await verdict(questions, f"from {table}"))[1]
        assert "does not exist" in (await verdict(questions, f"from base.{table}"))[1]
        got, said = await verdict(questions, "select table_name from duckdb_tables()")
        assert got == "allowed"
        assert table not in said


async def test_no_secret_is_anywhere_in_its_memory(store: Store) -> None:
    """Looked for as the kernel shows it to root, in every page."""
    async with Questions(store) as questions:
        await questions.run("select device_id, name from devices, zones", owner="someone")
        pid = questions.worker.pid
        assert _in_memory(pid, b"Attic"), "this does not look at the right pages"
        assert not _in_memory(pid, SECRET.encode())


def _in_memory(pid: int | None, what: bytes) -> bool:
    if os.geteuid() != 0:
        pytest.skip("only root looks into another process")
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory, Path(f"/proc/{pid}/maps").open() as maps:
        for line in maps:
            span, rights, *_ = line.split()
            if rights.startswith("rw"):
                low, high = (int(end, 16) for end in span.split("-"))
                memory.seek(low)
                if what in memory.read(high - low):
                    return True
    return False
