"""A furnished gateway for the tests of what assistants see."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.web.house import House, furnish, house, in_a_task


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with in_a_task(house(tmp_path)) as built:
        await furnish(built)
        yield built
