"""Who asks, and how far they may go."""

from dataclasses import dataclass
from enum import IntEnum


class Scope(IntEnum):
    """Each scope includes the ones before it."""

    READ = 1
    CONTROL = 2
    ADMIN = 3

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who proved who they are: the name of the token (or "local" for the control socket) and its scope.
    A `guest` proved nothing but to be in the house: refusals of guests are counted, not written down."""

    name: str
    scope: Scope
    token_id: str = ""
    guest: bool = False

    @property
    def key(self) -> str:
        """What belongs to this one alone (tasks, files, answers, its share) is kept under this: the token's id, which
        outlives no token."""
        return self.token_id or self.name
