"""When was it, if the node has no clock? Pure: arrival times and uptimes in, times out (facts of delay, not of clocks).

A message cannot arrive before it was measured, so `arrival - uptime` is the boot's start plus a delay, and its minimum
is the best estimate of that start. How good it is shows in the pace: two messages that arrived as far apart as they
were measured were delayed equally, and a queue or a ring that is being emptied never looks like that. Only then is
the boot taken as seen live and its times as known.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from drivers.model import Quality, Reason
from gateway.ingest.quality import mark
from gateway.reading import Message

PACE_FROM_S = 2.0  # closer messages say nothing about pace
PACE_SLACK_S = 0.25
PACE_SLACK = 0.05
WINDOW_S = 3 * 3600.0  # crystals differ by up to 100 ppm: a minimum older than two windows is forgotten
BOOTS_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class Boot:
    """What arrivals told of one boot. `start_s` is its estimated start (Unix seconds), `live` says whether it is known.

    `anchor_*` is the message that gave the estimate; `previous_s` and `window_s` let old minima fade.
    """

    start_s: float
    live: bool
    anchor_uptime_s: float
    anchor_arrival_s: float
    previous_s: float
    window_s: float

    @property
    def best_s(self) -> float:
        return min(self.start_s, self.previous_s)


def observe(boot: Boot | None, uptime_s: float, arrival_s: float) -> Boot:
    """Take one arrival into account. Constant work; call it in order of arrival."""
    start_s = arrival_s - uptime_s
    if boot is None:
        return Boot(start_s, False, uptime_s, arrival_s, start_s, arrival_s)
    measured_s, arrived_s = uptime_s - boot.anchor_uptime_s, arrival_s - boot.anchor_arrival_s
    slack_s = max(PACE_SLACK_S, PACE_SLACK * measured_s)
    in_pace = measured_s >= PACE_FROM_S and abs(arrived_s - measured_s) <= slack_s
    live = boot.live or in_pace
    if arrival_s - boot.window_s >= WINDOW_S:
        return Boot(start_s, live, uptime_s, arrival_s, boot.start_s, arrival_s)
    if start_s < boot.start_s or (in_pace and not boot.live):
        return replace(
            boot,
            start_s=min(start_s, boot.start_s),
            live=live,
            anchor_uptime_s=uptime_s,
            anchor_arrival_s=arrival_s,
            previous_s=min(start_s, boot.previous_s),
        )
    return replace(boot, live=True) if live is not boot.live else boot


class Dating:
    """The starts of the boots that were seen, the longest unheard forgotten first. `on_known` hears of a boot whose
    earlier messages could not be dated and now can."""

    def __init__(
        self,
        limit: int = BOOTS_LIMIT,
        on_known: Callable[[str, str, datetime], None] = lambda _device, _boot, _start: None,
    ) -> None:
        self._on_known = on_known
        self._boots: OrderedDict[tuple[str, str], Boot] = OrderedDict()
        self._limit = limit

    def seen(self, device: str, boot: str, uptime_ms: int, arrival: datetime) -> Boot:
        """Take an arrival into account and return what is now known of that boot."""
        key = (device, boot)
        before = self._boots.get(key)
        known = observe(before, uptime_ms / 1000, arrival.timestamp())
        self._boots[key] = known
        self._boots.move_to_end(key)
        if len(self._boots) > self._limit:
            self._boots.popitem(last=False)
        if before is not None and known.live and not before.live:
            self._on_known(device, boot, datetime.fromtimestamp(known.best_s, UTC))
        return known

    def date(self, message: Message, received: datetime, trusted: bool = True) -> Message:
        """Date a message that only tells its uptime: by its boot's start where that is known, else uncertain.

        Everything that was dated by its sender, and what does not say which boot its uptime counts from, is returned
        as it is. An untrusted clock dates nothing.
        """
        if message.timed or message.uptime_ms is None or message.delivery is None or not trusted:
            return message
        boot = self.seen(message.device, message.delivery.boot, message.uptime_ms, received)
        time = datetime.fromtimestamp(boot.best_s + message.uptime_ms / 1000, UTC)
        return _moved(message, min(time, received), boot.live)


def undated(message: Message) -> Message:
    """Its sender has no clock and it did not come straight away: the time of receipt is only the latest it can be."""
    readings = tuple(mark(r, Quality.UNCERTAIN, Reason.TIME_UNKNOWN) for r in message.readings)
    return Message(message.device, message.sensor, readings, None, message.uptime_ms, message.timed)


def _moved(message: Message, time: datetime, known: bool) -> Message:
    """The message at another time; where that time is known the doubt about it is taken back."""
    quality, reason = (Quality.GOOD, Reason.NONE) if known else (Quality.UNCERTAIN, Reason.TIME_UNKNOWN)
    readings = tuple(
        r._replace(time=time, quality=quality, reason=reason)
        if r.reason in (Reason.TIME_UNKNOWN, Reason.NONE)
        else r._replace(time=time)
        for r in message.readings
    )
    return message._replace(readings=readings)
