"""Token buckets, and what counts as one place."""

import pytest

from gateway.access import rates
from gateway.access.principal import Principal, Scope
from gateway.access.rates import Rates, is_at_home, place, retry_after
from tests.access.hands import HandTime

ANN, BOB = Principal("ann", Scope.READ, "1"), Principal("bob", Scope.READ, "2")


def test_a_burst_then_the_rate() -> None:
    hand = HandTime()
    each = Rates(2.0, 3.0, now_s=hand.seconds)
    assert [each.take(ANN) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    hand.go_on(0.5)
    assert [each.take(ANN) for _ in range(2)] == [0.0, 0.5]
    hand.go_on(100)
    assert [each.take(ANN) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_each_principal_has_its_own_bucket() -> None:
    each = Rates(1.0, 1.0, now_s=HandTime().seconds)
    assert [each.take(ANN), each.take(ANN) > 0, each.take(BOB)] == [0.0, True, 0.0]


def test_what_is_refused_costs_nothing() -> None:
    hand = HandTime()
    each = Rates(1.0, 10.0, now_s=hand.seconds)
    assert each.take(ANN, 8) == 0.0
    assert each.take(ANN, 5) == 3.0
    assert each.take(ANN, 2) == 0.0


def test_what_costs_more_than_the_burst_waits_for_a_full_bucket() -> None:
    hand = HandTime()
    each = Rates(1.0, 10.0, now_s=hand.seconds)
    assert [each.take(ANN, 50), each.take(ANN)] == [0.0, 1.0]


def test_zero_limits_nothing() -> None:
    each = Rates(0.0, 1.0, now_s=HandTime().seconds)
    assert not any(each.take(ANN) for _ in range(1000))


def test_buckets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MOST", 3)
    each = Rates(1.0, 1.0, now_s=HandTime().seconds)
    for name in "abcde":
        each.spend(name)
    assert len(each._buckets) == 3
    assert (each.spend("e"), each.spend("a")) == (1.0, 0.0)


@pytest.mark.parametrize(("wait_s", "header"), [(0.01, "1"), (1.0, "1"), (1.2, "2")])
def test_retry_after_is_whole_seconds(wait_s: float, header: str) -> None:
    assert retry_after(wait_s) == header


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
    ],
)
def test_a_place_is_an_address_or_the_network_of_one_house(address: str, found: str) -> None:
    assert place(address) == found


@pytest.mark.parametrize(
    ("address", "home"),
    [
        ("192.168.1.7", True),
        ("10.0.0.1", True),
        ("172.31.255.255", True),
        ("172.32.0.1", False),
        ("169.254.3.4", True),
        ("::ffff:192.168.1.7", True),
        ("fe80::1%eth0", True),
        ("fd00::1", True),
        ("127.0.0.1", False),
        ("::1", False),
        ("8.8.8.8", False),
        ("192.0.2.1", False),
        ("100.64.0.1", False),
        ("2001:db8::1", False),
        ("testclient", False),
    ],
)
def test_home_is_a_private_address_and_never_loopback(address: str, home: bool) -> None:
    assert is_at_home(address) == home
