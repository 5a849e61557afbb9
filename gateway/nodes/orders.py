"""Commands to nodes, whatever wire carries them: signed, one of a kind at a time, and once more where it has to be."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.nodes.boots import Boots

Seal = tuple[bytes, str, int]
"""Key, boot, number: what a command to a node with a key is signed with."""
Way = Callable[[str, bytes], Awaitable[bytes]]
"""(topic, payload) -> the payload of the result, however long that takes; ConnectionError where nothing was sent."""


class NoAnswer(TimeoutError):
    """The node did not answer in time; what became of the command is not known."""


class Busy(ValueError):
    """The same is under way on this node; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Codec:
    """What knows the wire: a command's payload for its topic, what a result says (ok, result or error text), and which
    (boot, number) a refusal tells."""

    encode: Callable[[str, str, Mapping[str, Any], Seal | None], bytes]
    result: Callable[[str, bytes], tuple[bool, Any]]
    refusal: Callable[[str, bytes], tuple[str, int] | None]


class Orders:
    """`way` finds the wire to a node, `key` what it is signed with (None: not at all), `now_ms` is the wall clock."""

    def __init__(
        self,
        codec: Codec,
        way: Callable[[str], Way],
        key: Callable[[str], bytes | None],
        boots: Boots,
        now_ms: Callable[[], int],
    ) -> None:
        self._codec, self._way, self._key, self._boots, self._now_ms = codec, way, key, boots, now_ms
        self._under_way: set[tuple[str, str]] = set()
        self._n = 0

    async def send(self, device: str, name: str, args: Mapping[str, Any], timeout_s: float) -> tuple[bool, Any]:
        """(ok, result or error text). NoAnswer after so many seconds, Busy, ConnectionError where nothing was sent;
        whatever the codec raises where the answer is none. Cancelled, it waits no longer: a node that has it may still
        obey."""
        which = (device, name)
        if which in self._under_way:
            raise Busy(f"{name} of {device} is under way: wait for its result, or cancel its task")
        self._under_way.add(which)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._ask(device, name, args)
        except TimeoutError:
            raise NoAnswer(f"{device} did not answer {name!r} within {timeout_s:g} s") from None
        finally:
            self._under_way.discard(which)

    async def _ask(self, device: str, name: str, args: Mapping[str, Any]) -> tuple[bool, Any]:
        """Once more where the node is in another boot, or has heard a higher number (our clock was set back)."""
        way, key, boot, above = self._way(device), self._key(device), self._boots.get(device), 0
        for last in (False, True):
            topic = f"devices/{device}/commands/{secrets.token_hex(8)}"
            self._n = max(self._n + 1, self._now_ms())
            seal = None if key is None else (key, boot, max(self._n, above + 1))
            answer = await way(topic, self._codec.encode(topic, name, args, seal))
            refusal = None if key is None or last else self._codec.refusal(f"{topic}/result", answer)
            if refusal is None:
                return self._codec.result(f"{topic}/result", answer)
            boot, above = refusal
            self._boots.told(device, boot)
        raise AssertionError("the second answer is returned")
