"""Batches, acknowledgement after the commit, back-pressure, and a store that fails for a while."""

import asyncio
import threading
from datetime import UTC, datetime

import pytest

from drivers.model import Quality, Quantity, Reason
from gateway.ingest.pipeline import Pipeline
from gateway.reading import Delivery, Message, Reading
from gateway.store.errors import StoreFull
from gateway.store.types import Commit
from tests.brokers import WITHIN_S, MemoryStore
from tests.virtual import run_virtual

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def message(seq: int = 1, value: float = 700.0, rows: int = 1) -> Message:
    readings = tuple(Reading("d", "s", f"co2_{n}", Quantity.CO2, value, NOW, NOW) for n in range(rows))
    return Message("d", "s", readings, Delivery("1-a", seq, 1))


async def settled(pipeline: Pipeline) -> None:
    """Let everything happen that does not have to wait for a timer."""
    for _ in range(20):
        await asyncio.sleep(0)
    assert pipeline.lag_s >= 0


def test_the_first_batch_is_written_at_once_and_later_ones_after_the_interval() -> None:
    async def main() -> None:
        loop, store = asyncio.get_running_loop(), MemoryStore()
        async with Pipeline(store.append) as pipeline:
            await pipeline.put(message(1))
            await store.until(lambda: len(store.batches) == 1)
            assert loop.time() == pytest.approx(0)
            await pipeline.put(message(2))
            await asyncio.sleep(3)
            await pipeline.put(message(3))
            assert pipeline.lag_s == pytest.approx(3)
            await store.until(lambda: len(store.batches) == 2)
            assert loop.time() == pytest.approx(5, abs=0.01)
            await settled(pipeline)
            assert (store.batches, pipeline.pending) == ([1, 2], 0)

    run_virtual(main())


def test_a_full_batch_does_not_wait() -> None:
    async def main() -> None:
        loop, store = asyncio.get_running_loop(), MemoryStore()
        async with Pipeline(store.append, batch_rows=10) as pipeline:
            await pipeline.put(message(1))
            await store.until(lambda: len(store.batches) == 1)
            for seq in range(2, 6):
                await pipeline.put(message(seq, rows=3))
            await store.until(lambda: len(store.batches) == 2)
            assert store.batches == [1, 4]
            assert loop.time() == pytest.approx(0)

    run_virtual(main())


def test_a_stalled_sender_is_served_after_a_moment_and_at_once_when_its_window_is_known() -> None:
    async def main() -> None:
        loop, store = asyncio.get_running_loop(), MemoryStore()
        async with Pipeline(store.append, window=20) as pipeline:
            pipeline.offer(message(1), lambda: None)
            await store.until(lambda: len(store.batches) == 1)
            for seq in range(2, 27):  # a window of 25, not known to us
                pipeline.offer(message(seq), lambda: None)
            await store.until(lambda: len(store.batches) == 2)
            assert loop.time() == pytest.approx(0.1, abs=0.01)
            for seq in range(27, 52):
                pipeline.offer(message(seq), lambda: None)
            await store.until(lambda: len(store.batches) == 3)
            assert loop.time() == pytest.approx(0.1, abs=0.01)
            assert store.batches == [1, 25, 25]
            for seq in range(52, 78):  # one more than that: it was no window
                pipeline.offer(message(seq), lambda: None)
            await settled(pipeline)
            assert sum(store.batches) in {51, 76}

    run_virtual(main())


def test_a_full_batch_grows_while_senders_go_on_speaking_and_ends_with_their_pause() -> None:
    async def main() -> None:
        loop, store = asyncio.get_running_loop(), MemoryStore()
        async with Pipeline(store.append, batch_rows=10, window=1000) as pipeline:
            pipeline.offer(message(1), lambda: None)
            await store.until(lambda: len(store.batches) == 1)
            for seq in range(2, 26):  # one each 5 ms: never a pause of 10
                pipeline.offer(message(seq), lambda: None)
                await asyncio.sleep(0.005)
            assert store.batches == [1]
            began_s = loop.time()
            await store.until(lambda: len(store.batches) == 2)
            assert 0 < loop.time() - began_s < 0.01
            assert store.batches == [1, 24]

    run_virtual(main())


