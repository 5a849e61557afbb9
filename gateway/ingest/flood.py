"""How much one sender may say, and how many senders there may be: nobody floods the others away. Pure bookkeeping.

A bucket is kept as the moment at which it is full again (GCRA): one float a device, nothing to refill. Numbered
messages that are not taken come again, because nobody acknowledged them to their node; others are lost, and counted.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

NOTES_PER_S, NOTES_BURST = 0.5, 200.0
"""What is no reading (capabilities, status, complaints) and each new boot costs the store a row of its own."""
REPORTS_PER_S, REPORTS_BURST = 1.0, 100.0
REPORT_EVERY_S = 60.0  # one report a device and kind: a broken node must not fill the card
REPORTS_LIMIT = 4096
BOOTS_LIMIT = 16
LOOK_EVERY_S = 1.0
FORGOTTEN_AFTER_S = 60.0
LASTS_AFTER_S = 60.0
NAMED = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each device `messages_per_s` after a burst of `burst` (0: no limit), and `devices` that are heard at all."""

    messages_per_s: float = 0.0
    burst: float = 1.0
    devices: int = 100_000


class Caller:
    """A device that speaks: when its buckets are full again (loop time), and which of its boots were heard."""

    __slots__ = ("boots", "full_s", "notes_full_s")

    def __init__(self, now_s: float) -> None:
        self.full_s = self.notes_full_s = now_s
        self.boots: set[str] = set()


class Door:
    """Decides for each message whether it is taken. `known` lists the devices that are known anyway: they always find
    room. All of it belongs to one thread; `flooded` and `strangers` count what was not taken."""

    def __init__(self, limits: Limits, known: Callable[[], Iterable[str]] = lambda: ()) -> None:
        self._devices, self._known_now = limits.devices, known
        self._flooded_text = (
            f"it says more than {limits.messages_per_s:g} messages/s or 1 note in {1 / NOTES_PER_S:g} s: what is "
            "numbered comes again, the rest is lost"
        )
        self._strangers_text = f"there are {limits.devices} devices already; delete some, or set max_devices in [mqtt]"
        self._every_s = 1 / limits.messages_per_s if limits.messages_per_s else 0.0
        self._slack_s = self._every_s * (limits.burst - 0.5)  # half a message, for what floats round off
        self._callers: dict[str, Caller] = {}
        self._known: set[str] = set()
        self._new: dict[str, Caller] = {}
        self._looked_s = float("-inf")
        self._floods: dict[str, tuple[float, float]] = {}
        self.flooded = 0
        self.strangers = 0

    def message(self, device: str, now_s: float, kept: bool = False) -> bool:
        """Whether one more message of this device is taken. What a broker `kept` while nobody listened comes all at
        once and is no flood."""
        caller = self._callers.get(device)
        if caller is None:
            caller = self._admit(device, now_s)
            if caller is None:
                self.strangers += 1
                return False
        if kept:
            return True
        full_s = caller.full_s
        if full_s < now_s:
            full_s = now_s
        elif full_s > now_s + self._slack_s:
            self._flood(device, now_s)
            return False
        caller.full_s = full_s + self._every_s
        return True

    def note(self, device: str, now_s: float) -> bool:
        """Whether something that is no reading is taken, of a device whose message was."""
        caller = self._callers[device]
        if not self._every_s:
            return True
        if caller.notes_full_s > now_s + (NOTES_BURST - 1) / NOTES_PER_S:
            self._flood(device, now_s)
            return False
        caller.notes_full_s = max(caller.notes_full_s, now_s) + 1 / NOTES_PER_S
        return True

    def boot(self, device: str, boot: str, now_s: float) -> bool:
        """Whether this boot of a device whose message was taken may be a new one."""
        boots = self._callers[device].boots
        if boot in boots:
            return True
        if not self.note(device, now_s):
            return False
        if len(boots) >= BOOTS_LIMIT:
            boots.clear()
        boots.add(boot)
        return True

    def why(self, device: str) -> tuple[str, str, str]:
        """What to report of a message that was not taken: kind, device and text."""
        if device in self._callers:
            return "flooded", device, self._flooded_text
        return "strangers", "", f"{device} is not heard: {self._strangers_text}"

    def trouble(self, now_s: float) -> str:
        """Which devices have been saying too much for a minute and more, "" where none does; from any thread."""
        lasting = sorted(
            device
            for device, (first_s, last_s) in list(self._floods.items())
            if last_s - first_s >= LASTS_AFTER_S > now_s - last_s
        )
        if not lasting:
            return ""
        named = ", ".join(lasting[:NAMED]) + (f" and {len(lasting) - NAMED} more" if len(lasting) > NAMED else "")
        return f"{named}: more messages than a device may send; part of them is not taken"

    def _flood(self, device: str, now_s: float) -> None:
        self.flooded += 1
        first_s, last_s = self._floods.get(device, (now_s, now_s))
        self._floods[device] = (now_s if now_s - last_s >= LASTS_AFTER_S else first_s, now_s)

    def _admit(self, device: str, now_s: float) -> Caller | None:
        """A device that was not heard since the start; None where it is not known and there are too many."""
        if device not in self._known and now_s - self._looked_s >= LOOK_EVERY_S:
            self._look(now_s)
        if device not in self._known:
            if len(self._known) + len(self._new) >= self._devices:
                return None
            caller = self._callers[device] = self._new[device] = Caller(now_s)
            return caller
        caller = self._callers[device] = Caller(now_s)
        return caller

    def _look(self, now_s: float) -> None:
        """Who is known by now; who never gave a reading makes room again."""
        self._looked_s = now_s
        self._known = set(self._known_now())
        late_s = now_s - FORGOTTEN_AFTER_S
        self._new = {
            device: caller
            for device, caller in self._new.items()
            if device not in self._known and max(caller.full_s, caller.notes_full_s) > late_s
        }
        self._callers = {
            device: caller for device, caller in self._callers.items() if device in self._known or device in self._new
        }
        self._floods = {device: span for device, span in self._floods.items() if device in self._callers}


class Reports:
    """Which reports become events: of a kind and device some and then one a minute, and not too many `together`.
    `held_back` counts those for which the second was the reason."""

    def __init__(self, together: float = REPORTS_BURST) -> None:
        self._slack_together_s = (together - 1) / REPORTS_PER_S
        self._full_s: dict[tuple[str, str], float] = {}
        self._together_s = float("-inf")
        self.held_back = 0

    def due(self, kind: str, device: str, now_s: float, burst: int = 1) -> bool:
        """Whether this one is told; `burst` of a kind and device may come at once."""
        full_s = self._full_s.get((kind, device), now_s)
        if full_s > now_s + (burst - 1) * REPORT_EVERY_S:
            return False
        if self._together_s > now_s + self._slack_together_s:
            self.held_back += 1
            return False
        self._together_s = max(self._together_s, now_s) + 1 / REPORTS_PER_S
        if len(self._full_s) >= REPORTS_LIMIT:
            self._full_s.clear()
        self._full_s[(kind, device)] = max(full_s, now_s) + REPORT_EVERY_S
        return True
