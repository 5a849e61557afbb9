"""The delivery state machine, case by case; test_delivery_model has everything at once."""

import pytest

from gateway.store.delivery import DeliveryState, decode, encode, holes, receive, trim


def run(*messages: tuple[int, int], state: DeliveryState | None = None) -> tuple[DeliveryState, list[bool]]:
    state, fresh = state or DeliveryState(), []
    for seq, oldest in messages:
        state, new, _ = receive(state, seq, oldest)
        fresh.append(new)
    return state, fresh


def test_in_order() -> None:
    assert run((1, 1), (2, 1), (3, 2)) == (DeliveryState(3), [True, True, True])


def test_out_of_order_and_twice() -> None:
    state, fresh = run((3, 1), (1, 1), (3, 1), (5, 1))
    assert (state, fresh) == (DeliveryState(1, ((3, 3), (5, 5))), [True, True, False, True])
    assert holes(state) == ((2, 2), (4, 4))
    assert run((4, 1), (2, 1), (2, 1), state=state) == (DeliveryState(5), [True, True, False])


def test_what_the_node_no_longer_holds_becomes_a_gap() -> None:
    state, _ = run((1, 1), (3, 1))
    state, fresh, gaps = receive(state, 9, 7)
    assert fresh
    assert gaps == ((2, 2), (4, 6))
    assert state == DeliveryState(6, ((9, 9),), ((2, 2), (4, 6)))


def test_a_late_message_shrinks_its_gap_once() -> None:
    state, _ = run((9, 9))
    assert state == DeliveryState(9, (), ((1, 8),))
    assert run((4, 4), (4, 1), (1, 1), state=state) == (DeliveryState(9, (), ((2, 3), (5, 8))), [True, False, True])


def test_gaps_that_meet_are_one() -> None:
    state, _ = run((1, 1))
    state, _, _ = receive(state, 5, 4)
    state = receive(state, 9, 8).state
    assert state.gaps == ((2, 4), (6, 7))
    first = receive(DeliveryState(4, (), ((3, 4),)), 8, 8)
    assert first.state == DeliveryState(8, (), ((3, 7),))
    assert first.new_gaps == ((5, 7),)


def test_too_many_pieces_are_refused_until_the_holes_fill() -> None:
    state = DeliveryState()
    for seq in (3, 5):
        state = receive(state, seq, 1, limit=2).state
    refused = receive(state, 7, 1, limit=2)
    assert not refused.fresh
    assert refused.state == state
    assert receive(state, 4, 1, limit=2).fresh
    assert receive(state, 1, 1, limit=2).fresh


def test_closed_gaps_take_nothing_more() -> None:
    state = trim(DeliveryState(20, (), ((1, 2), (5, 6), (9, 9))), 1)
    assert state == DeliveryState(20, (), ((9, 9),), final=6)
    assert not receive(state, 5, 1).fresh
    assert receive(state, 9, 1).fresh
    assert trim(state, 1) is state


def test_a_huge_jump_costs_nothing() -> None:
    state, _ = run((2**53, 2**53))
    assert state == DeliveryState(2**53, (), ((1, 2**53 - 1),))


@pytest.mark.parametrize(
    ("seq", "oldest", "says"),
    [
        (0, 0, "numbers its messages from 1"),
        (-1, -1, "seq -1"),
        (5, 6, "oldest 6"),
        (5, 0, "oldest 0"),
        (2**53 + 1, 1, "2\\^53"),
    ],
)
def test_numbers_that_no_node_sends(seq: int, oldest: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        receive(DeliveryState(), seq, oldest)


def test_ranges_as_text() -> None:
    ranges = ((3, 5), (9, 9))
    assert decode(encode(ranges)) == ranges
    assert decode(None) == decode("") == ()
