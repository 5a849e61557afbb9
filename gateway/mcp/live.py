"""Tells clients of both eras that a resource or the list of tools changed: at most every `pause_s`, without waiting for
them."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote

from mcp.server.subscriptions import ResourcesListChanged, ResourceUpdated, SubscriptionBus, ToolsListChanged

from gateway.store.types import Commit

log = logging.getLogger(__name__)

DEVICES, ALERTS = "devices://", "alerts://active"
PAUSE_S = 2.0
LOOK_S = 10.0
"""How often is looked whether a condition began or ended where nothing else happens: silence makes no noise."""
SEND_S = 1.0
"""A client that does not take a note within this time loses its subscriptions: it would stall all others."""
IDLE_S = 30 * 60.0
"""As long as the SDK keeps a session in which nothing is asked and no stream is open."""
MAX_URIS = 256


def status_uri(device: str) -> str:
    """The resource of one device."""
    return f"device://{quote(device, safe='')}/status"


def history_uri(device: str) -> str:
    """The resource of a device's last day."""
    return f"device://{quote(device, safe='')}/history"


def zone_uri(zone: str) -> str:
    """The resource of a zone."""
    return f"zone://{quote(zone, safe='')}/summary"


class Peer(Protocol):
    """What the SDK's session offers for notes on the standing stream of a legacy session."""

    async def send_resource_updated(self, uri: str) -> None: ...

    async def send_resource_list_changed(self) -> None: ...

    async def send_tool_list_changed(self) -> None: ...


@dataclass(slots=True)
class Session:
    """A legacy session: how to reach it, and what it wants to hear of."""

    peer: Peer
    seen: float
    uris: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Notes:
    """What is to be told: resources that changed, and which lists."""

    uris: set[str] = field(default_factory=set)
    resources: bool = False
    tools: bool = False


@dataclass(frozen=True, slots=True)
class Watched:
    """What changes without a call: `zone_of` a device ("" for none), and the `conditions` that are open (any value that
    changes with them)."""

    zone_of: Callable[[str], str] = lambda device: ""
    conditions: Callable[[], Hashable] = lambda: ()


class Live:
    """`notify` and `tools_changed` collect, `run` tells. Modern clients listen on the bus, legacy sessions are kept
    here."""

    def __init__(
        self, bus: SubscriptionBus, watched: Watched, pause_s: float = PAUSE_S, look_s: float = LOOK_S
    ) -> None:
        self._bus = bus
        self._watched = watched
        self._pause_s, self._look_s = pause_s, look_s
        self._sessions: dict[str, Session] = {}
        # Apart from the sessions: a stream may be open before its session's first note was handled.
        self._streams: Counter[str] = Counter()
        self._devices: set[str] = set()
        self._changed: set[str] = set()
        self._notes = Notes()
        self._wake = asyncio.Event()
        self.dropped = 0

    def notify(self, commit: Commit) -> None:
        """Note whose newest values a commit changed; cheap, from the event loop only."""
        fresh = {reading.device for reading in commit.fresh}
        if fresh:
            self._notes.resources = self._notes.resources or not fresh <= self._devices
            self._devices |= fresh
            self._changed |= fresh
            self._wake.set()

    def tools_changed(self) -> None:
        """What somebody may see in tools/list is another than before; from the event loop only."""
        self._notes.tools = True
        self._wake.set()

    def resource_changed(self, uri: str) -> None:
        """A resource that is not made of readings changed; from the event loop only."""
        self._notes.uris.add(uri)
        self._wake.set()

    async def run(self) -> None:
        """Tell of changes until cancelled."""
        conditions = self._watched.conditions()
        while True:
            try:
                async with asyncio.timeout(self._look_s):
                    await self._wake.wait()
            except TimeoutError:
                log.debug("nothing was committed; looking at conditions")
            self._wake.clear()
            devices, self._changed = self._changed, set()
            notes, self._notes = self._notes, Notes()
            notes.uris |= self._uris(devices)
            before, conditions = conditions, self._watched.conditions()
            if before != conditions:
                notes.uris |= {ALERTS, DEVICES}
            if notes != Notes():
                await self._tell(notes)
                await asyncio.sleep(self._pause_s)

    def _uris(self, devices: Collection[str]) -> set[str]:
        if not devices:
            return set()
        zones = {self._watched.zone_of(device) for device in devices} - {""}
        return {DEVICES, *map(status_uri, devices), *map(history_uri, devices), *map(zone_uri, zones)}

    def known(self, devices: set[str]) -> None:
        """Devices that clients see already, so that only others make the list of resources grow."""
        self._devices |= devices

    def open(self, session_id: str, peer: Peer) -> None:
        """A legacy session said that it is ready, or asked for something."""
        session = self._sessions.setdefault(session_id, Session(peer, self._now()))
        session.peer, session.seen = peer, self._now()

    def close(self, session_id: str) -> None:
        """A legacy session ended."""
        self._sessions.pop(session_id, None)

    def stream(self, session_id: str, step: int) -> None:
        """A standing stream of a legacy session opened (+1) or closed (-1)."""
        self._streams[session_id] += step
        if self._streams[session_id] <= 0:
            del self._streams[session_id]
        if session := self._sessions.get(session_id):
            session.seen = self._now()

    def subscribe(self, session_id: str, uri: str) -> bool:
        """False where the session is unknown or holds its share of subscriptions."""
        session = self._sessions.get(session_id)
        if session is None or len(session.uris) >= MAX_URIS:
            return False
        session.uris.add(uri)
        return True

    def unsubscribe(self, session_id: str, uri: str) -> None:
        if session := self._sessions.get(session_id):
            session.uris.discard(uri)

    @property
    def streams(self) -> int:
        """Legacy sessions with an open standing stream: only those hear anything."""
        return len(self._streams)

    @property
    def sessions(self) -> int:
        """Legacy sessions that may still be told something."""
        return len(self._sessions)

    async def _tell(self, notes: Notes) -> None:
        for uri in sorted(notes.uris):
            await self._bus.publish(ResourceUpdated(uri=uri))
        if notes.resources:
            await self._bus.publish(ResourcesListChanged())
        if notes.tools:
            await self._bus.publish(ToolsListChanged())
        self._sweep()
        for session_id, session in list(self._sessions.items()):
            mine = Notes(session.uris & notes.uris, notes.resources, notes.tools)
            if session_id in self._streams and mine != Notes():
                await self._tell_session(session_id, session, mine)

    async def _tell_session(self, session_id: str, session: Session, notes: Notes) -> None:
        try:
            async with asyncio.timeout(SEND_S):
                if notes.tools:
                    await session.peer.send_tool_list_changed()
                if notes.resources:
                    await session.peer.send_resource_list_changed()
                for uri in sorted(notes.uris):
                    await session.peer.send_resource_updated(uri)
        except TimeoutError:
            self.dropped += 1
            session.uris.clear()
            log.warning("session %s takes no notes; its subscriptions end", session_id[:8])

    def _sweep(self) -> None:
        oldest = self._now() - IDLE_S
        for session_id in [i for i, s in self._sessions.items() if i not in self._streams and s.seen < oldest]:
            self.close(session_id)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
