"""How far may a reading be believed? Pure: limits, the state of a series and a reading in; verdict and new state out.

Every raw reading is judged once, before anything is averaged: an average hides the zeros and the spikes. The worst
verdict wins, the driver's own included. Bounds marked † are engineering judgement, to be tuned per site; the others
come from the data sheets of SCD30 and BMP280.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from drivers.model import Channel, Quality, Quantity, Reason
from gateway.reading import Message, Reading

RATE_OVER_S = 60.0  # change is measured over a minute, or noise at two-second samples would look like a rush
RATE_UNTIL_S = 600.0  # older than this says nothing about speed
SERIES_LIMIT = 20_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What a quantity can be, usually is, and how fast it moves. Bounds in the quantity's unit, `rate` a minute.

    A sample further than `spike` from the last accepted one, at most `spike_within_s` after it, is bad; if the next one
    is as far off on the same side it was a step, and that one is accepted. `clamp` beyond high is taken as high.
    `frozen_exactly` counts identical values of any precision; otherwise only those that were not rounded (a sender's
    22.5 may well stay 22.5).
    """

    low: float
    high: float
    usual_low: float | None = None
    usual_high: float | None = None
    clamp: float = 0.0
    rate: float = 0.0
    spike: float = 0.0
    spike_within_s: float = 60.0
    frozen_after: int = 0
    frozen_exactly: bool = False
    warm_up_s: float = 0.0


_CO2 = Limits(0, 40_000, 380, 5_000, rate=300, spike=500, spike_within_s=4, frozen_after=10)  # † all but 40,000
_TEMPERATURE = Limits(-40, 125, rate=1, spike=5, frozen_after=10)
_HUMIDITY = Limits(0, 100, 3, clamp=2, rate=10, spike=30, frozen_after=10)
_PRESSURE = Limits(300, 1100, 540, 1085, rate=0.5, spike=3, frozen_after=20)  # record low and high, and 5,000 m

DEFAULTS: dict[Quantity, Limits] = {
    Quantity.CO2: _CO2,
    Quantity.TEMPERATURE: _TEMPERATURE,
    Quantity.HUMIDITY: _HUMIDITY,
    Quantity.PRESSURE: _PRESSURE,
    Quantity.VOLTAGE: Limits(-1e6, 1e6),
    Quantity.BATTERY: Limits(0, 100, clamp=2),
    Quantity.RSSI: Limits(-200, 50, -120, 20),
    Quantity.ILLUMINANCE: Limits(0, 1e6, 0, 200_000),
    Quantity.PM25: Limits(0, 100_000, 0, 1_000),
    Quantity.PM10: Limits(0, 100_000, 0, 1_000),
    Quantity.TVOC: Limits(0, 1e6, 0, 60_000),
    Quantity.POWER: Limits(-1e9, 1e9),
    Quantity.ENERGY: Limits(-1e15, 1e15),
    Quantity.CURRENT: Limits(-1e6, 1e6),
    Quantity.MOISTURE: Limits(0, 100, clamp=2),
    Quantity.COUNT: Limits(-1e15, 1e15),
}


class State(NamedTuple):
    """What a series remembers. Times in Unix seconds; `anchor_*` is where the rate of change is measured from,
    `suspect` a jump that waits for confirmation, `same` how often `last` came in a row, `since_s` the sensor's start.
    """

    last_s: float
    last: float
    accepted: float
    accepted_s: float
    anchor: float
    anchor_s: float
    suspect: float | None = None
    same: int = 1
    since_s: float | None = None


class Calm(NamedTuple):
    """Limits for a quick look: what lies within all of them gets no objection from `judge`. `drift` is how far a value
    may be from its anchor in the first minute, `rate` in each later one."""

    low: float
    high: float
    spike: float
    drift: float
    rate: float
    frozen_after: float
    frozen_exactly: bool
    warm_up_s: float


class Verdict(NamedTuple):
    """The judged value (clamped where it had to be), and how far to believe it."""

    value: float | None
    quality: Quality
    reason: Reason


class Doubt(NamedTuple):
    """Between two Unix times a channel is believed no further than this."""

    from_s: float
    until_s: float
    quality: Quality
    reason: Reason


def limits_of(quantity: Quantity, channel: Channel | None) -> Limits:
    """The channel's own bounds where the sensor is known; the quantity's habits for what a channel does not say."""
    usual = DEFAULTS[quantity]
    if channel is None:
        return usual
    return replace(
        usual,
        low=channel.low,
        high=channel.high,
        usual_low=usual.usual_low if channel.usual_low is None else channel.usual_low,
        usual_high=usual.usual_high if channel.usual_high is None else channel.usual_high,
        frozen_after=channel.frozen_after,
        frozen_exactly=True,
        warm_up_s=channel.warm_up_s,
    )


