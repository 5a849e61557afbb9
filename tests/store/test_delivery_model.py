"""The delivery protocol, model-checked: a node, a network, a gateway that crash, lose, repeat and reorder at will.

The functions under test are the real ones; only disk and wire are models. What the model asks of a node, beyond the
wire format: its ring never discards the last message of an earlier boot, else nothing would tell of that boot's end.
Two losses nobody can report, and the model excuses them: what an earlier boot had only in memory when power failed,
and what a restore threw away of an earlier boot's end (the restore itself has to say from when on).
"""

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gateway.store import delivery
from gateway.store.delivery import DeliveryState, Range

RAM, FLASH, BOOTS, LIMIT = 2, 4, 3, 2
Key = tuple[int, int]  # boot, seq


@dataclass
class Node:
    """A bounded ring (memory, then flash) that keeps each message until an acknowledgement covers it."""

    boot: int = 0
    seq: int = 0
    memory: list[Key] = field(default_factory=list)
    flash: list[Key] = field(default_factory=list)
    made: set[Key] = field(default_factory=set)
    discarded: set[Key] = field(default_factory=set)
    lost_power: set[Key] = field(default_factory=set)

    @property
    def held(self) -> list[Key]:
        return [*self.flash, *self.memory]

    def measure(self) -> None:
        self.seq += 1
        self.made.add((self.boot, self.seq))
        self.memory.append((self.boot, self.seq))
        if len(self.memory) > RAM:
            self.spill(1)

    def spill(self, count: int) -> None:
        self.flash += self.memory[:count]
        self.memory = self.memory[count:]
        while len(self.flash) > FLASH:
            ends = {boot: seq for boot, seq in self.held if boot != self.boot}
            victim = next(key for key in self.flash if ends.get(key[0]) != key[1])
            self.flash.remove(victim)
            self.discarded.add(victim)

    def reboot(self, *, graceful: bool) -> None:
        if graceful:
            self.spill(RAM)
        self.lost_power |= set(self.memory)
        self.memory = []
        self.boot, self.seq = self.boot + 1, 0

    def message(self, key: Key) -> tuple[int, int, int]:
        return (*key, min(seq for boot, seq in self.held if boot == key[0]))

    def acknowledged(self, boot: int, mark: int) -> list[Key]:
        gone = [key for key in self.held if key[0] == boot and key[1] <= mark]
        self.memory = [key for key in self.memory if key not in gone]
        self.flash = [key for key in self.flash if key not in gone]
        return gone


@dataclass
class Disk:
    """What a COMMIT makes durable: rows, delivery states, reported gaps."""

    rows: Counter[Key] = field(default_factory=Counter)
    states: dict[int, DeliveryState] = field(default_factory=dict)
    gaps: dict[int, set[Range]] = field(default_factory=dict)

    def copy(self) -> "Disk":
        return Disk(Counter(self.rows), dict(self.states), {boot: set(gaps) for boot, gaps in self.gaps.items()})

    def write(self, rows: list[Key], states: dict[int, DeliveryState]) -> None:
        self.rows.update(rows)
        for boot, state in states.items():
            before = self.states.get(boot, DeliveryState()).gaps
            reported = self.gaps.setdefault(boot, set())
            reported -= set(before) - set(state.gaps)
            reported |= set(state.gaps) - set(before)
            self.states[boot] = delivery.trim(state, LIMIT)


def seqs(ranges: "set[Range] | tuple[Range, ...]") -> set[int]:
    return {seq for first, last in ranges for seq in range(first, last + 1)}


