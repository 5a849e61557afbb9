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
        self._renewed: dict[str, datetime] = {}

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
        if name in self.live():
            raise TokenError(f"the name {name!r} is taken; choose another, or `gateway token revoke {name}` first")
        token, row = self.draw(name, scope, expires)
        await commands.save_token(self._store, row)
        self._keep(row)
        return token

    def draw(self, name: str, scope: Scope, expires: datetime | None, token_id: str = "") -> tuple[str, TokenRow]:
        """A new secret and the row that it would have; nothing is kept."""
        token = PREFIX + secrets.token_urlsafe(32)
        token_id = token_id or secrets.token_hex(8)
        return token, TokenRow(token_id, name, int(scope), self.hash(token), self._clock.now(), expires)

    async def rotate(self, name: str) -> str:
        """Another secret for the live token of this name, which ends at once with its sessions; TokenError."""
        old = self.named(name)
        if old.token_id in self._renewed:
            raise TokenError(f"{name!r} is renewed by its app; `gateway token revoke {name}` ends it")
        token, new = self.draw(name, Scope(old.scope), old.expires)
        ended = replace(old, revoked=new.created)
        await commands.save_tokens(self._store, [ended, new])
        self._keep(ended)
        self._keep(new)
        return token

    async def verify(self, token: str) -> Principal | None:
        """Who holds this token, or None: unknown, revoked, expired and foreign look and cost alike."""
        digest = self.hash(token)
        row = self._by_hash.get(digest)
        matches = compare_digest(row.sha256 if row else NOBODY, digest)
        now = self._clock.now()
        if row is None or not matches or not self._live(row, now):
            return None
        if row.last_used is None or now - row.last_used >= TOUCH:
            await self._touch(row, now)
        return _principal(row)

    def ended(self, token: str) -> str:
        """The name of a token that was good once, "" for any other."""
        row = self._by_hash.get(self.hash(token))
        return row.name if row is not None and not self._live(row, self._clock.now()) else ""

    def row(self, token_id: str) -> TokenRow | None:
        """What is kept of a token."""
        return self._by_id.get(token_id)

    def live(self) -> dict[str, TokenRow]:
        """The tokens that can be used, or renewed by their app, by name."""
        now = self._clock.now()
        return {row.name: row for row in self._by_id.values() if self._live(row, now) or self._renewable(row, now)}

    def renewed_until(self, token_id: str) -> datetime | None:
        """Until when an app may renew this token by itself; None for tokens that nobody renews."""
        return self._renewed.get(token_id)

    def adopt(self, row: TokenRow, renewed_until: datetime | None) -> None:
        """Take over a row that was stored together with its grant; what it had before no longer verifies."""
        before = self._by_id.get(row.token_id)
        self._keep(replace(row, revoked=before.revoked) if before is not None else row)
        if renewed_until is not None:
            self._renewed[row.token_id] = renewed_until

    def hash(self, secret: str) -> str:
        """What is kept of a secret, bound to this gateway's id and certificate."""
        return sha256((self._binding + secret).encode()).hexdigest()

    def holder(self, token_id: str) -> Principal | None:
        """Who a token that was verified before stands for, or None since it ended."""
        row = self._by_id.get(token_id)
        return _principal(row) if row is not None and self._live(row, self._clock.now()) else None

    async def list(self) -> list[TokenRow]:
        """All tokens ever made, oldest first, revoked and expired ones included."""
        return sorted(self._by_id.values(), key=lambda row: (row.created, row.name))

    async def revoke(self, name: str) -> TokenRow:
        """End the live token of this name at once, and return its row; TokenError names the nearest name."""
        return await self.end(self.named(name))

    async def end(self, row: TokenRow) -> TokenRow:
        """Revoke this token, and return what it is then. It is over at once, so that nobody renews it meanwhile."""
        ended = replace(row, revoked=self._clock.now())
        self._keep(ended)
        try:
            await commands.revoke_token(self._store, row.token_id, self._clock.now())
        except StoreError:
            self._keep(row)
            raise
        return ended

    def named(self, name: str) -> TokenRow:
        """The live token of this name; TokenError names the nearest."""
        live = self.live()
        row = live.get(name)
        if row is None:
            near = get_close_matches(name, live, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else "`gateway token list` shows them"
            raise TokenError(f"no live token is named {name!r}; {hint}")
        return row

    async def _touch(self, row: TokenRow, now: datetime) -> None:
        """Write down that a token was used. A full or failing disk must not lock people out, so it only warns."""
        self._keep(replace(row, last_used=now))
        try:
            await commands.touch_tokens(self._store, {row.token_id: now})
        except StoreError as error:
            log.warning("last use of token %r was not stored: %s", row.name, error)

    def _keep(self, row: TokenRow) -> None:
        if (before := self._by_id.get(row.token_id)) is not None:
            self._by_hash.pop(before.sha256, None)
        self._by_hash[row.sha256] = row
        self._by_id[row.token_id] = row

    def _live(self, row: TokenRow, now: datetime) -> bool:
        return row.revoked is None and (row.expires is None or row.expires > now)

    def _renewable(self, row: TokenRow, now: datetime) -> bool:
        until = self._renewed.get(row.token_id)
        return row.revoked is None and until is not None and until > now


def _principal(row: TokenRow) -> Principal:
    return Principal(row.name, Scope(row.scope), row.token_id)
