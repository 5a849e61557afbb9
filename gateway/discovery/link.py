"""The way to the gateway: found once, kept while it works, found again when it does not."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import httpx2

from gateway.discovery.target import PAIR_HINT, BridgeError, Locator, Target

log = logging.getLogger(__name__)

NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout)
"""No connection, so the request was certainly not processed."""
BROKEN = (httpx2.HTTPError, OSError)
"""The connection failed later: the request may have been carried out."""

_TIMEOUT = httpx2.Timeout(connect=3.0, read=60.0, write=60.0, pool=None)
"""An open stream of an MCP server speaks at least each 15 s (a comment as a ping): 60 s of silence is a dead peer."""
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=8, keepalive_expiry=3.0)
"""Idle connections are let go before a server closes them (uvicorn: 5 s), so that no request meets a closed one."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 30.0
_jitter = random.SystemRandom()


class Link:
    """`async with Link(locator)`: HTTP to the one gateway that is meant, wherever it is now."""

    def __init__(self, locator: Locator) -> None:
        self._locator = locator
        self._clients: dict[Target, httpx2.AsyncClient] = {}
        self._target: Target | None = None
        self._search: asyncio.Task[Target] | None = None
        self._waiting = 0
        self._hurry = asyncio.Event()
        self._last: BridgeError | None = None
        self._proven: Target | None = None
        self._words = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._search is not None and not self._search.done():
            self._search.cancel()
            await asyncio.wait([self._search])
        for client in self._clients.values():
            await client.aclose()

    async def reach(self, broken: Target | None, within_s: float | None) -> Target:
        """The verified endpoint, another try if it is the one that just failed; waits so long at most. BridgeError."""
        if self._target is not None and self._target is not broken:
            return self._target
        self._target = None
        if self._search is None or self._search.done():
            self._search = asyncio.create_task(self._locate(), name="locate gateway")
            self._search.add_done_callback(lambda task: task.cancelled() or task.exception())  # maybe nobody waits
        self._hurry.set()
        self._waiting += 1
        try:
            async with asyncio.timeout(within_s):
                return await asyncio.shield(self._search)
        except TimeoutError:
            raise self._last or BridgeError("the gateway was not found in time", passing=True) from None
        finally:
            self._waiting -= 1

    async def _locate(self) -> Target:
        """Try until somebody proves to be the gateway, with growing pauses; not for nobody."""
        pause_s = _FIRST_PAUSE_S
        while True:
            self._hurry.clear()
            try:
                target = await self._locator.locate()
            except BridgeError as problem:
                self._last = self._said(problem)
                if not problem.passing or not self._waiting:
                    raise
            else:
                await self._use(target)
                return target
            try:
                async with asyncio.timeout(pause_s * _jitter.uniform(0.5, 1.0)):
                    await self._hurry.wait()  # somebody new asks: no reason to sleep on
            except TimeoutError:
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _said(self, problem: BridgeError) -> BridgeError:
        """The log hears of each problem once, the app with every request."""
        if str(problem) != self._words:
            log.warning("%s", problem)
        self._words = str(problem)
        return problem

    async def _use(self, target: Target) -> None:
        log.info("connected to %s at %s", target.name or "the gateway", target.authority)
        self._clients[target] = httpx2.AsyncClient(
            verify=target.context, timeout=_TIMEOUT, limits=_LIMITS, trust_env=False, follow_redirects=False
        )
        self._target, self._last = target, None
        if len(self._clients) > 2:  # answers may still come through the one before this
            await self._clients.pop(next(iter(self._clients))).aclose()

    @asynccontextmanager
    async def send(
        self, method: str, target: Target, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[httpx2.Response]:
        """One request, its answer to be read. BridgeError for a refused token or a redirect, NOT_SENT, BROKEN."""
        client = self._clients.get(target)
        if client is None:
            raise httpx2.ConnectError("the gateway has moved since")
        sent = {
            "accept": "application/json, text/event-stream" if method == "POST" else "text/event-stream",
            "host": target.authority,
            **({"content-type": "application/json"} if body is not None else {}),
            **({"authorization": f"Bearer {target.token}"} if target.token else {}),
            **headers,
        }
        names = {"sni_hostname": target.host.partition("%")[0]}
        async with client.stream(method, target.url, content=body, headers=sent, extensions=names) as response:
            if response.status_code == httpx2.codes.UNAUTHORIZED:
                raise self._said(BridgeError(_refused_words(target)))
            if response.is_redirect:
                words = f"{target.url} redirects elsewhere; a token is not carried there. Check the --url"
                raise self._said(BridgeError(words))
            if self._proven is not target and response.status_code != httpx2.codes.FORBIDDEN:
                self._proven = target
                self._locator.accepted(target)
            yield response


def _refused_words(target: Target) -> str:
    who = f"{target.name or 'the gateway'} at {target.authority}"
    if not target.token:
        return f"{who} wants a token: add --token TOKEN"
    return (
        f"{who} refused the token (HTTP 401); it may be expired or revoked. Make a new one there with"
        f" `gateway token create NAME --scope read`, then run once here: {PAIR_HINT}"
    )
