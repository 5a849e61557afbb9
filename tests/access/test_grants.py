"""The device authorization grant: any order of asking, polling, deciding, waiting, renewing and restarting."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.access.audit import Audit
from gateway.access.grants import ACCESS, CODE_S, INTERVAL_S, MOST, MOST_OF_A_PLACE, REFRESH, GrantError, Grants
from gateway.access.principal import Principal, Scope
from gateway.access.tokens import TokenError, Tokens
from gateway.store import queries
from gateway.store.db import Store
from tests.access.hands import HERE, HandTime

OWNER = Principal("owner", Scope.ADMIN, "0")
DAY_S = 86_400
T = TypeVar("T")


@dataclass
class Flow:
    """What one app went through, as the RFCs tell it."""

    device_code: str
    user_code: str
    scope: Scope
    until_s: float
    interval_s: float = INTERVAL_S
    next_s: float = 0.0
    state: str = "pending"
    name: str = ""
    granted: Scope = Scope.READ
    access: str = ""
    access_until: datetime | None = None
    refreshes: list[str] = field(default_factory=list)
    refresh_until: datetime | None = None
    forgotten: bool = False


async def opened(store: Store, hand: HandTime) -> tuple[Tokens, Grants]:
    tokens = Tokens(store, hand, HERE)
    await tokens.load()
    grants = Grants(store, tokens, Audit(store, hand), hand, now_s=hand.seconds)
    await grants.load()
    return tokens, grants


class Devices(RuleBasedStateMachine):
    """Several apps at once, and an owner."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.hand = HandTime()
        self.flows: list[Flow] = []
        self.start()

    def start(self) -> None:
        self.store = Store(Path(self.folder.name))
        self.runner.run(self.store.__aenter__())
        self.tokens, self.grants = self.runner.run(opened(self.store, self.hand))

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.run(self.store.__aexit__(None, None, None))
            self.runner.close()
            self.folder.cleanup()

    @rule(scope=st.sampled_from(Scope))
    def ask(self, scope: Scope) -> None:
        if len(self.flows) < 3:
            asked = self.grants.ask("app", scope, f"192.0.2.{len(self.flows)}")
            self.flows.append(Flow(asked.device_code, asked.user_code, scope, self.hand.elapsed_s + CODE_S))

    @rule(scope=st.sampled_from(Scope))
    def let_in(self, scope: Scope) -> None:
        """The whole way at once, so that what follows it is reached often."""
        if len(self.flows) >= 4:
            return
        asked = self.grants.ask("app", scope, "198.51.100.1")
        name, granted = self.runner.run(self.grants.decide(asked.user_code, OWNER, approve=True))
        until_s = self.hand.elapsed_s + CODE_S
        flow = Flow(asked.device_code, asked.user_code, scope, until_s, state="collected", name=name, granted=granted)
        issued = self.runner.run(self.grants.poll("app", asked.device_code))
        self.flows.append(flow)
        self.got(flow, issued.access_token, issued.refresh_token)

    @rule(seconds=st.sampled_from([1, 4, 5, 6, 10, 15]))
    def wait(self, seconds: int) -> None:
        self.hand.go_on(seconds)

    @rule(seconds=st.sampled_from([CODE_S - 5, CODE_S, DAY_S - 1, DAY_S, 89 * DAY_S, 91 * DAY_S]))
    def wait_long(self, seconds: int) -> None:
        self.hand.go_on(seconds)

    @precondition(lambda self: self.flows)
    @rule(data=st.data())
    def poll(self, data: st.DataObject) -> None:
        flow = data.draw(st.sampled_from(self.flows))
        expected = self.expected(flow)
        issued, error = self.tried(self.grants.poll("app", flow.device_code))
        assert error == (expected if expected != "tokens" else "")
        if issued is None:
            return
        assert issued.scope is flow.granted
        flow.state = "collected"
        self.got(flow, issued.access_token, issued.refresh_token)

    def expected(self, flow: Flow) -> str:
        """The answer to a poll, from RFC 8628 section 3.5."""
        now_s, late = self.hand.elapsed_s, self.hand.elapsed_s >= flow.until_s
        if flow.forgotten or (flow.state in {"pending", "denied", "approved"} and late):
            return "expired_token"
        if flow.state == "pending":
            early = now_s < flow.next_s
            flow.interval_s += 5 if early else 0
            flow.next_s = now_s + flow.interval_s
            return "slow_down" if early else "authorization_pending"
        answers = {"denied": "access_denied", "approved": "tokens", "revoked early": "access_denied"}
        return answers.get(flow.state, "invalid_grant")

    @precondition(lambda self: self.flows)
    @rule(data=st.data(), by=st.sampled_from(Scope), scope=st.sampled_from([None, *Scope]), approve=st.booleans())
    def decide(self, data: st.DataObject, by: Scope, scope: Scope | None, approve: bool) -> None:
        flow = data.draw(st.sampled_from(self.flows))
        granted = min(flow.scope, scope or flow.scope)
        waits = flow.state == "pending" and not flow.forgotten and self.hand.elapsed_s < flow.until_s
        fine = waits and (not approve or granted <= by)
        decision = self.grants.decide(flow.user_code.lower(), Principal("p", by), approve=approve, scope=scope)
        decided, error = self.tried(decision)
        assert error == ("" if fine else "access_denied" if waits else "expired_token")
        if decided is not None:
            flow.state, flow.name, flow.granted = ("approved" if approve else "denied"), decided[0], granted

    @precondition(lambda self: any(flow.refreshes for flow in self.flows))
    @rule(data=st.data(), newest=st.booleans())
    def refresh(self, data: st.DataObject, newest: bool) -> None:
        flow = data.draw(st.sampled_from([each for each in self.flows if each.refreshes]))
        given = flow.refreshes[-1] if newest else data.draw(st.sampled_from(flow.refreshes))
        assert flow.refresh_until is not None
        alive = flow.state == "collected" and not flow.forgotten and self.hand.time < flow.refresh_until
        issued, error = self.tried(self.grants.refresh("app", given))
        assert error == ("" if alive and given == flow.refreshes[-1] else "invalid_grant")
        if issued is not None:
            self.got(flow, issued.access_token, issued.refresh_token)
        elif alive:
            flow.state = "revoked"  # used twice: the whole family ends

    def tried(self, question: Coroutine[Any, Any, T]) -> tuple[T | None, str]:
        """The answer, or the protocol's error."""
        try:
            return self.runner.run(question), ""
        except GrantError as error:
            return None, error.code

    def got(self, flow: Flow, access: str, refresh: str) -> None:
        assert access not in {each.access for each in self.flows}
        flow.access, flow.access_until = access, self.hand.time + ACCESS
        flow.refreshes.append(refresh)
        flow.refresh_until = self.hand.time + REFRESH

    @precondition(lambda self: any(flow.name for flow in self.flows))
    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        flow = data.draw(st.sampled_from([each for each in self.flows if each.name]))
        ends = {"approved": flow.until_s > self.hand.elapsed_s, "collected": self.usable(flow) or self.renewable(flow)}
        if flow.name in {each.name for each in self.flows if each is not flow}:
            return  # an older one of the name had ended, and its name was given again
        try:
            self.runner.run(self.tokens.revoke(flow.name))
        except TokenError:
            assert not ends.get(flow.state) or flow.forgotten
            return
        assert ends[flow.state]
        flow.state = "revoked early" if flow.state == "approved" else "revoked"

    @rule()
    def restart(self) -> None:
        """What was approved is there again; what only waited has to be asked for again."""
        self.runner.run(self.store.__aexit__(None, None, None))
        self.start()
        for flow in self.flows:
            held = flow.state == "collected" and self.renewable(flow)
            ready = flow.state == "approved" and self.hand.elapsed_s < flow.until_s
            flow.forgotten = flow.forgotten or not (held or ready)

    def usable(self, flow: Flow) -> bool:
        return flow.state == "collected" and flow.access_until is not None and self.hand.time < flow.access_until

    def renewable(self, flow: Flow) -> bool:
        return flow.state == "collected" and flow.refresh_until is not None and self.hand.time < flow.refresh_until

    @invariant()
    def only_good_tokens_are_good(self) -> None:
        for flow in getattr(self, "flows", []):
            principal = self.runner.run(self.tokens.verify(flow.access)) if flow.access else None
            assert (principal is not None) == self.usable(flow)
            assert principal is None or principal.scope is flow.granted


