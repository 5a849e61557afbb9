"""The trace: every write that somebody asked for, allowed or not. Strangers' refusals are only counted."""

from collections import Counter

from gateway.access.policy import ACTIONS, Decision
from gateway.access.principal import Principal
from gateway.access.rates import Rates
from gateway.clock import Clock
from gateway.store import commands
from gateway.store.db import Store
from gateway.store.types import AuditRow

REFUSALS, A_SECOND = 200, 0.5
"""Refusals of one principal that are written down at once, and how many more each second: a client that repeats itself
must not wear the card. The next one that is written tells how many were only counted."""


class Audit:
    """Writes one row for each write action and each refusal of somebody known; `refused` counts those of strangers and
    guests by action (a card wears by rows)."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._rates = Rates(A_SECOND, REFUSALS)
        self._unwritten: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    async def record(
        self,
        principal: Principal | None,
        action: str,
        target: str,
        decision: Decision,
        detail: str = "",
    ) -> None:
        """Store who asked for what and the verdict, durably, for a write or a refusal of somebody known; count other
        refusals. An action that is not in the table may be any text, and is written as unknown."""
        known = ACTIONS.get(action)
        name = known.name if known is not None else "unknown"
        if decision.allowed:
            if known is not None and known.write and principal is not None:
                await self._write(principal.name, name, target, decision, detail)
        elif principal is None or principal.guest:
            self.refused[name] += 1
        else:
            await self.refuse(principal.name, name, target, decision.reason, detail)

    async def tell(self, who: str, action: str, target: str, reason: str, detail: str = "") -> None:
        """Store something that was done outside of the table of actions, such as a browser that was paired."""
        await self._write(who, action, target, Decision(True, reason), detail)

    async def refuse(self, who: str, action: str, target: str, reason: str, detail: str = "") -> None:
        """Store a refusal of somebody known, whatever it was; beyond a rate it is only counted."""
        if self._rates.spend(who):
            self.refused["unwritten"] += 1
            self._unwritten[who] += 1
            return
        if missed := self._unwritten.pop(who, 0):
            detail = f"{detail}, {missed} refusals before it were not written".removeprefix(", ")
        await self._write(who, action, target, Decision(False, reason), detail)

    async def _write(self, who: str, action: str, target: str, decision: Decision, detail: str) -> None:
        row = AuditRow(self._clock.now(), who, action, target, decision.allowed, decision.reason, detail)
        await commands.audit(self._store, [row])
