"""A matplotlib figure as PNG, twice: as large as it was meant, and small enough to stand in an answer. In the jail."""

import io
import math
import sys
from typing import Any

SMALL_DPI = (100, 80, 60, 45, 32)
_MOST_PIXELS = 4_000_000
_MOST_SIDE = 4096


class TooLarge(ValueError):
    """The figure cannot be drawn; one line."""


def draw(figure: Any, full_dpi: int, inline_bytes: int) -> tuple[dict[str, Any], bytes]:
    """({"full_bytes", "inline_bytes", "axes": what stands on them}, both images one after the other). One image serves
    as both where it is small enough ("inline_bytes" is 0 then)."""
    full = _render(figure, full_dpi)
    told = {"axes": [_axes(each) for each in figure.axes[:8]], "full_bytes": len(full), "inline_bytes": 0}
    if len(full) <= inline_bytes:
        return told, full
    for dpi in SMALL_DPI:
        small = _render(figure, dpi)
        if len(small) > inline_bytes:
            small = _few_colours(small)
        if len(small) <= inline_bytes:
            return {**told, "inline_bytes": len(small)}, full + small
    raise TooLarge(f"the figure does not fit into {inline_bytes} bytes at {SMALL_DPI[-1]} dots an inch: draw less")


def _render(figure: Any, dpi: float) -> bytes:
    width, height = (float(each) for each in figure.get_size_inches())
    if not (0.1 <= width <= 1000 and 0.1 <= height <= 1000):
        raise TooLarge(f"a figure of {width:g} x {height:g} inches cannot be drawn: plt.figure(figsize=(8, 5)) can")
    dpi = min(dpi, math.sqrt(_MOST_PIXELS / (width * height)), _MOST_SIDE / max(width, height))
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, bbox_inches=None, metadata={"Software": None})
    return file.getvalue()


def _few_colours(image: bytes) -> bytes:
    """The same with 64 colours."""
    file = io.BytesIO()
    with sys.modules["PIL.Image"].open(io.BytesIO(image)) as picture:  # loaded with matplotlib
        picture.convert("RGB").quantize(64).save(file, "PNG", optimize=True)
    return file.getvalue()


def _axes(axes: Any) -> dict[str, Any]:
    """What a reader of the picture reads on it."""
    return {
        "title": str(axes.get_title())[:200],
        "x": str(axes.get_xlabel())[:200],
        "y": str(axes.get_ylabel())[:200],
        "labels": [str(each)[:100] for each in axes.get_legend_handles_labels()[1][:20]],
    }
