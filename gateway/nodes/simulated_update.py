"""The update side of a simulated node: it takes offers, really downloads and checks them, restarts, tests, confirms.

As the node itself it shares the wire document with the gateway and no code.
"""

import asyncio
import hashlib
import hmac
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Never

import httpx2

from gateway.nodes.simulated import SimulatedNode

log = logging.getLogger(__name__)

WAITING_LIMIT = 8
SEEN_LIMIT = 64
HTTP_WITHIN_S = 10.0
MAC_DIGITS = 32


class Fate(StrEnum):
    """What becomes of the update of such a node: all is well; or in that phase it fails (`downloading`, `verifying`),
    refuses, rolls back, or is never heard again."""

    WELL = "well"
    REFUSES = "refuses"
    FAILS_DOWNLOADING = "fails_downloading"
    FAILS_VERIFYING = "fails_verifying"
    ROLLS_BACK = "rolls_back"
    MUTE = "mute"
    VANISHES_DOWNLOADING = "vanishes_downloading"
    VANISHES_TESTING = "vanishes_testing"


@dataclass(frozen=True, slots=True)
class Board:
    """What it is, as its capabilities tell."""

    board: str = "esp32"
    mpy: int | None = 6
    slots: str = "files"


class _Over(Exception):
    """The update has ended: phase and why."""


