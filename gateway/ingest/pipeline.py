"""From many senders to one writer: bounded intake, batches, acknowledgement only after the commit."""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from gateway.ingest.quality import Judge
from gateway.reading import Message
from gateway.store.errors import StoreError
from gateway.store.types import Commit

log = logging.getLogger(__name__)

Append = Callable[[Sequence[Message]], Awaitable[Commit]]
Committed = Callable[[Commit], Awaitable[None]]
Done = Callable[[], None]

STOP_SEEN_S = 0.5  # a blocked thread looks this often whether it should stop
RETRY_FIRST_S = 0.5
RETRY_LAST_S = 30.0
# A commit costs nearly the same for more rows: a full batch grows while senders outside go on speaking.
PAUSE_S = 0.01
GROWN = 3  # times `batch_rows`, then it is written
LARGEST = 8  # times `batch_rows`, of what waits when it is taken
IDLE_S = 0.05  # nothing came for so long: what a sender says at once has arrived


class Item(NamedTuple):
    """Messages that came together, since when they are on their way (loop time), how many readings they count for, and
    what to call once all of it is on disk."""

    messages: Sequence[Message]
    since_s: float
    rows: int
    done: Done | None


@dataclass(slots=True)
class Counts:
    """What went through since the start. `stored`, `duplicates` and `refused` readings (their devices have too many
    series); `dropped` messages; `failing` says why."""

    stored: int = 0
    duplicates: int = 0
    refused: int = 0
    dropped: int = 0
    batches: int = 0
    failures: int = 0
    failing: str = ""


