"""Access for apps without a browser: the device authorization grant (RFC 8628), refresh (RFC 6749) with rotation.

An app asks and shows a short code; the owner approves it elsewhere; the app polls and collects an access token, which
is an ordinary token that ends within a day, and a refresh token. Of a refresh token that is used twice one holder is a
thief, so both end. Requests that wait live in memory: strangers make them, and must not wear the card.
"""

import asyncio
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from gateway.access.audit import Audit
from gateway.access.principal import Principal, Scope
from gateway.access.tokens import Tokens
from gateway.clock import Clock, elapsed_s
from gateway.store import commands, queries
from gateway.store.db import Store
from gateway.store.types import GrantRow, TokenRow

ACCESS, REFRESH = timedelta(days=1), timedelta(days=90)
CODE_S, INTERVAL_S, SLOWER_S, EARLY_S = 600, 5, 5, 0.5
"""How long a device code lives, how long an app waits between two polls, how much longer after each poll that came too
early (RFC 8628 section 3.5), and how much too early still is in time."""
MOST, MOST_OF_A_PLACE = 64, 8
ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"
"""For user codes (RFC 8628 section 6.1): no vowels, so no words."""
DEVICE_CODE = re.compile(r"agd_[A-Za-z0-9_-]{43}")
REFRESH_TOKEN = re.compile(r"(agr_[A-Za-z0-9_-]{22})\.[A-Za-z0-9_-]{43}")
CLIENT = re.compile(r"[\x20-\x7e]{1,200}")


class GrantError(ValueError):
    """`code` is the error of the protocol (RFC 6749 section 5.2, RFC 8628 section 3.5), the message one line."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(slots=True)
class Request:
    """An app that waits for its owner. Times are of the clock that nobody can set."""

    client: str
    scope: Scope
    user_code: str
    place: str
    until_s: float
    interval_s: float = INTERVAL_S
    next_s: float = 0.0
    denied: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What an app is told first; `expires_s` and `interval_s` in seconds."""

    device_code: str
    user_code: str
    expires_s: int = CODE_S
    interval_s: int = INTERVAL_S


@dataclass(frozen=True, slots=True)
class Issued:
    """What an app may use from now on, in place of what it had."""

    access_token: str
    refresh_token: str
    expires_s: int
    scope: Scope