class SimulatedUpdate:
    """A part of a simulated node that has this key. `retry_s` is how soon a download is tried again; `outcome` is the
    last word on an update, `ended` is set with it, `phases` are all words in their order."""

    topics: Sequence[str] = ("update",)

    def __init__(
        self, key: bytes, host: str, *, about: Board | None = None, fate: Fate = Fate.WELL, retry_s: float = 1.0
    ) -> None:
        self._key, self._host, self._about, self._retry_s = key, host, about or Board(), retry_s
        self.fate = fate
        self.outcome: dict[str, Any] | None = None
        self.phases: list[str] = []
        self.downloaded_bytes = 0
        self.dropped = 0
        self.ended = asyncio.Event()
        self._offers: asyncio.Queue[bytes] = asyncio.Queue(WAITING_LIMIT)
        self._seen: list[str] = []
        self._cancelled = ""
        self._under_way: dict[str, Any] | None = None

    def capabilities(self) -> Mapping[str, Any]:
        return {"board": self._about.board, "mpy": self._about.mpy, "slots": self._about.slots}

    def status(self) -> Mapping[str, Any]:
        return {"update": self.outcome} if self.outcome is not None else {}

    def heard(self, _topic: str, payload: bytes) -> None:
        """An offer waits for its turn; a cancel counts at once."""
        body = self._opened(payload)
        if body is None or self.fate is Fate.MUTE:
            return
        if "cancel" in body:
            self._cancelled = str(body["cancel"])
            return
        try:
            self._offers.put_nowait(json.dumps(body).encode())
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self, node: SimulatedNode) -> Never:
        """Take one offer after the other."""
        self._node = node
        while True:
            body = json.loads(await self._offers.get())
            if reason := self._refusal(body):
                await self._tell(body, "refused", error=reason)
                continue
            self._seen = [*self._seen[1 - SEEN_LIMIT :], body["offer"]]
            self.outcome, self._under_way = None, body
            self.ended.clear()
            try:
                await self._update(body)
            except _Over as over:
                phase, error = over.args
                await self._tell(body, phase, error=error)
            self._under_way = None

    def _refusal(self, body: Mapping[str, Any]) -> str:
        node = self._node
        if body.get("boot") != node.boot:
            return "it is for another boot"
        if body.get("offer") in self._seen:
            return "it was seen before"
        if self._about.board not in body.get("board", ()):
            return f"it is not for this board, {self._about.board}"
        if _numbers(str(body.get("version"))) <= _numbers(node.firmware_version):
            return f"version {body.get('version')} is not above {node.firmware_version}, which runs"
        return "it does not want to" if self.fate is Fate.REFUSES else ""

    async def _update(self, body: Mapping[str, Any]) -> None:
        await self._tell(body, "accepted")
        manifest = json.loads(
            await self._download(body, "manifest.json", body["manifest_bytes"], body["manifest_sha256"])
        )
        total, done = sum(each["bytes"] for each in manifest["files"]), 0
        for each in manifest["files"]:
            await self._download(body, each["path"], each["bytes"], each["sha256"])
            done += each["bytes"]
            await self._tell(body, "downloading", percent=100 * done // max(1, total))
        await self._tell(body, "verifying")
        if self.fate is Fate.FAILS_VERIFYING:
            raise _Over("failed", "a file does not stand in the flash as it came")
        await self._tell(body, "installing")
        await self._tell(body, "restarting")
        before = self._node.firmware_version
        await self._start_anew(str(body["version"]))
        await self._tell(body, "testing")
        await self._vanish_if(Fate.VANISHES_TESTING)
        if self.fate is Fate.ROLLS_BACK:
            await self._start_anew(before)
            raise _Over("rolled_back", "the self-test: sensor scd30 does not answer")
        self._node.measure()
        await self._node.acked_upto(1)
        raise _Over("confirmed", "")

    async def _start_anew(self, version: str) -> None:
        """Another boot with another version, connected again."""
        self._node.firmware_version = version
        self._node.connected.clear()
        self._node.restart()
        await self._node.connected.wait()

    async def _download(self, body: Mapping[str, Any], path: str, size: int, sha256: str) -> bytes:
        """A file, from where it stopped, whatever comes between."""
        content = b""
        while len(content) < size:
            self._mind(body)
            await self._vanish_if(Fate.VANISHES_DOWNLOADING)
            if self.fate is Fate.FAILS_DOWNLOADING:
                raise _Over("failed", "nothing came for 15 minutes")
            try:
                content = await self._fetch(body, path, content)
            except (OSError, httpx2.HTTPError) as error:
                log.debug("%s: %s: %s", self._node.device, path, error)
                await asyncio.sleep(self._retry_s)
        self.downloaded_bytes += size
        if hashlib.sha256(content).hexdigest() != sha256:
            raise _Over("failed", f"{path} came with a wrong hash")
        return content

    async def _fetch(self, body: Mapping[str, Any], path: str, content: bytes) -> bytes:
        """What is there and what came in addition; _Over where the gateway does not give it."""
        device, offer = self._node.device, body["offer"]
        scheme, host = "https" if body["tls"] else "http", body["host"] or self._host
        address = f"{scheme}://{host}:{body['port']}/files/firmware/{offer}/{path}"
        headers = {"Authorization": f"Node {device}:{self._mac('download', device, offer)}"}
        if content:
            headers["Range"] = f"bytes={len(content)}-"
        async with (
            httpx2.AsyncClient(verify=False, timeout=HTTP_WITHIN_S) as client,  # each file has its hash
            client.stream("GET", address, headers=headers) as answer,
        ):
            if 400 <= answer.status_code < 500 and answer.status_code != httpx2.codes.TOO_MANY_REQUESTS:
                self._mind(body)
                raise _Over("failed", f"the gateway does not give {path}: HTTP {answer.status_code}")
            answer.raise_for_status()
            if answer.status_code != httpx2.codes.PARTIAL_CONTENT:
                content = b""
            async for block in answer.aiter_bytes():
                content += block
        return content

    def _mind(self, body: Mapping[str, Any]) -> None:
        if self._cancelled == body["offer"]:
            raise _Over("cancelled", "it was told to")

    async def _vanish_if(self, fate: Fate) -> None:
        if self.fate is fate:
            await asyncio.Event().wait()

    async def _tell(self, body: Mapping[str, Any], phase: str, *, percent: int | None = None, error: str = "") -> None:
        """Now, where there is a connection; how it ended also with the next one."""
        said = {"offer": body["offer"], "phase": phase, "version": body.get("version"), "error": error}
        self.phases.append(phase)
        if phase in {"confirmed", "refused", "failed", "rolled_back", "cancelled"}:
            self.outcome = said
            self.ended.set()
        with suppress(ConnectionError):
            await self._node.tell("update/status", said | ({} if percent is None else {"percent": percent}))

    def _opened(self, payload: bytes) -> dict[str, Any] | None:
        """The signed object, None where the key of this node did not sign it."""
        try:
            outer = json.loads(payload)
            text, said = outer["body"], outer["mac"]
            body = json.loads(text)
        except (ValueError, KeyError, TypeError):
            return None
        is_ours = hmac.compare_digest(str(said).encode(), self._mac("update", self._node.device, text).encode())
        return body if is_ours and isinstance(body, dict) else None

    def _mac(self, *lines: str) -> str:
        return hmac.new(self._key, "\n".join(lines).encode(), hashlib.sha256).hexdigest()[:MAC_DIGITS]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
