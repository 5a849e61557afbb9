"""Pictures that were drawn for somebody, for as long as a conversation: in memory, with a link each."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from gateway.access.principal import Principal
from gateway.files.entry import link
from gateway.files.errors import FileMissing
from gateway.files.files import Files

LIVES_S = 3600.0
MOST_BYTES = 8 << 20
MOST = 64
PNG = "image/png"

Draw = Callable[[], Awaitable[bytes]]


@dataclass(slots=True)
class _Plot:
    owner: str
    draw: Draw
    until_s: float
    png: bytes = b""
    drawing: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class Kept:
    """A plot's id, and the path at which its picture is served; `path` is not written to the medium before that."""

    plot_id: str
    path: str


class Plots:
    """At most 64 plots and 8 MiB of pictures, the oldest go first; none outlives an hour. `now_s` never goes back."""

    def __init__(self, files: Files, now_s: Callable[[], float]) -> None:
        self._files, self._now_s = files, now_s
        self._plots: dict[str, _Plot] = {}

    def keep(self, name: str, draw: Draw | bytes, owner: str) -> Kept:
        """Keep a picture, or how to draw it when somebody wants to see it."""
        plot_id = secrets.token_hex(8)
        png = draw if isinstance(draw, bytes) else b""
        make = partial(_same, draw) if isinstance(draw, bytes) else draw
        self._plots[plot_id] = _Plot(owner, make, self._now_s() + LIVES_S, png)
        self._forget()
        entry = self._files.promise(
            f"{name}.png", PNG, partial(self._png, plot_id, owner), owner=owner, lives_s=LIVES_S
        )
        return Kept(plot_id, link(entry.file_id))

    async def png(self, plot_id: str, principal: Principal) -> bytes:
        """The picture of a plot of this principal; LookupError without one."""
        return await self._png(plot_id, principal.key)

    async def _png(self, plot_id: str, owner: str) -> bytes:
        self._forget()
        plot = self._plots.get(plot_id)
        if plot is None or plot.owner != owner:
            raise FileMissing("this plot was forgotten, or never yours; plot it again")
        async with plot.drawing:
            plot.png = plot.png or await plot.draw()
        self._forget()
        return plot.png

    def _forget(self) -> None:
        now_s = self._now_s()
        for plot_id in [each for each, plot in self._plots.items() if plot.until_s <= now_s]:
            del self._plots[plot_id]
        while len(self._plots) > MOST or sum(len(plot.png) for plot in self._plots.values()) > MOST_BYTES:
            del self._plots[next(iter(self._plots))]


async def _same(png: bytes) -> bytes:
    return png