@pytest.mark.parametrize(("window", "grown"), [(1000, 30), (36, 18)])
def test_a_batch_does_not_grow_beyond_its_bound_or_half_a_window(window: int, grown: int) -> None:
    async def main() -> None:
        loop, store = asyncio.get_running_loop(), MemoryStore()
        async with Pipeline(store.append, batch_rows=10, window=window) as pipeline:
            pipeline.offer(message(1), lambda: None)
            await store.until(lambda: len(store.batches) == 1)
            for seq in range(2, 2 + grown):
                pipeline.offer(message(seq), lambda: None)
                if seq in {3, 12}:
                    await settled(pipeline)  # it has looked, and waits for more
            await store.until(lambda: len(store.batches) == 2)
            assert (store.batches, loop.time()) == ([1, grown], pytest.approx(0))

    run_virtual(main())


def test_a_window_is_counted_in_messages_however_they_come() -> None:
    async def main() -> None:
        loop, store = asyncio.get_running_loop(), MemoryStore()
        async with Pipeline(store.append, window=20) as pipeline:
            pipeline.offer(message(1), lambda: None)
            await store.until(lambda: len(store.batches) == 1)
            for number in range(1, 4):
                await settled(pipeline)
                began_s, first = loop.time(), 20 * number
                for part in (range(first, first + 8), range(first + 8, first + 19), range(first + 19, first + 20)):
                    pipeline.offer_all([message(seq) for seq in part], lambda: None)
                    await settled(pipeline)
                await store.until(lambda number=number: len(store.batches) == 1 + number)  # type: ignore[misc]
                assert loop.time() - began_s == pytest.approx(0.1 if number == 1 else 0)  # then it is learned
            assert store.batches == [1, 20, 20, 20]

    run_virtual(main())


def test_with_flush_on_idle_a_pause_is_enough_and_without_one_it_is_written_so_many_times_a_second() -> None:
    async def main() -> None:
        loop, store = asyncio.get_running_loop(), MemoryStore()
        async with Pipeline(store.append, idle_commits_per_s=2) as pipeline:
            pipeline.offer(message(1), lambda: None)
            await store.until(lambda: len(store.batches) == 1)
            await asyncio.sleep(3)
            pipeline.offer(message(2), lambda: None)
            await asyncio.sleep(0.03)
            pipeline.offer(message(3), lambda: None)
            await store.until(lambda: len(store.batches) == 2)
            assert loop.time() == pytest.approx(3.08, abs=0.001)  # a pause of 50 ms after the last one
            pipeline.offer(message(4), lambda: None)
            await store.until(lambda: len(store.batches) == 3)
            assert loop.time() == pytest.approx(3.58, abs=0.001)  # half a second after the one before
            began_s = loop.time()
            for seq in range(5, 505):  # one each 10 ms: never a pause
                pipeline.offer(message(seq), lambda: None)
                await asyncio.sleep(0.01)
            assert store.batches[:3] == [1, 2, 1]
            assert len(store.batches) - 3 == pytest.approx(2 * (loop.time() - began_s), abs=1)
            assert max(store.batches) <= 51

    run_virtual(main())


def test_local_readings_wait_for_the_interval_also_with_flush_on_idle() -> None:
    async def main() -> None:
        loop, store = asyncio.get_running_loop(), MemoryStore()
        async with Pipeline(store.append, idle_commits_per_s=2) as pipeline:
            await pipeline.put(message(1))
            await store.until(lambda: len(store.batches) == 1)
            await pipeline.put(message(2))
            await store.until(lambda: len(store.batches) == 2)
            assert loop.time() == pytest.approx(5, abs=0.001)

    run_virtual(main())


