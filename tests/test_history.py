"""The store's bench: its dataset is what it says, we and a peer answer the same, and figures tell of all peers."""

import io
from datetime import UTC, datetime
from pathlib import Path

from bench.dataset import DAY_MS, SERIES, Dataset, Source, names
from bench.figures import Figure, Goal, table
from bench.history_asks import SAME, answer, series_ids
from bench.history_ours import Life, Ours, batches, messages, received, rounds, send
from bench.peers import BATCH, LATEST, QUESTIONS, Ask, Digest, Timed, asks, disagreements, sqlite, times
from gateway.reading import Message
from gateway.store.db import Store

END = datetime(2026, 11, 1, tzinfo=UTC)
SMALL = Dataset(40_000, END, 8)


def test_the_dataset_is_a_year_of_every_series_and_the_same_each_time() -> None:
    with Source.of(SMALL) as source:
        days = [source.rows(day) for day in range(SMALL.days)]
        assert source.rows(5) == days[5]
    rows = [row for day in days for row in day]
    assert abs(len(rows) - SMALL.rows) <= SERIES
    assert {row.series for row in rows} == set(names())
    assert len({(row.series, row.ms) for row in rows}) == len(rows)  # a key in SQLite
    assert all(SMALL.began_ms <= row.ms < SMALL.end_ms + 1000 for row in rows)
    assert all((row.value is None) <= (row.quality >= 128) for row in rows)
    doubted = sum(row.quality > 0 for row in rows) / len(rows)
    assert 0.002 < doubted < 0.01
    with Source.of(Dataset(SMALL.rows, END, SMALL.days, seed=5)) as source:
        assert source.rows(5) != days[5]


def test_a_device_shares_its_times_and_some_come_late() -> None:
    dense = Dataset(350_000, END, 20)
    late, outages = 0, 0
    with Source.of(dense) as source:
        for day in range(20):
            rows = source.rows(day)
            newest = 0
            before = late
            for row in rows:
                late += row.ms < newest - 3_600_000
                newest = max(newest, row.ms)
            outages += late > before
    assert outages >= 2
    of_device = [{row.ms for row in rows if row.series == number} for number in (1, 2, 3, 199)]
    assert len(of_device[0]) > 70
    assert all(each == of_device[0] for each in of_device)


def test_the_text_of_a_day_has_the_same_rows(tmp_path: Path) -> None:
    with Source.of(SMALL) as source:
        source.text(7, tmp_path / "day")
        rows = source.rows(7)
    lines = [line.split(",") for line in (tmp_path / "day").read_text().splitlines()]
    assert [(int(line[0]), int(line[1]), int(line[-1])) for line in lines] == [
        (r.series, r.ms, r.quality) for r in rows
    ]


def test_rows_pass_the_pipe_and_become_messages_by_batch_and_round() -> None:
    with Source.of(SMALL) as source:
        days = [source.rows(day) for day in range(4)]
    pipe = io.BytesIO(b"".join(map(send, days)) + send([]) + b"rest")
    assert list(received(pipe)) == [row for day in days for row in day]
    assert pipe.read() == b"rest"
    rows = [row for day in days for row in day]
    made = list(messages(iter(rows)))
    assert sum(len(message.readings) for message in made) == len(rows)
    assert all(len({reading.time for reading in message.readings}) == 1 for message in made)
    sizes = [sum(len(message.readings) for message in batch) for batch in batches(iter(made))]
    assert sum(sizes) == len(rows)
    assert all(BATCH <= size < BATCH + 3 for size in sizes[:-1])
    ends = [end_ms for end_ms, _ in rounds(iter(made), DAY_MS)]
    late = [made[0], made[-1], made[1]]
    assert [(end_ms, len(list(some))) for end_ms, some in rounds(iter(late), DAY_MS)] == [(ends[0], 1), (ends[-1], 2)]
    assert ends == [SMALL.began_ms + number * DAY_MS for number in range(1, 5)]


async def test_our_process_and_a_peer_answer_the_same(tmp_path: Path) -> None:
    found = Ours()
    with Source.of(SMALL) as source:
        theirs = sqlite.measure(source, tmp_path, 3, 1.0)
        given: list[Message] = list(messages(row for day in range(SMALL.days) for row in source.rows(day)))
    async with Store(tmp_path / "data") as store:
        await Life(store, SMALL, found).load(iter(given), 24 * 3)
        ids = series_ids(store)
        assert found.rows == theirs.rows
        for name in QUESTIONS:
            digests = [(await answer(store, ids[ask.series], ask))() for ask in asks(SMALL, name, 3)]
            if name in SAME:
                ours = Timed(0.0, 0.0, 3, tuple(digests))
                assert not disagreements(name, {"we": ours, "they": theirs.timed[name]})
            assert all(digest.rows for digest in digests), name


async def test_hard_work_commits_beside_scans(tmp_path: Path) -> None:
    found = Ours()
    with Source.of(SMALL) as source:
        given = list(messages(row for day in range(16) for row in source.rows(day)))
    async with Store(tmp_path) as store:
        await Life(store, SMALL, found).work_hard(iter(given), 3, 5)
    assert len(found.alone_ms) == 3
    assert len(found.beside_ms) >= 5
    assert found.scans >= 1


def test_a_slow_peer_is_asked_less_often_and_a_wrong_one_is_named() -> None:
    given = [Ask(LATEST, 1, 0, 1)] * 21
    timed = times(given, lambda _: (7.0, Digest(1, 2.0)), 0.0)
    assert (timed.first_ms, timed.median_ms, timed.runs) == (7.0, 7.0, 3)
    other = times(given, lambda _: (7.0, Digest(1, 2.1)), 10.0)
    assert other.runs == 20
    assert len(disagreements(LATEST, {"a": timed, "b": other})) == 4
    assert disagreements(LATEST, {"a": timed, "b": timed}) == []


def test_a_figure_stands_beside_several_peers() -> None:
    goal = Goal(10, or_best=3)
    figure = Figure("a question", 20.0, "ms", "A", 5.0, goal, (("B", 8.0), ("C", 400.0)))
    assert figure.ratios == {"A": 4.0, "B": 2.5, "C": 0.05}
    assert figure.met is False
    assert Figure("a question", 15.0, "ms", "A", 5.0, goal, (("B", 8.0),)).met is True
    line = table([figure]).splitlines()[2]
    assert line == (
        "| a question | 20 ms | A: 5 ms; B: 8 ms; C: 400 ms | 4.00; 2.50; 0.05 | <= 10 or 3 x the best peer | **no** |"
    )
