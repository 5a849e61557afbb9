"""Questions see the store as it is now; answers are bounded, and belong to whoever asked."""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import duckdb
import psutil
import pytest

from drivers.model import Quality, Reason
from gateway.jail.questions import QueryFailed, QueryRefused, Questions
from gateway.jail.results import Results
from gateway.jail.table import Builder, Table, as_csv
from gateway.store import codes, commands, redate
from gateway.store.db import Store
from gateway.store.keeper import Keeper
from gateway.store.types import Zone
from tests.jail.sql_tools import READINGS, furnish
from tests.store.builders import T0, local, reading
from tests.store.test_keeper import SetClock
from tests.store.test_redate import told

COUNT = "select count(*) from measurements"
ME = "me"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(tmp_path) as opened:
        await furnish(opened)
        yield opened


@pytest.fixture
async def questions(store: Store) -> AsyncIterator[Questions]:
    async with Questions(store, limit_s=5) as opened:
        yield opened


async def count(questions: Questions) -> int:
    ((found,),) = (await questions.run(COUNT, owner=ME)).rows
    assert isinstance(found, int)
    return found


async def same(store: Store, questions: Questions) -> None:
    """Every view says in the worker what it says in the store."""
    for name in sorted(store.view_names):
        sql = f"select columns(*)::VARCHAR from {name} order by all"
        there = await store.read(lambda db, sql=sql: db.execute(sql).fetchall())  # type: ignore[misc]
        answer = await questions.run(sql, owner=ME)
        table = questions.table(answer.query_id, ME)
        assert [tuple(row) for row in table.head(0, table.rows)] == there, name


async def test_the_views_follow_whatever_happens_in_the_store(store: Store, questions: Questions) -> None:
    keeper = Keeper(store, SetClock(T0 + timedelta(hours=30)))
    await same(store, questions)
    await store.append([local(reading(1000.0, 7000, device="d1")), told(1, 9000, 100), told(2, 9001, 200)])
    await same(store, questions)
    assert await redate.boot(store, "node", "1-a", T0 - timedelta(seconds=500)) == 2
    await same(store, questions)
    await store.append([local(reading(5.0, 8000 + at, device="new", metric="dust")) for at in range(3000)])
    await commands.save_zone(store, Zone("cellar", "Cellar"))
    await same(store, questions)
    await keeper.mark([2], codes.to_ms(T0), codes.to_ms(T0) + 10_000, codes.pack(Quality.BAD, Reason.SPIKE))
    await same(store, questions)  # rows that are hot, and as many as before
    assert await keeper.seal()
    await store.append([local(reading(20.0, 200_000 + at, device="d1")) for at in range(5)])
    assert any(each.roll for each in store.segments)
    await same(store, questions)
    await keeper.mark([1], codes.to_ms(T0), codes.to_ms(T0) + 10_000, codes.pack(Quality.BAD, Reason.SPIKE))
    await same(store, questions)
    await keeper.seal(everything=True)
    await keeper.compact()
    await same(store, questions)
    await keeper.delete_readings([1])
    await same(store, questions)
    assert questions.worker.counts.started == 1


async def test_a_warm_question_hands_over_what_is_new(store: Store, questions: Questions) -> None:
    assert await count(questions) == READINGS
    sent = questions._sent
    assert await count(questions) == READINGS
    assert questions._sent is sent
    await store.append([local(reading(1.0, 9000, device="d1"))])
    assert await count(questions) == READINGS + 1
    assert sent is not None
    assert questions._sent is not None
    assert (questions._sent.version, questions._sent.batch) == (sent.version, sent.batch + 1)


async def test_nothing_touches_the_medium(store: Store, questions: Questions) -> None:
    def look() -> dict[str, tuple[int, int]]:
        found = {path: path.stat() for path in store.folder.rglob("*")}
        return {str(path): (each.st_size, each.st_mtime_ns) for path, each in found.items()}

    before = look()
    await questions.run("select * from measurements order by value", owner=ME)
    assert look() == before


async def test_answers_are_cut_and_say_so(questions: Questions) -> None:
    answer = await questions.run("from range(250000) t(i)", owner=ME)
    assert (answer.columns, len(answer.rows), answer.kept) == ((("i", "BIGINT"),), 100, 100_000)
    assert (answer.total, answer.counted, answer.truncated) == (250_000, True, True)
    assert questions.table(answer.query_id, ME).head(99_999, 100_001) == [[99_999]]
    wide = await questions.run("select printf('%10000d', i) as text from range(5000) t(i)", owner=ME)
    table = questions.table(wide.query_id, ME)
    assert (1000 < table.rows < 1700, wide.total, wide.truncated, table.size_bytes < 16 << 20) == (
        True,
        5000,
        True,
        True,
    )
    with pytest.raises(QueryFailed, match=r"not even the first row|more memory"):
        await questions.run(
            "select printf('%9000000d', i) as a, printf('%9000000d', i) as b from range(5) t(i)", owner=ME
        )
    whole = await questions.run("select * from range(7)", owner=ME)
    assert (whole.total, whole.truncated, whole.kept) == (7, False, 7)


