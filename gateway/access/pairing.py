"""First contact: a window of two minutes in which one code lets one browser or assistant in."""

import re
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest

from gateway.access.principal import Scope
from gateway.clock import elapsed_s

WINDOW_S = 120.0
TRIES = 5
ALPHABET = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"
"""Without what is mistaken for something else on a label."""
LENGTH = 8


class PairingError(ValueError):
    """A code was not taken. `reason`: wrong, late, used, tries, plain or closed; the message is one line."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(slots=True)
class Window:
    """`ended` says why it is no longer open: used, tries, plain, or "" while only time can end it."""

    code: str
    scope: Scope
    opened_by: str
    until_s: float
    tries: int = TRIES
    ended: str = ""


class Pairing:
    """At most one window is open, in memory: a restart closes it. `refused` counts codes that were not taken."""

    def __init__(self, now_s: Callable[[], float] = elapsed_s) -> None:
        self._now_s = now_s
        self._window: Window | None = None
        self.refused: Counter[str] = Counter()

    @property
    def is_open(self) -> bool:
        window = self._window
        return window is not None and not window.ended and self._now_s() < window.until_s

    def open(self, opened_by: str, scope: Scope = Scope.READ) -> str:
        """Open a window for `scope`, in place of one that was open, and return its code as people read it."""
        code = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
        self._window = Window(code, scope, opened_by, self._now_s() + WINDOW_S)
        return f"{code[:4]}-{code[4:]}"

    def close(self) -> None:
        """Forget the window."""
        self._window = None

    def take(self, given: str, most: Scope = Scope.ADMIN) -> Window:
        """The window that this code opened, which is used up by it; PairingError. `most` is what the transport may
        carry: the right code of a window beyond that was heard by others, so it ends the window too."""
        window, code = self._window, re.sub(r"[\s-]", "", given[:64]).upper()
        right = compare_digest((window.code if window else "").encode(), code.encode()) and window is not None
        if window is None or not self.is_open:
            raise self._refused(window, right=right)
        if not right:
            window.tries -= 1
            window.ended = "" if window.tries else "tries"
            if window.ended:
                raise self._refused(window, right=False)
            self.refused["wrong"] += 1
            raise PairingError("wrong", f"this code is wrong; {window.tries} of {TRIES} tries are left")
        if window.scope > most:
            window.ended = "plain"
            raise self._refused(window, right=True)
        window.ended = "used"
        return window

    def _refused(self, window: Window | None, *, right: bool) -> PairingError:
        """Only who knows the code of the last window hears how that ended, apart from too many tries."""
        reason = "closed"
        if window is not None and (right or window.ended == "tries"):
            reason = window.ended or "late"
        self.refused[reason] += 1
        again = "open another with `gateway pair`"
        words = {
            "closed": f"no pairing window is open; {again}",
            "late": f"this code's two minutes are over; {again}",
            "used": f"this code was used already; if that was not you, revoke what it made, and {again}",
            "tries": f"{TRIES} wrong codes closed this pairing window; {again}",
            "plain": "this code is for more than reading and came over plain HTTP, where others may have seen it; "
            f"{again} and use the HTTPS address",
        }
        return PairingError(reason, words[reason])
