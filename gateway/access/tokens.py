"""Tokens: 256 random bits each, of which only a hash that binds them to this gateway is kept."""

import logging
import re
import secrets
from dataclasses import replace
from datetime import datetime, timedelta
from difflib import get_close_matches
from hashlib import sha256
from hmac import compare_digest

from gateway.access.identity import Identity
from gateway.access.principal import Principal, Scope
from gateway.clock import Clock
from gateway.store import commands, queries
from gateway.store.db import Store
from gateway.store.errors import StoreError
from gateway.store.types import TokenRow

log = logging.getLogger(__name__)

PREFIX = "agw_"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
TOUCH = timedelta(hours=1)
"""How coarse "last used" is: each finer step would be a write to the card."""
NOBODY = "0" * 64


class TokenError(ValueError):
    """A token cannot be made or revoked; the message is one line with the way out."""


class Tokens:
    """The tokens of one gateway, cached in memory; every change must come through this object while it lives.

    Call `load` once before use. A row made under another identity (id or certificate) never verifies.
    """

    def __init__(self, store: Store, clock: Clock, identity: Identity) -> None:
        self._store = store
        self._clock = clock
        self._binding = f"{identity.gateway_id}:{identity.fingerprint}:"
        self._by_hash: dict[str, TokenRow] = {}
        self._by_id: dict[str, TokenRow] = {}

    async def load(self) -> None:
        """Read all rows from the store."""
        for row in await queries.tokens(self._store):
            self._keep(row)

    async def create(self, name: str, scope: Scope, expires: datetime | None = None) -> str:
        """Make a token and return it: the only time that it can be seen. TokenError where the name is bad or taken."""
        if not NAME.fullmatch(name):
            raise TokenError(
                f"{name!r} is no token name: 1 to 64 letters, digits and . _ @ -, not starting with a sign"
            )
        now = self._clock.now()
        if expires is not None and expires <= now:
            raise TokenError(f"expiry {expires.isoformat()} is not in the future; leave it out for a token without end")
        if any(row.name == name and self._live(row, now) for row in self._by_id.values()):
            raise TokenError(f"the name {name!r} is taken; choose another, or `gateway token revoke {name}` first")
        token = PREFIX + secrets.token_urlsafe(32)
        row = TokenRow(secrets.token_hex(8), name, int(scope), self._hash(token), now, expires, None, None)
        await commands.save_token(self._store, row)
        self._keep(row)
        return token

    async def verify(self, token: str) -> Principal | None:
        """Who holds this token, or None: unknown, revoked, expired and foreign look and cost alike."""
        digest = self._hash(token)
        row = self._by_hash.get(digest)
        matches = compare_digest(row.sha256 if row else NOBODY, digest)
        now = self._clock.now()
        if row is None or not matches or not self._live(row, now):
            return None
        if row.last_used is None or now - row.last_used >= TOUCH:
            await self._touch(row, now)
        return _principal(row)

    def holder(self, token_id: str) -> Principal | None:
        """Who a token that was verified before stands for, or None since it ended."""
        row = self._by_id.get(token_id)
        return _principal(row) if row is not None and self._live(row, self._clock.now()) else None

    async def list(self) -> list[TokenRow]:
        """All tokens ever made, oldest first, revoked and expired ones included."""
        return sorted(self._by_id.values(), key=lambda row: (row.created, row.name))

    async def revoke(self, name: str) -> TokenRow:
        """End the live token of this name at once, and return its row; TokenError names the nearest name."""
        now = self._clock.now()
        live = {row.name: row for row in self._by_id.values() if self._live(row, now)}
        row = live.get(name)
        if row is None:
            near = get_close_matches(name, live, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else "`gateway token list` shows them"
            raise TokenError(f"no live token is named {name!r}; {hint}")
        await commands.revoke_token(self._store, row.token_id, now)
        ended = replace(row, revoked=now)
        self._keep(ended)
        return ended

    async def _touch(self, row: TokenRow, now: datetime) -> None:
        """Write down that a token was used. A full or failing disk must not lock people out, so it only warns."""
        self._keep(replace(row, last_used=now))
        try:
            await commands.touch_tokens(self._store, {row.token_id: now})
        except StoreError as error:
            log.warning("last use of token %r was not stored: %s", row.name, error)

    def _keep(self, row: TokenRow) -> None:
        self._by_hash[row.sha256] = row
        self._by_id[row.token_id] = row

    def _hash(self, token: str) -> str:
        return sha256((self._binding + token).encode()).hexdigest()

    def _live(self, row: TokenRow, now: datetime) -> bool:
        return row.revoked is None and (row.expires is None or row.expires > now)


def _principal(row: TokenRow) -> Principal:
    return Principal(row.name, Scope(row.scope), row.token_id)
