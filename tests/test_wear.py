"""What the card is told to cost."""

import os
from pathlib import Path

import pytest

from gateway import wear
from gateway.wear import Wear


def test_a_year_at_this_pace() -> None:
    told = Wear("x", 40_000_000, 3600.0, 360_000, rating_tb=10.0)
    assert told.bytes_a_reading == pytest.approx(111.1, abs=0.1)
    assert told.tb_a_year == pytest.approx(0.3506, abs=1e-3)
    assert told.years == pytest.approx(28.5, abs=0.1)
    young = Wear("x", 40_000_000, 59.0, 0)
    assert (young.bytes_a_reading, young.tb_a_year, young.years) == (None, None, None)


def test_the_device_is_asked_where_there_is_one(tmp_path: Path) -> None:
    device = os.stat(tmp_path).st_dev
    stat = tmp_path / "sys" / f"{os.major(device)}:{os.minor(device)}" / "stat"
    stat.parent.mkdir(parents=True)
    stat.write_text("  4 0 72 1 11 5 2048 3 0 4 5\n", encoding="ascii")
    assert wear.source(tmp_path, tmp_path / "sys") == stat
    assert wear.written_bytes(stat) == 2048 * 512
    assert wear.described(stat).startswith("block device ")


def test_else_this_process_counts(tmp_path: Path) -> None:
    counter = wear.source(tmp_path, tmp_path / "none")
    before = wear.written_bytes(counter)
    file = tmp_path / "x"
    with file.open("wb") as opened:
        opened.write(bytes(1 << 20))
        os.fsync(opened.fileno())
    assert wear.written_bytes(counter) >= before
    assert "this process" in wear.described(counter)
