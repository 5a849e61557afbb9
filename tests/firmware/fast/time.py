"""`time` of the unix port, SPEED times as fast: hours of a node's life in minutes of a test's."""

import os

import utime as _real
from utime import gmtime, localtime, mktime, ticks_add, ticks_diff

SPEED = int(os.getenv("SPEED") or 1)


def ticks_ms():
    return _real.ticks_us() * SPEED // 1000


def ticks_us():
    return _real.ticks_us() * SPEED


def time():
    return int(_real.time())


def sleep_ms(span_ms):
    _real.sleep_us(span_ms * 1000 // SPEED)


def sleep(span_s):
    sleep_ms(int(span_s * 1000))
