"""How often Python looks for garbage that refers to itself.

By default after each 700 new objects, and each look at all of them goes through everything the imports made: with a
queue to drain that was a third of all CPU. What startup made stays until the end, and a batch of readings is thousands
of objects without a cycle among them.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

LOOK_AFTER = 10_000
"""New objects: about one full batch, and a few MB at most that wait to be freed."""


@contextmanager
def settled() -> Iterator[None]:
    """What exists now is not looked at again, and the rest seldom; undone at the end, so that all of it is freed."""
    _, *older = before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(LOOK_AFTER, *older)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
