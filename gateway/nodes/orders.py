"""Commands to nodes, whatever wire carries them: signed, one of a kind at a time, and once more where it has to be."""

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol

from gateway.nodes.boots import Boots

log = logging.getLogger(__name__)

Seal = tuple[bytes, str, int]
"""Key, boot, number: what a command to a node with a key is signed with."""
Way = Callable[[str, bytes, Callable[[bytes], bool]], Awaitable[bytes]]
"""(topic, payload, accepts) -> the payload of the first result that is accepted, however long that takes;
ConnectionError where nothing was sent."""


class NoAnswer(TimeoutError):
    """The node did not answer in time; what became of the command is not known."""


class Busy(ValueError):
    """The same is under way on this node; the message says what to do."""


class Codec(Protocol):
    """What knows the wire."""

    def encode_command(self, topic: str, name: str, args: Mapping[str, Any], seal: Seal | None = None, /) -> bytes:
        """A command's payload for its topic."""
        ...

    def decode_result(self, topic: str, payload: bytes, /) -> tuple[bool, Any]:
        """What a result says: ok, result or error text."""
        ...

    def decode_refusal(self, topic: str, payload: bytes, /) -> tuple[str, int] | None:
        """Which (boot, number) a refusal tells."""
        ...

    def is_signed(self, topic: str, payload: bytes, key: bytes, /) -> bool | None:
        """Whether this key signed a result; None where nobody did."""
        ...


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
        self._forged: Counter[str] = Counter()

    async def send(self, device: str, name: str, args: Mapping[str, Any], timeout_s: float) -> tuple[bool, Any]:
        """(ok, result or error text). NoAnswer after so many seconds, Busy, ConnectionError where nothing was sent;
        whatever the codec raises where the answer is none. Cancelled, it waits no longer: a node that has it may still
        obey."""
        which, forged = (device, name), self._forged[device]
        if which in self._under_way:
            raise Busy(f"{name} of {device} is under way: wait for its result, or cancel its task")
        self._under_way.add(which)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._ask(device, name, args)
        except TimeoutError:
            why = "; what came was not signed with its key: rotate its key, or somebody else speaks for it"
            forged = self._forged[device] - forged
            raise NoAnswer(f"{device} did not answer {name!r} within {timeout_s:g} s{why if forged else ''}") from None
        finally:
            self._under_way.discard(which)

    @property
    def forged(self) -> int:
        """Answers that the key of their node did not sign."""
        return self._forged.total()

    async def _ask(self, device: str, name: str, args: Mapping[str, Any]) -> tuple[bool, Any]:
        """Once more where the node is in another boot, or has heard a higher number (our clock was set back)."""
        way, key, boot, above = self._way(device), self._key(device), self._boots.get(device), 0
        for last in (False, True):
            topic = f"devices/{device}/commands/{secrets.token_hex(8)}"
            self._n = max(self._n + 1, self._now_ms())
            seal = None if key is None else (key, boot, max(self._n, above + 1))
            accepts = partial(self._accepts, device, f"{topic}/result", seal)
            answer = await way(topic, self._codec.encode_command(topic, name, args, seal), accepts)
            refusal = None if key is None or last else self._codec.decode_refusal(f"{topic}/result", answer)
            if refusal is None:
                return self._codec.decode_result(f"{topic}/result", answer)
            boot, above = refusal
            self._boots.told(device, boot)
        raise AssertionError("the second answer is returned")

    def _accepts(self, device: str, topic: str, seal: Seal | None, payload: bytes) -> bool:
        """Whether this may be the node's answer. Who has a key signs; only another maker's device that was claimed, and
        so has told no boot, knows nothing of that."""
        if seal is None:
            return True
        key, boot, _ = seal
        signed = self._codec.is_signed(topic, payload, key)
        if signed is None and not boot:
            signed = self._codec.decode_refusal(topic, payload) is None
        if not signed:
            self._forged[device] += 1
            log.warning("%s: an answer that is not signed with the key of %s", topic, device)
        return bool(signed)
