"""What was measured and is not yet on the gateway's disk: first in memory, then in flash, bounded, oldest first.

Records are sent in order, up to _WINDOW ahead of what is acknowledged; `rewind` starts again from the oldest held. The
ring lets go of nothing but what an acknowledgement covers, and of the oldest where it is full: that is counted, and
an empty record of the last number stays in its place so that the gateway learns the range.
"""

import json
import time

from micropython import const

from node.segments import Segments, line

_MEMORY_MS = const(8000)  # then to flash: with a step of the loop's second a reading is in memory only for 10 s at most
_MEMORY_MOST = const(40)
_WINDOW = const(128)
_READ_MOST = const(4)  # lines at once: each takes a quarter of a kilobyte of the heap
NOTHING = "node"
"""The sensor of a record without a value."""
_EMPTY = const('["node", 0, 0, {}]')
"""The record that has no value: it stands for numbers that are gone."""
_ENDED_MOST = const(32)


class Ring:
    """Flash (`segments`) and behind it `memory`, a list of (boot, seq, rest, since ticks)."""

    def __init__(self, folder, limit_bytes, boot):
        self._segments = Segments(folder)
        self._limit = limit_bytes
        self._boot = boot
        self._memory = []
        self._number, self._offset = 0, 0  # the first line that may be held
        self._head = None  # its (boot, seq)
        self.in_flight = 0
        self.discarded = self.damaged = self.flushes = self.failed = 0
        self.gone = None  # the range that was discarded last: (boot, first, last)
        self.rewind()

    def open(self):
        """Take over what earlier boots left."""
        self._segments.open()
        self._number = self._segments.numbers[0] if self._segments.numbers else 0
        self.rewind()

    @property
    def held(self):
        """Whether anything is held."""
        return bool(self._memory or self._segments.numbers)

    @property
    def flash_bytes(self):
        """What the flash holds."""
        return self._segments.total()

    @property
    def in_memory(self):
        """Records that a power cut would lose."""
        return len(self._memory)

    def add(self, seq, sensor, uptime_ms, unix_ms, value):
        """Hold one measurement of this boot."""
        rest = json.dumps([sensor, uptime_ms, unix_ms, value])
        self._memory.append((self._boot, seq, rest, time.ticks_ms()))
        if len(self._memory) >= _MEMORY_MOST:
            self.flush()

    def mark_lost(self, boot, seq):
        """Hold, in flash, that nothing of this boot up to `seq` is left that is not held."""
        self._write([(boot, seq + 1, _EMPTY, 0)])

    def flush_due(self):
        """Move the memory to flash where its oldest record has waited long enough."""
        if self._memory and time.ticks_diff(time.ticks_ms(), self._memory[0][3]) >= _MEMORY_MS:
            self.flush()

    def flush(self):
        """Move the memory to flash. Where that fails the records stay in memory, the oldest given up if too many."""
        if not self._memory:
            return
        try:
            number, offset = self._write(self._memory)
        except OSError:
            self.failed += 1
            while len(self._memory) > 2 * _MEMORY_MOST:
                self._forget(self._memory.pop(0))
            return
        self.flushes += 1
        if self._sent_memory or self._at_end(number, offset):
            ahead = self._memory[: self._sent_memory]
            self._read_number = number
            self._read_offset = offset + sum([len(line(*record[:3])) for record in ahead])
            self._lines = []
        self._sent_memory = 0
        self._memory = []

    def next(self):
        """The next record to send and the lowest number of its boot that is held: ((boot, seq, sensor, uptime_ms,
        value), unix_ms, oldest). None where all is sent or enough is on its way."""
        if self.in_flight >= _WINDOW:
            return None
        found = self._next_in_flash() or self._next_in_memory()
        if found is None:
            return None
        boot, seq, rest = found
        self.in_flight += 1
        if boot != self._low[0]:
            self._low = (boot, seq)
        head = self._first()
        oldest = head[1] if head is not None and head[0] == boot else self._low[1]
        sensor, uptime_ms, unix_ms, value = json.loads(rest)
        return (boot, seq, sensor, uptime_ms, value), unix_ms, min(oldest, seq)

    def rewind(self):
        """Send everything again that is held."""
        self._read_number, self._read_offset = self._number, self._offset
        self._lines = []
        self._sent_memory = 0
        self._low = ("", 0)
        self.in_flight = 0

    def acked(self, boot, mark):
        """Let go of what the gateway has on disk; how many records that were."""
        let_go = self._let_go_in_flash(boot, mark)
        memory = self._memory
        while memory and memory[0][0] == boot and memory[0][1] <= mark:
            memory.pop(0)
            let_go += 1
            self._sent_memory = max(0, self._sent_memory - 1)
        self.in_flight = max(0, self.in_flight - let_go)
        return let_go

    # Reading ahead.

    def _next_in_flash(self):
        while self._read_number:
            if not self._lines and self._read_number in self._segments.numbers:
                self._lines = self._segments.read(self._read_number, self._read_offset, _READ_MOST)
            if self._lines:
                boot, seq, rest, size = self._lines.pop(0)
                self._read_offset += size
                if boot:
                    return boot, seq, rest
                self.damaged += 1
                continue
            following = self._segments.after(self._read_number)
            if following is None:
                return None
            self._read_number, self._read_offset = following, 0
        return None

    def _next_in_memory(self):
        if self._sent_memory >= len(self._memory):
            return None
        self._sent_memory += 1
        return self._memory[self._sent_memory - 1][:3]

    def _at_end(self, number, offset):
        """Whether everything in flash before this place was sent."""
        if self._lines:
            return False
        if self._read_number == number:
            return self._read_offset == offset
        if not self._read_number:
            return True
        index = self._segments.numbers.index(self._read_number)
        return (
            offset == 0
            and self._segments.numbers[index + 1] == number
            and self._read_offset >= (self._segments.sizes[index])
        )

    def _first(self):
        """(boot, seq) of the oldest record held."""
        if self._head is None:
            while self._number:
                for boot, seq, _, size in self._segments.read(self._number, self._offset, 1):
                    if boot:
                        self._head = boot, seq
                        return self._head
                    self._offset += size
                    break
                else:
                    self._drop_first()
        if self._head is None and self._memory:
            return self._memory[0][:2]
        return self._head

    # Letting go.

    def _let_go_in_flash(self, boot, mark):
        let_go = 0
        while self._number:
            lines = self._segments.read(self._number, self._offset, _READ_MOST)
            for its_boot, seq, _, size in lines:
                if its_boot and (its_boot != boot or seq > mark):
                    self._catch_up()
                    return let_go
                self._offset += size
                self._head = None
                let_go += 1 if its_boot else 0
            if not lines:
                self._drop_first()
        self._catch_up()
        return let_go

    def _drop_first(self):
        """The oldest file is done with: delete it and go on with the one behind."""
        following = self._segments.after(self._number)
        self._segments.drop(self._number)
        if self._read_number == self._number:
            self._read_number, self._read_offset, self._lines = following or 0, 0, []
        self._number, self._offset, self._head = following or 0, 0, None

    def _catch_up(self):
        """What is sent next is never before what is held."""
        if (self._read_number, self._read_offset) < (self._number, self._offset):
            self._read_number, self._read_offset, self._lines = self._number, self._offset, []

    # Writing, and room for it.

    def _write(self, records):
        lines = [line(*record[:3]) for record in records]
        while self._segments.total() + sum([len(each) for each in lines]) > self._limit and self._discard():
            pass
        try:
            place = self._segments.append(lines)
        except OSError:  # full before the limit
            if not self._discard():
                raise
            place = self._segments.append(lines)
        if not self._number:
            self._number, self._offset = place
            if not self._read_number and not self._sent_memory:
                self._read_number, self._read_offset = place
        return place

    def _discard(self):
        """Give up the oldest file that holds readings; False where that is the last. Of a boot that ends in it an
        empty record stays, behind its last number."""
        numbers = list(self._segments.numbers)
        ended = []
        for number, following in zip(numbers, numbers[1:]):
            count = self._gather(number, ended)
            if not count:
                continue  # what stayed of an earlier one: both become one
            behind = self._segments.read(following, 0, 1)
            left = [(boot, seq, _EMPTY) for boot, seq in ended if not behind or boot != behind[0][0]]
            self._segments.replace(number, [line(*record) for record in left[-_ENDED_MOST:]])
            for other in numbers[: numbers.index(number)]:
                self._segments.drop(other)
            self._number, self._offset, self._head = number, 0, None
            self.rewind()
            return True
        return False

    def _gather(self, number, ended):
        """The number behind each boot's last in a file, into `ended`; how many readings the file holds."""
        count = offset = 0
        while True:
            lines = self._segments.read(number, offset, _READ_MOST)
            if not lines:
                return count
            for boot, seq, rest, size in lines:
                offset += size
                if not boot:
                    continue
                is_reading = rest != _EMPTY
                if is_reading:
                    count += 1
                    self._forget((boot, seq))
                if ended and ended[-1][0] == boot:
                    ended.pop()
                ended.append((boot, seq + is_reading))

    def _forget(self, record):
        """Count a record that is given up, and remember the range."""
        self.discarded += 1
        boot, seq = record[:2]
        if self.gone is not None and self.gone[0] == boot:
            self.gone = boot, self.gone[1], seq
        else:
            self.gone = boot, seq, seq
