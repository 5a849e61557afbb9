"""Assistants' Python, as the gateway sees it: a table and code go in, values and pictures come out, none believed.

Two zygotes, each started when it is first needed: `full` knows pandas and matplotlib, `plain` only the standard library
(registered functions answer in milliseconds, and work where pandas is not installed).
"""

import importlib.util
import json
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from gateway.jail import frames, guard, libraries, png
from gateway.jail.child import IDLE_S, Child, ChildError, ChildOverran, ChildUnready, Counts
from gateway.jail.table import Table

LIMIT_S = 10.0
CALL_LIMIT_S = 2.0
CODE_BYTES = 50_000
RESULT_BYTES = 41_000
STDOUT_CHARACTERS = 20_000
TEXT_BYTES = 400_000
"""Of an answer's JSON: result and stdout, every character of them escaped."""
INLINE_BYTES = 75_000
"""Of the small picture: 100 KB once it is base64."""
FULL_DPI = 150
_GRACE_S = 3.0  # for the zygote to notice, kill and say so


class AnalysisError(ValueError):
    """No answer; one line."""


class CodeFailed(AnalysisError):
    """The code's own fault: what went wrong, in which line. `stdout` is what it had printed."""

    def __init__(self, line: str, stdout: str = "") -> None:
        super().__init__(line)
        self.stdout = stdout


class AnalysisOff(AnalysisError):
    """Code cannot be run here, or not now; the line says why."""


@dataclass(frozen=True, slots=True)
class Analyzed:
    """`result` is what the code set as `result` (or its last expression) as JSON; `cut` says what was left out of it.
    `stdout` holds at most its first 20,000 characters of `stdout_bytes`."""

    result: Any
    cut: str
    stdout: str
    stdout_bytes: int
    took_ms: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Plotted:
    """PNGs: `full` as it was meant, `inline` of at most INLINE_BYTES (both may be the same). `axes`: title, x, y and
    labels of each, as drawn."""

    full: bytes
    inline: bytes
    axes: tuple[Mapping[str, Any], ...]
    stdout: str
    took_ms: int


