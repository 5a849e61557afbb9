"""A rollout, model-checked: nodes that update, fail, restart and vanish, a network that loses, repeats and reorders.

`step` under test is the real one; the nodes and the wire are models. Each step is written down and read back, which is
all that a restart of the gateway does to it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gateway.nodes.ota import offer as wire
from gateway.nodes.ota import rollout as values
from gateway.nodes.ota import stepping
from gateway.nodes.ota.rollout import (
    ENDED,
    FAILURES,
    UNDER_WAY,
    Abort,
    Cancel,
    Course,
    Fresh,
    Happened,
    Offer,
    Offline,
    Online,
    Pause,
    Resume,
    Rollout,
    Runs,
    Said,
    Settings,
    State,
    Target,
    Tick,
    Unsent,
)

OLD, NEW = "1.3.0", "1.4.0"
SETTINGS = Settings(canary=2, at_once=3, pause_at=0.4, tries=2, offline_s=500)
COUNT = 6
WAY = [wire.Phase.DOWNLOADING, wire.Phase.VERIFYING, wire.Phase.INSTALLING, wire.Phase.TESTING]


@dataclass
class Node:
    """It takes one offer at a time, of its boot only, and goes on by itself."""

    name: str
    boot: int = 1
    online: bool = True
    version: str = OLD
    offer: str = ""
    phase: wire.Phase | None = None
    seen: set[str] = field(default_factory=set)
    inbox: list[tuple[str, str, str]] = field(default_factory=list)
    confirmed_at: datetime | None = None

    def says(self, phase: wire.Phase, offer: str = "", error: str = "") -> Said:
        if not offer:
            self.phase = phase
        return Said(self.name, offer or self.offer, phase, 50, error)

    @property
    def updating(self) -> bool:
        return self.phase is not None and not self.phase.is_end


class Model(RuleBasedStateMachine):
    """Everything may happen in any order; `teardown` lets the dust settle."""

    step: Callable[..., tuple[Rollout, tuple[values.Effect, ...]]] = staticmethod(stepping.step)

    def __init__(self) -> None:
        super().__init__()
        self.now = datetime(2026, 11, 20, tzinfo=UTC)
        self.nodes = {f"n{each}": Node(f"n{each}") for each in range(COUNT)}
        targets = {name: Target(name, runs=OLD) for name in self.nodes}
        self.rollout = Rollout("r", "00" * 32, NEW, "boss", self.now, targets, SETTINGS)
        self.wire: list[Happened] = []
        self.offers: list[str] = []
        for node in self.nodes.values():
            self.happened(Online(node.name, f"{node.boot}"))

    def happened(self, event: Happened) -> None:
        self.now += timedelta(seconds=1)
        before = self.rollout
        after, effects = type(self).step(before, event, self.now)
        again, repeated = type(self).step(values.load(json.loads(json.dumps(values.dump(before)))), event, self.now)
        assert (again, repeated) == (after, effects), "a restart changes nothing"
        self.rollout = after
        offered = [each for each in effects if isinstance(each, Offer)]
        assert not offered or after.course is Course.RUNNING, "nothing is offered while paused, or after an abort"
        for each in offered:
            self.check_offer(before, each)
        for each in effects:
            if isinstance(each, Offer):
                self.nodes[each.device].inbox.append(("offer", each.offer, after.targets[each.device].offer_boot))
            elif isinstance(each, Cancel):
                self.nodes[each.device].inbox.append(("cancel", each.offer, ""))
        for device, target in after.targets.items():
            old = before.targets[device]
            assert old.state not in ENDED or target.state is old.state, "what ended stays so"
            if target.state is State.DONE and old.state is not State.DONE:
                self.check_done(device, event)

    def check_offer(self, before: Rollout, offer: Offer) -> None:
        assert offer.offer not in self.offers, "each offer has an id of its own"
        self.offers.append(offer.offer)
        after = self.rollout
        if before.targets[offer.device].state is State.WAITING:
            done, failed = after.count(State.DONE), after.count(*FAILURES)
            assert failed <= after.forgiven or done >= SETTINGS.canary, "nobody after a failed canary but by a person"
            if done < SETTINGS.canary:
                assert done + after.count(*UNDER_WAY) <= SETTINGS.canary, "only the canary before it is done"

    def check_done(self, device: str, event: Happened) -> None:
        node = self.nodes[device]
        assert node.version == NEW
        assert node.confirmed_at is not None
        assert isinstance(event, Fresh)
        assert event.time >= node.confirmed_at, "a reading from after it confirmed"

    # The nodes.

    @rule(name=st.sampled_from(range(COUNT)))
    def hears(self, name: int) -> None:
        node = self.nodes[f"n{name}"]
        if not node.inbox or not node.online:
            return
        kind, offer, boot = node.inbox.pop(0)
        if kind == "cancel":
            if offer == node.offer and node.phase in {wire.Phase.ACCEPTED, wire.Phase.DOWNLOADING}:
                self.wire.append(node.says(wire.Phase.CANCELLED))
            return
        refusal = ""
        if offer in node.seen:
            refusal = "seen"
        elif boot != f"{node.boot}":
            refusal = "another boot"
        elif node.updating:
            refusal = "busy"
        elif node.version == NEW:
            refusal = "no newer one"
        if refusal:
            self.wire.append(node.says(wire.Phase.REFUSED, offer, refusal))
            return
        node.seen.add(offer)
        node.offer = offer
        self.wire.append(node.says(wire.Phase.ACCEPTED))

    @rule(name=st.sampled_from(range(COUNT)), luck=st.integers(0, 9))
    def goes_on(self, name: int, luck: int) -> None:
        node = self.nodes[f"n{name}"]
        if not node.updating:
            return
        assert node.phase is not None
        at = -1 if node.phase is wire.Phase.ACCEPTED else WAY.index(node.phase)
        if luck == 0:
            self.wire.append(node.says(wire.Phase.FAILED if at < 3 else wire.Phase.ROLLED_BACK, error="bad luck"))
            node.version = OLD
        elif at < len(WAY) - 1:
            self.wire.append(node.says(WAY[at + 1]))
            if WAY[at + 1] is wire.Phase.TESTING:
                node.boot, node.version = node.boot + 1, NEW
                self.wire += [Runs(node.name, NEW), Online(node.name, f"{node.boot}")]
        else:
            node.confirmed_at = self.now
            self.wire.append(node.says(wire.Phase.CONFIRMED))

    @rule(which=st.integers(0, COUNT), reading=st.sampled_from(["none", "old", "fresh", "fresh"]))
    def has_a_good_day(self, which: int, reading: str) -> None:
        """One that was offered it goes all the way, and every word of that arrives."""
        asked = [name for name, each in self.rollout.targets.items() if each.state is State.OFFERED]
        if not asked:
            return
        node, began = self.nodes[asked[which % len(asked)]], self.now
        for _ in range(8):
            self.hears(int(node.name[1:]))
            self.goes_on(int(node.name[1:]), 9)
        for event in [each for each in self.wire if getattr(each, "device", "") == node.name]:
            if not isinstance(event, Fresh):
                self.wire.remove(event)
                self.happened(event)
        if reading != "none":
            self.happened(Fresh(node.name, self.now if reading == "fresh" else began - timedelta(seconds=1)))

    @rule(name=st.sampled_from(range(COUNT)), luck=st.integers(0, 3))
    def restarts(self, name: int, luck: int) -> None:
        """By itself; the last word on its update is said again at its connection."""
        node = self.nodes[f"n{name}"]
        if luck:
            return
        node.boot, node.online, node.inbox = node.boot + 1, True, []
        self.wire += [Runs(node.name, node.version), Online(node.name, f"{node.boot}")]
        if node.phase is not None:
            self.wire.append(node.says(node.phase))

    @rule(name=st.sampled_from(range(COUNT)), luck=st.integers(0, 5))
    def vanishes(self, name: int, luck: int) -> None:
        node = self.nodes[f"n{name}"]
        if luck:
            return
        node.online, node.inbox = False, []
        self.wire.append(Offline(node.name))

    @rule(name=st.sampled_from(range(COUNT)))
    def measures(self, name: int) -> None:
        node = self.nodes[f"n{name}"]
        if node.online:
            self.wire.append(Fresh(node.name, self.now))

    @rule(which=st.integers(0, COUNT))
    def an_offer_never_left(self, which: int) -> None:
        asked = [each for each in self.rollout.targets.values() if each.state is State.OFFERED]
        unread = [each for each in asked if any(offer == each.offer for _, offer, _ in self.nodes[each.device].inbox)]
        if unread:
            target = unread[which % len(unread)]
            self.nodes[target.device].inbox.clear()
            self.offers.remove(target.offer)
            self.happened(Unsent(target.device, target.offer))

    # The network, people, time.

    @rule(at=st.integers(0, 40), keep=st.booleans())
    def delivers(self, at: int, keep: bool) -> None:
        if self.wire:
            at %= len(self.wire)
            self.happened(self.wire[at] if keep else self.wire.pop(at))

    @rule(count=st.integers(1, 6))
    def delivers_in_order(self, count: int) -> None:
        for _ in range(min(count, len(self.wire))):
            self.happened(self.wire.pop(0))

    @precondition(lambda self: self.wire)
    @rule(at=st.integers(0, 40))
    def loses(self, at: int) -> None:
        self.wire.pop(at % len(self.wire))

    @rule(elapsed_s=st.sampled_from([1.0, 20.0, 40.0, 400.0]))
    def time_goes_by(self, elapsed_s: float) -> None:
        self.happened(Tick(elapsed_s))

    @rule(really=st.integers(0, 5))
    def a_person_pauses(self, really: int) -> None:
        if really == 0:
            self.happened(Pause("boss"))

    @rule()
    def a_person_resumes(self) -> None:
        self.happened(Resume("boss"))

    @precondition(lambda self: self.rollout.count(State.DONE) > 0)
    @rule(really=st.integers(0, 9))
    def a_person_aborts(self, really: int) -> None:
        if really == 0:
            self.happened(Abort("boss"))

    @invariant()
    def never_too_many_at_once(self) -> None:
        assert self.rollout.count(*UNDER_WAY) <= SETTINGS.at_once
        assert self.rollout.is_active == (self.rollout.count(*ENDED) < COUNT)
        for target in self.rollout.targets.values():
            assert target.tries <= SETTINGS.tries
            assert (target.ended is not None) == (target.state in ENDED)
            assert target.reason or target.state not in ENDED or target.state is State.DONE, "it says why"

    def teardown(self) -> None:
        """Time alone ends every rollout, where a person lets it."""
        for _ in range(200):
            if not self.rollout.is_active:
                break
            self.happened(Resume("boss"))
            for node in self.nodes.values():
                self.happened(Offline(node.name))
            self.happened(Tick(2000.0))
        assert not self.rollout.is_active


def run(machine: type[Model], examples: int, *, steps: int = 80) -> None:
    """Hypothesis prints the steps that lead to a failure."""
    phases = [Phase.generate] if machine is not Model else [Phase.generate, Phase.shrink]
    config = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=phases,
        derandomize=machine is not Model,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=config)


def test_a_rollout_keeps_its_rules_whatever_happens() -> None:
    run(Model, 100)


def eager(rollout: Rollout, event: Happened, now: datetime) -> tuple[Rollout, tuple[values.Effect, ...]]:
    """One that does not wait for its canary."""
    bold = values.load({**values.dump(rollout), "settings": {**values.dump(rollout.settings), "canary": 0}})
    after, effects = stepping.step(bold, event, now)
    return values.load({**values.dump(after), "settings": values.dump(rollout.settings)}), effects


def forgetful(rollout: Rollout, event: Happened, now: datetime) -> tuple[Rollout, tuple[values.Effect, ...]]:
    """One that takes any reading for a fresh one."""
    return stepping.step(rollout, Fresh(event.device, now) if isinstance(event, Fresh) else event, now)


@pytest.mark.parametrize("broken", [eager, forgetful])
def test_the_model_finds_what_is_broken(broken: Callable[..., object]) -> None:
    machine = type("Broken", (Model,), {"step": staticmethod(broken)})
    with pytest.raises(AssertionError):
        run(machine, 300)
