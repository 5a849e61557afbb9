"""The small tables: what is written comes back, also after a restart."""

from datetime import timedelta
from pathlib import Path

import pytest

from gateway.store import commands, queries
from gateway.store.db import Store
from gateway.store.types import AuditRow, Event, TokenRow
from tests.store.builders import T0

HOUR = timedelta(hours=1)


async def test_tokens(tmp_path: Path) -> None:
    mine, other = TokenRow("1", "mine", 1, "aa", T0, T0 + HOUR), TokenRow("2", "other", 3, "bb", T0 + HOUR)
    async with Store(tmp_path) as store:
        await commands.save_token(store, other)
        await commands.save_token(store, mine)
        await commands.touch_tokens(store, {"1": T0 + HOUR})
        assert await commands.revoke_token(store, "2", T0 + HOUR)
        assert not await commands.revoke_token(store, "2", T0 + 2 * HOUR)
        assert not await commands.revoke_token(store, "3", T0)
    async with Store(tmp_path) as store:
        first, second = await queries.tokens(store)
        assert (first.name, first.expires, first.last_used) == ("mine", T0 + HOUR, T0 + HOUR)
        assert (second.revoked, second.sha256) == (T0 + HOUR, "bb")


async def test_audit_and_events_newest_first(tmp_path: Path) -> None:
    rows = [AuditRow(T0 + n * HOUR, "mine", "find", f"t{n}", n % 2 == 0, "why", "{}") for n in range(3)]
    event = Event(T0, "gap", "node", "lost 3", {"first": 1})
    async with Store(tmp_path) as store:
        await commands.audit(store, [])
        await commands.audit(store, rows)
        await commands.add_event(store, event)
        await commands.add_event(store, Event(T0, "start", "", "hello"))
    async with Store(tmp_path) as store:
        assert await queries.audit_rows(store, 2) == [rows[2], rows[1]]
        assert await queries.events(store, device="node") == [event]
        assert [each.kind for each in await queries.events(store)] == ["start", "gap"]


async def test_settings_and_keys(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await commands.save_node_key(store, "node", b"old")
        await commands.save_node_key(store, "node", bytes(range(32)))
        await commands.set_setting(store, "newest_batch", "not the store's own")
        await commands.set_setting(store, "gone", "x")
        await commands.set_setting(store, "gone", None)
    async with Store(tmp_path) as store:
        assert await queries.node_keys(store) == {"node": bytes(range(32))}
        assert await queries.get_setting(store, "newest_batch") == "not the store's own"
        assert await queries.get_setting(store, "gone") is None


async def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        token = TokenRow("1", "mine", 1, "aa", T0)
        await commands.save_token(store, token)
        with pytest.raises(ValueError, match="no time zone"):
            await commands.save_token(store, TokenRow("1", "mine", 2, "cc", T0.replace(tzinfo=None)))
        assert await queries.tokens(store) == [token]
        assert await commands.revoke_token(store, "1", T0)
