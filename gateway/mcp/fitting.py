"""How long an answer may be, and how its texts and numbers are written."""

import math
import unicodedata
from collections.abc import Callable, Sequence
from typing import TypeVar

from mcp_types import CallToolResult, ImageContent, TextContent
from pydantic import BaseModel
from pydantic_core import to_json

from drivers.model import Quality
from gateway.store.types import Point

CEILING_BYTES = 50_000
"""The longest answer, text and structure together; assistants lose their thread, and some clients their connection,
over longer ones."""
COPY_BYTES = 24_000
"""The longest view: it is sent as text and as structure."""
IMAGE_BYTES = 100_000
TEXT_LIMIT = 200
UNPRINTED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Kinds of characters that steer, hide or break lines, or that cannot be encoded."""

Item = TypeVar("Item")
View = TypeVar("View", bound=BaseModel)


def compact(view: BaseModel) -> str:
    """The view as JSON without blanks; unset fields are left out."""
    return view.model_dump_json(exclude_unset=True)


def first_that_fit(items: Sequence[Item], make: Callable[[Sequence[Item]], View]) -> View:
    """The view of as many leading items as stay below the ceiling."""
    view = make(items)
    while len(items) > 1 and (size := len(compact(view).encode())) > COPY_BYTES:
        items = items[: max(1, min(len(items) - 1, int(len(items) * COPY_BYTES / size)))]
        view = make(items)
    return view


def thinned_to_fit(
    items: Sequence[Item],
    make: Callable[[Sequence[Item]], View],
    choose: Callable[[Sequence[Item], int], Sequence[Item]],
) -> View:
    """The view of as many items as stay below the ceiling, of those that `choose` takes."""
    view, kept = make(items), len(items)
    while kept > 2 and (size := len(compact(view).encode())) > COPY_BYTES:
        kept = max(2, min(kept - 1, int(kept * COPY_BYTES / size)))
        view = make(choose(items, kept))
    return view


def bounded(result: CallToolResult) -> CallToolResult:
    """The result, or an error that says that it is too long."""
    images = [each for each in result.content if isinstance(each, ImageContent)]
    if any(len(each.data) * 3 // 4 > IMAGE_BYTES for each in images):
        return _too_long("an image", IMAGE_BYTES, "ask for a smaller one")
    size = sum(len(each.text.encode()) for each in result.content if isinstance(each, TextContent))
    size += len(to_json(result.structured_content)) if result.structured_content else 0
    if size > CEILING_BYTES:
        return _too_long("the answer", CEILING_BYTES, "ask for less: a limit, a shorter range, or fewer devices")
    return result


def with_note(result: CallToolResult, note: str) -> CallToolResult:
    """The same answer with one more field, `assumed`."""
    data = {**(result.structured_content or {}), "assumed": note}
    text = TextContent(type="text", text=to_json(data).decode())
    return result.model_copy(update={"structured_content": data, "content": [text, *result.content[1:]]})


def _too_long(what: str, most: int, way_out: str) -> CallToolResult:
    text = f"{what} has more than {most // 1000} KB, which is the most: {way_out}"
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)


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


def clean(text: str, limit: int = TEXT_LIMIT) -> str:
    """A device's words as data: one line, no control or direction characters, at most so many characters."""
    if len(text) <= limit and text.isprintable():
        return " ".join(text.split())
    kept = "".join(" " if unicodedata.category(c) in UNPRINTED else c for c in text[: 4 * limit])
    return " ".join(kept.split())[:limit]


def rounded(value: float | None) -> float | None:
    """Six significant digits (above a million: one decimal): more than any sensor here resolves, half the text."""
    if value is None or not math.isfinite(value):
        return None  # JSON knows neither NaN nor infinity
    return float(f"{value:.6g}") if abs(value) < 1e6 else round(value, 1)