class Pipeline:
    """Owns the intake and the task that writes batches; `async with`. Create it inside the loop that runs it.

    A batch goes to `append` when nothing was ever committed, at `batch_rows` readings, when the oldest has waited
    `flush_interval_s`, or when a sender is stalled: `window` unacknowledged messages and none arrived for `stall_s`
    (what was learned so about a sender's window flushes at once the next time). Where more comes without a pause it
    grows, until half a window waits. With `idle_commits_per_s` what came from outside is written as soon as nothing
    more came for IDLE_S, or as it goes on coming, so many times a second at most. After the commit each `done` is
    called, then each listener with the Commit; a listener handles its own errors.

    `offer` and `offer_all` block their thread while `capacity` messages wait: the broker keeps the rest. Local messages
    cannot be asked for again: `local_capacity` of them are kept, and the oldest is dropped and counted when there is no
    room.
    """

    def __init__(
        self,
        append: Append,
        *,
        judge: Judge | None = None,
        batch_rows: int = 1000,
        flush_interval_s: float = 5.0,
        window: int = 20,
        stall_s: float = 0.1,
        idle_commits_per_s: float | None = None,
        capacity: int = 4000,
        local_capacity: int = 10_000,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        self._append, self._judge = append, judge or Judge()
        self._batch_rows, self._flush_interval_s = batch_rows, flush_interval_s
        self._window, self._stall_s = window, stall_s
        self._idle_every_s = None if idle_commits_per_s is None else 1 / idle_commits_per_s
        self._capacity, self._local_capacity = capacity, local_capacity
        self._on_failure = on_failure or (lambda _text: None)
        self._listeners: list[Committed] = []
        self.counts = Counts()
        self._room = threading.Condition()  # guards everything down to `_signalled`
        self._remote: deque[Item] = deque()
        self._local: deque[Item] = deque()
        self._waiting = 0
        self._rows = 0
        self._writing: Sequence[Item] = ()
        self._unacked = 0
        self._arrived_s = 0.0
        self._taken_s = 0.0
        self._learned: int | None = None
        self._signalled = False
        self._wake, self._idle, self._stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._urgent = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._idle.set()
        await self._group.__aenter__()
        self._group.create_task(self._work(), name="ingest.pipeline")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what waits, once; what cannot be written stays unacknowledged, or is counted as dropped."""
        self._stop.set()
        with self._room:
            self._room.notify_all()
        self._wake.set()
        await self._group.__aexit__(None, None, None)

    def listen(self, committed: Committed) -> None:
        """Call this after each commit, in the order of listening."""
        self._listeners.append(committed)

    def offer(self, message: Message, done: Done | None = None, stop: threading.Event | None = None) -> bool:
        """Take a message from another thread, waiting while there is no room; False if this or `stop` ends before."""
        return self.offer_all((message,), done, stop)

    def offer_all(
        self, messages: Sequence[Message], done: Done | None = None, stop: threading.Event | None = None
    ) -> bool:
        """The same for messages that came together; `done` is called when the last of them is on disk."""
        loop, rows = self._loop, sum(map(_rows, messages))
        with self._room:
            while self._waiting >= self._capacity and not self._ended(stop):
                self._room.wait(STOP_SEEN_S)
            if loop is None or self._ended(stop):
                return False
            self._waiting += len(messages)
            wake = self._arrived(self._remote, Item(messages, loop.time(), rows, done))
        if wake:
            loop.call_soon_threadsafe(self._wake.set)
        return True

    async def put(self, message: Message) -> None:
        """Take a local message; never waits, so that no sensor delays another."""
        if self._loop is None or self._stop.is_set():
            self.counts.dropped += 1
            return
        with self._room:
            if len(self._local) >= self._local_capacity:
                self._rows -= self._local.popleft().rows
                self.counts.dropped += 1
            wake = self._arrived(self._local, Item((message,), self._loop.time(), _rows(message), None))
        if wake:
            self._wake.set()

    async def flush(self) -> None:
        """Return when everything that waits now is on disk."""
        self._urgent = True
        self._wake.set()
        await self._idle.wait()

    @property
    def pending(self) -> int:
        """Messages that are not on disk yet."""
        return len(self._local) + self._waiting + sum(len(item.messages) for item in self._writing)

    @property
    def lag_s(self) -> float:
        """How long the oldest message that is not on disk has been waiting."""
        heads = [queue[0].since_s for queue in (self._writing, self._local, self._remote) if queue]
        return self._loop.time() - min(heads) if heads and self._loop else 0.0

    def _ended(self, stop: threading.Event | None) -> bool:
        return self._stop.is_set() or (stop is not None and stop.is_set())

    def _arrived(self, queue: deque[Item], item: Item) -> bool:
        """Queue it; whether the worker has to look (once per burst). Needs the lock."""
        first, rows, unacked = not self._local and not self._remote, self._rows, self._unacked
        queue.append(item)
        self._rows += item.rows
        self._unacked += 0 if item.done is None else len(item.messages)
        self._arrived_s = item.since_s
        self._idle.clear()
        if self._learned is not None and self._unacked > self._learned:
            self._learned = None  # the sender's window is larger than it seemed
        full = any(rows < limit <= self._rows for limit in (self._batch_rows, GROWN * self._batch_rows))
        stalls = any(unacked < limit <= self._unacked for limit in (self._window // 2, self._window))
        if self._signalled or not (first or full or stalls or self._unacked == self._learned):
            return False
        self._signalled = True
        return True

    async def _work(self) -> None:
        """Batches, one at a time, until stopped and empty."""
        while await self._due():
            batch = self._take()
            if not await self._commit(batch):
                return

    async def _due(self) -> bool:
        """Wait until a batch should be written; False when there is nothing left to do."""
        while True:
            self._wake.clear()
            with self._room:
                self._signalled = False
                waiting = bool(self._local or self._remote)
                wait_s = self._wait_s() if waiting else None
                if not waiting:
                    self._urgent = False
                    self._idle.set()
            if not waiting and self._stop.is_set():
                return False
            if wait_s is not None and wait_s <= 0:
                return True
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _wait_s(self) -> float:
        """How long what waits may wait on. Needs the lock."""
        if not self.counts.batches or self._urgent or self._stop.is_set() or self._unacked == self._learned:
            return 0.0
        assert self._loop is not None
        now_s = self._loop.time()
        if self._rows >= self._batch_rows:
            grown = self._rows >= GROWN * self._batch_rows or self._unacked >= self._window // 2
            return 0.0 if grown or not self._remote else self._arrived_s + PAUSE_S - now_s
        oldest_s = min(queue[0].since_s for queue in (self._local, self._remote) if queue)
        wait_s = oldest_s + self._flush_interval_s - now_s
        if self._idle_every_s is not None and self._remote:  # nobody waits for an answer about local ones
            latest_s = self._remote[0].since_s + self._idle_every_s
            due_s = max(self._taken_s + self._idle_every_s, min(self._arrived_s + IDLE_S, latest_s))
            wait_s = min(wait_s, due_s - now_s)
        if self._unacked >= self._window:
            stalled_s = self._arrived_s + self._stall_s - now_s
            if stalled_s <= 0:
                self._learned = self._unacked
            return min(wait_s, stalled_s)
        return wait_s

    def _take(self) -> list[Item]:
        """The next batch, judged; makes room for those who wait."""
        batch: list[Item] = []
        rows = 0
        self._taken_s = self._loop.time() if self._loop else 0.0
        with self._room:
            for queue in (self._local, self._remote):
                while queue and rows < LARGEST * self._batch_rows:
                    batch.append(queue.popleft())
                    rows += batch[-1].rows
                    self._waiting -= len(batch[-1].messages) if queue is self._remote else 0
            self._rows -= rows
            self._writing = batch
            self._room.notify_all()
        judged = [item._replace(messages=[self._judge.message(each) for each in item.messages]) for item in batch]
        self._writing = judged
        return judged

    async def _commit(self, batch: list[Item]) -> bool:
        """Write a batch, again and again until it is on disk; False if stopped before that."""
        messages = [message for item in batch for message in item.messages]
        delay_s = RETRY_FIRST_S
        while True:
            try:
                commit = await self._append(messages)
                break
            except StoreError as error:
                self._failed(str(error))
            if self._stop.is_set():
                left = (*batch, *self._local, *self._remote)
                self.counts.dropped += sum(len(item.messages) for item in left if item.done is None)
                return False
            await self._stopped_within(delay_s)  # a last try follows where it stopped
            delay_s = min(delay_s * 2, RETRY_LAST_S)
        self._succeeded(commit, batch)
        for listener in self._listeners:
            await listener(commit)
        return True

    def _succeeded(self, commit: Commit, batch: list[Item]) -> None:
        if self.counts.failing:
            log.warning("the store works again")
        self.counts.failing = ""
        self.counts.batches += 1
        self.counts.stored += commit.stored
        self.counts.duplicates += commit.duplicates
        self.counts.refused += commit.refused
        acknowledged = 0
        for item in batch:
            if item.done is not None:
                item.done()
                acknowledged += len(item.messages)
        with self._room:
            self._unacked -= acknowledged
        self._writing = ()

    def _failed(self, text: str) -> None:
        self.counts.failures += 1
        if not self.counts.failing:
            log.error("nothing is stored or acknowledged until this is solved: %s", text)
            self._on_failure(text)
        self.counts.failing = text

    async def _stopped_within(self, delay_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._stop.wait()


def _rows(message: Message) -> int:
    """A message without readings is still work: its number has to be remembered."""
    return len(message.readings) or 1
