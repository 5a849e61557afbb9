"""What holds for the whole run: no thread is left over, and pytest's summary is the last that is said."""

import atexit
import os
import threading

import pytest


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A thread that outlived its owner fails the run."""
    left = [each.name for each in threading.enumerate() if each is not threading.main_thread() and not each.daemon]
    if left:
        raise pytest.UsageError(f"threads left over: {', '.join(left)}")


@atexit.register
def _quiet() -> None:
    """DuckDB's bindings report at the interpreter's end which of their types something (hypothesis) still refers to:
    forty lines after the summary that say nothing about this project."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
