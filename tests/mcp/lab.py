"""A furnished gateway with everything that runs what assistants write: jailed SQL and Python, plots, files."""

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client
from mcp.client.extension import advertise
from mcp.server.apps import APP_MIME_TYPE, EXTENSION_ID

from gateway.access.audit import Audit
from gateway.files.entry import Limits
from gateway.files.files import Files
from gateway.jail.analysis import Analysis
from gateway.jail.questions import Questions
from gateway.mcp.apps import page
from gateway.mcp.plots import Plots
from gateway.mcp.server import More
from gateway.mcp.tools.analysis import AnalysisTools
from gateway.mcp.tools.plotting import PlotTools
from gateway.registry.registry import Registry
from gateway.store.db import Store
from gateway.web.files import FileRoutes
from tests.mcp.asking import MODERN, asking_for
from tests.web.house import HandClock, House, furnish, house

APPS = [advertise(EXTENSION_ID, {"mimeTypes": [APP_MIME_TYPE]})]
"""What a client says that shows pages."""


class Hand:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


class NoPandas(Analysis):
    """As where the extra is not installed."""

    @property
    def unavailable(self) -> str:
        return "pandas not installed: pip install 'ambient-gateway[analysis]'"


@dataclass
class Lab:
    """The house and what was added to it."""

    house: House
    files: Files
    questions: Questions
    analysis: Analysis
    plots: Plots
    seconds: Hand

    def client(self, era: str = MODERN, **options: Any) -> AbstractAsyncContextManager[Client]:
        """A real MCP client that asked for what this offers."""
        return asking_for(self.house, era, "core,explore", **options)

    def http(self, token: str = "") -> httpx2.AsyncClient:
        return self.house.browser(token=token or self.house.token, timeout=30)


@asynccontextmanager
async def lab(folder: Path, kind: type[Analysis] = Analysis) -> AsyncIterator[Lab]:
    """Until the block ends."""
    parts: list[Any] = []
    seconds = Hand()
    async with AsyncExitStack() as stack:

        async def equip(store: Store, registry: Registry, clock: HandClock, *_: object) -> More:
            limits = Limits(least_free_bytes=0)
            files = await stack.enter_async_context(Files(folder / "data" / "files", store, clock, limits))
            questions = await stack.enter_async_context(Questions(store))
            analysis = await stack.enter_async_context(kind(folder / "data" / "analysis"))
            plots = Plots(files, seconds)
            routes = FileRoutes(files, Audit(store, clock), clock)
            parts.extend([files, questions, analysis, plots, routes])
            groups = (
                lambda house: AnalysisTools(house, questions, analysis, files, plots),
                lambda house: PlotTools(house, analysis, plots),
            )
            return More(groups=groups, extensions=(page.extension(),), plots=plots.png)

        async with house(folder, equip=equip) as built:
            *four, routes = parts
            built.guard.app.router.routes.extend(routes.routes())  # type: ignore[attr-defined]
            built.guard.limits = routes.limits
            await furnish(built)
            yield Lab(built, *four, seconds)
            await stack.aclose()


def text_of(result: Any, at: int = 0) -> str:
    return str(result.content[at].text)


async def called(client: Client, tool: str, **arguments: Any) -> Any:
    """A result that is none of an error."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, text_of(result)
    return result


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result
    return text_of(result)


def weight(result: Any) -> tuple[int, int]:
    """Bytes of an answer's text and structure, and of its largest picture as it is sent."""
    texts = sum(len(each.text.encode()) for each in result.content if each.type == "text")
    structure = len(json.dumps(result.structured_content, ensure_ascii=False, separators=(",", ":")).encode())
    return texts + structure, max((len(each.data) for each in result.content if each.type == "image"), default=0)
