"""The collector leaves alone what startup made, and is as it was afterwards."""

import gc
import weakref

from gateway import heap


class Ring:
    """Refers to itself."""

    def __init__(self) -> None:
        self.ring = self


def test_what_exists_is_left_alone_and_what_comes_later_is_still_freed() -> None:
    before = gc.get_threshold()
    old = Ring()
    gone_old = weakref.ref(old)
    with heap.settled():
        assert gc.get_threshold()[0] == heap.LOOK_AFTER > before[0]
        assert gc.get_freeze_count() > 0
        gone_new = weakref.ref(Ring())
        del old
        gc.collect()
        assert gone_new() is None
        assert gone_old() is not None
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)
    gc.collect()
    assert gone_old() is None