def judge(limits: Limits, quantity: Quantity, state: State | None, reading: Reading) -> tuple[Verdict, State | None]:
    """Judge one reading of a series. What is older than the last judged gets the range checks only."""
    value = reading.value
    if value is None:
        return Verdict(None, reading.quality, reading.reason), state
    ranged = _range(limits, quantity, value)
    now_s = reading.time.timestamp()
    if state is not None and now_s <= state.last_s:
        return _worst(reading, ranged), state
    if state is None:
        first = None if ranged.quality is Quality.BAD else State(now_s, value, value, now_s, value, now_s)
        return _worst(reading, ranged), first
    moved, state = _movement(limits, state, value, now_s, ranged.quality is Quality.BAD)
    verdict = _worst(reading, ranged, moved, _history(limits, state, value, now_s))
    return verdict, state


def calm_of(limits: Limits, quantity: Quantity) -> Calm:
    """What is neither impossible nor unusual, neither a jump nor a rush, and has not stood still for too long."""
    low = limits.low if limits.usual_low is None else max(limits.low, limits.usual_low)
    high = limits.high if limits.usual_high is None else min(limits.high, limits.usual_high)
    if quantity is Quantity.CO2:  # its own ends are bad
        low, high = max(low, math.nextafter(0, 1)), min(high, math.nextafter(limits.high, 0))
    rate = limits.rate or math.inf
    still = (limits.frozen_after or math.inf, limits.frozen_exactly)
    return Calm(low, high, limits.spike or math.inf, rate * RATE_OVER_S / 60, rate, *still, limits.warm_up_s)


def unremarkable(calm: Calm, state: State, value: float, now_s: float) -> State | None:
    """What `judge` would make of the state where it has no objection at all, as nearly always; None: ask it."""
    low, high, spike, drift, rate, frozen_after, frozen_exactly, warm_up_s = calm
    last_s, last, accepted, _, anchor, anchor_s, _, same, since_s = state
    if not low <= value <= high or now_s <= last_s or abs(value - accepted) > spike:
        return None
    same = same + 1 if value == last else 1
    if same >= frozen_after and (frozen_exactly or round(value, 2) != value):
        return None
    if since_s is not None and now_s - since_s < warm_up_s:
        return None
    over_s, moved = now_s - anchor_s, abs(value - anchor)
    if over_s < RATE_OVER_S:
        if moved > drift:
            return None
    elif moved > rate * over_s / 60:
        return None
    else:
        anchor, anchor_s = value, now_s
    return State(now_s, value, value, now_s, anchor, anchor_s, None, same, since_s)


def mark(reading: Reading, quality: Quality, reason: Reason) -> Reading:
    """The reading, believed no further than `quality`; what was worse already stays."""
    return reading._replace(quality=quality, reason=reason) if quality > reading.quality else reading


@dataclass(slots=True)
class _Series:
    limits: Limits
    calm: Calm
    state: State | None = None

    def passes(self, value: float, now_s: float) -> bool:
        """Whether there is no objection at a quick look; the value then is part of the history."""
        state = None if self.state is None else unremarkable(self.calm, self.state, value, now_s)
        self.state = self.state if state is None else state
        return state is not None


class Judge:
    """The states of all series, bounded. `channel_of` gives the Channel of (device, sensor, metric), if known."""

    def __init__(
        self,
        channel_of: Callable[[str, str, str], Channel | None] = lambda _device, _sensor, _metric: None,
        limit: int = SERIES_LIMIT,
    ) -> None:
        self._channel_of = channel_of
        self._limit = limit
        self._series: OrderedDict[tuple[str, str, str], _Series] = OrderedDict()
        self._restarted: dict[tuple[str, str], float] = {}
        self._doubts: dict[tuple[str, str, str], dict[Reason, Doubt]] = {}

    def restarted(self, device: str, sensor: str, at_s: float) -> None:
        """The sensor began anew at this Unix time: its history says nothing and it has to warm up."""
        self._restarted[(device, sensor)] = at_s
        for key in [key for key in self._series if key[:2] == (device, sensor)]:
            del self._series[key]

    def doubt(self, device: str, sensor: str, metric: str, doubt: Doubt) -> None:
        """Somebody changed what this channel says: hold the doubt against its readings of that time, and nothing of
        before against them. One doubt of a reason at a time; a newer one replaces it."""
        self._doubts.setdefault((device, sensor, metric), {})[doubt.reason] = doubt

    def message(self, message: Message) -> Message:
        """The message with every reading judged; the same object where all of it is as it was said."""
        judged, changed = [], False
        time, now_s = None, 0.0
        for reading in message.readings:
            key, value = reading[:3], reading.value
            if reading.time is not time:
                time, now_s = reading.time, reading.time.timestamp()
            known = None if key in self._doubts else self._series.get(key)
            if known is not None and value is not None and known.passes(value, now_s):
                judged.append(reading)
            else:
                judged.append(self._reading(reading))
                changed = changed or judged[-1] is not reading
        return message._replace(readings=tuple(judged)) if changed else message

    def _reading(self, reading: Reading) -> Reading:
        key = reading[:3]
        known = self._series.get(key)
        if known is None:
            limits = limits_of(reading.quantity, self._channel_of(*key))
            known = self._series[key] = _Series(limits, calm_of(limits, reading.quantity))
            if len(self._series) > self._limit:
                self._series.popitem(last=False)
        limits, before = known.limits, known.state
        doubts = self._doubted(key, reading) if self._doubts else ()
        if before is not None and any(before.last_s < doubt.from_s for doubt in doubts):
            before = None
        verdict, state = judge(limits, reading.quantity, before, reading)
        if before is None and state is not None:
            state = state._replace(since_s=self._restarted.get(key[:2]))
            verdict = _worst(reading, verdict, _history(limits, state, state.last, state.last_s))
        if doubts:
            verdict = _worst(reading, verdict, *(Verdict(verdict.value, d.quality, d.reason) for d in doubts))
        known.state = state
        if verdict == (reading.value, reading.quality, reading.reason):
            return reading
        return reading._replace(value=verdict.value, quality=verdict.quality, reason=verdict.reason)

    def _doubted(self, key: tuple[str, str, str], reading: Reading) -> Sequence[Doubt]:
        now_s = reading.time.timestamp()
        return [doubt for doubt in self._doubts.get(key, {}).values() if doubt.from_s <= now_s < doubt.until_s]


