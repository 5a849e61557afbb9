"""How long a request's body may be, and how slow."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Message, Receive

MAX_BODY, BODY_S = 1 << 20, 15.0


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """At most `max_bytes` within `within_s`, handed over whole. `streamed`: the route reads piece by piece, and
    `within_s` is for each piece."""

    max_bytes: int = MAX_BODY
    within_s: float = BODY_S
    streamed: bool = False


STRANGER = BodyLimit(16 << 10, 5.0)
"""Of somebody without credentials: a form."""


class BodyRefused(Exception):
    """A body is too long (413) or too slow (408)."""

    def __init__(self, reason: str, status: int, text: str) -> None:
        super().__init__(text)
        self.reason, self.status = reason, status


async def whole(limit: BodyLimit, headers: Headers, receive: Receive) -> Message:
    """The body as one message (or that the client is gone); BodyRefused."""
    _declared(limit, headers)
    parts, size = [], 0
    try:
        async with asyncio.timeout(limit.within_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return message
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit.max_bytes:
                    raise _too_long(limit)
                if not message.get("more_body", False):
                    return {"type": "http.request", "body": b"".join(parts), "more_body": False}
    except TimeoutError:
        raise _too_slow(limit) from None


def pieces(limit: BodyLimit, headers: Headers, receive: Receive, refuse: Callable[[BodyRefused], None]) -> Receive:
    """A receive that counts; at a limit it calls `refuse` once and says that the client is gone. BodyRefused at once
    where the declared length is too much."""
    _declared(limit, headers)
    size, more = 0, True

    async def counted() -> Message:
        nonlocal size, more
        if not more:
            return await receive()  # the body is whole; what comes is the end of the connection
        try:
            async with asyncio.timeout(limit.within_s):
                message = await receive()
        except TimeoutError:
            refuse(_too_slow(limit))
            return {"type": "http.disconnect"}
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
        if size > limit.max_bytes:
            refuse(_too_long(limit))
            return {"type": "http.disconnect"}
        return message

    return counted


def _declared(limit: BodyLimit, headers: Headers) -> None:
    declared = headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit.max_bytes:
        raise _too_long(limit)


def _too_long(limit: BodyLimit) -> BodyRefused:
    return BodyRefused("size", 413, f"a request body has at most {limit.max_bytes} bytes here")


def _too_slow(limit: BodyLimit) -> BodyRefused:
    what = "the next piece of the request body" if limit.streamed else "the request body"
    return BodyRefused("slow", 408, f"{what} did not arrive within {limit.within_s:g} s")
