"""What is needed at a start only: loaded for that, and forgotten."""

import os

import machine
from micropython import const

from node.watch import Led

_CAUSES = const("unknown,power on,hard reset,watchdog,deep sleep,soft reset")


def cause():
    """Why the board started."""
    causes, found = _CAUSES.split(","), machine.reset_cause()
    return causes[found if found < len(causes) else 0]


def last_words(path):
    """What the start before left as its reason, once; "" where it left none."""
    try:
        with open(path) as file:
            words = file.readline().strip()
        os.remove(path)
        return words
    except OSError:
        return ""


def make_bus(pins):
    """SoftI2C: its time-out is what a sensor may stretch the clock, which an SCD30 does for 150 ms."""
    return machine.SoftI2C(scl=machine.Pin(pins["scl"]), sda=machine.Pin(pins["sda"]), freq=50000, timeout=200000)


def make_led(given):
    """The LED of the settings: a pin's number or {"pin", "on"}; none where there is none."""
    if given is None:
        return Led(None, 1)
    found = given if isinstance(given, dict) else {"pin": given}
    return Led(machine.Pin(found["pin"], machine.Pin.OUT), found.get("on", 1))
