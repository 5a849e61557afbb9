"""Assistants' SQL: one SELECT at a time in the query worker, which is kept up to date and replaced when it overruns."""

import asyncio
import os
import resource
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gateway.jail import feed, frames
from gateway.jail.child import Child, ChildDied, ChildError, ChildOverran, ChildUnready
from gateway.jail.feed import Load, Sent
from gateway.jail.results import Results
from gateway.jail.table import Cell, Table
from gateway.store.db import Store
from gateway.store.errors import StoreError

WORKER = "gateway.jail.query_worker"
LIMIT_S = 10.0
GRACE_S = 1.0
"""The worker interrupts a question at its limit; where even that does not help it is killed so much later."""
LOAD_S = 60.0
MOST_HOT_ROWS = 1_000_000
FIRST_ROWS = 100
ANSWER_BYTES = 20 << 20
HANDED_AT_ONCE = 100
MOST_RESIDENT_BYTES = 160 << 20
_TRIES = 3

Parameter = str | int | float | bool | None


class QueryRefused(ValueError):
    """The statement may not run, whatever the data: one line, with the closest name where there is one."""


class QueryFailed(ValueError):
    """The statement had no answer this time: one line, and the way out."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Columns are (name, SQL type). `rows` are the first 100 of the `kept` ones that `query_id` stands for; `total`
    counts all that there are, or so many at least where `counted` is false; `truncated`: more than are kept."""

    query_id: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Cell, ...], ...]
    kept: int
    total: int
    counted: bool
    truncated: bool
    took_ms: float


class Questions:
    """`async with Questions(store)`: owns the query worker, which starts with the first question."""

    def __init__(
        self,
        store: Store,
        *,
        worker: str | Path = WORKER,
        arguments: Sequence[str] = (),
        limit_s: float = LIMIT_S,
        most_hot_rows: int = MOST_HOT_ROWS,
        most_resident_bytes: int = MOST_RESIDENT_BYTES,
    ) -> None:
        self._store, self._limit_s = store, limit_s
        self._most_hot_rows, self._most_resident_bytes = most_hot_rows, most_resident_bytes
        self._child = Handing(worker, arguments, name="query worker", answer_bytes=ANSWER_BYTES)
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._sent: Sent | None = None
        self._handed: frozenset[str] = frozenset()
        self._results: Results | None = None

    async def __aenter__(self) -> Self:
        self._results = Results(asyncio.get_running_loop().time)
        await self._child.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._child.__aexit__(kind, error, trace)

    @property
    def worker(self) -> Child:
        """The child, for its counts and its pid."""
        return self._child

    async def run(
        self, sql: str, parameters: Sequence[Parameter] | Mapping[str, Parameter] = (), *, owner: str
    ) -> Answer:
        """Answer one SELECT. QueryRefused or QueryFailed in one line."""
        question = {"do": "query", "sql": sql, "parameters": _sendable(parameters), "limit_s": self._limit_s}
        header, body = await self._ask(question, b"")
        table = await asyncio.to_thread(_decoded, body)
        query_id = self._kept.put(table, owner)
        total, counted = _whole(header.get("total")), header.get("counted") is True
        return Answer(
            query_id,
            tuple((each.name, each.type) for each in table.columns),
            tuple(map(tuple, table.head(0, FIRST_ROWS))),
            table.rows,
            max(total, table.rows),
            counted,
            total > table.rows,
            float(_whole(header.get("took_us"))) / 1000,
        )

    def table(self, query_id: str, owner: str) -> Table:
        """A kept result; LookupError where it is not this owner's, or has been forgotten."""
        found = self._kept.get(query_id, owner)
        if found is None:
            raise LookupError(f"no result {query_id[:40]!r}: it was forgotten, or never yours; run the query again")
        return found

    async def parquet(self, query_id: str, owner: str) -> bytes:
        """A kept result as a Parquet file, made by the worker. LookupError and QueryFailed."""
        table = self.table(query_id, owner)
        question = {"do": "parquet", "limit_s": self._limit_s}
        _, body = await self._ask(question, await asyncio.to_thread(table.encode), fed=False)
        if body[:4] != b"PAR1" or body[-4:] != b"PAR1":
            raise QueryFailed("no Parquet file came of it: ask for CSV")
        return body

    def clear(self, owner: str) -> int:
        """Forget this owner's results; how many those were."""
        return self._kept.clear(owner)

    @property
    def _kept(self) -> Results:
        if self._results is None:
            raise QueryFailed("questions are not open: use them inside their `async with`")
        return self._results

    async def _ask(self, question: Mapping[str, Any], body: bytes, *, fed: bool = True) -> tuple[frames.Header, bytes]:
        if self._waiting >= self._child.most_waiting:
            raise QueryFailed(f"{self._waiting} questions wait already: ask again in a moment")
        self._waiting += 1
        try:
            async with self._turn:
                for _ in range(_TRIES):
                    state = await self._feed() if fed else None
                    answer, given = await self._child.ask(
                        {**question, "state": state}, body, limit_s=self._limit_s + GRACE_S
                    )
                    if answer.get("stale") is not True:
                        await self._slim()
                        return self._judged(answer), given
                    self._sent = None
                raise QueryFailed("the query worker is replaced over and over: ask again in a moment")
        except ChildError as error:
            self._sent = None
            raise QueryFailed(self._told(error)) from error
        except (StoreError, feed.TooMuch) as error:
            raise QueryFailed(str(error)) from error
        finally:
            self._waiting -= 1

    async def _feed(self) -> str:
        """Bring the worker up to date; what its state is called now."""
        for _ in range(_TRIES):
            if self._sent is None:
                self._handed = frozenset()
            load = await feed.look(self._store, self._sent, self._most_hot_rows)
            try:
                if (not load.descriptors and load.sent == self._sent) or await self._hand(load):
                    return load.sent.token
            except FileNotFoundError:  # a segment was replaced after the look
                continue
            finally:
                load.close()
        raise QueryFailed("what is stored changes too fast just now: ask again in a moment")

    async def _hand(self, load: Load) -> bool:
        """Whether the worker has it all now; False where it must be told everything anew."""
        self._sent, before = None, self._sent
        try:
            if load.descriptors:
                await self._child.hand(load.descriptors, limit_s=LOAD_S)
            files = feed.files(load.segments)
            missing = [name for name in files if name not in self._handed]
            for at in range(0, len(missing), HANDED_AT_ONCE):
                some = {name: files[name] for name in missing[at : at + HANDED_AT_ONCE]}
                opened = feed.open_segments(self._store.segments_folder, some)
                try:
                    await self._child.hand(opened, limit_s=LOAD_S)
                finally:
                    for descriptor in opened.values():
                        os.close(descriptor)
                self._handed |= opened.keys()
        except FileNotFoundError:
            self._sent = before
            raise
        answer, _ = await self._child.ask(load.question, limit_s=LOAD_S)
        if self._judged(answer).get("stale") is True:
            return False
        self._sent, self._handed = load.sent, frozenset(files)
        return True

    async def _slim(self) -> None:
        """A worker that has grown large and would keep it for its idle minutes gives way to a new one."""
        if self._child.resident_bytes > self._most_resident_bytes:
            await self._child.stop()

    def _judged(self, answer: frames.Header) -> frames.Header:
        if "refused" in answer:
            raise QueryRefused(_line(answer["refused"]))
        if "failed" in answer:
            raise QueryFailed(self._reason(_line(answer["failed"])))
        return answer

    def _reason(self, why: str) -> str:
        if why == "late":
            return f"stopped after {self._limit_s:g} s: ask for less time, or of measurements_hourly"
        if why == "memory" or why.startswith("Out of Memory"):
            return "the question needs more memory than it may use: ask for less time, or group earlier"
        return why

    def _told(self, error: ChildError) -> str:
        if isinstance(error, ChildOverran):
            return self._reason("late")
        if isinstance(error, ChildDied):
            return "the question needed more than the worker may use, and ended it: ask for less"
        return f"SQL is not available: {error}" if isinstance(error, ChildUnready) else str(error)


