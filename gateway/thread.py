"""Blocking work beside the event loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def finished(job: Callable[..., T], *arguments: object) -> T:
    """The job's result from a thread of its own; where this is cancelled, the job is through before it ends."""
    running = asyncio.ensure_future(asyncio.to_thread(job, *arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