def test_what_came_together_is_written_together_and_acknowledged_once() -> None:
    async def main() -> None:
        loop, store, done = asyncio.get_running_loop(), MemoryStore(), []
        async with Pipeline(store.append, batch_rows=5, window=1000) as pipeline:
            pipeline.offer(message(1), lambda: done.append("first"))
            await store.until(lambda: len(store.batches) == 1)
            await settled(pipeline)
            store.gate.clear()
            assert pipeline.offer_all([message(seq) for seq in range(2, 102)], lambda: done.append("all"))
            pipeline.offer(message(102), lambda: done.append("last"))
            assert pipeline.pending == 101
            await store.until(lambda: store.tries == 2)
            assert (done, pipeline.pending) == (["first"], 101)
            await asyncio.sleep(2)
            assert pipeline.lag_s == pytest.approx(2)
            store.gate.set()
            await pipeline.flush()
            await settled(pipeline)
            assert done == ["first", "all", "last"]
            assert (store.batches[:2], pipeline.pending, pipeline.counts.stored) == ([1, 100], 0, 102)
            assert loop.time() == pytest.approx(2)

    run_virtual(main())


def test_a_few_messages_are_no_stall() -> None:
    async def main() -> None:
        loop, store = asyncio.get_running_loop(), MemoryStore()
        async with Pipeline(store.append, window=20) as pipeline:
            pipeline.offer(message(1), lambda: None)
            await store.until(lambda: len(store.batches) == 1)
            for seq in range(2, 21):
                pipeline.offer(message(seq), lambda: None)
            await store.until(lambda: len(store.batches) == 2)
            assert loop.time() == pytest.approx(5, abs=0.01)

    run_virtual(main())


async def test_nothing_is_acknowledged_before_the_commit_and_everything_in_order_after_it() -> None:
    store, told, done = MemoryStore(), [], []
    store.gate.clear()

    async def committed(commit: Commit) -> None:
        told.append((commit.batch, list(done)))

    async with Pipeline(store.append) as pipeline:
        pipeline.listen(committed)
        for seq in (1, 2, 3):
            pipeline.offer(message(seq), lambda seq=seq: done.append(seq))  # type: ignore[misc]
        await store.until(lambda: store.tries == 1)
        assert done == []
        store.gate.set()
        await pipeline.flush()
        assert done == [1, 2, 3]
    assert told[-1] == (len(store.batches), [1, 2, 3])


def test_a_store_that_fails_is_tried_again_with_the_same_batch_and_nothing_is_acknowledged() -> None:
    async def main() -> None:
        loop, store, done, told = asyncio.get_running_loop(), MemoryStore(), [], []
        store.failing = StoreFull("no room in data/: free some")
        async with Pipeline(store.append, on_failure=told.append) as pipeline:
            pipeline.offer(message(1), lambda: done.append(1))
            await store.until(lambda: store.tries == 8, within_s=3600)
            assert loop.time() > 30  # it backed off
            assert (done, store.messages, pipeline.counts.failing) == ([], [], "no room in data/: free some")
            assert told == ["no room in data/: free some"]  # once
            store.failing = None
            await store.until(lambda: bool(store.batches), within_s=3600)
            await settled(pipeline)
            assert (done, len(store.messages), pipeline.counts.failing) == ([1], 1, "")
            assert pipeline.counts.failures == 8

    run_virtual(main())


def test_local_readings_drop_the_oldest_and_count_it() -> None:
    async def main() -> None:
        store = MemoryStore()
        store.failing = StoreFull("no room")
        async with Pipeline(store.append, local_capacity=10, batch_rows=1) as pipeline:
            await pipeline.put(message(1))
            await store.until(lambda: store.tries == 1)  # the first is in the batch that is being tried
            for seq in range(2, 16):
                await pipeline.put(message(seq))
            assert pipeline.counts.dropped == 4
            assert pipeline.pending == 11
            store.failing = None
        seqs = [m.delivery.seq for m in store.messages if m.delivery]
        assert seqs == [1, *range(6, 16)]

    run_virtual(main())


