"""A bar on standard error while something takes long; nothing where that is no terminal."""

import sys
from types import TracebackType
from typing import Self

CELLS = 30


class Bar:
    """`with Bar("writing") as bar: bar.to(0.5)`; drawn anew when a percent more is done, wiped away at the end."""

    def __init__(self, what: str, total: int = 1) -> None:
        self._what, self._total, self._done, self._percent = what, max(total, 1), 0, -1

    def __enter__(self) -> Self:
        self.to(0.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if sys.stderr.isatty():
            print(f"\r{' ' * (len(self._what) + CELLS + 9)}\r", end="", file=sys.stderr, flush=True)

    def add(self, units: int) -> None:
        """So many of the total are done."""
        self._done += units
        self.to(self._done / self._total)

    def to(self, fraction: float) -> None:
        """From 0 to 1."""
        percent = min(100, int(100 * fraction))
        if percent == self._percent or not sys.stderr.isatty():
            return
        self._percent = percent
        full = percent * CELLS // 100
        print(f"\r{self._what} [{'#' * full}{'.' * (CELLS - full)}] {percent:3} %", end="", file=sys.stderr, flush=True)
