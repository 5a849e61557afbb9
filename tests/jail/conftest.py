"""One zygote for all tests of a file, as in a gateway."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.jail.analysis import Analysis


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def analysis(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Analysis]:
    """One zygote for all of them, as in a gateway."""
    async with Analysis(tmp_path_factory.mktemp("analysis"), limit_s=60) as found:
        yield found
