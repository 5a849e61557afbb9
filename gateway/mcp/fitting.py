"""How long an answer may be, and how its texts and numbers are written."""

import math
import unicodedata
from collections.abc import Callable, Sequence
from typing import TypeVar

from pydantic import BaseModel

from drivers.model import Quality
from gateway.store.types import Point

CEILING_BYTES = 50_000
"""The longest answer; assistants lose their thread, and some clients their connection, over longer ones."""
TEXT_LIMIT = 200

Item = TypeVar("Item")
View = TypeVar("View", bound=BaseModel)


def compact(view: BaseModel) -> str:
    """The view as JSON without blanks; unset fields are left out."""
    return view.model_dump_json(exclude_unset=True)


def first_that_fit(items: Sequence[Item], make: Callable[[Sequence[Item]], View]) -> View:
    """The view of as many leading items as stay below the ceiling."""
    view = make(items)
    while len(items) > 1 and (size := len(compact(view).encode())) > CEILING_BYTES:
        items = items[: max(1, min(len(items) - 1, int(len(items) * CEILING_BYTES / size)))]
        view = make(items)
    return view


def thinned_to_fit(
    items: Sequence[Item],
    make: Callable[[Sequence[Item]], View],
    choose: Callable[[Sequence[Item], int], Sequence[Item]],
) -> View:
    """The view of as many items as stay below the ceiling, of those that `choose` takes."""
    view, kept = make(items), len(items)
    while kept > 2 and (size := len(compact(view).encode())) > CEILING_BYTES:
        kept = max(2, min(kept - 1, int(kept * CEILING_BYTES / size)))
        view = make(choose(items, kept))
    return view


def evenly(items: Sequence[Item], most: int) -> Sequence[Item]:
    """So many of them (at least 2) at even distances, the first and the last among them."""
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def with_extremes(points: Sequence[Point], most: int) -> Sequence[Point]:
    """At most so many of them (at least 2): the first, the last, and the smallest and largest of parts of equal number
    between them; what is not usable only where a whole part is not."""
    kept = {0, len(points) - 1}
    parts = (most - 2) // 2
    for part in range(parts):
        inside = range(part * len(points) // parts, (part + 1) * len(points) // parts)
        usable = [(value, at) for at in inside if (value := _usable(points[at])) is not None] or [(0.0, inside[0])]
        kept |= {min(usable)[1], max(usable)[1]}
    return [points[at] for at in sorted(kept)]


def _usable(point: Point) -> float | None:
    return point.value if point.quality < Quality.BAD else None


def clean(text: str) -> str:
    """A device's words as data: one line, no control or direction characters, at most 200 characters."""
    kept = "".join(" " if unicodedata.category(c) in {"Cc", "Cf", "Zl", "Zp"} else c for c in text[: 4 * TEXT_LIMIT])
    return " ".join(kept.split())[:TEXT_LIMIT]


def rounded(value: float | None) -> float | None:
    """Six significant digits (above a million: one decimal): more than any sensor here resolves, half the text."""
    if value is None or not math.isfinite(value):
        return None  # JSON knows neither NaN nor infinity
    return float(f"{value:.6g}") if abs(value) < 1e6 else round(value, 1)
