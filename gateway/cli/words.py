"""What several commands say in the same way."""

from datetime import datetime
from typing import Any

UNDONE = "(nothing was done)"


def would(answer: dict[str, Any]) -> str:
    """What a dry run says."""
    return f"{answer['would']} {UNDONE}"


def moment(time: str | None, *, seconds: bool = False) -> str:
    """An ISO 8601 time to the minute, or the second, in UTC."""
    form = "%Y-%m-%d %H:%M:%S UTC" if seconds else "%Y-%m-%d %H:%M UTC"
    return datetime.fromisoformat(time).strftime(form) if time else "never"