async def test_kinds_and_parameters(questions: Questions) -> None:
    sql = """select 1::UTINYINT a, sum(x) b, 1.5::DECIMAL(4, 2) c, true d, date '2026-01-02' e, null f, [1, 2] g,
             'é' h, now() > timestamp '2020-01-01' i, 'infinity'::TIMESTAMP j, $1 || $2 k from range(3) t(x)"""
    answer = await questions.run(sql, ["a", "b"], owner=ME)
    day = T0.replace(month=1, day=2, hour=0)
    assert answer.rows == ((1, 3, 1.5, True, day, None, "[1,2]", "é", True, None, "ab"),)
    assert (await questions.run("select $zone, $n + 1", {"zone": "attic", "n": 2}, owner=ME)).rows == (("attic", 3),)
    with pytest.raises(QueryFailed, match="Values were not provided for the following"):
        await questions.run("select $zone", owner=ME)
    for sql in (
        "select 1; -- why not",
        "/* a */ select 1 /* b */;\n;",
        "select 1 --",
        "select ';-- no' = ';-- no', 1;",
    ):
        assert (await questions.run(sql, owner=ME)).rows[0][-1] == 1


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("from measurement", "no table measurement: closest is measurements"),
        ("from zzz", "no table zzz: SHOW TABLES"),
        ("select valu from measurements", 'Candidate bindings: "value"'),
        ("select medan(value) from measurements", "closest is median"),
        ("select 'x'::INT", "Could not convert string 'x' to INT32"),
        ("pivot measurements on metric_type using avg(value)", "a PIVOT needs its values"),
        ("drop table measurements", "DROP is not answered"),
    ],
)
async def test_errors_are_one_line_with_the_closest_name(questions: Questions, sql: str, says: str) -> None:
    with pytest.raises((QueryRefused, QueryFailed)) as caught:
        await questions.run(sql, owner=ME)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


async def test_csv_and_parquet_of_a_result(questions: Questions, tmp_path: Path) -> None:
    sql = """select i, i / 4 as "q""x", i % 2 = 0 as b, 'text ' || i as s, date '2026-01-01' as d, null::INT as n
             from range(3) t(i)"""
    answer = await questions.run(sql, owner=ME)
    assert (
        as_csv(questions.table(answer.query_id, ME)).decode().splitlines()[1]
        == "0,0.0,true,text 0,2026-01-01T00:00:00Z,"
    )
    data = await questions.parquet(answer.query_id, ME)
    file = await asyncio.to_thread(_written, tmp_path / "result.parquet", data)
    with duckdb.connect() as db:
        found = db.execute(f"select i, b, s, d, n from '{file}'").fetchall()
    assert found[2] == (2, True, "text 2", T0.replace(month=1, day=1, hour=0, tzinfo=None), None)
    assert len(found) == 3


def _written(file: Path, data: bytes) -> Path:
    file.write_bytes(data)
    return file


async def test_results_belong_to_their_owner(questions: Questions) -> None:
    mine, yours = await questions.run("select 1", owner=ME), await questions.run("select 2", owner="you")
    with pytest.raises(LookupError, match="run the query again"):
        questions.table(mine.query_id, "you")
    with pytest.raises(LookupError):
        await questions.parquet(mine.query_id, "you")
    assert questions.clear(ME) == 1
    with pytest.raises(LookupError):
        questions.table(mine.query_id, ME)
    assert questions.table(yours.query_id, "you").head(0, 1) == [[2]]


def test_results_are_few_small_and_short_lived() -> None:
    def table(rows: int) -> Table:
        builder = Builder([("i", "BIGINT", "i8")])
        builder.extend([[one] for one in range(rows)])
        return builder.table()

    now_s = [0.0]
    kept = Results(lambda: now_s[0], per_owner=3, most_bytes=1000, lives_s=60)
    ids = [kept.put(table(1), "a") for _ in range(5)]
    assert [kept.get(one, "a") is not None for one in ids] == [False, False, True, True, True]
    other = kept.put(table(1), "b")
    assert kept.get(other, "b") is not None
    assert kept.get(ids[4], "a") is not None
    large = kept.put(table(122), "b")
    assert (kept.get(ids[2], "a"), kept.get(large, "b") is not None) == (None, True)
    assert kept.size_bytes <= 1000
    now_s[0] = 60.0
    assert kept.get(large, "b") is None
    assert kept.size_bytes == 0


