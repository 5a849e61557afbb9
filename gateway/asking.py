"""What answers with code: jailed SQL and Python, plots and their page, files and their routes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from mcp.server.extension import Extension
from mcp.server.mcpserver import Context
from mcp_types import CallToolResult
from starlette.routing import Route

from gateway.access.policy import Plain
from gateway.clock import elapsed_s
from gateway.command import ControlError
from gateway.core import Core
from gateway.files.entry import Limits
from gateway.files.files import Files
from gateway.jail.analysis import Analysis
from gateway.jail.questions import Parameter, Questions
from gateway.mcp.apps import page
from gateway.mcp.plots import Plots
from gateway.mcp.tools.analysis import AnalysisTools
from gateway.mcp.tools.base import Group, House
from gateway.mcp.tools.plotting import PlotTools
from gateway.web.bodies import BodyLimit
from gateway.web.files import FileRoutes


@dataclass(slots=True)
class Asking:
    """Parts for the MCP server (`groups`, `extensions`, `plots.png`, `questions.clear`), for saved queries (`ask`) and
    for the web (`routes`, `limits`)."""

    files: Files
    questions: Questions
    analysis: Analysis
    plots: Plots
    pages: FileRoutes
    _tools: list[AnalysisTools] = field(default_factory=list)

    @property
    def groups(self) -> Sequence[Callable[[House], Group]]:
        return (self._analysis_tools, lambda house: PlotTools(house, self.analysis, self.plots))

    @property
    def extensions(self) -> Sequence[Extension]:
        return (page.extension(),)

    @property
    def routes(self) -> Sequence[Route]:
        return self.pages.routes()

    @property
    def limits(self) -> Mapping[str, BodyLimit]:
        return self.pages.limits

    async def ask(self, ctx: Context, sql: str, parameters: Mapping[str, Parameter]) -> CallToolResult:
        """What execute_sql_query answers."""
        if not self._tools:
            raise ControlError("SQL is not served yet: ask again in a moment")
        return await self._tools[-1].ask(ctx, sql, parameters)

    def _analysis_tools(self, house: House) -> AnalysisTools:
        made = AnalysisTools(house, self.questions, self.analysis, self.files, self.plots)
        self._tools.append(made)
        return made


async def open_asking(core: Core, stack: AsyncExitStack) -> Asking:
    """For as long as the stack lives; workers start with the first question. Files leave the medium as much as the
    store warns below."""
    limits = Limits(least_free_bytes=core.config.store.warn_free_mb << 20)
    files = await stack.enter_async_context(Files(core.folder / "files", core.store, core.clock, limits))
    questions = await stack.enter_async_context(Questions(core.store))
    analysis = await stack.enter_async_context(Analysis(core.folder / "analysis"))
    pages = FileRoutes(files, core.audit, core.clock, Plain(core.config.http.plain))
    return Asking(files, questions, analysis, Plots(files, elapsed_s), pages)
