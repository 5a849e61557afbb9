"""Questions in SQL and in Python: they run in the jail, and their results have links."""

import asyncio
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from mcp.server.mcpserver import Context
from mcp_types import CallToolResult, ImageContent, TextContent
from pydantic import BaseModel, Field
from pydantic_core import to_json

from gateway.files.entry import link
from gateway.files.errors import FileMissing
from gateway.files.files import Files
from gateway.jail.analysis import Analysis
from gateway.jail.questions import Answer as Found
from gateway.jail.questions import Parameter, QueryFailed, Questions
from gateway.jail.table import Table, csv_lines
from gateway.mcp import tabular
from gateway.mcp.caller import Caller
from gateway.mcp.fitting import COPY_BYTES, clean
from gateway.mcp.plots import PNG, Plots
from gateway.mcp.tools.base import House, answer
from gateway.mcp.tools.plotting import UI
from gateway.mcp.tools.schemas import marked
from gateway.mcp.views import Answer

LINKS_S = 3600.0
"""As long as the jail keeps a result."""
STDOUT_BYTES = 6_000
ONCE_BYTES = 48_000
"""The longest result and stdout that are sent once."""
PARQUET = "application/vnd.apache.parquet"

Sql = Annotated[
    str,
    Field(description="one SELECT (DuckDB; times are UTC) over the views of get_database_schema", max_length=20_000),
]
QueryId = Annotated[str, Field(description="of execute_sql_query", max_length=64)]
Code = Annotated[str, Field(description="Python with df (the rows), pd, np; set result", max_length=50_000)]
PlotCode = Annotated[str, Field(description="Python with df, plt (matplotlib), pd, np", max_length=50_000)]


class ColumnType(BaseModel):
    name: str
    type: str


class QueryAnswer(Answer):
    """`rows` are the first ones of `kept` that `query_id` stands for; times are UTC. `truncated`: there are more rows
    (`total`) than are kept. csv and parquet are paths on this gateway, until `expires`."""

    query_id: str
    columns: list[ColumnType]
    columns_total: int = 0
    rows: list[list[Any]]
    kept: int
    total: int
    total_is_least: bool = False
    truncated: bool
    csv: str
    parquet: str
    expires: str
    took_ms: int


class Analyzed(Answer):
    """`cut` says what was left out of `result`."""

    result: Any
    cut: str = ""
    stdout: str = ""
    stdout_bytes: int = 0
    took_ms: int


class CodePlot(Answer):
    """`axes` tells what stands on the picture; `picture` is its path in full size, as is plot://{plot}."""

    title: str
    plot: str
    picture: str
    expires: str
    rows: int
    axes: list[Any]
    stdout: str = ""
    took_ms: int


