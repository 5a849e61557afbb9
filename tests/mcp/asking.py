"""How the tests of the MCP surface ask and what every answer has to promise."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import mcp_types as types
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.web.house import ERAS, House

LEGACY, MODERN = ERAS


async def answer(client: Client, tool: str, **arguments: Any) -> Any:
    """A tool's structured answer, after checking what every answer promises."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    said = result.structured_content
    assert isinstance(said, dict)
    assert json.loads(result.content[0].text) == said  # type: ignore[union-attr]
    assert said["now"] == "2026-11-20T13:00:00+01:00"
    assert said["timezone"] == "Europe/Berlin"
    return said


async def refusal(client: Client, tool: str, **arguments: Any) -> str:
    """What a call that fails is told: always one line."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.structured_content
    text = str(result.content[0].text)  # type: ignore[union-attr]
    assert text.isprintable()
    assert len(text) <= 600
    assert "Traceback" not in text
    return text


@asynccontextmanager
async def asking_for(
    home: House, era: str, toolsets: str, *, token: str | None = None, **options: Any
) -> AsyncIterator[Client]:
    """A client of /mcp?toolsets=…"""
    async with home.browser(token=token or home.token, timeout=30) as http:
        transport = streamable_http_client(f"{home.http}/mcp?toolsets={toolsets}", http_client=http)
        async with Client(transport, mode=era, **options) as client:
            yield client


@asynccontextmanager
async def changes(
    home: House, client: Client, era: str, heard: "asyncio.Queue[Any]"
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A call that waits until the client was told once more that its list of tools changed."""
    if era == LEGACY:
        while not home.endpoint.streams:
            await client.send_ping()

        async def told() -> None:
            assert isinstance(await heard.get(), types.ToolListChangedNotification)

        yield told
        return
    async with client.listen(tools_list_changed=True) as events:

        async def told() -> None:
            assert type(await anext(aiter(events))).__name__ == "ToolsListChanged"

        yield told
