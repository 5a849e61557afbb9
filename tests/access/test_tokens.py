"""Tokens in a real store: what verifies, what does not, what is kept."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.access.audit import Audit
from gateway.access.identity import Identity
from gateway.access.policy import allow
from gateway.access.principal import Principal, Scope
from gateway.access.tokens import TokenError, Tokens
from gateway.store import queries
from gateway.store.db import Store

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
HERE = Identity("agw-00000001", Path("certificate.pem"), Path("key.pem"), "ab" * 32)


class HandClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> datetime:
        return self.time

    def trusted(self) -> bool:
        return True


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(tmp_path / "data") as store:
        yield store


async def opened(store: Store, clock: HandClock, identity: Identity = HERE) -> Tokens:
    tokens = Tokens(store, clock, identity)
    await tokens.load()
    return tokens


async def test_a_token_verifies_to_its_principal_also_after_a_restart(store: Store, clock: HandClock) -> None:
    token = await (await opened(store, clock)).create("kitchen", Scope.CONTROL)
    tokens = await opened(store, clock)
    principal = await tokens.verify(token)
    assert principal is not None
    assert (principal.name, principal.scope) == ("kitchen", Scope.CONTROL)
    assert tokens.holder(principal.token_id) == principal


async def test_256_bits_of_which_only_a_hash_is_kept(store: Store, clock: HandClock) -> None:
    token = await (await opened(store, clock)).create("kitchen", Scope.READ)
    assert token.startswith("agw_")
    assert len(token) >= len("agw_") + 256 / 6
    kept = b"".join(path.read_bytes() for path in store.folder.rglob("*") if path.is_file())
    assert kept
    assert token.encode() not in kept
    assert all(token not in repr(row) for row in await queries.tokens(store))


@pytest.mark.parametrize(
    "other", [replace(HERE, gateway_id="agw-00000002"), replace(HERE, fingerprint="cd" * 32)], ids=["id", "certificate"]
)
async def test_a_row_made_for_another_identity_does_not_verify(store: Store, clock: HandClock, other: Identity) -> None:
    token = await (await opened(store, clock)).create("kitchen", Scope.ADMIN)
    assert await (await opened(store, clock, other)).verify(token) is None


@pytest.mark.parametrize("wrong", ["", "agw_", "agw_" + "x" * 43, "\N{SNOWMAN}", "a" * 100_000])
async def test_whatever_else_does_not_verify(store: Store, clock: HandClock, wrong: str) -> None:
    tokens = await opened(store, clock)
    token = await tokens.create("kitchen", Scope.READ)
    assert await tokens.verify(wrong) is None
    assert await tokens.verify(token + wrong) is None or not wrong
    assert await tokens.verify(token.swapcase()) is None


async def test_revoked_at_once_and_for_ever(store: Store, clock: HandClock) -> None:
    tokens = await opened(store, clock)
    token = await tokens.create("kitchen", Scope.READ)
    principal = await tokens.verify(token)
    assert principal is not None
    await tokens.revoke("kitchen")
    assert await tokens.verify(token) is None
    assert tokens.holder(principal.token_id) is None
    assert await (await opened(store, clock)).verify(token) is None


async def test_expired_to_the_second(store: Store, clock: HandClock) -> None:
    tokens = await opened(store, clock)
    token = await tokens.create("guest", Scope.READ, NOW + timedelta(hours=1))
    clock.time = NOW + timedelta(minutes=59, seconds=59)
    assert await tokens.verify(token) is not None
    clock.time = NOW + timedelta(hours=1)
    assert await tokens.verify(token) is None


async def test_last_use_is_written_at_most_hourly(store: Store, clock: HandClock) -> None:
    tokens = await opened(store, clock)
    token = await tokens.create("kitchen", Scope.READ)
    seen = []
    for minutes in (0, 1, 59, 61, 90):
        clock.time = NOW + timedelta(minutes=minutes)
        assert await tokens.verify(token) is not None
        seen.append((await queries.tokens(store))[0].last_used)
    assert seen == [NOW, NOW, NOW, NOW + timedelta(minutes=61), NOW + timedelta(minutes=61)]


async def test_names_are_unique_among_the_living(store: Store, clock: HandClock) -> None:
    tokens = await opened(store, clock)
    first = await tokens.create("kitchen", Scope.READ)
    with pytest.raises(TokenError, match=r"taken.*gateway token revoke kitchen"):
        await tokens.create("kitchen", Scope.READ)
    await tokens.revoke("kitchen")
    second = await tokens.create("kitchen", Scope.READ)
    assert await tokens.verify(first) is None
    assert await tokens.verify(second) is not None
    assert [row.name for row in await tokens.list()] == ["kitchen", "kitchen"]


@pytest.mark.parametrize("name", ["", " ", "-x", "a b", "x" * 65, "a\nb", "ä"])
async def test_a_bad_name_is_refused_with_the_rule(store: Store, clock: HandClock, name: str) -> None:
    with pytest.raises(TokenError, match="1 to 64 letters"):
        await (await opened(store, clock)).create(name, Scope.READ)


async def test_an_expiry_in_the_past_is_refused(store: Store, clock: HandClock) -> None:
    with pytest.raises(TokenError, match="not in the future"):
        await (await opened(store, clock)).create("late", Scope.READ, NOW)


async def test_revoking_an_unknown_name_names_the_nearest(store: Store, clock: HandClock) -> None:
    tokens = await opened(store, clock)
    await tokens.create("kitchen", Scope.READ)
    with pytest.raises(TokenError, match="did you mean 'kitchen'"):
        await tokens.revoke("kitchn")
    with pytest.raises(TokenError, match="gateway token list"):
        await tokens.revoke("zzz")


async def test_every_write_leaves_a_row_and_a_stranger_none(store: Store, clock: HandClock) -> None:
    audit = Audit(store, clock)
    owner = Principal("owner", Scope.ADMIN)
    for who in (owner, Principal("reader", Scope.READ), None):
        await audit.record(who, "create_token", "kitchen", allow(who, "create_token", secure=True))
    await audit.record(owner, "list_devices", "", allow(owner, "list_devices", secure=True))
    rows = await queries.audit_rows(store)
    assert sorted((row.principal, row.action, row.allowed) for row in rows) == [
        ("owner", "create_token", True),
        ("reader", "create_token", False),
    ]
    assert audit.refused == {"create_token": 1}
