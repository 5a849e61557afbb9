"""`select` for the virtual `time`: what nobody interrupts within a millisecond or two is over at once."""

from time import now_ms

from uselect import POLLERR, POLLHUP, POLLIN, POLLOUT
from uselect import poll as _poll

QUIET_MS = 1


class poll:
    def __init__(self):
        self._poll = _poll()
        self.register, self.unregister, self.modify = self._poll.register, self._poll.unregister, self._poll.modify

    def ipoll(self, span_ms=-1, flags=0):
        found = self._poll.poll(0) or (self._poll.poll(QUIET_MS) if span_ms > 0 else [])
        if found or span_ms == 0:
            return found
        if span_ms < 0:
            return self._poll.ipoll(-1)
        now_ms[0] += span_ms
        return found
