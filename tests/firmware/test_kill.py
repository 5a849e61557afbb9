"""Nothing that reached a board's flash is lost, though all parties are killed meanwhile (bench/nodes.py, shorter)."""

import binascii
from pathlib import Path

import pytest

from bench import nodes
from bench.boards import held
from tests.brokers import needs_mosquitto

READINGS = 150
pytestmark = [pytest.mark.slow, needs_mosquitto]


async def test_kills_and_cuts_lose_nothing_that_reached_the_flash(tmp_path: Path) -> None:
    outcome, numbers = await nodes.round_of(tmp_path, 1, readings=READINGS, kills=2)
    assert not outcome.faults, outcome.faults
    assert numbers["board kills"] == 4
    assert outcome.kills["gateway"] >= 2
    assert outcome.kills["broker"] == 2
    assert numbers["in flash at a death"] > 0, "no death was telling"
    assert numbers["stored"] + numbers["lost with memory"] == READINGS


def test_the_judge_reads_the_flash_by_itself(tmp_path: Path) -> None:
    """A line is taken if its sum is right and its end is there; whatever else is damage."""
    text = b'1-0000000a 7 ["meter", 14000, 0, {"count": 7}]'
    whole = b"%08x %s\n" % (binascii.crc32(text), text)
    (tmp_path / "00000001").write_bytes(whole + whole[:-1] + b"\n" + whole.replace(b"14000", b"14001") + whole[:-1])
    assert held(tmp_path) == [("1-0000000a", 7, "meter", {"count": 7})] * 2