class Handing(Child):
    """A child to which descriptors can be given."""

    _gift: tuple[int, ...] = ()

    @property
    def most_waiting(self) -> int:
        """How many questions may wait."""
        return self._most_waiting

    @property
    def resident_bytes(self) -> int:
        """What of it is in memory, shared pages too; 0 where there is none, or nobody says."""
        try:
            with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * resource.getpagesize()
        except OSError:
            return 0

    async def hand(self, descriptors: Mapping[str, int], *, limit_s: float) -> None:
        """Give it these, by name; ChildError where it did not take them. For one caller at a time."""
        self._gift = tuple(descriptors.values())
        try:
            answer, _ = await self.ask({"do": "take", "names": list(descriptors)}, limit_s=limit_s)
        finally:
            self._gift = ()
        if answer:
            raise ChildDied(f"the {self.name} did not take what it was handed")

    async def _exchange(self, question: bytes, limit_s: float) -> tuple[frames.Header, bytes]:
        if not self._gift:
            return await super()._exchange(question, limit_s)
        assert self._wire is not None
        _, writer = self._wire
        writer.transport.set_write_buffer_limits(0)  # so that nothing of the frame is left here after it was drained
        writer.write(question)
        await writer.drain()
        with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as wire:
            socket.send_fds(wire, [b"\0"], self._gift)
        return await super()._exchange(b"", limit_s)


def _decoded(body: bytes) -> Table:
    try:
        return Table.decode(body)
    except ValueError as error:
        raise QueryFailed("the query worker gave no table: ask again") from error


def _sendable(parameters: Sequence[Parameter] | Mapping[str, Parameter]) -> Any:
    return dict(parameters) if isinstance(parameters, Mapping) else list(parameters)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _line(text: Any) -> str:
    """The worker's words in one line of printable characters, and not a long one."""
    line = " ".join(str(text).split())
    return "".join(each if each.isprintable() else "?" for each in line)[:500]
