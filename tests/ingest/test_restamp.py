"""Which batches an untrusted clock wrote, and by how much they move once it is right."""

from datetime import UTC, datetime, timedelta

from gateway.ingest.restamp import LOOKS, Restamp
from gateway.store.errors import StoreFull
from gateway.store.types import Commit


class Bench:
    """A clock and the time that nobody can set; what was moved."""

    def __init__(self) -> None:
        self.wall_s, self.elapsed_s, self.trust = 1_000.0, 50.0, False
        self.moved: list[tuple[int, int, timedelta]] = []
        self.full = False
        self.boots: list[str] = []
        self.restamp = Restamp(self, self.redate, self.redate_boot, lambda: self.elapsed_s)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.wall_s, UTC)

    def trusted(self) -> bool:
        return self.trust

    async def redate(self, first: int, last: int, forward: timedelta) -> int:
        if self.full:
            raise StoreFull("no room")
        self.moved.append((first, last, forward))
        return 1

    async def redate_boot(self, _device: str, boot: str, _start: datetime) -> int:
        if self.full:
            raise StoreFull("no room")
        self.boots.append(boot)
        return 1

    async def commit(self, batch: int, after_s: float = 5.0, jump_s: float = 0.0) -> None:
        self.elapsed_s += after_s
        self.wall_s += after_s + jump_s
        await self.restamp.committed(Commit(batch, 1, 0, {}, (), ()))


async def test_a_clock_that_was_never_set() -> None:
    bench = Bench()
    await bench.commit(1)
    await bench.commit(2)
    assert bench.moved == []
    bench.trust = True
    await bench.commit(3, jump_s=1e9)
    assert bench.moved == [(1, 3, timedelta(seconds=1e9))]
    await bench.commit(4)
    assert len(bench.moved) == 1


async def test_each_era_moves_by_its_own_fault() -> None:
    bench = Bench()
    await bench.commit(1)
    await bench.commit(2, jump_s=-100)
    await bench.commit(3, jump_s=0.2)
    bench.trust = True
    await bench.commit(4, jump_s=300)
    (first, second) = bench.moved
    assert (first[:2], second[:2]) == ((1, 1), (2, 4))
    assert abs(first[2].total_seconds() - 200.2) < 1e-3
    assert abs(second[2].total_seconds() - 300.2) < 1e-3


async def test_a_full_medium_puts_it_off() -> None:
    bench = Bench()
    await bench.commit(1)
    bench.trust, bench.full = True, True
    await bench.commit(2, jump_s=60)
    assert bench.moved == []
    bench.full = False
    await bench.commit(3)
    assert bench.moved == [(1, 3, timedelta(seconds=60))]


async def test_nothing_is_asked_for_where_the_clock_was_always_right() -> None:
    bench = Bench()
    bench.trust = True
    await bench.commit(1)
    assert bench.moved == []


async def test_a_boot_that_became_known_is_looked_for_some_commits_long() -> None:
    bench = Bench()
    bench.trust, bench.full = True, True
    bench.restamp.boot_known("node", "1-a", bench.now())
    await bench.commit(1)
    bench.full = False
    for batch in range(2, 10):
        await bench.commit(batch)
    assert bench.boots == ["1-a"] * LOOKS
