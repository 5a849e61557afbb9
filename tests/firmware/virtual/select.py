"""`select` for the virtual `time`: what nobody is going to interrupt is over at once.

PEERS are the processes that may still answer, as "1234,5678": while one of them is at work, or waits for a processor,
no time passes here, however busy the machine is. Nothing is allocated for that, and few names are made: this heap is
measured.
"""

import os
from time import now_ms

from micropython import const
from uselect import POLLERR, POLLHUP, POLLIN, POLLOUT
from uselect import poll as _poll

_LOOKS = const(3)  # word may be on its way from one that was looked at already
_QUIET_MS = const(1)
_ASLEEP = const(83)  # "S"
state = bytearray(48)  # 1234 (name) S ...


def opened():
    """(file, where its letter stands) of each peer."""
    found = []
    for pid in (os.getenv("PEERS") or "").split(","):
        if pid:
            file = open("/proc/%s/stat" % pid, "rb")  # noqa: SIM115 - for good
            file.readinto(state)
            found.append((file, bytes(state).rfind(b")") + 2))
    return found


peers = opened()


class poll:
    def __init__(self):
        self._poll = _poll()
        self.register, self.unregister, self.modify = self._poll.register, self._poll.unregister, self._poll.modify

    def ipoll(self, span_ms=-1, flags=0):
        found = self._poll.poll(0)
        if found or span_ms == 0:
            return found
        if span_ms < 0:
            return self._poll.ipoll(-1)
        while not found and (not peers or not asleep()):
            found = self._poll.poll(_QUIET_MS)
            if not peers:
                break
        found = found or self._poll.poll(0)
        if not found:
            now_ms[0] += span_ms
        return found


def asleep():
    """Whether nobody who might answer has anything to do."""
    for _ in range(_LOOKS):
        for file, place in peers:
            file.seek(0)
            file.readinto(state)
            if state[place] != _ASLEEP:
                return False
    return True
