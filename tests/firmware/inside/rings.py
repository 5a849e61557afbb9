"""The ring: in memory, in flash, over power cuts, full, damaged."""

import os
import random
import time

from node.ring import Ring
from node.segments import Segments, line, parse

KB = 1024
WINDOW, MEMORY_MS = 128, 8000  # constants leave no name behind in the firmware


def make(boot="1-a", limit=64 * KB):
    found = Ring("ring", limit, boot)
    found.open()
    return found


def fill(ring, first, last):
    for seq in range(first, last + 1):
        ring.add(seq, "s", seq * 1000, 0, {"count": seq})


def sent(ring, most=1000):
    """(boot, seq, oldest) of everything that it sends now."""
    found = []
    while len(found) < most:
        each = ring.next()
        if each is None:
            break
        found.append((each[0][0], each[0][1], each[2]))
    return found


def seqs(ring, most=1000):
    return [seq for _, seq, _ in sent(ring, most)]


def test_memory_is_sent_in_order_and_let_go():
    ring = make()
    fill(ring, 1, 5)
    assert sent(ring) == [("1-a", seq, 1) for seq in (1, 2, 3, 4, 5)]
    assert sent(ring) == []
    assert ring.acked("1-a", 3) == 3
    ring.rewind()
    assert sent(ring) == [("1-a", 4, 4), ("1-a", 5, 4)]
    assert ring.acked("1-a", 5) == 2
    assert not ring.held and ring.flash_bytes == 0 and ring.in_flight == 0


def test_an_acknowledgement_of_another_boot_lets_nothing_go():
    ring = make()
    fill(ring, 1, 3)
    assert ring.acked("2-b", 3) == 0
    ring.flush()
    assert ring.acked("2-b", 3) == 0
    assert seqs(ring) == [1, 2, 3]


def test_what_was_flushed_survives_and_keeps_its_boot():
    ring = make()
    fill(ring, 1, 3)
    ring.flush()
    fill(ring, 4, 5)  # lost with the power
    after = make("2-b")
    fill(after, 1, 2)
    assert sent(after) == [("1-a", 1, 1), ("1-a", 2, 1), ("1-a", 3, 1), ("2-b", 1, 1), ("2-b", 2, 1)]
    after.acked("1-a", 3)
    after.rewind()
    assert sent(after) == [("2-b", 1, 1), ("2-b", 2, 1)]


def test_a_flush_in_the_middle_of_sending_sends_nothing_twice_and_forgets_nothing():
    for already in range(6):
        for flash_first in (False, True):
            name = "ring%d%d" % (already, flash_first)
            ring = Ring(name, 64 * KB, "1-a")
            ring.open()
            if flash_first:
                fill(ring, 1, 3)
                ring.flush()
                assert seqs(ring) == [1, 2, 3]
            fill(ring, 4, 8)
            assert seqs(ring, already) == list(range(4, 4 + already)), (already, flash_first)
            ring.flush()
            fill(ring, 9, 9)
            assert seqs(ring) == list(range(4 + already, 10)), (already, flash_first)


def test_numbers_in_flight_are_bounded():
    ring = make()
    fill(ring, 1, 200)
    assert seqs(ring) == list(range(1, WINDOW + 1))
    ring.acked("1-a", 10)
    assert seqs(ring) == list(range(WINDOW + 1, WINDOW + 11))


def test_oldest_names_a_range_that_was_lost():
    ring = make("1-a")
    fill(ring, 1, 3)
    ring.flush()
    after = make("2-b")
    after.mark_lost("1-a", 9)
    assert sent(after) == [("1-a", 1, 1), ("1-a", 2, 1), ("1-a", 3, 1), ("1-a", 10, 1)]
    after.acked("1-a", 3)
    after.rewind()
    assert sent(after) == [("1-a", 10, 10)]


def test_a_full_ring_gives_up_the_oldest_and_counts_it():
    ring = make(limit=48 * KB)
    most = 3000
    for seq in range(1, most + 1):
        fill(ring, seq, seq)
        if seq % 20 == 0:
            ring.flush()
    assert ring.flash_bytes <= 48 * KB + 200
    held = []
    while True:
        found = sent(ring)
        if not found:
            break
        held += [seq for _, seq, _ in found]
        assert found[0][2] == found[0][1], "what is gone is not claimed to be held"
        ring.acked("1-a", held[-1])
    assert held == list(range(most - len(held) + 1, most + 1))
    assert ring.discarded == most - len(held) > 1000
    assert ring.gone == ("1-a", 1, most - len(held))


def test_of_a_boot_that_is_given_up_wholly_a_record_tells():
    first = make("1-a", 48 * KB)
    fill(first, 1, 100)
    first.flush()
    ring = make("2-b", 48 * KB)
    for seq in range(1, 2001):
        fill(ring, seq, seq)
        if seq % 20 == 0:
            ring.flush()
    found = sent(ring, 3)
    assert found[0] == ("1-a", 101, 101), found
    assert found[1][0] == "2-b" and found[1][1] == found[1][2] > 100
    assert ring.gone[0] == "2-b"
    again = make("3-c", 48 * KB)
    assert sent(again, 2) == found[:2]


