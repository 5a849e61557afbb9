"""How a rollout goes, step by step; in any order it is in test_rollout_model.py."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.nodes.ota import rollout as values
from gateway.nodes.ota.offer import Phase
from gateway.nodes.ota.rollout import (
    Abort,
    Cancel,
    Course,
    Effect,
    Fresh,
    Happened,
    Note,
    Offer,
    Offline,
    Online,
    Open,
    Pause,
    Resume,
    Rollout,
    Runs,
    Said,
    Settings,
    State,
    Target,
    Tick,
    Unfit,
)
from gateway.nodes.ota.stepping import offer_id, step

BEGIN = datetime(2026, 11, 20, 12, tzinfo=UTC)


class Run:
    """A rollout with what it asked for so far; every step is written down and read back."""

    def __init__(self, devices: int = 4, **settings: Any) -> None:
        names = [f"n{each}" for each in range(1, devices + 1)]
        self.now = BEGIN
        self.rollout = Rollout(
            "r1", "ab" * 32, "1.4.0", "boss", BEGIN, {name: Target(name) for name in names}, Settings(**settings)
        )
        self.effects: list[Effect] = []
        for name in names:
            self(Online(name, "1-a"))

    def __call__(self, event: Happened) -> tuple[Effect, ...]:
        self.now += timedelta(seconds=1)
        self.rollout, effects = step(self.rollout, event, self.now)
        assert values.load(json.loads(json.dumps(values.dump(self.rollout)))) == self.rollout
        self.effects += effects
        return effects

    def said(self, device: str, phase: Phase, **more: Any) -> tuple[Effect, ...]:
        return self(Said(device, self.rollout.targets[device].offer, phase, **more))

    def update(self, *devices: str) -> None:
        for device in devices:
            for phase in (Phase.ACCEPTED, Phase.VERIFYING, Phase.TESTING, Phase.CONFIRMED):
                self.said(device, phase)
            self(Fresh(device, self.now + timedelta(seconds=1)))

    def offered(self) -> list[str]:
        return [each.device for each in self.effects if isinstance(each, Offer)]

    def notes(self) -> list[str]:
        return [f"{each.device} {each.text}".strip() for each in self.effects if isinstance(each, Note)]

    def state(self, device: str) -> State:
        return self.rollout.targets[device].state


def test_the_canary_has_to_be_done_before_anybody_else_is_asked() -> None:
    run = Run(at_once=2)
    assert run.offered() == ["n1"]
    for phase in (Phase.ACCEPTED, Phase.VERIFYING, Phase.TESTING, Phase.CONFIRMED):
        run.said("n1", phase)
    assert run.state("n1") is State.CONFIRMED
    run(Fresh("n1", BEGIN))  # measured before it confirmed
    assert run.offered() == ["n1"]
    run(Fresh("n1", run.now + timedelta(seconds=1)))
    assert run.offered() == ["n1", "n2", "n3"]
    run.update("n2", "n3", "n4")
    assert run.rollout.course is Course.DONE
    assert run.rollout.ended == run.now
    assert run.rollout.fraction == 1
    assert run.notes() == ["ended: 4 done"]


def test_a_failure_in_the_canary_pauses_and_a_person_decides() -> None:
    run = Run()
    run.said("n1", Phase.FAILED, error="sha256 of node/app.mpy is wrong")
    assert run.rollout.course is Course.PAUSED
    assert run.rollout.reason == "in the canary: n1 failed: sha256 of node/app.mpy is wrong"
    assert run.offered() == ["n1"]
    run(Resume("boss"))
    assert run.offered() == ["n1", "n2"]  # which is the canary now
    run.said("n2", Phase.ROLLED_BACK, error="no broker within 120 s")
    assert run.rollout.course is Course.PAUSED
    run(Resume("boss"))
    run.update("n3")
    run.update("n4")
    assert run.rollout.course is Course.DONE
    assert run.notes()[-1] == "ended: 2 done, 1 failed, 1 rolled back"


def test_the_share_of_failures_pauses_afterwards() -> None:
    run = Run(10, pause_at=0.3, at_once=1)
    run.update("n1", "n2", "n3")
    run.said("n4", Phase.FAILED, error="no room")  # 1 of 4
    assert run.rollout.course is Course.RUNNING
    run.said("n5", Phase.REFUSED, error="another board")  # 2 of 5
    assert run.rollout.course is Course.PAUSED
    assert run.rollout.reason == "because 2 of 5 failed"
    assert run.offered() == ["n1", "n2", "n3", "n4", "n5"]
    run(Tick(1e6))
    assert [run.state(f"n{each}") for each in range(6, 11)] == [State.WAITING] * 5
    run(Resume("boss"))
    run.update("n6")
    assert run.rollout.course is Course.RUNNING  # what was accepted does not pause it again
    run.said("n7", Phase.FAILED)  # 3 of 7
    assert run.rollout.course is Course.PAUSED


def test_one_means_never() -> None:
    run = Run(3, pause_at=1.0, at_once=3)
    run.update("n1")
    run.said("n2", Phase.FAILED)
    run.said("n3", Phase.FAILED)
    assert run.rollout.course is Course.DONE


def test_aborted_means_cancel_what_can_be_and_leave_the_rest() -> None:
    run = Run(6, at_once=4, canary=4)
    run.said("n2", Phase.DOWNLOADING, percent=30)
    run.said("n3", Phase.INSTALLING)
    run.said("n4", Phase.TESTING)
    effects = run(Abort("boss", "wrong one"))
    assert effects == (
        Note("", "aborted by boss: wrong one"),
        Cancel("n1", run.rollout.targets["n1"].offer),
        Cancel("n2", run.rollout.targets["n2"].offer),
    )
    assert [run.state(name) for name in ("n5", "n6")] == [State.CANCELLED] * 2
    run.said("n2", Phase.CANCELLED)
    run(Tick(60.0))
    assert run.rollout.targets["n1"].reason == "the rollout was aborted; it did not answer"
    run.update("n3", "n4")
    assert run.rollout.course is Course.ABORTED
    assert not run.rollout.is_active
    assert run.notes()[-1] == "ended: 2 done, 4 cancelled"
    assert run.offered() == ["n1", "n2", "n3", "n4"]


def test_an_offer_that_nobody_answers_is_made_again() -> None:
    run = Run(2, tries=2, answer_s=10)
    first = run.rollout.targets["n1"].offer
    run(Tick(9.9))
    assert run.offered() == ["n1"]
    run(Tick(0.1))
    assert run.offered() == ["n1", "n1"]
    second = run.rollout.targets["n1"].offer
    assert (first, second) == (offer_id("r1", "n1", 1), offer_id("r1", "n1", 2))
    assert run(Said("n1", first, Phase.ACCEPTED)) == (Open("n1", first),)  # that is the one it works on
    run(Said("n1", second, Phase.REFUSED, error="busy"))
    assert run.state("n1") is State.DOWNLOADING
    run(Said("n1", offer_id("r1", "n1", 3), Phase.CONFIRMED))  # was never made
    run(Said("n1", offer_id("r2", "n1", 1), Phase.CONFIRMED))
    assert run.state("n1") is State.DOWNLOADING


def test_no_answer_to_every_offer_is_a_failure() -> None:
    run = Run(2, tries=2, answer_s=10)
    run(Tick(10))
    run(Tick(10))
    assert run.rollout.targets["n1"].reason == "2 offers, and no answer within 10 s"
    assert run.rollout.course is Course.PAUSED
    assert run.offered() == ["n1", "n1"]


def test_whoever_is_offline_is_waited_for_and_not_the_canary() -> None:
    run = Run(3, at_once=2, offline_s=100)
    run(Offline("n2"))
    run.update("n1")
    assert run.offered() == ["n1", "n3"]
    run.said("n3", Phase.ACCEPTED)
    run(Tick(99))
    run(Online("n2", "2-b"))
    assert run.offered() == ["n1", "n3", "n2"]
    run(Offline("n2"))
    run(Tick(60))
    assert (run.state("n2"), run.rollout.targets["n2"].reason) == (State.SKIPPED, "it went offline before it answered")
    assert run.rollout.course is Course.RUNNING
    late = Run(3, offline_s=100)
    late(Offline("n3"))
    late.update("n1", "n2")
    late(Tick(100))
    assert late.rollout.targets["n3"].reason == "offline for more than 100 s"
    assert late.rollout.course is Course.DONE


def test_an_offer_to_a_boot_that_is_over_is_made_again_at_once() -> None:
    run = Run(2)
    run(Online("n1", "2-b"))
    assert run.offered() == ["n1", "n1"]
    run(Online("n1", "2-b"))
    assert run.offered() == ["n1", "n1"]
    run(Online("n1", "3-c"))
    run(Online("n1", "4-d"))
    assert run.state("n1") is State.FAILED  # three offers
    assert run.rollout.course is Course.PAUSED


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda run: run.said("n1", Phase.DOWNLOADING, percent=40), "the download stood still for 1200 s, at 40 %"),
        (lambda run: run.said("n1", Phase.INSTALLING), "it did not restart within 300 s"),
        (
            lambda run: (run.said("n1", Phase.TESTING), run(Runs("n1", "1.3.0"))),
            "it did not confirm within 1200 s; it was last heard to run 1.3.0",
        ),
        (lambda run: run.said("n1", Phase.CONFIRMED), "it confirmed, but no good reading came within 1800 s"),
    ],
)
def test_silence_is_a_failure_with_its_reason(prepare: Callable[[Run], Any], reason: str) -> None:
    run = Run(2)
    prepare(run)
    run(Tick(1e4))
    assert (run.state("n1"), run.rollout.targets["n1"].reason) == (State.FAILED, reason)


def test_progress_keeps_a_download_alive() -> None:
    run = Run(1)
    for percent in range(10, 60, 10):
        run.said("n1", Phase.DOWNLOADING, percent=percent)
        run(Tick(1199))
    run.said("n1", Phase.DOWNLOADING, percent=50)  # none
    run(Tick(1))
    assert run.state("n1") is State.FAILED
    assert Cancel("n1", offer_id("r1", "n1", 1)) in run.effects  # it must not go on by itself later


def test_what_runs_it_already_is_skipped_and_what_begins_to_is_on_trial() -> None:
    run = Run(4)
    run(Runs("n2", "1.4.0"))
    run(Runs("n3", "1.10.0"))
    run(Runs("n4", "nightly"))
    assert [run.state(f"n{each}") for each in (2, 3, 4)] == [State.SKIPPED, State.SKIPPED, State.WAITING]
    run(Runs("n1", "1.4.0"))  # its messages in between were lost
    assert run.state("n1") is State.TESTING
    run(Unfit("n4", "no key"))
    assert run.rollout.targets["n4"].reason == "no key"


def test_without_readings_confirmed_is_done() -> None:
    run = Run(1, readings=False)
    run.said("n1", Phase.CONFIRMED)
    assert run.state("n1") is State.DONE
    before = run.rollout
    run.said("n1", Phase.ROLLED_BACK)  # whatever comes after its end
    assert run.rollout == before


def test_paused_by_a_person_nothing_new_is_offered() -> None:
    run = Run(3, at_once=1, answer_s=10)
    run(Pause("boss", "dinner"))
    run(Tick(1000))  # not even again
    assert run.offered() == ["n1"]
    run.update("n1")
    assert run.offered() == ["n1"]
    run(Resume("boss"))
    assert run.offered() == ["n1", "n2"]
    assert run.notes() == ["paused by boss: dinner", "resumed by boss"]
    assert replace(run.rollout, targets={}).fraction == 0
