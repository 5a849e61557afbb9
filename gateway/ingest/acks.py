"""Which acknowledgements a commit calls for, whatever wire carries them. Pure bookkeeping, no I/O."""

from collections import OrderedDict
from collections.abc import Callable, Iterator

from gateway.ingest import wire
from gateway.store.types import Commit

MARKS_LIMIT = 4096

Outgoing = tuple[str, bytes]
"""Topic and payload."""


class Acks:
    """The newest mark of each device, the longest silent forgotten first.

    `key` signs; it is called for each acknowledgement and must not wait.
    """

    def __init__(self, key: Callable[[str], bytes | None], limit: int = MARKS_LIMIT) -> None:
        self._key, self._limit = key, limit
        self._marks: OrderedDict[str, tuple[str, int]] = OrderedDict()

    def committed(self, commit: Commit) -> Iterator[Outgoing]:
        """What is now to be told: the mark of every boot that the batch mentioned, once something is contiguous."""
        for (device, boot), seq in commit.marks.items():
            self._marks[device] = (boot, seq)
            self._marks.move_to_end(device)
            if len(self._marks) > self._limit:
                self._marks.popitem(last=False)
            if seq >= 1:
                yield self._ack(device, boot, seq)

    def again(self, device: str) -> Outgoing | None:
        """The last mark once more for a device that came back, None where there is none."""
        boot, seq = self._marks.get(device, ("", 0))
        return self._ack(device, boot, seq) if seq >= 1 else None

    def _ack(self, device: str, boot: str, seq: int) -> Outgoing:
        return f"devices/{device}/ack", wire.encode_ack(device, boot, seq, self._key(device))
