"""What a benchmark found: figures with their peers and goals, as a Markdown table and as JSON."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound of the value, or with `of_ratio` of value / peer; `or_best` times the smallest peer is good enough."""

    limit: float
    at_least: bool = False
    of_ratio: bool = False
    or_best: float | None = None

    def __str__(self) -> str:
        bound = f"{'>=' if self.at_least else '<='} {number(self.limit)}{' x' if self.of_ratio else ''}"
        return bound if self.or_best is None else f"{bound} or {number(self.or_best)} x the best peer"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value (a median where it was repeated), and what was measured beside it in the same run: `peer`, and
    `others` (name and value of each) where there are more."""

    what: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    goal: Goal | None = None
    others: tuple[tuple[str, float], ...] = ()

    @property
    def peers(self) -> dict[str, float]:
        """The value of each peer by its name."""
        return ({} if self.peer_value is None else {self.peer: self.peer_value}) | dict(self.others)

    @property
    def ratios(self) -> dict[str, float]:
        """Value / peer by the peer's name."""
        return {name: self.value / value for name, value in self.peers.items() if value}

    @property
    def ratio(self) -> float | None:
        """Value / (first) peer, None without a peer."""
        return self.value / self.peer_value if self.peer_value else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met, None without one."""
        measured = self.ratio if self.goal is not None and self.goal.of_ratio else self.value
        if self.goal is None or measured is None:
            return None
        if self.goal.or_best is not None and self.peers and self.value <= self.goal.or_best * min(self.peers.values()):
            return True
        return measured >= self.goal.limit if self.goal.at_least else measured <= self.goal.limit


def table(figures: Sequence[Figure]) -> str:
    """A Markdown table."""
    lines = ["| what | figure | peer in the same run | ratio | goal | met? |", "|---|---:|---|---:|---|---|"]
    for each in figures:
        peer = "; ".join(f"{name}: {number(beside)} {each.unit}" for name, beside in each.peers.items())
        ratio = "; ".join(f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}" for ratio in each.ratios.values())
        met = {None: "", True: "yes", False: "**no**"}[each.met]
        goal = str(each.goal) if each.goal else ""
        value = f"{number(each.value)} {each.unit}".rstrip()
        lines.append(f"| {each.what} | {value} | {peer} | {ratio} | {goal} | {met} |")
    return "\n".join(lines)


def save(name: str, figures: Sequence[Figure], folder: Path = RESULTS) -> Path:
    """Write NAME.json with the figures and the circumstances they were measured in."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    document = {
        **circumstances(),
        "figures": [{**asdict(each), "ratio": each.ratio, "ratios": each.ratios, "met": each.met} for each in figures],
    }
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return file


def circumstances() -> dict[str, object]:
    """When and on what it is measured."""
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def number(value: float) -> str:
    """Three digits that matter, or all those before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percentile(values: Sequence[float], percent: int) -> float:
    """A percentile (1 to 99) of the values."""
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]
