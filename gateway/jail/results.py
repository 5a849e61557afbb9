"""Results of questions, kept for whoever asked: few of each owner, not too much in all, not for long."""

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from gateway.jail.table import Table

PER_OWNER = 20
MOST_BYTES = 64 << 20
LIVES_S = 3600.0


@dataclass(frozen=True, slots=True)
class _Kept:
    owner: str
    table: Table
    until_s: float


class Results:
    """Tables by id, oldest first out. `now_s` is a clock that never goes back."""

    def __init__(
        self,
        now_s: Callable[[], float],
        *,
        per_owner: int = PER_OWNER,
        most_bytes: int = MOST_BYTES,
        lives_s: float = LIVES_S,
    ) -> None:
        self._now_s = now_s
        self._per_owner, self._most_bytes, self._lives_s = per_owner, most_bytes, lives_s
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        """What all of them take."""
        return sum(each.table.size_bytes for each in self._kept.values())

    def put(self, table: Table, owner: str) -> str:
        """Keep it; its id."""
        query_id = secrets.token_hex(8)
        self._kept[query_id] = _Kept(owner, table, self._now_s() + self._lives_s)
        self._forget()
        own = [key for key, each in self._kept.items() if each.owner == owner]
        for key in own[: -self._per_owner]:
            del self._kept[key]
        while len(self._kept) > 1 and self.size_bytes > self._most_bytes:
            self._kept.popitem(last=False)
        return query_id

    def get(self, query_id: str, owner: str) -> Table | None:
        """The table, if it is this owner's and still there."""
        self._forget()
        found = self._kept.get(query_id)
        return found.table if found is not None and found.owner == owner else None

    def clear(self, owner: str) -> int:
        """Forget all of this owner; how many those were."""
        self._forget()
        own = [key for key, each in self._kept.items() if each.owner == owner]
        for key in own:
            del self._kept[key]
        return len(own)

    def _forget(self) -> None:
        now_s = self._now_s()
        while self._kept and next(iter(self._kept.values())).until_s <= now_s:
            self._kept.popitem(last=False)
