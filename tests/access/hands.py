"""Time by hand for the tests of this room, and what a desk is made of."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from gateway.access.identity import Identity

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
HERE = Identity("agw-00000001", Path("certificate.pem"), Path("key.pem"), "ab" * 32)


class HandTime:
    """A clock, and seconds that nobody can set: both go on when a test says so."""

    def __init__(self) -> None:
        self.time = NOW
        self.elapsed_s = 1000.0

    def now(self) -> datetime:
        return self.time

    def trusted(self) -> bool:
        return True

    def seconds(self) -> float:
        return self.elapsed_s

    def go_on(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        self.elapsed_s += seconds