class Analysis:
    """`async with Analysis(folder)`. `folder` is made where it is missing; matplotlib's list of fonts stays there."""

    def __init__(
        self,
        folder: Path,
        *,
        limit_s: float = LIMIT_S,
        idle_s: float = IDLE_S,
        zygote: str | Path = "gateway.jail.zygote",
    ) -> None:
        self._folder = folder
        self._limit_s = limit_s
        self._full = Child(zygote, ("full", str(folder.absolute())), name="analysis", idle_s=idle_s)
        self._plain = Child(zygote, ("plain",), name="functions", idle_s=idle_s)
        self._unsafe = ""
        self._missing = ""

    async def __aenter__(self) -> Self:
        self._unsafe = guard.unsupported()
        missing = [name for name in libraries.NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            self._missing = f"{' and '.join(missing)} not installed: pip install 'ambient-gateway[analysis]'"
        else:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._full.__aexit__()
        await self._plain.__aexit__()

    @property
    def unavailable(self) -> str:
        """Why `analyze` and `plot` are off; "" where they are on (as far as is known before the first zygote)."""
        return self._unsafe or self._missing

    @property
    def calls_unavailable(self) -> str:
        """Why `call` is off; it needs no library."""
        return self._unsafe

    @property
    def counts(self) -> Mapping[str, Counts]:
        """Of each zygote, by its name."""
        return {each.name: each.counts for each in (self._full, self._plain)}

    @property
    def pids(self) -> Mapping[str, int]:
        """The zygotes that there are at this moment."""
        return {each.name: each.pid for each in (self._full, self._plain) if each.pid is not None}

    @property
    def layers(self) -> tuple[str, ...]:
        """What held the last large zygote; () before the first."""
        return tuple(map(str, self._full.greeting.get("layers", ())))

    async def check(self) -> str:
        """Start the small zygote, which attacks its jail: "" where it holds, else why not (a line)."""
        try:
            if not self._unsafe:
                await self._plain.start()
        except ChildError as error:
            return str(self._suspect(self._plain, error))
        return self._unsafe

    async def warm(self) -> None:
        """Start the large zygote now (a second or some), so that the first question need not wait; AnalysisError."""
        self._ensure(self.unavailable)
        try:
            await self._full.start()
        except ChildError as error:
            raise self._suspect(self._full, error) from error

    async def analyze(self, table: Table, code: str, *, limit_s: float | None = None) -> Analyzed:
        """Run `code` with `df` (the table), `pd`, `np`. CodeFailed where it fails, AnalysisError else."""
        began_s = time.monotonic()
        answer, _, peak_bytes = await self._ask(self._full, {"kind": "analyze", "code": code}, table.encode(), limit_s)
        return Analyzed(
            _result(answer),
            _text(answer.get("cut"), 300),
            _text(answer.get("stdout"), STDOUT_CHARACTERS),
            _count(answer.get("stdout_bytes")),
            round((time.monotonic() - began_s) * 1000),
            peak_bytes,
        )

    async def plot(self, table: Table, code: str, *, limit_s: float | None = None) -> Plotted:
        """Run `code` with `plt` besides; what it drew last, in two sizes."""
        began_s = time.monotonic()
        asked = {"kind": "plot", "code": code, "full_dpi": FULL_DPI, "inline_bytes": INLINE_BYTES}
        answer, pictures, _ = await self._ask(self._full, asked, table.encode(), limit_s)
        full_bytes, inline_bytes = _count(answer.get("full_bytes")), _count(answer.get("inline_bytes"))
        full = pictures[:full_bytes]
        inline = pictures[full_bytes:] if inline_bytes else full
        try:
            for each in (full, inline):
                png.size(each)
        except ValueError as error:
            raise CodeFailed(f"the code spoilt its picture: {error}") from error
        if len(inline) > INLINE_BYTES:
            raise CodeFailed(f"the code spoilt its picture: {len(inline)} bytes where {INLINE_BYTES} are agreed")
        took_ms = round((time.monotonic() - began_s) * 1000)
        return Plotted(full, inline, _axes(answer.get("axes")), _text(answer.get("stdout"), STDOUT_CHARACTERS), took_ms)

    async def call(
        self, code: str, function: str, arguments: Mapping[str, Any], *, limit_s: float = CALL_LIMIT_S
    ) -> Any:
        """The JSON value that `function`, defined by `code`, returns for keyword `arguments`; standard library only."""
        asked = {"kind": "call", "code": code, "function": function, "arguments": dict(arguments)}
        answer, _, _ = await self._ask(self._plain, asked, b"", limit_s)
        return _result(answer)

    async def _ask(
        self, child: Child, asked: Mapping[str, Any], body: bytes, limit_s: float | None = None
    ) -> tuple[frames.Header, bytes, int]:
        """(what the code's child wrote: its object, its body; the most memory it had)."""
        self._ensure(self._unsafe if child is self._plain else self.unavailable)
        limit_s = self._limit_s if limit_s is None else limit_s
        if len(asked["code"].encode(errors="replace")) > CODE_BYTES or "\0" in asked["code"]:
            raise CodeFailed(f"code: at most {CODE_BYTES} bytes of text")
        try:
            seen, text = await child.ask({**asked, "limit_s": limit_s}, body, limit_s=limit_s + _GRACE_S)
        except ChildOverran as error:
            raise CodeFailed(f"the code was stopped: it took longer than {limit_s:g} s") from error
        except ChildError as error:
            raise self._suspect(child, error) from error
        if seen["end"] != "done" or not text:
            raise CodeFailed(_ended(seen, limit_s))
        try:
            answer, rest = _opened(text)
        except frames.FrameError as error:
            raise CodeFailed(f"the code spoilt its own answer: {error}") from error
        if answer.get("ok") is not True:
            line = _text(answer.get("error"), 700).replace("\n", " ") or "the code failed without a word"
            raise CodeFailed(line, _text(answer.get("stdout"), STDOUT_CHARACTERS))
        return answer, rest, _count(seen.get("peak_bytes"))

    def _ensure(self, off: str) -> None:
        if off:
            raise AnalysisOff(f"code cannot be run here: {off}")

    def _suspect(self, child: Child, error: ChildError) -> AnalysisError:
        """The error to raise; a jail that does not hold is not tried again."""
        if isinstance(error, ChildUnready) and child.greeting.get("unsafe"):
            self._unsafe = str(child.greeting.get("error"))
        return AnalysisOff(str(error))


def _opened(text: bytes) -> tuple[frames.Header, bytes]:
    """One whole frame and nothing behind it."""
    if len(text) < frames.HEAD.size:
        raise frames.FrameError("it ends early")
    text_bytes, body_bytes = frames.sizes(text[: frames.HEAD.size], frames.ANSWER_BYTES)
    if text_bytes > TEXT_BYTES:  # what a parser makes of it is many times as large
        raise frames.FrameError(f"{text_bytes} bytes of JSON: at most {TEXT_BYTES} are agreed")
    if frames.HEAD.size + text_bytes + body_bytes != len(text):
        raise frames.FrameError("it has another length than it says")
    at = frames.HEAD.size + text_bytes
    return frames.parse(text[frames.HEAD.size : at]), text[at:]


def _result(answer: frames.Header) -> Any:
    """As JSON that can be written again: no infinity, no half of a surrogate pair."""
    try:
        text = json.dumps(answer.get("result"), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise CodeFailed(f"the code spoilt its own answer: {type(error).__name__}") from error
    encoded = text.encode(errors="replace")
    if len(encoded) > RESULT_BYTES:
        raise CodeFailed(f"the code spoilt its own answer: a result of more than {RESULT_BYTES} bytes")
    return json.loads(encoded)


def _axes(told: Any) -> tuple[Mapping[str, Any], ...]:
    """Only texts, and few of them."""
    return tuple(
        {name: _text(one.get(name), 200) for name in ("title", "x", "y")}
        | {"labels": [_text(label, 100) for label in _list(one.get("labels"))[:20]]}
        for one in _list(told)[:8]
        if isinstance(one, dict)
    )


def _list(told: Any) -> list[Any]:
    return told if isinstance(told, list) else []


def _text(told: Any, most: int) -> str:
    """A text without control characters but line ends and tabs; "" for anything else."""
    if not isinstance(told, str):
        return ""
    return "".join(
        each if each.isprintable() or each in "\n\t" else "\N{REPLACEMENT CHARACTER}" for each in told[:most]
    )


def _count(told: Any) -> int:
    return told if isinstance(told, int) and not isinstance(told, bool) and 0 <= told < 1 << 53 else 0


def _ended(seen: Mapping[str, Any], limit_s: float) -> str:
    """Why there is no answer, in words for who wrote the code."""
    if seen["end"] == "late":
        return f"the code was stopped: it took longer than {limit_s:g} s"
    if seen["end"] == "long":
        return "the code was stopped: it wrote more than an answer may hold"
    status = seen["status"]
    if status < 0:
        return f"the code ended its process ({signal.Signals(-status).name}) before it had an answer"
    return f"the code ended its process (exit {status}) before it had an answer"
