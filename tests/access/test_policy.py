"""Who may do what: deny by default, a reason with each verdict."""

import itertools

import pytest

from gateway.access.policy import ACTIONS, TOOLSETS, Action, Plain, Risk, allow, is_loopback
from gateway.access.principal import Principal, Scope

READER, OWNER = Principal("reader", Scope.READ), Principal("owner", Scope.ADMIN)


def test_what_is_not_in_the_table_is_denied() -> None:
    decision = allow(OWNER, "format_disk", secure=True, plain=Plain.ALL)
    assert not decision.allowed
    assert "format_disk" in decision.reason


def test_nobody_may_nothing() -> None:
    assert not any(allow(None, action, secure=True).allowed for action in ACTIONS)


def test_each_scope_includes_the_ones_before_and_no_more() -> None:
    for action, scope in itertools.product(ACTIONS.values(), Scope):
        verdict = allow(Principal("p", scope), action.name, secure=True)
        assert verdict.allowed == (scope >= action.scope), action
        assert verdict.reason


@pytest.mark.parametrize(
    ("plain", "reads", "administers"), [(Plain.OFF, False, False), (Plain.READ, True, False), (Plain.ALL, True, True)]
)
def test_plain_http_off_loopback(plain: Plain, reads: bool, administers: bool) -> None:
    assert allow(OWNER, "get_latest_readings", secure=False, plain=plain).allowed == reads
    assert allow(OWNER, "create_token", secure=False, plain=plain).allowed == administers
    assert allow(OWNER, "create_token", secure=True, plain=plain).allowed


def test_a_refusal_names_the_way_out() -> None:
    assert "HTTPS" in allow(OWNER, "create_token", secure=False).reason
    assert "needs scope admin, 'reader' has read" in allow(READER, "create_token", secure=True).reason


def test_writes_need_more_than_read() -> None:
    assert all(action.scope > Scope.READ and action.risk is not Risk.LOW for action in ACTIONS.values() if action.write)


def test_what_destroys_is_a_write_of_high_risk_and_reading_is_neither() -> None:
    destroying = [action for action in ACTIONS.values() if action.destructive]
    assert destroying
    assert all(action.write and action.risk is not Risk.LOW for action in destroying)


def test_a_reader_sees_fifteen_tools_and_asks_for_more_by_name() -> None:
    core = [action for action in ACTIONS.values() if action.tool and action.toolset == "core"]
    assert len(core) == 15
    assert all(action.scope is Scope.READ and not action.write for action in core)
    assert TOOLSETS[:2] == ("core", "explore")


def test_an_action_that_came_at_run_time_is_decided_alike() -> None:
    action = Action("dew_point", Scope.CONTROL, Risk.MEDIUM, tool=True, toolset="dynamic")
    assert allow(OWNER, action, secure=True).allowed
    assert "needs scope control, 'reader' has read" in allow(READER, action, secure=True).reason


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.1", False),
        ("::ffff:192.0.2.1", False),
        ("fe80::1%eth0", False),
        ("", False),
        ("localhost", False),
    ],
)
def test_loopback_is_an_address_of_this_machine(address: str, local: bool) -> None:
    assert is_loopback(address) == local
