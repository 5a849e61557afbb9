"""What the firmware's tests share."""

import pytest

from bench.boards import INTERPRETER


@pytest.fixture(autouse=True, scope="session")
def micropython() -> None:
    """Fails, and never skips, where the interpreter is not there."""
    assert INTERPRETER.exists(), "MicroPython is not there: scripts/micropython fetches it"