async def test_a_question_that_overruns_is_stopped_and_the_next_is_answered(store: Store) -> None:
    async with Questions(store, limit_s=1) as questions:
        with pytest.raises(QueryFailed, match="stopped after 1 s"):
            await questions.run("select count(*) from range(10000000), range(10000000)", owner=ME)
        assert questions.worker.counts.killed == 0, "the worker stops by itself where the engine lets it"
        pid = questions.worker.pid
        with pytest.raises(QueryFailed, match="stopped after 1 s"):
            await questions.run(
                "select levenshtein(s, s || 'x') from (select string_agg('ab', '') s from range(300000))", owner=ME
            )
        assert questions.worker.counts.killed == 1
        assert await count(questions) == READINGS
        assert not psutil.pid_exists(pid or 0)
        cut = await questions.run("from range(10000000) a(i), range(10000000) b(j)", owner=ME)
        assert (cut.kept, cut.counted, cut.truncated) == (100_000, False, True)


async def test_a_worker_that_dies_is_replaced(questions: Questions) -> None:
    assert await count(questions) == READINGS
    assert questions.worker.pid is not None
    os.kill(questions.worker.pid, 9)
    await asyncio.gather(*(count(questions) for _ in range(3)), return_exceptions=True)
    assert await count(questions) == READINGS


async def test_too_many_at_once_are_refused_and_the_others_answered(questions: Questions) -> None:
    answers = await asyncio.gather(*(questions.run(COUNT, owner=ME) for _ in range(30)), return_exceptions=True)
    refused = [each for each in answers if isinstance(each, QueryFailed)]
    assert refused
    assert all("questions wait already" in str(each) for each in refused)
    assert len(answers) - len(refused) >= 8


async def test_a_cancelled_question_leaves_the_next_one_right(store: Store, questions: Questions) -> None:
    await count(questions)
    asked = asyncio.create_task(questions.run("select count(*) from range(10000000), range(10000000)", owner=ME))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(asked), 0.2)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await store.append([local(reading(1.0, 9000, device="d1"))])
    assert await count(questions) == READINGS + 1


async def test_more_hot_rows_than_a_worker_may_hold(store: Store) -> None:
    async with Questions(store, most_hot_rows=READINGS - 1) as questions:
        with pytest.raises(QueryFailed, match=f"{READINGS} readings wait to be sealed"):
            await questions.run(COUNT, owner=ME)


async def test_nothing_is_left_behind(store: Store) -> None:
    process = psutil.Process()
    before = process.num_fds()
    async with Questions(store) as questions:
        await count(questions)
        await Keeper(store, SetClock(T0 + timedelta(hours=30))).seal()
        await count(questions)
        pid = questions.worker.pid
    assert not psutil.pid_exists(pid or 0)
    assert process.num_fds() <= before
    assert not process.children()


async def test_an_answer_that_is_no_table_is_not_believed(store: Store, tmp_path: Path) -> None:
    """The worker runs what strangers wrote: whatever it says is checked."""
    liar = tmp_path / "liar.py"
    liar.write_text(
        "import socket\n"
        "from gateway.jail import frames\n"
        "wire = socket.socket(fileno=0)\n"
        "def answer(header, body):\n"
        "    if header['do'] == 'take':\n"
        "        socket.recv_fds(wire, 1, 200)\n"
        "    return ({}, b'') if header['do'] in ('take', 'load') else ({'total': -5}, b'AGT1 no')\n"
        "frames.serve(answer)\n"
    )
    async with Questions(store, worker=liar) as questions:
        with pytest.raises(QueryFailed, match="gave no table"):
            await questions.run(COUNT, owner=ME)


async def test_a_new_worker_is_told_everything_whatever_changed_meanwhile(store: Store, questions: Questions) -> None:
    keeper = Keeper(store, SetClock(T0 + timedelta(hours=30)))
    assert await keeper.seal(everything=True)
    assert await count(questions) == READINGS
    await questions.worker.stop()
    await store.append([local(reading(1.0, 200_000, device="d1"))])
    assert await count(questions) == READINGS + 1
    await questions.worker.stop()
    assert await keeper.seal(everything=True)
    assert await count(questions) == READINGS + 1
    await questions.worker.stop()
    assert await count(questions) == READINGS + 1


async def test_a_worker_that_has_grown_gives_its_memory_back(store: Store) -> None:
    async with Questions(store, most_resident_bytes=10 << 20) as questions:
        assert await count(questions) == READINGS
        assert questions.worker.pid is None
        assert await count(questions) == READINGS
        assert (questions.worker.counts.started, questions.worker.counts.crashed) == (2, 0)