Devices.TestCase.settings = settings(
    max_examples=12, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestDevices = Devices.TestCase
TestDevices.pytestmark = [pytest.mark.slow]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(tmp_path / "data") as store:
        yield store


async def said(grants: Grants, device_code: str) -> str:
    with pytest.raises(GrantError) as caught:
        await grants.poll("app", device_code)
    return caught.value.code


async def test_each_poll_that_comes_too_early_makes_the_next_one_later(store: Store) -> None:
    """RFC 8628 section 3.5: five seconds more for this and all that follow."""
    hand = HandTime()
    _, grants = await opened(store, hand)
    asked = grants.ask("app", Scope.READ, "192.0.2.1")
    waits = ((0, "authorization_pending"), (4, "slow_down"), (9, "slow_down"), (15, "authorization_pending"))
    for seconds, answer in (*waits, (14, "slow_down"), (20, "authorization_pending")):
        hand.go_on(seconds)
        assert await said(grants, asked.device_code) == answer, seconds


async def test_a_refresh_token_that_is_used_twice_ends_everything_of_its_family(store: Store) -> None:
    tokens, grants = await opened(store, HandTime())
    asked = grants.ask("app", Scope.READ, "192.0.2.1")
    await grants.decide(asked.user_code, OWNER, approve=True)
    first = await grants.poll("app", asked.device_code)
    second = await grants.refresh("app", first.refresh_token)
    third = await grants.refresh("app", second.refresh_token)
    with pytest.raises(GrantError, match="used twice"):
        await grants.refresh("app", first.refresh_token)
    assert await tokens.verify(third.access_token) is None
    with pytest.raises(GrantError, match="revoked"):
        await grants.refresh("app", third.refresh_token)


async def test_what_ended_is_forgotten_at_the_next_start(store: Store) -> None:
    hand = HandTime()
    _, grants = await opened(store, hand)
    for _ in range(2):
        asked = grants.ask("app", Scope.READ, "192.0.2.1")
        await grants.decide(asked.user_code, OWNER, approve=True)
    await grants.poll("app", asked.device_code)
    assert len(await queries.grants(store)) == 2
    hand.go_on(CODE_S)
    await opened(store, hand)
    assert len(await queries.grants(store)) == 1
    hand.go_on(REFRESH.total_seconds())
    await opened(store, hand)
    assert not await queries.grants(store)


async def test_nothing_but_hashes_is_kept(store: Store) -> None:
    hand = HandTime()
    _, grants = await opened(store, hand)
    asked = grants.ask("app", Scope.READ, "192.0.2.1")
    await grants.decide(asked.user_code, OWNER, approve=True)
    issued = await grants.poll("app", asked.device_code)
    again = await grants.refresh("app", issued.refresh_token)
    await store.checkpoint()
    kept = b"".join(path.read_bytes() for path in store.folder.rglob("*") if path.is_file())
    family, _, newest = again.refresh_token.partition(".")
    for secret in (asked.device_code, issued.access_token, again.access_token, family, newest):
        assert secret.encode() not in kept
    assert b"token_grant" in kept


async def test_a_codes_and_tokens_belong_to_one_client(store: Store) -> None:
    _, grants = await opened(store, HandTime())
    asked = grants.ask("app", Scope.READ, "192.0.2.1")
    with pytest.raises(GrantError, match="another client_id"):
        await grants.poll("thief", asked.device_code)
    await grants.decide(asked.user_code, OWNER, approve=True)
    issued = await grants.poll("app", asked.device_code)
    with pytest.raises(GrantError, match="another client_id"):
        await grants.refresh("thief", issued.refresh_token)
    assert await grants.refresh("app", issued.refresh_token)


async def test_two_polls_at_once_get_one_pair_of_tokens(store: Store) -> None:
    _, grants = await opened(store, HandTime())
    asked = grants.ask("app", Scope.READ, "192.0.2.1")
    await grants.decide(asked.user_code, OWNER, approve=True)
    both = await asyncio.gather(*(grants.poll("app", asked.device_code) for _ in range(2)), return_exceptions=True)
    assert sorted(isinstance(each, GrantError) for each in both) == [False, True]


@pytest.mark.parametrize("late", [False, True], ids=["before it is stored", "while it is stored"])
async def test_a_revocation_is_not_undone_by_a_renewal_at_the_same_time(store: Store, late: bool) -> None:
    hand = HandTime()
    tokens, grants = await opened(store, hand)
    asked = grants.ask("app", Scope.READ, "192.0.2.1")
    name, _ = await grants.decide(asked.user_code, OWNER, approve=True)
    issued = await grants.poll("app", asked.device_code)
    renewing = asyncio.ensure_future(grants.refresh("app", issued.refresh_token))
    if late:
        saving, save = asyncio.Event(), store.write

        async def watched(*given: Any) -> Any:
            if given[0].__qualname__.startswith("save_grant"):
                saving.set()
            return await save(*given)

        store.write = watched  # type: ignore[method-assign]
        await saving.wait()
    await asyncio.gather(renewing, tokens.revoke(name), return_exceptions=True)
    for each in (tokens, (await opened(store, hand))[0]):
        assert name not in each.live()
        if renewing.exception() is None:
            assert await each.verify(renewing.result().access_token) is None
    assert late == (renewing.exception() is None)


async def test_names_are_those_of_the_apps_made_fit(store: Store) -> None:
    tokens, grants = await opened(store, HandTime())
    names = []
    for client in ("Claude Code", "Claude Code", "https://app.example/client.json", "\"'<>", "x" * 200):
        asked = grants.ask(client, Scope.READ, "192.0.2.1")
        names.append((await grants.decide(asked.user_code, OWNER, approve=True))[0])
    assert names == ["Claude-Code", "Claude-Code-2", "https-app.example-client.json", "app", "x" * 48]
    assert set(names) <= set(tokens.live())


async def test_requests_are_few_and_of_one_place_fewer(store: Store) -> None:
    hand = HandTime()
    _, grants = await opened(store, hand)
    for _ in range(MOST_OF_A_PLACE):
        grants.ask("app", Scope.READ, "192.0.2.1")
    with pytest.raises(GrantError, match="too many apps wait"):
        grants.ask("app", Scope.READ, "192.0.2.1")
    for at in range(MOST - MOST_OF_A_PLACE):
        grants.ask("app", Scope.READ, f"198.51.100.{at}")
    with pytest.raises(GrantError, match="too many apps wait"):
        grants.ask("app", Scope.READ, "203.0.113.1")
    hand.go_on(CODE_S)
    assert grants.ask("app", Scope.READ, "192.0.2.1")


@pytest.mark.parametrize("client", ["", " ", "a\nb", "\N{SNOWMAN}", "x" * 201])
async def test_a_client_says_who_it_is_in_printable_words(store: Store, client: str) -> None:
    _, grants = await opened(store, HandTime())
    with pytest.raises(GrantError, match="client_id") as caught:
        grants.ask(client, Scope.READ, "192.0.2.1")
    assert caught.value.code == "invalid_client"


@pytest.mark.parametrize("old", [False, True])
async def test_an_app_gives_its_access_back(store: Store, old: bool) -> None:
    tokens, grants = await opened(store, HandTime())
    asked = grants.ask("app", Scope.READ, "192.0.2.1")
    await grants.decide(asked.user_code, OWNER, approve=True)
    issued = await grants.poll("app", asked.device_code)
    newer = await grants.refresh("app", issued.refresh_token)
    await grants.revoke("agr_unknown")
    assert await tokens.verify(newer.access_token) is not None
    await grants.revoke(issued.refresh_token if old else newer.access_token)
    assert await tokens.verify(newer.access_token) is None
    with pytest.raises(GrantError, match="revoked"):
        await grants.refresh("app", newer.refresh_token)


async def test_each_step_leaves_a_trace(store: Store) -> None:
    _, grants = await opened(store, HandTime())
    asked = grants.ask("app", Scope.CONTROL, "192.0.2.1")
    with pytest.raises(GrantError):
        await grants.decide(asked.user_code, Principal("reader", Scope.READ), approve=True)
    await grants.decide(asked.user_code, OWNER, approve=True)
    issued = await grants.poll("app", asked.device_code)
    await grants.refresh("app", issued.refresh_token)
    with pytest.raises(GrantError, match="used twice"):
        await grants.refresh("app", issued.refresh_token)
    rows = [(row.principal, row.action, row.allowed) for row in reversed(await queries.audit_rows(store))]
    assert rows == [
        ("reader", "approve_app", False),
        ("owner", "approve_app", True),
        ("app", "renew_token", True),
        ("app", "renew_token", True),
        ("app", "renew_token", False),
    ]
