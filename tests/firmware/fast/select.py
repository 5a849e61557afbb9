"""`select` for the fast `time`: a poll waits SPEED times less long than it is told."""

from time import SPEED

from uselect import POLLERR, POLLHUP, POLLIN, POLLOUT
from uselect import poll as _poll


class poll:
    def __init__(self):
        self._poll = _poll()
        self.register, self.unregister, self.modify = self._poll.register, self._poll.unregister, self._poll.modify

    def ipoll(self, span_ms=-1, flags=0):
        return self._poll.ipoll(span_ms if span_ms <= 0 else -(-span_ms // SPEED), flags)
