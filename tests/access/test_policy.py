"""Who may do what: deny by default, a reason with each verdict."""

import itertools

import pytest

from gateway.access.policy import ACTIONS, Plain, Risk, allow, is_loopback
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
    assert all(
        action.scope > Scope.READ and action.risk is not Risk.NONE for action in ACTIONS.values() if action.write
    )


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
