"""The three types that flow: a reading, the message it came in, and how that message is delivered.

Tuples, because there are three of them for each value that arrives, and a frozen dataclass takes five times as long.
"""

from datetime import datetime
from typing import NamedTuple

from drivers.model import Channel, Quality, Quantity, Reason, Sample


class Reading(NamedTuple):
    """One value at one time: a sample, plus who measured it, when, and how far it may be believed.

    `time` and `received` are aware UTC; `value` is in `quantity.unit`, None where nothing usable was said.
    """

    device: str
    sensor: str
    metric: str
    quantity: Quantity
    value: float | None
    time: datetime
    received: datetime
    quality: Quality = Quality.GOOD
    reason: Reason = Reason.NONE


class Delivery(NamedTuple):
    """A node's numbering of one message: `seq` counts per device and boot, `oldest` is the lowest it still holds."""

    boot: str
    seq: int
    oldest: int


class Message(NamedTuple):
    """What arrived together and is stored together: one poll of a driver or one message of a node.

    `delivery` is None for whoever does not number (local drivers, minimal senders). `timed` says that the sender
    dated it, so that an equal reading delivered twice can be told from two readings.
    """

    device: str
    sensor: str
    readings: tuple[Reading, ...]
    delivery: Delivery | None = None
    uptime_ms: int | None = None
    timed: bool = False


def stamp(sample: Sample, channel: Channel, device: str, sensor: str, now: datetime) -> Reading:
    """Give a sample its place in history; NaN becomes None and bad, everything else keeps the driver's verdict."""
    if sample.value != sample.value:
        return Reading(device, sensor, channel.key, channel.quantity, None, now, now, Quality.BAD, Reason.NOT_A_NUMBER)
    return Reading(device, sensor, channel.key, channel.quantity, sample.value, now, now, sample.quality, sample.reason)
