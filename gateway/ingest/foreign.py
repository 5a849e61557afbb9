"""The enabled dialects, with what each remembers: one call a message, from the one thread that receives them."""

from collections.abc import Mapping
from datetime import datetime, tzinfo

from gateway.ingest.dialects import DIALECTS
from gateway.ingest.dialects.base import EMPTY, Context, Decoded, Dialect, Memory


class Foreign:
    """`enabled` maps names of dialects to their prefixes ("" for the dialect's own); ValueError names a wrong one.

    `subscriptions` is what to subscribe to, `unwanted` what an earlier configuration may have left in the session.
    Where two dialects would take one topic, the first one enabled does.
    """

    def __init__(self, enabled: Mapping[str, str], zone: tzinfo | None = None) -> None:
        for name in enabled:
            if name not in DIALECTS:
                raise ValueError(f"unknown dialect {name!r}: there are {', '.join(DIALECTS)}")
        for name, prefix in enabled.items():
            _check(name, prefix or DIALECTS[name].prefix)
        self._zone = zone
        self._dialects: list[tuple[Dialect, str]] = [
            (DIALECTS[name], prefix or DIALECTS[name].prefix) for name, prefix in enabled.items()
        ]
        self._memories: dict[str, Memory] = dict.fromkeys(enabled, EMPTY)
        wanted = [topic for dialect, prefix in self._dialects for topic in dialect.subscriptions(prefix)]
        self.subscriptions: tuple[str, ...] = tuple(dict.fromkeys(wanted))
        known = [topic for dialect in DIALECTS.values() for topic in dialect.subscriptions(dialect.prefix)]
        self.unwanted: tuple[str, ...] = tuple(topic for topic in dict.fromkeys(known) if topic not in wanted)

    def decode(self, topic: str, payload: bytes, received: datetime, *, trusted: bool, live: bool) -> Decoded | None:
        """What a message meant; None where no enabled dialect has such topics, WireError where it cannot be used."""
        for dialect, prefix in self._dialects:
            if dialect.takes(prefix, topic):
                context = Context(received, trusted, self._zone, live)
                decoded = dialect.decode(prefix, topic, payload, context, self._memories[dialect.name])
                self._memories[dialect.name] = decoded.memory
                return decoded
        return None


def _check(name: str, prefix: str) -> None:
    if any(sign in prefix for sign in "+#\0"):
        raise ValueError(f"{name} = {prefix!r}: a prefix is a plain topic without + and #")
    if name == "tasmota" and not {"%prefix%", "%topic%"} <= set(prefix.split("/")):
        raise ValueError(f"{name} = {prefix!r}: FullTopic has %prefix% and %topic% as levels, as in %prefix%/%topic%")
