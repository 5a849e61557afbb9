"""Messages in one line, for the store's tests."""

from datetime import UTC, datetime, timedelta

from drivers.model import Quality, Quantity, Reason
from gateway.reading import Delivery, Message, Reading

T0 = datetime(2026, 11, 20, 12, tzinfo=UTC)


def reading(
    value: float | None = 400.0,
    at_s: float = 0.0,
    *,
    device: str = "attic",
    sensor: str = "scd30",
    quantity: Quantity = Quantity.CO2,
    metric: str = "",
    quality: Quality = Quality.GOOD,
    reason: Reason = Reason.NONE,
) -> Reading:
    time = T0 + timedelta(seconds=at_s)
    return Reading(device, sensor, metric or quantity.value, quantity, value, time, time, quality, reason)


def local(*readings: Reading, timed: bool = False) -> Message:
    return Message(readings[0].device, readings[0].sensor, readings, timed=timed)


def numbered(seq: int, oldest: int = 1, *, boot: str = "1-aa", device: str = "node", value: float = 0.0) -> Message:
    given = reading(value or 400.0 + seq, seq, device=device)
    return Message(device, "scd30", (given,), Delivery(boot, seq, oldest), uptime_ms=seq * 1000)