class Protocol(RuleBasedStateMachine):
    """Everything may happen in any order; `teardown` lets the dust settle and counts."""

    ack_of: Callable[[DeliveryState], int] = staticmethod(lambda state: state.mark)
    after_crash: Callable[[DeliveryState], DeliveryState] = staticmethod(lambda state: state)
    receive: Callable[..., delivery.Received] = staticmethod(delivery.receive)
    leaky = False

    def __init__(self) -> None:
        super().__init__()
        self.node = Node()
        self.wire: list[tuple[int, int, int]] = []
        self.acks: list[tuple[int, int]] = []
        self.disk = Disk()
        self.memory: dict[int, DeliveryState] = {}
        self.backup: Disk | None = None
        self.committed: set[Key] = set()
        self.thrown_away: set[Key] = set()

    # The node.

    @rule(count=st.integers(1, 4))
    def measure(self, count: int) -> None:
        for _ in range(count):
            self.node.measure()

    @precondition(lambda self: self.node.held)
    @rule(pick=st.integers(0, 99), count=st.integers(1, 6))
    def send(self, pick: int, count: int) -> None:
        held = self.node.held
        for offset in range(min(count, len(held))):
            self.wire.append(self.node.message(held[(pick + offset) % len(held)]))

    @precondition(lambda self: self.node.boot + 1 < BOOTS)
    @rule(graceful=st.booleans())
    def reboot(self, graceful: bool) -> None:
        self.node.reboot(graceful=graceful)

    @rule()
    def save_to_flash(self) -> None:
        self.node.spill(RAM)

    # The network and the broker.

    @precondition(lambda self: self.wire)
    @rule(pick=st.integers(0, 99), what=st.sampled_from(["twice", "drop", "last first"]))
    def disturb_messages(self, pick: int, what: str) -> None:
        disturb(self.wire, pick, what)

    @precondition(lambda self: self.acks)
    @rule(pick=st.integers(0, 99), what=st.sampled_from(["twice", "drop", "last first"]))
    def disturb_acknowledgements(self, pick: int, what: str) -> None:
        disturb(self.acks, pick, what)

    @rule()
    def broker_crashes(self) -> None:
        self.wire.clear()

    # The gateway.

    @precondition(lambda self: self.wire)
    @rule(
        size=st.integers(1, 6),
        fate=st.sampled_from(["acked", "acked", "before commit", "before ack"]),
        again=st.booleans(),
    )
    def batch(self, size: int, fate: str, again: bool) -> None:
        batch, self.wire = self.wire[:size], self.wire[size:]
        states = dict(self.memory)
        rows = []
        for boot, seq, oldest in batch:
            states[boot], fresh, _ = self.receive(states.get(boot, DeliveryState()), seq, oldest, LIMIT)
            if fresh:
                rows.append((boot, seq))
        if fate == "before commit":
            # A failed transaction: the gateway lives on, and the broker may deliver again.
            if self.leaky:
                self.memory = states
            self.wire += batch if again else []
            return
        touched = {boot: states[boot] for boot, _, _ in batch}
        self.disk.write(rows, touched)
        self.committed |= set(rows)
        self.memory.update({boot: self.disk.states[boot] for boot in touched})
        if fate == "before ack":
            self.crash()
            self.wire += batch if again else []
            return
        self.acks += [(boot, self.ack_of(self.memory[boot])) for boot in touched]

    @rule()
    def gateway_crashes(self) -> None:
        self.crash()

    @rule()
    def back_up(self) -> None:
        self.backup = self.disk.copy()

    @precondition(lambda self: self.backup is not None)
    @rule()
    def restore(self) -> None:
        assert self.backup is not None
        self.thrown_away |= set(self.disk.rows) - set(self.backup.rows)
        self.disk = self.backup.copy()
        self.memory = dict(self.disk.states)

    @precondition(lambda self: self.acks)
    @rule()
    def acknowledge(self) -> None:
        for key in self.node.acknowledged(*self.acks.pop(0)):
            assert key in self.committed, f"the node deleted {key}, which was never on disk"

    def crash(self) -> None:
        self.memory = {boot: self.after_crash(state) for boot, state in self.disk.states.items()}

    # What must hold.

    @invariant()
    def nothing_twice(self) -> None:
        assert all(count == 1 for count in self.disk.rows.values()), self.disk.rows

    @invariant()
    def mark_covers_only_what_is_stored_or_reported(self) -> None:
        for boot, state in self.disk.states.items():
            stored = {seq for b, seq in self.disk.rows if b == boot}
            reported = seqs(self.disk.gaps[boot])
            assert set(range(1, state.mark + 1)) == {seq for seq in stored | reported if seq <= state.mark}
            assert not stored & reported
            assert seqs(state.above) == {seq for seq in stored if seq > state.mark}
            assert len(state.gaps) <= LIMIT
            assert len(state.above) <= LIMIT

    def teardown(self) -> None:
        node = self.node
        node.measure()
        for _ in range(3 * (RAM + FLASH)):
            self.wire += [node.message(key) for key in node.held]
            while self.wire:
                self.batch(6, "acked", again=False)
            while self.acks:
                self.acknowledge()
        assert not node.held, "it never comes to rest"
        missing = node.made - set(self.disk.rows)
        assert missing <= node.discarded | node.lost_power | self.thrown_away, "lost without a cause"
        for boot, seq in missing:
            state = self.disk.states.get(boot, DeliveryState())
            end = state.above[-1][1] if state.above else state.mark
            if boot == node.boot or seq <= end:
                known = seqs(self.disk.gaps.get(boot, set())) | seqs(delivery.holes(state))
                assert seq in known, f"{boot, seq} is missing and nobody says so"


def disturb(queue: list, pick: int, what: str) -> None:  # type: ignore[type-arg]
    chosen = queue[pick % len(queue)]
    if what == "twice":
        queue.append(chosen)
    else:
        queue.remove(chosen)
        if what == "last first":
            queue.insert(0, chosen)


MODEL = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_the_protocol_keeps_its_promises() -> None:
    run_state_machine_as_test(Protocol, settings=MODEL)


class AcknowledgesTheHighest(Protocol):
    ack_of = staticmethod(lambda state: state.above[-1][1] if state.above else state.mark)


class ForgetsWhatIsAbove(Protocol):
    after_crash = staticmethod(lambda state: state._replace(above=()))


class RemembersRolledBackBatches(Protocol):
    leaky = True


class ForgetsGaps(Protocol):
    @staticmethod
    def receive(*arguments: object) -> delivery.Received:
        before = arguments[0]
        assert isinstance(before, DeliveryState)
        state, fresh, gaps = delivery.receive(*arguments)  # type: ignore[arg-type]
        return delivery.Received(state._replace(gaps=before.gaps), fresh, gaps)


class IgnoresOldest(Protocol):
    @staticmethod
    def receive(state: DeliveryState, seq: int, oldest: int, limit: int) -> delivery.Received:
        return delivery.receive(state, seq, 1, limit)


@pytest.mark.parametrize(
    "broken",
    [AcknowledgesTheHighest, ForgetsWhatIsAbove, RemembersRolledBackBatches, ForgetsGaps, IgnoresOldest],
)
def test_the_model_catches_a_broken_gateway(broken: type[Protocol]) -> None:
    seek = settings(MODEL, max_examples=2000, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(AssertionError), contextlib.redirect_stdout(None):
        run_state_machine_as_test(broken, settings=seek)