def test_a_torn_end_loses_that_record_only():
    """Cut at any byte of the last record: the others are there, and what follows goes into a file of its own."""
    ring = make()
    fill(ring, 1, 4)
    ring.flush()
    with open("ring/00000001", "rb") as file:
        whole = file.read()
    start = len(whole) - len(whole.split(b"\n")[3]) - 1
    for end in range(start, len(whole)):
        for name in os.listdir("ring"):
            os.remove("ring/" + name)
        with open("ring/00000001", "wb") as file:
            file.write(whole[:end])
        after = make("2-b")
        fill(after, 1, 1)
        after.flush()
        assert [key[:2] for key in sent(after)] == [("1-a", 1), ("1-a", 2), ("1-a", 3), ("2-b", 1)], end
        assert after.acked("1-a", 3) == 3
        assert after.acked("2-b", 1) == 1
        assert not after.held, end


def test_a_flipped_bit_loses_that_record_only():
    ring = make()
    fill(ring, 1, 9)
    ring.flush()
    with open("ring/00000001", "rb") as file:
        whole = bytearray(file.read())
    size = len(whole) // 9
    for place in range(4 * size, 5 * size - 1, 3):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        with open("ring/00000001", "wb") as file:
            file.write(damaged)
        after = make("2-b")
        found = seqs(after)
        assert [seq for seq in found if seq != 5] == [1, 2, 3, 4, 6, 7, 8, 9] and 5 not in found, (place, found)
        assert after.damaged == 1
        after.acked("1-a", 4)
        after.rewind()
        assert sent(after)[0] == ("1-a", 6, 6), "the hole is not claimed to be held"


def test_a_half_made_file_is_cleared_away():
    ring = make()
    fill(ring, 1, 2)
    ring.flush()
    with open("ring/new", "wb") as file:
        file.write(b"half")
    assert seqs(make("2-b")) == [1, 2]
    assert sorted(os.listdir("ring")) == ["00000001"]


class FullSegments(Segments):
    """A flash without room."""

    full = False

    def append(self, lines):
        if FullSegments.full:
            raise OSError(28)
        return Segments.append(self, lines)


def test_a_flash_without_room_keeps_the_newest_in_memory():
    ring = make()
    ring._segments = FullSegments("ring")
    FullSegments.full = True
    fill(ring, 1, 100)
    assert ring.failed > 0 and ring.discarded > 0
    assert ring.in_memory >= 80
    FullSegments.full = False
    ring.flush()
    assert ring.in_memory == 0
    assert sent(ring)[0] == ("1-a", ring.gone[2] + 1, ring.gone[2] + 1)


def test_the_window_in_memory_is_short():
    ring = make()
    fill(ring, 1, 3)
    ring.flush_due()
    assert ring.in_memory == 3
    time.now_ms[0] += MEMORY_MS
    ring.flush_due()
    assert ring.in_memory == 0 and ring.flash_bytes > 0
    before = ring.flushes
    fill(ring, 4, 4)
    ring.acked("1-a", 4)
    time.now_ms[0] += MEMORY_MS
    ring.flush_due()
    assert ring.flushes == before, "what was acknowledged in time wears no flash"


def test_lines():
    raw = line("1-a", 7, '["s", 1, 0, {}]')
    assert parse(raw) == ("1-a", 7, '["s", 1, 0, {}]', len(raw))
    for wrong in (b"", b"\n", raw[:-1], b"x" + raw[1:], raw[:20] + b"\n", b"00000000 \n"):
        assert parse(wrong)[0] == "" and parse(wrong)[3] == len(wrong)


def test_any_order_of_events_loses_nothing_and_keeps_the_order():
    """A model of the gateway's side beside the ring: random measuring, sending, losing, acknowledging, cuts."""
    for seed in range(30):
        random.seed(seed)
        folder = "ring%d" % seed
        boot, count = 1, 0
        ring = Ring(folder, 8192 * KB, "1-a")
        ring.open()
        stored, flashed, memory, marks = {}, set(), set(), {}
        for _ in range(120):
            dice = random.randint(0, 99)
            name = "%d-a" % boot
            if dice < 40:
                count += 1
                ring.add(count, "s", count, 0, {"count": count})
                memory.add((name, count))
            elif dice < 55:
                ring.flush()
                flashed |= memory
                memory = set()
            elif dice < 80:
                for key in sent(ring, random.randint(1, 20)):
                    if random.randint(0, 9):
                        stored.setdefault(key[0], set()).add(key[1])
                    marks[key[0]] = max(marks.get(key[0], 0), key[2] - 1)
            elif dice < 90:
                for its, seen in stored.items():
                    mark = marks.get(its, 0)
                    while mark + 1 in seen:
                        mark += 1
                    marks[its] = mark
                    if mark:
                        ring.acked(its, mark)
            elif dice < 95:
                ring.rewind()
            else:
                lost = sorted([seq for its, seq in memory])
                memory = set()
                boot, used, count = boot + 1, count, 0
                ring = Ring(folder, 8192 * KB, "%d-a" % boot)
                ring.open()
                if lost:
                    ring.mark_lost(name, used)
        ring.flush()
        flashed |= memory
        for _ in range(400):
            ring.rewind()
            for key in sent(ring):
                stored.setdefault(key[0], set()).add(key[1])
                marks[key[0]] = max(marks.get(key[0], 0), key[2] - 1)
            for its, seen in stored.items():
                mark = marks.get(its, 0)
                while mark + 1 in seen:
                    mark += 1
                marks[its] = mark
                ring.acked(its, mark)
            if not ring.held:
                break
        assert not ring.held, seed
        missing = [key for key in flashed if key[1] not in stored.get(key[0], ())]
        assert not missing, (seed, missing[:3])
