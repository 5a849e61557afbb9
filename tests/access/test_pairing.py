"""Pairing windows: two minutes, five tries in all, one use."""

import pytest

from gateway.access.pairing import ALPHABET, TRIES, WINDOW_S, Pairing, PairingError
from gateway.access.principal import Scope
from tests.access.hands import HandTime


@pytest.fixture
def hand() -> HandTime:
    return HandTime()


@pytest.fixture
def pairing(hand: HandTime) -> Pairing:
    return Pairing(hand.seconds)


def reason(pairing: Pairing, code: str, most: Scope = Scope.ADMIN) -> str:
    with pytest.raises(PairingError) as caught:
        pairing.take(code, most)
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("spelling", [str, str.lower, lambda code: f" {code.replace('-', ' ')} "])
def test_a_code_is_heard_in_any_spelling_and_tells_the_scope(pairing: Pairing, spelling: object) -> None:
    code = pairing.open("local", Scope.CONTROL)
    window = pairing.take(spelling(code))  # type: ignore[operator]
    assert (window.scope, window.opened_by) == (Scope.CONTROL, "local")


def test_codes_have_forty_bits_and_differ(pairing: Pairing) -> None:
    codes = {pairing.open("local") for _ in range(200)}
    assert len(codes) == 200
    assert {len(code) for code in codes} == {9}
    assert set("".join(codes)) - {"-"} <= set(ALPHABET)
    assert len(ALPHABET) ** 8 > 2**39


def test_one_use(pairing: Pairing) -> None:
    code = pairing.open("local")
    pairing.take(code)
    assert not pairing.is_open
    assert reason(pairing, code) == "used"
    assert reason(pairing, "WRONG-234") == "closed"
    assert pairing.refused == {"used": 1, "closed": 1}


def test_two_minutes_to_the_second(pairing: Pairing, hand: HandTime) -> None:
    code = pairing.open("local")
    hand.go_on(WINDOW_S - 1)
    assert pairing.is_open
    hand.go_on(1)
    assert reason(pairing, code) == "late"
    assert reason(pairing, "WRONG-234") == "closed"


def test_five_wrong_codes_close_the_window_for_the_right_one_too(pairing: Pairing) -> None:
    code = pairing.open("local")
    assert [reason(pairing, f"WRONG-23{at}") for at in range(TRIES)] == ["wrong"] * 4 + ["tries"]
    assert reason(pairing, code) == "tries"
    assert not pairing.is_open
    assert pairing.refused == {"wrong": 4, "tries": 2}


def test_four_wrong_codes_do_not(pairing: Pairing) -> None:
    code = pairing.open("local")
    for at in range(TRIES - 1):
        assert reason(pairing, f"WRONG-23{at}") == "wrong"
    assert pairing.take(code).scope is Scope.READ


def test_a_new_window_replaces_the_one_before(pairing: Pairing) -> None:
    old = pairing.open("local")
    new = pairing.open("local")
    assert reason(pairing, old) == "wrong"
    assert pairing.take(new)


def test_without_a_window_nothing_is_taken(pairing: Pairing) -> None:
    assert [reason(pairing, code) for code in ("", "-", "\N{SNOWMAN}", "A" * 10_000)] == ["closed"] * 4
    pairing.open("local")
    assert reason(pairing, "") == "wrong"


def test_a_code_that_was_heard_by_others_is_burnt(pairing: Pairing) -> None:
    """It came over plain HTTP, but opens more than reading: whoever listened could use it over TLS."""
    code = pairing.open("local", Scope.ADMIN)
    assert reason(pairing, code, Scope.READ) == "plain"
    assert reason(pairing, code, Scope.ADMIN) == "plain"