class Grants:
    """Asks, decisions, tokens. Call `load` once before use; what was approved survives a restart."""

    def __init__(
        self, store: Store, tokens: Tokens, audit: Audit, clock: Clock, *, now_s: Callable[[], float] = elapsed_s
    ) -> None:
        self._store, self._tokens, self._audit, self._clock, self._now_s = store, tokens, audit, clock, now_s
        self._requests: dict[str, Request] = {}  # by the hash of the device code
        self._grants: dict[str, GrantRow] = {}  # by token id
        self._changing = asyncio.Lock()

    async def load(self) -> None:
        """Read what was approved, and forget what ended since."""
        now, over = self._clock.now(), []
        for grant in await queries.grants(self._store):
            row = self._tokens.row(grant.token_id)
            if row is None or row.revoked is not None or grant.until <= now:
                over.append(grant.token_id)
            else:
                self._adopt(grant, row)
        await commands.drop_grants(self._store, over)

    def ask(self, client: str, scope: Scope, place: str) -> Asked:
        """An app at this place (an address) asks; GrantError where too many wait."""
        self._sweep()
        if not CLIENT.fullmatch(client) or not client.strip():
            raise GrantError("invalid_client", "client_id: 1 to 200 printable characters that name the app")
        here = sum(each.place == place for each in self._requests.values())
        if here >= MOST_OF_A_PLACE or len(self._requests) >= MOST:
            raise GrantError("temporarily_unavailable", "too many apps wait for approval; try again in some minutes")
        device_code, user_code = f"agd_{secrets.token_urlsafe(32)}", self._user_code()
        request = Request(client, scope, user_code, place, self._now_s() + CODE_S)
        self._requests[self._tokens.hash(device_code)] = request
        return Asked(device_code, f"{user_code[:4]}-{user_code[4:]}")

    def waiting(self, user_code: str) -> Request | None:
        """The app that shows this code and waits for a decision."""
        self._sweep()
        code = _plain(user_code)
        return next((each for each in self._requests.values() if each.user_code == code and not each.denied), None)

    async def decide(
        self,
        user_code: str,
        by: Principal,
        *,
        approve: bool,
        scope: Scope | None = None,
        most: Scope = Scope.ADMIN,
        tell: bool = True,
    ) -> tuple[str, Scope]:
        """Approve (for `scope`, at most what was asked) or refuse; the name of the app's token and its scope. Audited
        unless `tell` says that this was done already.

        GrantError: access_denied where that is beyond the decider or beyond `most`, expired_token where no app waits.
        """
        async with self._changing:
            request = self.waiting(user_code)
            if request is None:
                text = f"no app waits with the code {_plain(user_code)!r}; codes live ten minutes, let it ask again"
                raise GrantError("expired_token", text)
            granted = min(request.scope, scope or request.scope)
            if not approve:
                if tell:
                    await self._audit.tell(by.name, "refuse_app", request.client, f"{by.name} said no")
                request.denied = True
                return request.client, granted
            if granted > min(by.scope, most):
                reason = f"granting {granted} needs scope {granted} and TLS, {by.name!r} has {min(by.scope, most)} here"
                await self._audit.refuse(by.name, "approve_app", request.client, reason)
                raise GrantError("access_denied", f"{reason}; grant less, or use `gateway approve CODE`")
            name = self._name(request.client)
            if tell:
                detail = f"{name}, scope {granted}"
                await self._audit.tell(by.name, "approve_app", request.client, f"{by.name} said yes", detail)
            await self._approve(request, name, granted)
            return name, granted

    async def poll(self, client: str, device_code: str, most: Scope = Scope.ADMIN) -> Issued:
        """The tokens once they are approved; GrantError until then. `most` is what the transport may carry."""
        digest = self._tokens.hash(device_code)
        async with self._changing:
            self._sweep()
            if not DEVICE_CODE.fullmatch(device_code):
                raise GrantError("invalid_grant", "device_code: this is none of ours")
            grant = next((each for each in self._grants.values() if each.device_sha256 == digest), None)
            request = self._requests.get(digest)
            found = grant or request
            if found is None:
                raise GrantError("expired_token", "this device code is unknown or its ten minutes are over; ask again")
            if found.client != client:
                raise GrantError("invalid_grant", "this device code belongs to another client_id")
            if grant is None:
                raise self._not_yet(request)
            row = self._alive(grant, "this device code was approved, but not collected in time; ask again")
            if grant.refresh_sha256 is not None:
                raise GrantError("invalid_grant", "this device code was used already")
            _carried(row, most)
            return await self._issue(grant, row, f"agr_{secrets.token_urlsafe(16)}", "collected")

    async def refresh(self, client: str, refresh_token: str, most: Scope = Scope.ADMIN) -> Issued:
        """New tokens for the newest refresh token; an older one ends the whole family. GrantError."""
        shape = REFRESH_TOKEN.fullmatch(refresh_token)
        async with self._changing:
            family = self._tokens.hash(shape[1]) if shape else ""
            grant = next((each for each in self._grants.values() if each.family_sha256 == family), None)
            if shape is None or grant is None or grant.client != client:
                raise GrantError("invalid_grant", "this refresh token is unknown, or belongs to another client_id")
            row = self._alive(grant, "this refresh token is too old; ask the owner again")
            if grant.refresh_sha256 != self._tokens.hash(refresh_token):
                await self._tokens.end(row)
                reason = "a refresh token was used twice: one of its holders took it from the other; both ended"
                await self._audit.refuse(row.name, "renew_token", row.name, reason)
                raise GrantError("invalid_grant", f"{reason}; ask the owner again")
            _carried(row, most)
            return await self._issue(grant, row, shape[1], "renewed")

    async def revoke(self, token: str) -> None:
        """End what this access or refresh token (also an old one) belongs to; nothing where it is unknown."""
        principal, shape = await self._tokens.verify(token), REFRESH_TOKEN.fullmatch(token)
        async with self._changing:
            family = self._tokens.hash(shape[1]) if shape else ""
            ids = [each.token_id for each in self._grants.values() if each.family_sha256 == family]
            row = self._tokens.row(principal.token_id if principal else next(iter(ids), ""))
            if row is not None and row.revoked is None:
                await self._tokens.end(row)
                await self._audit.tell(row.name, "give_token_back", row.name, "its holder needs it no longer")

    async def _approve(self, request: Request, name: str, scope: Scope) -> None:
        """Keep that it may collect tokens, under a name of its own, until its device code ends."""
        (digest,) = [key for key, each in self._requests.items() if each is request]
        until = self._clock.now() + timedelta(seconds=request.until_s - self._now_s())
        _, row = self._tokens.draw(name, scope, until)  # nobody ever sees this secret: it only holds the place
        grant = GrantRow(row.token_id, request.client, digest, until)
        await commands.save_grant(self._store, grant, row)
        self._adopt(grant, row)
        del self._requests[digest]

    async def _issue(self, grant: GrantRow, row: TokenRow, family: str, how: str) -> Issued:
        scope = Scope(row.scope)
        await self._audit.tell(row.name, "renew_token", row.name, f"{how} by {grant.client}", f"scope {scope}")
        self._alive(grant, "its time is over")  # it may have been revoked while that was written
        now, refresh = self._clock.now(), f"{family}.{secrets.token_urlsafe(32)}"
        access, fresh = self._tokens.draw(row.name, scope, now + ACCESS, row.token_id)
        fresh = replace(fresh, created=row.created, last_used=now)
        newer = replace(
            grant,
            until=now + REFRESH,
            family_sha256=self._tokens.hash(family),
            refresh_sha256=self._tokens.hash(refresh),
        )
        await commands.save_grant(self._store, newer, fresh)
        self._adopt(newer, fresh)
        return Issued(access, refresh, int(ACCESS.total_seconds()), scope)

    def _not_yet(self, request: Request | None) -> GrantError:
        """What an app hears that waits; it is slowed down for good where it asks too often."""
        assert request is not None
        now_s = self._now_s()
        if request.denied:
            return GrantError("access_denied", "the owner refused")
        early = now_s < request.next_s - EARLY_S
        request.interval_s += SLOWER_S if early else 0
        request.next_s = now_s + request.interval_s
        if early:
            return GrantError("slow_down", f"ask every {request.interval_s:g} s from now on")
        return GrantError("authorization_pending", "the owner has not decided yet")

    def _alive(self, grant: GrantRow, late: str) -> TokenRow:
        row = self._tokens.row(grant.token_id)
        if row is None or row.revoked is not None:
            code = "invalid_grant" if grant.refresh_sha256 else "access_denied"
            raise GrantError(code, "this was revoked; ask the owner again")
        if grant.until <= self._clock.now():
            raise GrantError("invalid_grant" if grant.refresh_sha256 else "expired_token", late)
        return row

    def _adopt(self, grant: GrantRow, row: TokenRow) -> None:
        self._grants[grant.token_id] = grant
        self._tokens.adopt(row, grant.until)

    def _user_code(self) -> str:
        code = "".join(secrets.choice(ALPHABET) for _ in range(8))
        return code if all(each.user_code != code for each in self._requests.values()) else self._user_code()

    def _name(self, client: str) -> str:
        """A token name of what the app calls itself."""
        words = re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9]+$", "", re.sub(r"[^A-Za-z0-9._@]+", "-", client))[:48] or "app"
        taken, number = self._tokens.live(), 1
        while (name := words if number == 1 else f"{words}-{number}") in taken:
            number += 1
        return name

    def _sweep(self) -> None:
        now_s = self._now_s()
        for digest in [key for key, each in self._requests.items() if each.until_s <= now_s]:
            del self._requests[digest]


def _carried(row: TokenRow, most: Scope) -> None:
    if row.scope > most:
        text = f"tokens of scope {Scope(row.scope)} are not sent over plain HTTP; use the HTTPS address"
        raise GrantError("invalid_request", text)


def _plain(user_code: str) -> str:
    return re.sub(r"[^A-Z]", "", user_code[:32].upper())
