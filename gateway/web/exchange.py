"""One request that is being served, so that it can be ended from outside."""

import asyncio
from dataclasses import dataclass

from starlette.types import Message, Receive, Send

from gateway.web.bodies import BodyRefused


@dataclass(slots=True)
class Exchange:
    """What became of it so far. `refused` is set where its body broke a limit while the route was reading it."""

    waiting: asyncio.Future[Message] | None = None
    started: bool = False
    complete: bool = False
    refused: BodyRefused | None = None
    _ended: bool = False

    def is_over(self) -> bool:
        """Whether it was ended from outside."""
        return self._ended

    def end(self) -> None:
        """From now on the app hears that its client is gone, and nothing more is sent but the end."""
        self._ended = True
        if self.waiting is not None:
            self.waiting.cancel()

    def refuse(self, refused: BodyRefused) -> None:
        """From now on nothing that the app says is sent."""
        self.refused = refused

    async def hear(self, receive: Receive) -> Message:
        """What the client says next, or that it is gone once the exchange was ended."""
        if not self.is_over():
            waiting = asyncio.ensure_future(receive())
            self.waiting = waiting
            try:
                return await waiting
            except asyncio.CancelledError:
                waiting.cancel()
                if not self.is_over() or _is_cancelled():
                    raise
            finally:
                self.waiting = None
        return {"type": "http.disconnect"}

    async def finish(self, send: Send) -> None:
        """Complete what was begun, so that the client sees an end and not a broken connection."""
        if not self.started:
            await send({"type": "http.response.start", "status": 503, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _is_cancelled() -> bool:
    """Whether somebody cancelled the running task itself, and not only what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
