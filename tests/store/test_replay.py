"""Two hours of 100 readings a second, housekeeping beside them: hot stays bounded, every answer is right."""

from pathlib import Path

import pytest

from bench import replay
from gateway.store.keeper import Keeping

HOUR_ROWS = 360_000
CROWDED = 300_000


@pytest.mark.slow
async def test_two_hours(tmp_path: Path) -> None:
    """It is crowded before the first hour is over, so one sealing takes open hours and the next one a closed one."""
    outcome = await replay.play(tmp_path, 2, settings=Keeping(hot_rows=CROWDED))
    assert outcome.wrong == []
    assert outcome.readings == 2 * HOUR_ROWS
    assert CROWDED <= outcome.hot_rows < 1.3 * CROWDED
    assert 0 < outcome.disk_bytes < 4 * outcome.readings
    assert len(outcome.resident) == replay.QUARTERS