class AnalysisTools:
    """Tools that run what an assistant wrote."""

    def __init__(self, house: House, questions: Questions, analysis: Analysis, files: Files, plots: Plots) -> None:
        self._house, self._questions, self._analysis = house, questions, analysis
        self._files, self._plots = files, plots

    def functions(self) -> Sequence[Callable[..., Any]]:
        return (self.execute_sql_query, self.analyze_data, self.create_plot)

    async def execute_sql_query(self, sql: Sql, ctx: Context) -> Annotated[CallToolResult, QueryAnswer]:
        """Ask the history in SQL. First rows, a query_id for analyze_data and create_plot, links to all rows."""
        return await self.ask(ctx, sql, ())

    async def ask(
        self, ctx: Context, sql: str, parameters: Sequence[Parameter] | Mapping[str, Parameter]
    ) -> CallToolResult:
        """What execute_sql_query answers, of SQL with parameters."""
        owner = Caller.of(ctx.request_context).key
        return answer(self._answered(await self._questions.run(sql, parameters, owner=owner), owner))

    async def analyze_data(self, query_id: QueryId, code: Code, ctx: Context) -> Annotated[CallToolResult, Analyzed]:
        """Run Python on a query's rows; stdout and result come back."""
        table = self._questions.table(query_id, Caller.of(ctx.request_context).key)
        found = await self._analysis.analyze(table, code)
        more: dict[str, Any] = {"cut": found.cut} if found.cut else {}
        if found.stdout:
            more |= {"stdout": _head(found.stdout, STDOUT_BYTES), "stdout_bytes": found.stdout_bytes}
        return _fitted(Analyzed(**self._house.frame().fields(), result=found.result, took_ms=found.took_ms, **more))

    @marked(ui=UI)
    async def create_plot(
        self, query_id: QueryId, plot_code: PlotCode, ctx: Context
    ) -> Annotated[CallToolResult, CodePlot]:
        """Draw a query's rows with matplotlib: a picture, its full size by link, and the drawn points as text."""
        owner = Caller.of(ctx.request_context).key
        table = self._questions.table(query_id, owner)
        drawn = await self._analysis.plot(table, plot_code)
        title = next((clean(axes["title"], 120) for axes in drawn.axes if axes["title"]), "plot")
        kept = self._plots.keep(title, drawn.full, owner)
        more = {"stdout": _head(drawn.stdout, STDOUT_BYTES)} if drawn.stdout else {}
        view = CodePlot(
            **self._house.frame().fields(),
            title=title,
            plot=kept.plot_id,
            picture=kept.path,
            expires=self._expires(kept.path),
            rows=table.rows,
            axes=_shortened(drawn.axes),
            took_ms=drawn.took_ms,
            **more,
        )
        points = await asyncio.to_thread(tabular.points, table)
        picture = ImageContent(type="image", data=b64encode(drawn.inline).decode(), mime_type=PNG)
        return answer(view, TextContent(type="text", text=f"rows that were plotted:\n{points}"), picture)

    def _answered(self, found: Found, owner: str) -> QueryAnswer:
        columns = found.columns[: tabular.MOST_COLUMNS]
        csv, parquet = self._links(found.query_id, owner)
        more: dict[str, Any] = {} if found.counted else {"total_is_least": True}
        if len(found.columns) > len(columns):
            more["columns_total"] = len(found.columns)
        return QueryAnswer(
            **self._house.frame().fields(),
            query_id=found.query_id,
            columns=[ColumnType(name=clean(name, tabular.NAME_LIMIT), type=clean(kind, 40)) for name, kind in columns],
            rows=tabular.rows_that_fit(found.rows),
            kept=found.kept,
            total=found.total,
            truncated=found.truncated,
            csv=csv,
            parquet=parquet,
            expires=self._expires(csv),
            took_ms=round(found.took_ms),
            **more,
        )

    def _links(self, query_id: str, owner: str) -> tuple[str, str]:
        """Where the whole result is to be had; nothing is written before somebody asks."""

        async def csv() -> Path:
            table = self._table(query_id, owner)
            file = self._files.scratch(".csv")
            await asyncio.to_thread(_write_csv, table, file)
            return file

        async def parquet() -> bytes:
            self._table(query_id, owner)
            try:
                return await self._questions.parquet(query_id, owner)
            except QueryFailed as error:
                raise FileMissing(str(error)) from error

        promise = partial(self._files.promise, owner=owner, lives_s=LINKS_S)
        name = f"query-{query_id}"
        return (
            link(promise(f"{name}.csv", "text/csv", csv).file_id),
            link(promise(f"{name}.parquet", PARQUET, parquet).file_id),
        )

    def _table(self, query_id: str, owner: str) -> Table:
        try:
            return self._questions.table(query_id, owner)
        except LookupError as error:
            raise FileMissing("this result is not kept any more; run the query again") from error

    def _expires(self, path: str) -> str:
        return self._house.frame().local(self._files.get(path.rpartition("/")[2], None).expires)


def _write_csv(table: Table, file: Path) -> None:
    with file.open("w", encoding="utf-8", newline="") as out:
        out.writelines(csv_lines(table))


def _head(text: str, most_bytes: int) -> str:
    """As much of a text as has room in an answer."""
    while text and (size := len(to_json(text))) > most_bytes:
        text = text[: min(len(text) - 1, max(0, len(text) * most_bytes // size))]
    return text


def _shortened(axes: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [
        {key: [clean(each, 60) for each in value[:8]] if isinstance(value, list) else clean(value, 120)
         for key, value in one.items() if value}
        for one in axes
    ]  # fmt: skip


def _fitted(view: Analyzed) -> CallToolResult:
    """The answer twice; a result that has no room twice is in the text only, with the stdout that still has."""
    whole = answer(view)
    if len(to_json(whole.structured_content)) <= COPY_BYTES:
        return whole
    size = len(to_json(view.result))
    told = view.model_copy(update={"stdout": _head(view.stdout, ONCE_BYTES - size)})
    short = view.model_copy(
        update={"result": None, "stdout": "", "cut": f"{view.cut}; only the text has it".strip("; ")}
    )
    return CallToolResult(content=answer(told).content, structured_content=answer(short).structured_content)
