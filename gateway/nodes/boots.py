"""Which boot each node is in: what a command or an offer is signed for, so that it is good for that boot only."""

from collections import OrderedDict
from collections.abc import Iterable

BOOTS_LIMIT = 4096


class Boots:
    """The present boot of each node, the longest untold forgotten first. A node's own word (its status at each
    connection, its refusal of another boot) counts; what its readings say only until it has spoken, because a ring
    holds readings of earlier boots too."""

    def __init__(self, limit: int = BOOTS_LIMIT) -> None:
        self._limit = limit
        self._told: OrderedDict[str, str] = OrderedDict()
        self._guessed: OrderedDict[str, str] = OrderedDict()

    def get(self, device: str) -> str:
        """The boot that this node is in, "" while it is not known."""
        return self._told.get(device) or self._guessed.get(device, "")

    def told(self, device: str, boot: str) -> None:
        """The node itself says so; "" says nothing."""
        if boot:
            self._guessed.pop(device, None)
            self._keep(self._told, device, boot)

    def seen(self, marks: Iterable[tuple[str, str]]) -> None:
        """(device, boot) of readings that came, in their order."""
        for device, boot in marks:
            if device not in self._told:
                self._keep(self._guessed, device, boot)

    def forget(self, device: str) -> None:
        """A node whose row is gone."""
        self._told.pop(device, None)
        self._guessed.pop(device, None)

    def _keep(self, where: OrderedDict[str, str], device: str, boot: str) -> None:
        where[device] = boot
        where.move_to_end(device)
        if len(where) > self._limit:
            where.popitem(last=False)
