"""`time` of the unix port that stands still while something happens and jumps when nothing does (see `select`)."""

import utime as _real
from utime import gmtime, localtime, mktime, ticks_add, ticks_diff

now_ms = [_real.ticks_ms()]  # the scheduler in C sees the real one: time here may only be ahead of it


def ticks_ms():
    return now_ms[0]


def ticks_us():
    return now_ms[0] * 1000


def time():
    return int(_real.time())


def sleep_ms(span_ms):
    now_ms[0] += span_ms


def sleep(span_s):
    sleep_ms(int(span_s * 1000))
