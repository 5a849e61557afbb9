"""What an assistant is told when a call fails: one line that names the argument, never a traceback."""

from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from pydantic import ValidationError

from gateway.command import ControlError
from gateway.mcp.fitting import clean
from gateway.store.errors import StoreError

LINE_LIMIT = 600
SHOWN = 3
"""Wrong arguments that one answer names."""


def told(error: ToolError) -> str | None:
    """The line for an error of a tool call; None where nobody foresaw it, and only the log may know more."""
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        return None if isinstance(error, UnexpectedToolError) else of_arguments(cause)
    if isinstance(cause, KeyError | IndexError | UnicodeError):
        return None
    if isinstance(cause, ToolError | ValueError | LookupError | StoreError | ControlError):
        return one_line(str(cause))
    return None if isinstance(error, UnexpectedToolError) else one_line(str(error))


def of_arguments(error: ValidationError) -> str:
    """Which arguments are wrong and the rule for each; also for commands that are made from a tool's arguments."""
    found = error.errors(include_url=False, include_context=False)
    lines = []
    for each in found[:SHOWN]:
        name = ".".join(clean(str(part))[:64] for part in each["loc"]) or "arguments"
        given = "" if each["type"] == "missing" else f", not {_brief(each['input'])}"
        lines.append(f"{name}: {each['msg'][:1].lower()}{each['msg'][1:]}{given}")
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return one_line("; ".join(lines) + more)


def one_line(text: str) -> str:
    """Bounded, on one line, without control characters."""
    return clean(text, LINE_LIMIT)


def _brief(value: object) -> str:
    text = repr(value if isinstance(value, str | int | float | bool | None) else type(value).__name__)
    return text if len(text) <= 80 else f"{text[:77]}..."