async def test_a_thread_waits_while_there_is_no_room_and_goes_on_when_there_is() -> None:
    store, offered = MemoryStore(), []
    store.gate.clear()

    def paho(pipeline: Pipeline) -> None:
        for seq in range(1, 21):
            pipeline.offer(message(seq), lambda: None)
            offered.append(seq)

    async with Pipeline(store.append, capacity=5, batch_rows=5) as pipeline:
        thread = threading.Thread(target=paho, args=(pipeline,))
        thread.start()
        await store.until(lambda: store.tries == 1)
        assert len(offered) <= 11  # a batch of five at most, five waiting, one at the door
        store.gate.set()
        await asyncio.to_thread(thread.join, WITHIN_S)
        assert len(offered) == 20
        await pipeline.flush()
        assert len(store.messages) == 20
        assert max(store.batches) <= 5


async def test_a_thread_that_waits_is_let_go_when_it_should_stop() -> None:
    store, stop, answers = MemoryStore(), threading.Event(), []
    store.gate.clear()
    async with Pipeline(store.append, capacity=1, batch_rows=1) as pipeline:
        assert pipeline.offer(message(1), lambda: None)
        await store.until(lambda: store.tries == 1)
        assert pipeline.offer(message(2), lambda: None)
        thread = threading.Thread(target=lambda: answers.append(pipeline.offer(message(3), None, stop)))
        thread.start()
        stop.set()
        await asyncio.to_thread(thread.join, WITHIN_S)
        assert answers == [False]
        store.gate.set()
    assert len(store.messages) == 2
    assert pipeline.offer(message(4), lambda: None) is False


def test_leaving_writes_what_waits() -> None:
    async def main() -> None:
        store, done = MemoryStore(), []
        async with Pipeline(store.append) as pipeline:
            await pipeline.put(message(1))
            await store.until(lambda: len(store.batches) == 1)
            for seq in (2, 3):
                pipeline.offer(message(seq), lambda seq=seq: done.append(seq))  # type: ignore[misc]
        assert len(store.messages) == 3
        assert done == [2, 3]

    run_virtual(main())


def test_leaving_with_a_failing_store_gives_up_after_one_more_try_and_counts_local_losses() -> None:
    async def main() -> None:
        store, done = MemoryStore(), []
        store.failing = StoreFull("no room")
        async with Pipeline(store.append, batch_rows=1) as pipeline:
            await pipeline.put(message(1))
            pipeline.offer(message(2), lambda: done.append(2))
            await store.until(lambda: store.tries == 3)
            await pipeline.put(message(3))
        assert store.tries == 4
        assert done == []
        assert pipeline.counts.dropped == 2

    run_virtual(main())


async def test_a_burst_wakes_the_loop_once() -> None:
    store = MemoryStore()
    async with Pipeline(store.append) as pipeline:
        pipeline.offer(message(1), lambda: None)
        await pipeline.flush()
        await settled(pipeline)
        loop = asyncio.get_running_loop()
        calls = []
        plain = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *args, **more: calls.append(args) or plain(*args, **more)  # type: ignore[method-assign, assignment, func-returns-value]
        for seq in range(2, 302):
            pipeline.offer(message(seq), None)
        assert len(calls) == 1


async def test_readings_are_judged_once_on_their_way() -> None:
    store = MemoryStore()
    async with Pipeline(store.append) as pipeline:
        await pipeline.put(message(1, value=0.0))
    (kept,) = store.messages[0].readings
    assert (kept.value, kept.quality, kept.reason) == (0.0, Quality.BAD, Reason.ZERO)


async def test_a_bug_in_append_ends_the_pipeline_loudly() -> None:
    async def append(_messages: object) -> Commit:
        raise RuntimeError("bug")

    async def use() -> None:
        async with Pipeline(append) as pipeline:
            await pipeline.put(message(1))
            await asyncio.get_running_loop().create_future()

    with pytest.raises(ExceptionGroup) as caught:
        await use()
    assert caught.group_contains(RuntimeError, match="bug")
