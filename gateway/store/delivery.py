"""Which messages of one (device, boot) are on disk: a pure state machine, nothing lost and nothing twice.

Numbers count from 1 within a boot. `mark` is the contiguous high-water mark: each number up to it is stored or lies
in a gap, so an acknowledgement of the mark lets the node forget everything up to it.
"""

from typing import NamedTuple

MAX_SEQ = 2**53
"""No node counts this far; beyond it a JSON number is no longer exact."""
MAX_RANGES = 1024
"""A node's ring is far smaller than what could be torn into more pieces than this."""

Range = tuple[int, int]
"""First and last number, both included."""


class DeliveryState(NamedTuple):
    """`above`: ranges stored beyond the mark. `gaps`: ranges up to the mark that were given up, still open to a late
    message. Up to `final` gaps are closed: they stay reported, a late message there counts as a duplicate."""

    mark: int = 0
    above: tuple[Range, ...] = ()
    gaps: tuple[Range, ...] = ()
    final: int = 0


class Received(NamedTuple):
    """`fresh`: store it. `new_gaps`: ranges that were given up because the node no longer holds them."""

    state: DeliveryState
    fresh: bool
    new_gaps: tuple[Range, ...]


def check(seq: int, oldest: int) -> None:
    """Raise ValueError unless 1 <= oldest <= seq <= 2^53: for the edge, before a message joins a batch."""
    if not 1 <= seq <= MAX_SEQ:
        raise ValueError(f"seq {seq} is not within 1..2^53: a node numbers its messages from 1 within each boot")
    if not 1 <= oldest <= seq:
        raise ValueError(f"oldest {oldest} is not within 1..seq {seq}: it is the lowest number the node still holds")


def receive(state: DeliveryState, seq: int, oldest: int, limit: int = MAX_RANGES) -> Received:
    """Take one message into account; pure, O(1) in order.

    A message that would tear `above` into more than `limit` pieces is refused: not fresh and not covered by the mark,
    so the node sends it again.
    """
    check(seq, oldest)
    new_gaps: tuple[Range, ...] = ()
    if oldest > state.mark + 1:
        state, new_gaps = _give_up(state, oldest - 1)
    mark, above, gaps, final = state
    if seq == mark + 1:
        mark, above = _absorb(seq, above)
        return Received(DeliveryState(mark, above, gaps, final), True, new_gaps)
    if seq <= mark:
        left = _without(gaps, seq)
        return Received(DeliveryState(mark, above, left, final), left is not gaps, new_gaps)
    grown = _with(above, seq)
    if grown is above or len(grown) > max(limit, len(above)):
        return Received(state, False, new_gaps)
    return Received(DeliveryState(mark, grown, gaps, final), True, new_gaps)


def trim(state: DeliveryState, limit: int = MAX_RANGES) -> DeliveryState:
    """Close the lowest gaps where there are more than `limit`; what they report has to be kept elsewhere."""
    if len(state.gaps) <= limit:
        return state
    kept = state.gaps[len(state.gaps) - limit :]
    return state._replace(gaps=kept, final=state.gaps[len(state.gaps) - limit - 1][1])


def holes(state: DeliveryState) -> tuple[Range, ...]:
    """What is missing between the mark and the highest number stored: on its way, or lost with the node's memory."""
    found, next_seq = [], state.mark + 1
    for first, last in state.above:
        found.append((next_seq, first - 1))
        next_seq = last + 1
    return tuple(found)


def encode(ranges: tuple[Range, ...]) -> str:
    """As text for a column: 3-5,9-9."""
    return ",".join(f"{first}-{last}" for first, last in ranges)


def decode(text: str | None) -> tuple[Range, ...]:
    """The inverse of `encode`."""
    if not text:
        return ()
    pairs = (part.split("-") for part in text.split(","))
    return tuple((int(first), int(last)) for first, last in pairs)


def _give_up(state: DeliveryState, upto: int) -> tuple[DeliveryState, tuple[Range, ...]]:
    """Move the mark to at least `upto`; what was missing on the way becomes gaps."""
    mark, above, gaps, final = state
    missing, next_seq = [], mark + 1
    while above and above[0][0] <= upto:
        first, last = above[0]
        if first > next_seq:
            missing.append((next_seq, first - 1))
        next_seq = last + 1
        above = above[1:]
    if next_seq <= upto:
        missing.append((next_seq, upto))
    mark, above = _absorb(max(upto, next_seq - 1), above)
    return DeliveryState(mark, above, _joined(gaps, missing), final), tuple(missing)


def _absorb(mark: int, above: tuple[Range, ...]) -> tuple[int, tuple[Range, ...]]:
    """The mark moved over the range that begins right after it, if there is one."""
    if above and above[0][0] == mark + 1:
        return above[0][1], above[1:]
    return mark, above


def _joined(gaps: tuple[Range, ...], more: list[Range]) -> tuple[Range, ...]:
    if gaps and more and gaps[-1][1] + 1 == more[0][0]:
        return (*gaps[:-1], (gaps[-1][0], more[0][1]), *more[1:])
    return (*gaps, *more)


def _without(ranges: tuple[Range, ...], seq: int) -> tuple[Range, ...]:
    """The ranges less one number; the same object if it was in none of them."""
    for index, (first, last) in enumerate(ranges):
        if first <= seq <= last:
            parts = [(low, high) for low, high in ((first, seq - 1), (seq + 1, last)) if low <= high]
            return (*ranges[:index], *parts, *ranges[index + 1 :])
    return ranges


def _with(ranges: tuple[Range, ...], seq: int) -> tuple[Range, ...]:
    """The ranges plus one number; the same object if it was there already."""
    index = next((i for i, (first, _) in enumerate(ranges) if first > seq), len(ranges))
    if index and ranges[index - 1][1] >= seq:
        return ranges
    first = last = seq
    low, high = index, index
    if index and ranges[index - 1][1] == seq - 1:
        low, first = index - 1, ranges[index - 1][0]
    if index < len(ranges) and ranges[index][0] == seq + 1:
        high, last = index + 1, ranges[index][1]
    return (*ranges[:low], (first, last), *ranges[high:])
