"""Runs one piece of assistants' code in a child of its own, after every door is closed, and writes one frame."""

import ast
import difflib
import gc
import io
import linecache
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from gateway.jail import frames, values
from gateway.jail.frame import as_frame
from gateway.jail.libraries import NEEDED, Known
from gateway.jail.plots import TooLarge, draw
from gateway.jail.table import Table

STDOUT_BYTES = 20_000
_FILE = "<code>"


class Refused(Exception):
    """The code did what it may, but not what was asked of it; one line."""


class _Sink(io.RawIOBase):
    """Keeps the beginning, counts the rest."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.kept = bytearray()
        self.total_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        data = bytes(data)
        self.total_bytes += len(data)
        self.kept += data[: self._most_bytes - len(self.kept)]
        return len(data)


def run(header: dict[str, Any], body: bytes, known: Known, descriptor: int) -> None:
    """One answer, also when the code fails: {"ok": true, result, stdout …} or {"ok": false, "error": one line}."""
    reserve = bytearray(8 << 20)  # for the answer, when the code has used up everything
    out, dropped = _Sink(STDOUT_BYTES), _Sink(0)
    sys.stdout = io.TextIOWrapper(out, encoding="utf-8", errors="replace", write_through=True)
    sys.stderr = io.TextIOWrapper(dropped, encoding="utf-8", errors="replace", write_through=True)
    answer: dict[str, Any]
    picture = b""
    columns: list[str] = []
    try:
        names = {"__name__": "code", **known.names}
        if body:
            names["df"] = as_frame(Table.decode(body), known.names)
            columns.extend(map(str, names["df"].columns))
        answer, picture = _KINDS[header["kind"]](header, names)
        answer["ok"] = True
    except BaseException as error:  # noqa: BLE001 - also SystemExit and KeyboardInterrupt: none of it leaves this child
        del reserve
        answer = {"ok": False, "error": _line(error, header["code"], columns)}
        error.__traceback__ = None
        gc.collect()
    answer["stdout"] = out.kept.decode(errors="replace")
    answer["stdout_bytes"] = out.total_bytes
    frames.write(descriptor, frames.pack(answer, picture))


def _analyze(header: dict[str, Any], names: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    last = _execute(header["code"], names)
    value, cut = values.bounded(names.get("result", last))
    return {"result": value, "cut": cut}, b""


def _plot(header: dict[str, Any], names: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    plt = names["plt"]
    _execute(header["code"], names)
    if not plt.get_fignums():
        raise Refused("the code drew nothing: use plt, for example plt.plot(df['time'], df['value'])")
    return draw(plt.gcf(), header["full_dpi"], header["inline_bytes"])


def _call(header: dict[str, Any], names: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    _execute(header["code"], names)
    function = names.get(header["function"])
    if not callable(function):
        raise Refused(f"the code defines no function {header['function']}")
    value, cut = values.bounded(function(**header["arguments"]))
    return {"result": value, "cut": cut}, b""


_KINDS: dict[str, Callable[[dict[str, Any], dict[str, Any]], tuple[dict[str, Any], bytes]]] = {
    "analyze": _analyze,
    "plot": _plot,
    "call": _call,
}


def _execute(code: str, names: dict[str, Any]) -> Any:
    """Run it; the value of its last line where that is an expression."""
    linecache.cache[_FILE] = (len(code), None, code.splitlines(keepends=True), _FILE)
    tree = ast.parse(code, _FILE)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, _FILE, "exec"), names)  # noqa: S102 - that is what the jail is for
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), _FILE, "eval"), names)  # noqa: S307


def _line(error: BaseException, code: str, columns: Sequence[str]) -> str:
    """What went wrong, where, and the way out, in one line."""
    if isinstance(error, Refused | TooLarge):
        return str(error)
    if isinstance(error, MemoryError):
        return "MemoryError: the code needs more memory than it may use: aggregate first, in SQL if possible"
    if isinstance(error, SyntaxError) and error.filename == _FILE:
        return f"SyntaxError: {error.msg}{_where(error.lineno, code)}"
    steps = traceback.walk_tb(error.__traceback__)
    lines = [line for step, line in steps if step.f_code.co_filename == _FILE]
    words = f"{type(error).__name__}: {_said(error)}{_where(lines[-1] if lines else None, code)}"
    return words + _way_out(error, columns)


def _way_out(error: BaseException, columns: Sequence[str]) -> str:
    if isinstance(error, PermissionError):
        return "; code has no files, no network, no processes and no threads: it computes with df"
    if isinstance(error, ModuleNotFoundError):
        there = [name for name in NEEDED if name in sys.modules]
        return f"; there are {', '.join([*there, 'what only computes of the standard library'])}"
    wanted = error.args[0] if isinstance(error, KeyError) and error.args else getattr(error, "name", None)
    if isinstance(error, KeyError | AttributeError) and isinstance(wanted, str) and columns:
        close = difflib.get_close_matches(wanted, columns, 1, 0.5)
        return f"; did you mean {close[0]}?" if close else f"; the columns of df are {', '.join(columns[:20])}"
    return ""


def _said(error: BaseException) -> str:
    try:
        return " ".join(str(error)[:1000].split())[:400]
    except BaseException:  # noqa: BLE001 - the code's own __str__
        return "(no words)"


def _where(line: int | None, code: str) -> str:
    if line is None:
        return ""
    lines = code.splitlines()
    text = lines[line - 1].strip()[:120] if 0 < line <= len(lines) else ""
    return f" (line {line}: {text})"
