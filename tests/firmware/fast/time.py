"""`time` of the unix port, SPEED times as fast: hours of a node's life in minutes of a test's."""

import os

import utime as _real
from utime import gmtime, localtime, mktime, ticks_add, ticks_diff

SPEED = int(os.getenv("SPEED") or 1)


_began = _real.ticks_us()


def ticks_ms():
    """Always ahead of the real one, which the scheduler in C sees."""
    ahead_ms = ticks_diff(_real.ticks_us(), _began) * (SPEED - 1) // 1000
    return ticks_add(_real.ticks_ms(), ahead_ms)


def ticks_us():
    return _real.ticks_us() * SPEED


def time():
    return int(_real.time())


def sleep_ms(span_ms):
    _real.sleep_us(span_ms * 1000 // SPEED)


def sleep(span_s):
    sleep_ms(int(span_s * 1000))
