"""Times that become known: rows move, figures and newest values follow."""

from datetime import timedelta
from pathlib import Path

from drivers.model import Quality, Reason
from gateway.reading import Delivery, Message
from gateway.store import codes, queries, redate
from gateway.store.db import Store
from gateway.store.keeper import Keeper
from tests.store.builders import T0, local, reading
from tests.store.test_keeper import SetClock, rows

UNKNOWN = {"quality": Quality.UNCERTAIN, "reason": Reason.TIME_UNKNOWN}
UNTRUSTED = {"quality": Quality.UNCERTAIN, "reason": Reason.CLOCK_UNTRUSTED}


def told(seq: int, received_s: float, uptime_s: float, boot: str = "1-a") -> Message:
    """What a node without a clock sends: dated by its receipt, until somebody knows better."""
    given = reading(400.0 + seq, received_s, device="node", **UNKNOWN)
    return Message("node", "scd30", (given,), Delivery(boot, seq, 1), uptime_ms=int(uptime_s * 1000))


async def test_a_boot_that_became_known(tmp_path: Path) -> None:
    start = T0 - timedelta(seconds=500)
    async with Store(tmp_path) as store:
        await store.append([told(1, 0, 100), told(2, 1, 200), told(3, 2, 9, boot="2-b")])
        assert await redate.boot(store, "node", "1-a", start) == 2
        ms = codes.to_ms(T0)
        unsure = codes.pack(Quality.UNCERTAIN, Reason.TIME_UNKNOWN)
        want = [(1, ms - 400_000, 401.0, 0), (1, ms - 300_000, 402.0, 0), (1, ms + 2000, 403.0, unsure)]
        assert await rows(store) == want
        assert await redate.boot(store, "node", "1-a", start) == 0
        assert await Keeper(store, SetClock(T0 + timedelta(hours=9))).seal() == 2
        assert await rows(store) == want
        (newest,) = queries.latest(store)
        assert (newest.value, newest.reason) == (403.0, Reason.TIME_UNKNOWN)
    async with Store(tmp_path) as store:
        assert await rows(store) == want


async def test_no_reading_is_dated_later_than_it_came(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.append([told(1, 0, 100)])
        await redate.boot(store, "node", "1-a", T0)
        assert [row[1] for row in await rows(store)] == [codes.to_ms(T0)]


async def test_the_newest_value_moves_with_its_time(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.append([local(reading(1.0, -50, device="node"))])
        await Keeper(store, SetClock(T0 + timedelta(hours=9))).seal()
        await store.append([told(1, 0, 100)])
        assert queries.latest(store)[0].value == 401.0
        await redate.boot(store, "node", "1-a", T0 - timedelta(seconds=500))
        (newest,) = queries.latest(store)
        assert (newest.value, newest.time, newest.quality) == (1.0, T0 - timedelta(seconds=50), Quality.GOOD)
        await store.append([told(2, 3, 498)])
        await redate.boot(store, "node", "1-a", T0 - timedelta(seconds=500))
        (newest,) = queries.latest(store)
        assert (newest.value, newest.time) == (402.0, T0 - timedelta(seconds=2))
        assert newest.received == T0 + timedelta(seconds=3)


async def test_what_a_wrong_clock_wrote_moves_by_its_fault(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.append([local(reading(1.0, 0, **UNTRUSTED)), local(reading(2.0, 5))])
        await store.append([local(reading(3.0, 10, **UNTRUSTED))])
        assert await redate.clock(store, 1, 1, timedelta(days=300)) == 1
        ms = codes.to_ms(T0)
        found = sorted((row[1], row[2], row[3]) for row in await rows(store))
        assert found[:1] == [(ms + 5000, 2.0, 0)]
        assert found[2:] == [(ms + 300 * 86_400_000, 1.0, 0)]
        (newest,) = queries.latest(store)
        assert (newest.value, newest.time, newest.received) == (1.0, T0 + timedelta(days=300), T0 + timedelta(days=300))
