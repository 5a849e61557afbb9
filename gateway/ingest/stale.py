"""The bus answers but the value no longer changes: noticed where a wired sensor is read, so that it can be revived."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from drivers.errors import DriverError
from drivers.model import Channel, Sample


class ValueFrozen(DriverError):
    """The device answers, and what it says does not change any more: restart it."""


@dataclass(frozen=True, slots=True)
class Run:
    """How often a channel said the same in a row, and since when (aware UTC)."""

    value: float
    since: datetime
    count: int


class Unchanging:
    """The runs of equal values of one sensor. A channel freezes at `frozen_after` of them; without it, never.

    It outlives a restart of the sensor: only another value is a sign of life.
    """

    def __init__(self, channels: Iterable[Channel]) -> None:
        self._limits = {channel.key: channel.frozen_after for channel in channels if channel.frozen_after}
        self._runs: dict[str, Run] = {}

    def see(self, samples: Sequence[Sample], now: datetime) -> Mapping[str, Run]:
        """Count a measurement; the channels in it that are frozen. NaN says nothing and counts for nothing."""
        frozen: dict[str, Run] = {}
        for sample in samples:
            limit = self._limits.get(sample.channel)
            if limit is None or sample.value != sample.value:
                continue
            run = self._runs.get(sample.channel)
            if run is None or run.value != sample.value:
                run = Run(sample.value, now, 0)
            run = self._runs[sample.channel] = Run(run.value, run.since, run.count + 1)
            if run.count >= limit:
                frozen[sample.channel] = run
        return frozen


def explained(frozen: Mapping[str, Run]) -> ValueFrozen:
    """What to say of frozen channels (at least one); it stays the same for as long as they are frozen."""
    said = (f"{name} reads {run.value:g} since {run.since:%Y-%m-%d %H:%M:%S} UTC" for name, run in frozen.items())
    return ValueFrozen(f"value frozen: {', '.join(said)}")
