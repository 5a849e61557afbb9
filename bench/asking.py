"""Real MCP clients for the benchmarks."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

LEGACY, MODERN = "legacy", "2026-07-28"
ERAS = (LEGACY, MODERN)


@asynccontextmanager
async def asking(
    url: str, era: str, token: str = "", sent: Callable[[httpx2.Request], None] | None = None
) -> AsyncIterator[Client]:
    """The SDK's client of one protocol era on a kept-alive connection; `sent` sees each of its requests."""

    async def hook(request: httpx2.Request) -> None:
        if sent is not None:
            sent(request)

    hooks: dict[str, list[Any]] = {"request": [hook]} if sent is not None else {}
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(30), event_hooks=hooks) as http,
        Client(streamable_http_client(url, http_client=http), mode=era) as client,
    ):
        yield client
