"""Who is connected, and who has to make room: a connection that says nothing gives way to one that wants in."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

MOST, WAITING_OF_A_PLACE = 256, 64


@dataclass(slots=True, eq=False)
class Visitor:
    """One connection. `taken` once a protocol closes its socket; `waiting` while no request of it is being served;
    `proven` once somebody known asked by it."""

    place: str
    close: Callable[[], object]
    taken: bool = False
    waiting: bool = True
    proven: bool = False


class Crowd:
    """At most `most` connections; of one place (an address) at most so many that wait. Beyond that the one that waits
    longest is hung up on, those last that have proven whose they are; where none waits, the newcomer is turned away."""

    def __init__(self, most: int = MOST, waiting_of_a_place: int = WAITING_OF_A_PLACE) -> None:
        self._most, self._waiting = most, waiting_of_a_place
        self._visitors: dict[Visitor, None] = {}  # in the order in which they began to wait
        self.hung_up = 0
        self.turned_away = 0

    def __len__(self) -> int:
        return len(self._visitors)

    def enter(self, place: str, close: Callable[[], object]) -> Visitor | None:
        """A newcomer, or None where it has to go; `close` hangs up on it."""
        waiting = [each for each in self._visitors if each.waiting]
        here = [each for each in waiting if each.place == place]
        if len(here) >= self._waiting:
            self._hang_up(here)
        elif len(self._visitors) >= self._most:
            if not waiting:
                self.turned_away += 1
                return None
            ((fullest, _),) = Counter(each.place for each in waiting).most_common(1)
            self._hang_up([each for each in waiting if each.place == fullest])
        visitor = Visitor(place, close)
        self._visitors[visitor] = None
        return visitor

    def busy(self, visitor: Visitor) -> None:
        """A request of it has arrived."""
        visitor.waiting = False

    def idle(self, visitor: Visitor, *, proven: bool) -> None:
        """It was answered and may ask again."""
        visitor.waiting, visitor.proven = True, visitor.proven or proven
        if visitor in self._visitors:
            del self._visitors[visitor]
            self._visitors[visitor] = None

    def leave(self, visitor: Visitor) -> None:
        """It is gone."""
        self._visitors.pop(visitor, None)

    def _hang_up(self, choice: list[Visitor]) -> None:
        victim = next((each for each in choice if not each.proven), choice[0])
        self.leave(victim)
        self.hung_up += 1
        victim.close()
