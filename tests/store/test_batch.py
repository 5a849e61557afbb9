"""What a batch makes of its messages: every number as it was, dated readings once wherever the first of them lies."""

import math
import random
import struct
from datetime import timedelta
from pathlib import Path

from drivers.model import Quality, Quantity, Reason
from gateway.reading import Delivery, Message, Reading
from gateway.store import codes
from gateway.store.db import Store
from gateway.store.keeper import Keeper
from tests.brokers import FixedClock
from tests.store.builders import T0, local, reading

SQL = """
    select epoch_ms(ts), value, quality, epoch_ms(ts) + lag, null, null from dated
    union all select epoch_ms(ts), value, quality, epoch_ms(received), seq, uptime_ms from reading order by 1
"""


def any_doubles(count: int) -> list[float]:
    """Finite ones of every size, and those that are hardest to write and read."""
    found = [0.1, -0.0, 5e-324, 1.7976931348623157e308, 2.0**53 + 2, 1e22, 1e23]
    source = random.Random(1)
    while len(found) < count:
        (value,) = struct.unpack("d", source.randbytes(8))
        found += [source.uniform(-1e4, 1e4), value] if math.isfinite(value) else []
    return found


async def test_every_column_comes_out_as_it_went_in(tmp_path: Path) -> None:
    values = [None, *any_doubles(5000)]
    heard = T0 + timedelta(days=3, milliseconds=7)
    given = [
        Reading(
            "attic", "scd30", "count", Quantity.COUNT, value, T0 + timedelta(seconds=n), heard, *codes.unpack(n % 43)
        )
        for n, value in enumerate(values)
    ]
    seqs = [n - n // 3 if n % 3 else None for n in range(1, len(given) + 1)]
    numbers = [(Delivery("1-a", seq, 1) if seq else None, seq and seq * 1000) for seq in seqs]
    async with Store(tmp_path) as store:
        await store.append([Message("attic", "scd30", (r,), *n) for r, n in zip(given, numbers, strict=True)])
        rows = await store.read(lambda db: db.execute(SQL).fetchall())
        again = [store.known.newest[1].value]
    assert [repr(row[1]) for row in rows] == [repr(each.value) for each in given]  # -0.0 too
    assert [(row[0], row[2], row[3]) for row in rows] == [
        (codes.to_ms(each.time), codes.pack(each.quality, each.reason), codes.to_ms(heard)) for each in given
    ]
    kept = [each.reason in {Reason.TIME_UNKNOWN, Reason.CLOCK_UNTRUSTED} for each in given]  # what may date them
    assert any(kept)
    assert [row[4:] for row in rows] == [
        (seq, seq and seq * 1000) if keep else (None, None) for keep, seq in zip(kept, seqs, strict=True)
    ]
    assert again == [given[-1].value]


async def test_a_dated_reading_that_was_sealed_is_still_there_once(tmp_path: Path) -> None:
    clock = FixedClock(T0 + timedelta(hours=5))
    async with Store(tmp_path) as store:
        await store.append([local(reading(400.0 + n, n * 600.0), timed=True) for n in range(20)])
        assert await Keeper(store, clock).seal() > 10
        again = [local(reading(400.0 + n, n * 600.0), timed=True) for n in range(22)]
        commit = await store.append(again)
        assert (commit.stored, commit.duplicates) == (2, 20)
        assert [each.value for each in commit.fresh] == [420.0, 421.0]
        other = await store.append([local(reading(399.5, 600.0), timed=True)])
        assert (other.stored, other.duplicates) == (1, 0)  # another value at a time that is sealed


async def test_of_duplicates_in_the_middle_only_they_are_left_out(tmp_path: Path) -> None:
    old = local(reading(400.0, 0), reading(21.0, 0, quantity=Quantity.TEMPERATURE), timed=True)
    async with Store(tmp_path) as store:
        await store.append([old])
        doubtful = reading(400.0, 0, quality=Quality.UNCERTAIN, reason=Reason.RATE)
        late, new = reading(22.0, -5, quantity=Quantity.TEMPERATURE), reading(410.0, 60)
        commit = await store.append([local(late, doubtful, new, timed=True), old])
        assert (commit.stored, commit.duplicates, commit.fresh) == (2, 3, (late, new))
        assert sorted(each.value or 0 for each in store.newest().values()) == [21.0, 410.0]
        assert len(await store.read(lambda db: db.execute(SQL).fetchall())) == 4


async def test_a_reading_from_the_future_beside_a_right_one_is_there_once(tmp_path: Path) -> None:
    future = local(reading(1.0, 90_000)._replace(received=T0), timed=True)
    right = local(reading(2.0, 0), timed=True)
    async with Store(tmp_path) as store:
        assert (await store.append([future, right])).stored == 2
        again = await store.append([future, right])
        assert (again.stored, again.duplicates) == (0, 2)
        assert store.known.newest[1].value == 2.0
