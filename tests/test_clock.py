"""When the system's clock may be believed."""

from dataclasses import dataclass
from datetime import timedelta

from gateway.clock import RELEASED, SETTLED_S, SystemClock, elapsed_s, synchronised

SET = (RELEASED + timedelta(days=30)).timestamp()


@dataclass
class Machine:
    """A clock that can be set, and time that passes."""

    wall_s: float = SET
    elapsed_s: float = 50.0
    synchronised: bool = False

    def clock(self) -> SystemClock:
        return SystemClock(lambda: self.wall_s, lambda: self.elapsed_s, lambda: self.synchronised)

    def passes(self, seconds: float) -> None:
        self.wall_s += seconds
        self.elapsed_s += seconds


def test_a_clock_that_was_never_set() -> None:
    machine = Machine(wall_s=0.0)
    clock = machine.clock()
    assert not clock.trusted()
    machine.wall_s, machine.synchronised = SET, True
    assert clock.trusted()


def test_a_clock_that_goes_on_is_believed_however_long_nobody_asked() -> None:
    machine = Machine()
    clock = machine.clock()
    for seconds in (1, 1e6, 1e8):
        machine.passes(seconds)
        assert clock.trusted()


def test_slow_corrections_are_no_jump() -> None:
    machine = Machine()
    clock = machine.clock()
    for _ in range(100):
        machine.passes(60)
        machine.wall_s += 250
        assert clock.trusted()


def test_after_a_jump_it_has_to_settle() -> None:
    for jump_s in (-2 * 86_400, 3653 * 86_400, 301):
        machine = Machine()
        clock = machine.clock()
        machine.wall_s += jump_s
        assert not clock.trusted()
        machine.passes(SETTLED_S - 1)
        assert not clock.trusted()
        machine.wall_s -= jump_s
        assert not clock.trusted(), "back is a jump too"
        machine.passes(SETTLED_S + 1)
        assert clock.trusted()


def test_a_jump_of_a_time_service_is_believed() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall_s += 86_400
    assert not clock.trusted()
    machine.synchronised = True
    assert clock.trusted()
    machine.synchronised = False
    assert clock.trusted(), "it was confirmed"


def test_the_kernel_is_asked() -> None:
    assert isinstance(synchronised(), bool)
    assert 0 < elapsed_s() <= elapsed_s()
