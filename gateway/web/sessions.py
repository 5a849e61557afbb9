"""A browser's sessions: random ids in memory, each standing for a token that is still good. A restart ends them."""

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.access.principal import Principal
from gateway.clock import Clock

LIFETIME = timedelta(hours=12)
MOST = 64
"""More than a household's browsers; the oldest session ends for a new one."""


@dataclass(frozen=True, slots=True)
class Session:
    """Which token a browser showed, and until when this counts."""

    token_id: str
    until: datetime


class Sessions:
    """`holder` says who a token id stands for at this moment (None once it ended)."""

    def __init__(self, holder: Callable[[str], Principal | None], clock: Clock) -> None:
        self._holder = holder
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._key = secrets.token_bytes(32)

    def open(self, principal: Principal) -> str:
        """A new session's id: 256 random bits."""
        while len(self._sessions) >= MOST:
            del self._sessions[next(iter(self._sessions))]
        session_id = secrets.token_urlsafe(32)
        self._sessions[session_id] = Session(principal.token_id, self._clock.now() + LIFETIME)
        return session_id

    def principal(self, session_id: str) -> Principal | None:
        """Who this session stands for, or None where it or its token ended."""
        session = self._sessions.get(session_id)
        if session is None:
            return None
        principal = self._holder(session.token_id) if self._clock.now() < session.until else None
        if principal is None:
            del self._sessions[session_id]
        return principal

    def close(self, session_id: str) -> None:
        self._sessions.pop(session_id, None)

    def form_token(self, session_id: str) -> str:
        """What a form of this session carries, so that no other page can post it."""
        return hmac.new(self._key, session_id.encode(), "sha256").hexdigest()

    def is_form_token(self, session_id: str, token: str) -> bool:
        return hmac.compare_digest(self.form_token(session_id), token)
