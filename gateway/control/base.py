"""What a command is answered with, and what a kind of commands offers."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol

from pydantic import BaseModel

from gateway.access.principal import Principal, Scope

LOCAL = Principal("local", Scope.ADMIN)
"""Whoever may open the socket or the data folder itself: the owner of the machine."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A write that was checked and not done yet: what it `would` do, in words, and how to `do` it. `preview` is the
    answer to a dry run where words are not enough."""

    would: str
    do: Callable[[], Awaitable[BaseModel]]
    preview: BaseModel | None = None


Handler = Callable[[Any, Principal], Awaitable["BaseModel | Plan"]]
"""Answers a command, or plans a write; ControlError, LookupError, ValueError say what was wrong with it."""


class Kind(Protocol):
    """Commands that belong together."""

    def handlers(self) -> Mapping[type[Any], Handler]:
        """Who answers which command."""


def nearest(text: str, known: Iterable[str]) -> str:
    """A hint that ends an error: the nearest known name, else what there is."""
    folded = {name.casefold(): name for name in sorted(set(known))}
    if not folded:
        return "there is none yet"
    near = get_close_matches(text.casefold(), folded, n=1, cutoff=0.5)
    if near:
        return f"did you mean {folded[near[0]]!r}?"
    return f"there is {', '.join(list(folded.values())[:12])}{' and more' if len(folded) > 12 else ''}"