_FINE = Verdict(None, Quality.GOOD, Reason.NONE)
"""No objection; the value of a verdict is the range check's."""


def _range(limits: Limits, quantity: Quantity, value: float) -> Verdict:
    if quantity is Quantity.CO2 and value <= 0:
        return Verdict(value, Quality.BAD, Reason.ZERO if value == 0 else Reason.OUT_OF_RANGE)
    if value < limits.low or value > limits.high + limits.clamp or (quantity is Quantity.CO2 and value >= limits.high):
        return Verdict(value, Quality.BAD, Reason.OUT_OF_RANGE)
    if value > limits.high:
        return Verdict(limits.high, Quality.UNCERTAIN, Reason.CLAMPED)
    low, high = limits.usual_low, limits.usual_high
    if (low is not None and value < low) or (high is not None and value > high):
        return Verdict(value, Quality.UNCERTAIN, Reason.UNUSUAL)
    return Verdict(value, Quality.GOOD, Reason.NONE)


def _movement(limits: Limits, state: State, value: float, now_s: float, impossible: bool) -> tuple[Verdict, State]:
    """The verdict of spike and rate, and the state with this reading in it."""
    same = state.same + 1 if value == state.last else 1
    base, base_s, anchor, anchor_s = state.accepted, state.accepted_s, state.anchor, state.anchor_s
    if impossible:  # never a base to measure from
        kept = State(now_s, value, base, base_s, anchor, anchor_s, state.suspect, same, state.since_s)
        return _FINE, kept
    near = limits.spike == 0 or abs(value - base) <= limits.spike or now_s - base_s > limits.spike_within_s
    confirmed = state.suspect is not None and (value > base) is (state.suspect > base)
    if not near and not confirmed:
        kept = State(now_s, value, base, now_s, anchor, anchor_s, value, same, state.since_s)
        return Verdict(value, Quality.BAD, Reason.SPIKE), kept
    over_s = max(now_s - anchor_s, RATE_OVER_S)
    fast = limits.rate > 0 and over_s <= RATE_UNTIL_S and abs(value - anchor) > limits.rate * over_s / 60
    if now_s - anchor_s >= RATE_OVER_S:
        anchor, anchor_s = value, now_s
    state = State(now_s, value, value, now_s, anchor, anchor_s, None, same, state.since_s)
    if fast or not near:  # a jump that went on was a step, and a fast one
        return Verdict(value, Quality.UNCERTAIN, Reason.RATE), state
    return _FINE, state


def _history(limits: Limits, state: State, value: float, now_s: float) -> Verdict:
    if 0 < limits.frozen_after <= state.same and (limits.frozen_exactly or round(value, 2) != value):
        return Verdict(value, Quality.BAD, Reason.FROZEN)
    if state.since_s is not None and now_s - state.since_s < limits.warm_up_s:
        return Verdict(value, Quality.UNCERTAIN, Reason.WARM_UP)
    return _FINE


def _worst(reading: Reading, first: Verdict, *others: Verdict) -> Verdict:
    """The worst of the sender's own verdict and ours; the value is the range check's, clamped where it had to be."""
    worst = Verdict(first.value, reading.quality, reading.reason)
    for verdict in (first, *others):
        if verdict.quality > worst.quality:
            worst = Verdict(first.value, verdict.quality, verdict.reason)
    return worst
