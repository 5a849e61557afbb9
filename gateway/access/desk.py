"""Everything that lets somebody in, as one value."""

from collections import Counter
from dataclasses import dataclass, field

from gateway.access.audit import Audit
from gateway.access.grants import Grants
from gateway.access.pairing import Pairing
from gateway.access.rates import Rates
from gateway.access.tokens import Tokens

FAILURES_PER_S, FAILURES = 0.5, 20
"""Wrong credentials of one address: so many at once, and more each second; beyond that 429. Right ones always pass."""


@dataclass(frozen=True, slots=True)
class Desk:
    """`household` lets guests of the house's own network read; `rates` limits each principal, `failures` each address
    that shows wrong credentials."""

    tokens: Tokens
    audit: Audit
    pairing: Pairing
    grants: Grants
    rates: Rates
    failures: Rates = field(default_factory=lambda: Rates(FAILURES_PER_S, FAILURES))
    household: bool = False
    refused: Counter[str] = field(default_factory=Counter)
    """Requests that were refused at the door, by reason."""
