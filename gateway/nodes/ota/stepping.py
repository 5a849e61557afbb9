"""What becomes of a rollout by what happens: `step`, a pure function.

Nothing here knows of time but what `Tick` tells, so that a clock that jumps fails nobody, and no time passes while the
gateway is off or the broker is away.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from itertools import islice
from operator import attrgetter

from gateway.nodes.ota.manifest import ManifestError, number
from gateway.nodes.ota.rollout import (
    ENDED,
    FAILURES,
    PHASES,
    STEPS,
    STOPPABLE,
    UNDER_WAY,
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
    State,
    Target,
    Tick,
    Unfit,
    Unsent,
    summary,
)

OFFER_DIGITS = 16
REASON_LIMIT = 200
ABORTED = "the rollout was aborted"
_STATE = attrgetter("state")

OfDevice = Said | Runs | Fresh | Online | Offline | Unfit | Unsent


def step(rollout: Rollout, event: Happened, now: datetime) -> tuple[Rollout, tuple[Effect, ...]]:
    """What becomes of a rollout by an event, and what is to be done, in this order. An ended one stays as it is, and
    so does one (the very same) of which nothing changes."""
    return steps(rollout, (event,), now)


def steps(rollout: Rollout, events: Iterable[Happened], now: datetime) -> tuple[Rollout, tuple[Effect, ...]]:
    """The same for several that happened at once."""
    if not rollout.is_active:
        return rollout, ()
    work = _Work(rollout, now)
    for event in events:
        work.take(event)
    work.settle()
    return work.outcome()


def offer_id(rollout_id: str, device: str, number: int) -> str:
    """Of the offer number 1, 2, … to a device: 16 hex digits, always the same, so that a repeated step repeats it."""
    return sha256(f"{rollout_id}\n{device}\n{number}".encode()).hexdigest()[:OFFER_DIGITS]


def version_of(text: str) -> tuple[int, int, int] | None:
    """What a version is compared by, None where a device says something else."""
    try:
        return number(text)
    except ManifestError:
        return None


class _Work:
    """One step under way."""

    def __init__(self, rollout: Rollout, now: datetime) -> None:
        self._old, self._now = rollout, now
        self._targets = dict(rollout.targets)
        self._touched: dict[str, None] = {}
        self._tally = Counter(map(_STATE, self._targets.values()))
        self._settings = rollout.settings
        self._changes: dict[str, object] = {}
        self._course, self._forgiven = rollout.course, rollout.forgiven
        self._effects: list[Effect] = []

    def outcome(self) -> tuple[Rollout, tuple[Effect, ...]]:
        is_same = not self._touched and self._course is self._old.course and not self._changes
        if is_same and self._forgiven == self._old.forgiven:
            return self._old, tuple(self._effects)
        new = replace(
            self._old,
            targets=self._targets,
            course=self._course,
            forgiven=self._forgiven,
            **self._changes,  # type: ignore[arg-type]
        )
        return new, tuple(self._effects)

    # What happened.

    def take(self, event: Happened) -> None:
        match event:
            case Tick(elapsed_s):
                for device in list(self._targets):
                    self._waited(device, elapsed_s)
            case Pause(by, reason):
                if self._course is Course.RUNNING:
                    self._pause(f"by {by}{': ' if reason else ''}{reason}")
            case Resume(by):
                self._resume(by)
            case Abort(by, reason):
                self._abort(f"by {by}{': ' if reason else ''}{reason}")
            case _:
                if event.device in self._targets:
                    self._of_device(self._targets[event.device], event)

    def _of_device(self, target: Target, event: OfDevice) -> None:
        match event:
            case Said():
                self._said(target, event)
            case Runs(_, version):
                self._runs(target, version)
            case Fresh(_, time):
                if target.state is State.CONFIRMED and target.since is not None and time >= target.since:
                    self._enter(target, State.DONE, "")
            case Online(_, boot):
                self._came(target, boot)
            case Offline():
                self._put(target, online=False)
            case Unfit(_, reason):
                if target.state in {State.WAITING, State.OFFERED}:
                    self._enter(target, State.SKIPPED, reason)
            case Unsent(_, offer):
                if target.state is State.OFFERED and target.offer == offer:
                    self._unsent(target)

    def _unsent(self, target: Target) -> None:
        if self._course is Course.ABORTED:
            self._enter(target, State.CANCELLED, ABORTED)
        else:
            self._put(target, state=State.WAITING, tries=target.tries - 1, offer="", spent_s=0.0)

    def _said(self, target: Target, said: Said) -> None:
        """Only forward: what comes late or again says nothing new."""
        state = PHASES[said.phase]
        if target.state not in UNDER_WAY or not self._is_ours(target, said.offer):
            return
        if state in ENDED:
            if said.offer == target.offer:  # what became of an earlier one does not matter any more
                self._gave_up(target, state, said.error)
            return
        if said.offer != target.offer:  # an earlier one, which was answered late: that is the one it works on
            self._effects.append(Open(target.device, said.offer))
            target = self._put(target, offer=said.offer)
        self._reached(target, state, said.percent)

    def _is_ours(self, target: Target, offer: str) -> bool:
        every = (offer_id(self._old.rollout_id, target.device, each) for each in range(target.tries, 0, -1))
        return offer == target.offer or offer in every

    def _gave_up(self, target: Target, state: State, error: str) -> None:
        is_tested = target.state in {State.TESTING, State.CONFIRMED}
        if target.state is State.CONFIRMED or (is_tested and state is State.REFUSED):
            return  # it took this one: whatever it refuses came twice
        if target.stopping and state is not State.ROLLED_BACK:
            self._enter(target, State.CANCELLED, ABORTED)
        elif state is State.REFUSED and self._is_void(target):
            self._due(target)
        else:
            self._enter(target, state, error or "it did not say why")

    def _is_void(self, target: Target) -> bool:
        """Whether an offer was for a boot that is over, and there is another try."""
        is_over = target.state is State.OFFERED and target.boot != target.offer_boot
        return is_over and target.tries < self._settings.tries

    def _reached(self, target: Target, state: State, percent: int) -> None:
        at, now = STEPS.index(target.state), STEPS.index(state)
        if now > at:
            self._enter(target, state, "")
            target = self._targets[target.device]
        if state is State.DOWNLOADING and target.state is state and percent > target.percent:
            self._put(target, percent=min(percent, 100), spent_s=0.0)

    def _runs(self, target: Target, version: str) -> None:
        target = self._put(target, runs=version)
        found, wanted = version_of(version), version_of(self._old.version)
        if found is None or wanted is None:
            return
        if target.state is State.WAITING and found >= wanted:
            self._enter(target, State.SKIPPED, f"it runs {version} already")
        elif found == wanted and target.state in {State.OFFERED, State.DOWNLOADING, State.INSTALLING}:
            self._enter(target, State.TESTING, "")

    def _came(self, target: Target, boot: str) -> None:
        target = self._put(target, online=True, boot=boot or target.boot)
        if target.state is State.WAITING:
            self._put(target, spent_s=0.0)
        elif target.state is State.OFFERED and target.boot != target.offer_boot:
            self._due(target)  # an offer is good for one boot only

    def _waited(self, device: str, elapsed_s: float) -> None:
        target = self._targets[device]
        waits = target.state is State.WAITING and not target.online and self._course is Course.RUNNING
        if target.state in UNDER_WAY or waits:
            self._put(target, spent_s=target.spent_s + elapsed_s)

    def _pause(self, reason: str) -> None:
        self._course = Course.PAUSED
        self._changes["reason"] = reason[:REASON_LIMIT]
        self._note("", f"paused {reason}")

    def _resume(self, by: str) -> None:
        if self._course is Course.PAUSED:
            self._course, self._forgiven = Course.RUNNING, self._count(FAILURES)
            self._changes["reason"] = ""
            self._note("", f"resumed by {by}")

    def _abort(self, reason: str) -> None:
        if self._course is Course.ABORTED:
            return
        self._course = Course.ABORTED
        self._changes["reason"] = reason[:REASON_LIMIT]
        self._note("", f"aborted {reason}")
        for target in list(self._targets.values()):
            if target.state is State.WAITING:
                self._enter(target, State.CANCELLED, ABORTED)
            elif target.state in STOPPABLE and not target.stopping:
                self._put(target, stopping=True, spent_s=0.0)
                self._effects.append(Cancel(target.device, target.offer))

    # What follows from it.

    def settle(self) -> None:
        """Whose patience is over; whether it pauses; who is next; whether that was all."""
        for target in self._due_now():
            self._overdue(target)
        goes_on = self._course is Course.RUNNING and self._count(ENDED) < len(self._targets)
        if goes_on and (reason := self._trouble()):
            self._pause(reason)
        if self._course is Course.RUNNING:
            for target in (*self._due_now(), *self._next()):
                self._offer(target)
        if self._count(ENDED) == len(self._targets):
            self._end()

    def _due_now(self) -> list[Target]:
        """Whose patience is over: of those that this step touched, for nobody else's changed."""
        touched = map(self._targets.__getitem__, self._touched)
        return [each for each in touched if each.state not in ENDED and each.spent_s >= self._patience_s(each)]

    def _patience_s(self, target: Target) -> float:
        return self._settings.answer_s if target.stopping else self._settings.patience_s(target.state)

    def _overdue(self, target: Target) -> None:
        waited = f"{self._patience_s(target):g} s"
        if target.stopping:
            self._enter(target, State.CANCELLED, f"{ABORTED}; it did not answer")
        elif target.state is State.WAITING:
            self._enter(target, State.SKIPPED, f"offline for more than {waited}")
        elif target.state is State.OFFERED:
            self._unanswered(target, waited)
        elif target.state is State.DOWNLOADING:
            self._effects.append(Cancel(target.device, target.offer))
            self._enter(target, State.FAILED, f"the download stood still for {waited}, at {target.percent} %")
        elif target.state is State.INSTALLING:
            self._enter(target, State.FAILED, f"it did not restart within {waited}")
        elif target.state is State.TESTING:
            runs = f"; it was last heard to run {target.runs}" if target.runs else ""
            self._enter(target, State.FAILED, f"it did not confirm within {waited}{runs}")
        else:
            self._enter(target, State.FAILED, f"it confirmed, but no good reading came within {waited}")

    def _unanswered(self, target: Target, waited: str) -> None:
        """Given up, or left for the next offer."""
        if not target.online:
            self._effects.append(Cancel(target.device, target.offer))
            self._enter(target, State.SKIPPED, "it went offline before it answered")
        elif target.tries >= self._settings.tries:
            self._effects.append(Cancel(target.device, target.offer))
            self._enter(target, State.FAILED, f"{target.tries} offers, and no answer within {waited}")

    def _trouble(self) -> str:
        """Why to pause, "" where there is no reason."""
        failed = self._count(FAILURES)
        if failed <= self._forgiven:
            return ""
        done = self._count({State.DONE})
        if done < self._settings.canary:
            last = [each for each in self._targets.values() if each.state in FAILURES][-1]
            return f"in the canary: {last.device} {_word(last)}"
        if self._settings.pause_at < 1 and failed >= self._settings.pause_at * (failed + done):
            return f"because {failed} of {failed + done} failed"
        return ""

    def _next(self) -> list[Target]:
        """Who is offered it now for the first time."""
        under_way, done = self._count(UNDER_WAY), self._count({State.DONE})
        room = self._settings.at_once - under_way
        if done < self._settings.canary:
            room = min(room, self._settings.canary - done - under_way)
        if room <= 0 or not self._tally[State.WAITING]:
            return []
        ready = (each for each in self._targets.values() if each.state is State.WAITING and each.online)
        return list(islice(ready, room))

    def _offer(self, target: Target) -> None:
        tries = target.tries + 1
        offer = offer_id(self._old.rollout_id, target.device, tries)
        self._put(
            target,
            state=State.OFFERED,
            tries=tries,
            offer=offer,
            offer_boot=target.boot,
            spent_s=0.0,
            since=self._now,
            started=target.started or self._now,
        )
        self._effects.append(Offer(target.device, offer))

    def _end(self) -> None:
        self._changes["ended"] = self._now
        if self._course is not Course.ABORTED:
            self._course = Course.DONE
            self._changes["reason"] = ""
        self._note("", f"ended: {summary(self._targets)}")

    def _enter(self, target: Target, state: State, reason: str) -> None:
        if state is State.CONFIRMED and not self._settings.readings:
            state = State.DONE
        reason = reason[:REASON_LIMIT]
        ended = self._now if state in ENDED else None
        stopping = target.stopping and state in STOPPABLE  # past that it is left to its own end
        fields = {"state": state, "reason": reason, "stopping": stopping, "since": self._now, "ended": ended}
        new = self._put(target, spent_s=0.0, **fields)
        if state in FAILURES:
            self._note(target.device, _word(new))

    def _due(self, target: Target) -> None:
        """What was offered is void: the next offer does not wait."""
        self._put(target, spent_s=max(target.spent_s, self._settings.answer_s))

    def _put(self, target: Target, **changes: object) -> Target:
        new = replace(target, **changes)  # type: ignore[arg-type]
        if new != target:
            self._targets[target.device] = new
            self._touched[target.device] = None
            self._tally[target.state] -= 1
            self._tally[new.state] += 1
        return new

    def _count(self, states: frozenset[State] | set[State]) -> int:
        return sum(self._tally[each] for each in states)

    def _note(self, device: str, text: str) -> None:
        self._effects.append(Note(device, text))


def _word(target: Target) -> str:
    words = {State.FAILED: "failed", State.ROLLED_BACK: "rolled back", State.REFUSED: "refused"}
    return f"{words[target.state]}: {target.reason}"
