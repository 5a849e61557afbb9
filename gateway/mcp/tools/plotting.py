"""plot: a chart without code, three ways: words with points, a picture, and a page where the host shows one."""

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Annotated, Any

from mcp.server.apps import client_supports_apps
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, ContentBlock, ImageContent, TextContent
from pydantic import Field

from gateway.jail.analysis import Analysis, AnalysisError, Plotted
from gateway.mcp import chart, selection, times
from gateway.mcp.apps.page import CHART_URI
from gateway.mcp.caller import Caller
from gateway.mcp.chart import MOST_SERIES, Chart, Line
from gateway.mcp.fitting import clean
from gateway.mcp.plots import PNG, Plots
from gateway.mcp.tools.base import End, House, Start
from gateway.mcp.tools.schemas import marked
from gateway.store import queries
from gateway.store.types import Series

UI = {"resourceUri": CHART_URI}
FETCHED_POINTS = 5000
"""Of each series; more are thinned by the store, which keeps extremes and drops single bad values."""

Some = Annotated[list[str] | None, Field(description="device ids; all with this metric if left out", max_length=8)]


class PlotTools:
    """Charts of readings."""

    def __init__(self, house: House, analysis: Analysis, plots: Plots) -> None:
        self._house, self._analysis, self._plots = house, analysis, plots

    def functions(self) -> Sequence[Callable[..., Any]]:
        return (self.plot,)

    @marked(ui=UI)
    async def plot(
        self, metric: str, ctx: Context, devices: Some = None, start: Start = "-24h", end: End = "now"
    ) -> Annotated[CallToolResult, Chart]:
        """Chart of one metric over time, for up to 8 devices: figures, points, picture."""
        house, frame = self._house, self._house.frame()
        first, last = times.interval(start, end, frame.now, house.zone)
        chosen = self._chosen(metric, devices)
        lines = [await self._line(one, first, last, frame.now, chart.share(len(chosen))) for one in chosen]
        title = clean(f"{metric} of {', '.join(dict.fromkeys(line.series.device for line in lines))}", 120)
        made = Chart(
            **frame.fields(),
            title=title,
            start=frame.local(first),
            end=frame.local(last),
            series=[chart.view(line, frame) for line in lines],
        )
        draw = partial(self._draw, lines, title, first, last)
        words = chart.told(lines, title, first, last, frame)
        content = [*await self._pictured(made, draw, ctx)]
        if made.no_picture:
            words += f"\nno picture: {made.no_picture}"
        elif made.picture:
            words += f"\npicture in full size: {made.picture} on this gateway, or plot://{made.plot}"
        return CallToolResult(
            content=[TextContent(type="text", text=words), *content],
            structured_content=made.model_dump(mode="json", exclude_unset=True),
        )

    def _chosen(self, metric: str, devices: Sequence[str] | None) -> list[Series]:
        if devices is None:
            found = self._house.some(None, None, metric)
        else:
            found = [one for device in dict.fromkeys(devices) for one in self._house.some(device, None, metric)]
        if not found:
            raise ToolError("devices: name at least one, or leave it out for all")
        if len(found) > MOST_SERIES:
            names = selection.nearest("", (one.device for one in found))
            raise ToolError(f"devices: {len(found)} series measure {metric!r} and {MOST_SERIES} is the most; {names}")
        return found

    async def _line(self, series: Series, first: datetime, last: datetime, now: datetime, most: int) -> Line:
        store, one, until = self._house.store, series.series_id, min(last, now)
        found = await queries.points(store, one, first, last, FETCHED_POINTS)
        points = replace(found, points=tuple(chart.thinned(found.points, most)))
        figures = await queries.statistics(store, one, first, last)
        if first >= until:
            return Line(series, points, (), figures.mean)
        silences = await queries.silences(store, one, first, until, limit=chart.MOST_GAPS)
        return Line(series, points, silences.silences, figures.mean)

    async def _pictured(self, made: Chart, draw: Callable[[], Any], ctx: Context) -> list[ContentBlock]:
        """Give the chart its picture: drawn now where the client shows no page, else when somebody opens its link."""
        if self._analysis.unavailable:
            made.no_picture = self._analysis.unavailable
            return []
        owner = Caller.of(ctx.request_context).key
        content: list[ContentBlock] = []
        full: Any = partial(_full, draw)
        if not client_supports_apps(ctx):
            try:
                drawn: Plotted = await draw()
            except AnalysisError as error:
                made.no_picture = str(error)
                return []
            content.append(ImageContent(type="image", data=b64encode(drawn.inline).decode(), mime_type=PNG))
            full = drawn.full
        kept = self._plots.keep(made.title, full, owner)
        made.plot, made.picture = kept.plot_id, kept.path
        return content

    async def _draw(self, lines: Sequence[Line], title: str, first: datetime, last: datetime) -> Plotted:
        zone = self._house.zone
        ahead = chart.offset_of(first, last, zone)
        clock = f"{zone}" if ahead == first.astimezone(zone).utcoffset() else "UTC"
        code = chart.drawing(title, lines[0].series.quantity.unit, clock, first + ahead, last + ahead)
        return await self._analysis.plot(chart.rows(lines, ahead), code)


async def _full(draw: Callable[[], Any]) -> bytes:
    drawn: Plotted = await draw()
    return drawn.full
