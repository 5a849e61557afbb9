"""The trace: every write that somebody asked for, allowed or not. Strangers' refusals are only counted."""

from collections import Counter

from gateway.access.policy import ACTIONS, Decision
from gateway.access.principal import Principal
from gateway.clock import Clock
from gateway.store import commands
from gateway.store.db import Store
from gateway.store.types import AuditRow


class Audit:
    """Writes one row for each write action; `refused` counts the rest by action (a card wears by rows)."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.refused: Counter[str] = Counter()

    async def record(
        self,
        principal: Principal | None,
        action: str,
        target: str,
        decision: Decision,
        detail: str = "",
    ) -> None:
        """Store who asked for what and the verdict, durably, for a write by somebody known; count other refusals."""
        known = ACTIONS.get(action)
        if known is not None and known.write and principal is not None:
            row = AuditRow(
                self._clock.now(),
                principal.name,
                action,
                target,
                decision.allowed,
                decision.reason,
                detail,
            )
            await commands.audit(self._store, [row])
        elif not decision.allowed:
            self.refused[action if known is not None else "unknown"] += 1
