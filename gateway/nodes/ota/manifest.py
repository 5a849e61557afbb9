"""What a firmware bundle says of itself, as a value: which version for which boards, and which files. Pure.

The bytes that were signed are what counts: they are kept and handed on as they are, never composed anew.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NoReturn

FORMAT = 1
MANIFEST_BYTES = 16 << 10
"""A node reads all of it into memory."""
FILES = 100
FILE_BYTES = 256 << 10
ALL_BYTES = 1 << 20
"""Of programs' files; littlefs of a 4 MB board has 2 MB, for two slots and the ring."""
IMAGE_BYTES = 8 << 20
IMAGE = "micropython.bin"
IMAGE_MAGIC = 0xE9
"""The first byte of each application image (esp_image_header_t)."""
PROGRAM = ("node/app.mpy", "node/app.py")
VERSION = re.compile(r"(0|[1-9][0-9]{0,4})\.(0|[1-9][0-9]{0,4})\.(0|[1-9][0-9]{0,4})")
BOARD = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
PATH = re.compile(r"node(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")
PATH_LENGTH = 64
SHA256 = re.compile(r"[0-9a-f]{64}")
CREATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
KEYS = ("format", "kind", "version", "board", "mpy", "created", "files")


class ManifestError(ValueError):
    """What is wrong with a bundle's manifest: the value, the rule, the way out, in one line."""


class Kind(StrEnum):
    """What is updated: the program in a slot, or the whole of MicroPython in a partition."""

    FILES = "files"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a bundle; `sha256` has 64 hexadecimal digits."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """`mpy` is the version of the compiled files, None for sources and images; `created` is UTC."""

    kind: Kind
    version: str
    boards: tuple[str, ...]
    mpy: int | None
    created: datetime
    files: tuple[Part, ...]

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(each.size_bytes for each in self.files)


def number(version: str) -> tuple[int, int, int]:
    """A version as what it is compared by; ManifestError where it is not three numbers."""
    match = VERSION.fullmatch(version)
    if match is None:
        _refuse(f"version {version[:40]!r} is not three numbers up to 99999: write it like 1.4.0")
    return int(match[1]), int(match[2]), int(match[3])


def newer(version: str, than: str) -> bool:
    """Whether a version comes after another one; ManifestError where one is not three numbers."""
    return number(version) > number(than)


def fits(manifest: Manifest, board: str) -> bool:
    """Whether it was built for this board; a node that does not say what it is gets nothing."""
    return board in manifest.boards


def parse(content: bytes) -> Manifest:
    """A manifest of these bytes; ManifestError."""
    body = _object(content)
    if body.get("format") != FORMAT or type(body["format"]) is not int:
        _refuse(f"format is {_shown(body.get('format'))}: this gateway reads format {FORMAT}; update the older of both")
    if wrong := sorted(set(body) ^ set(KEYS)):
        _refuse(f"its keys are {', '.join(KEYS)}, of which {', '.join(map(_shown, wrong))} is missing or too much")
    kind = body["kind"]
    if kind not in tuple(Kind):
        _refuse(f"kind is {_shown(kind)}: it is one of {', '.join(Kind)}")
    if not isinstance(body["version"], str):
        _refuse(f"version {_shown(body['version'])} is not three numbers: write it like 1.4.0")
    number(body["version"])
    manifest = Manifest(
        Kind(kind),
        body["version"],
        _boards(body["board"]),
        _mpy(body["mpy"]),
        _created(body["created"]),
        tuple(map(_part, _list(body["files"], "files", FILES))),
    )
    _expect_sound(manifest)
    return manifest


def compose(manifest: Manifest) -> bytes:
    """The bytes to sign, which `parse` gives back; ManifestError where it breaks a rule."""
    body = {
        "format": FORMAT,
        "kind": str(manifest.kind),
        "version": manifest.version,
        "board": list(manifest.boards),
        "mpy": manifest.mpy,
        "created": f"{manifest.created:%Y-%m-%dT%H:%M:%SZ}",
        "files": [{"path": each.path, "bytes": each.size_bytes, "sha256": each.sha256} for each in manifest.files],
    }
    content = json.dumps(body, separators=(",", ":")).encode()
    parse(content)
    return content


def _expect_sound(manifest: Manifest) -> None:
    """ManifestError where files, kind and sizes do not go together."""
    paths = [each.path for each in manifest.files]
    if manifest.kind is Kind.IMAGE:
        if paths != [IMAGE]:
            _refuse(f"an image has exactly one file {IMAGE!r}, this one has {', '.join(paths)[:200]}")
        if manifest.mpy is not None:
            _refuse("mpy is for compiled files: an image has null")
        _expect_size(manifest, IMAGE_BYTES)
        return
    for path in paths:
        _expect_path(path)
    _expect_apart(paths)
    if not set(paths) & set(PROGRAM):
        _refuse(f"no {' and no '.join(PROGRAM)}: without one of them the slot cannot start")
    if manifest.mpy is None and (compiled := [path for path in paths if path.endswith(".mpy")]):
        _refuse(f"{compiled[0]} is compiled, so mpy is a number, such as 6")
    for each in manifest.files:
        if each.size_bytes > FILE_BYTES:
            _refuse(f"{each.path} has {each.size_bytes} bytes, a file has at most {FILE_BYTES}: split it")
    _expect_size(manifest, ALL_BYTES)


def _expect_size(manifest: Manifest, most: int) -> None:
    if manifest.size_bytes > most:
        _refuse(f"its files have {manifest.size_bytes} bytes, at most {most} fit on a board: leave some out")


def _expect_path(path: str) -> None:
    if PATH.fullmatch(path) is None or len(path) > PATH_LENGTH:
        rule = f"node/... of A-Z a-z 0-9 _ . -, no part begins with a dot or a minus, at most {PATH_LENGTH} characters"
        _refuse(f"path {_shown(path)} breaks the rule: {rule}")


def _expect_apart(paths: Collection[str]) -> None:
    """No two files of one name on any file system, none that is another one's folder, no module twice."""
    seen: dict[str, str] = {}
    for path in paths:
        module = re.sub(r"\.m?py$", "", path).casefold()
        if module in seen:
            _refuse(f"{path} and {seen[module]} are one file or one module: leave one of them out")
        seen[module] = path
    folders = {path.casefold()[:end] for path in paths for end in range(len(path)) if path[end] == "/"}
    for path in paths:
        if path.casefold() in folders:
            _refuse(f"{path} is a file and a folder of other files: rename it")


def _part(given: Any) -> Part:
    if not isinstance(given, dict) or sorted(given) != ["bytes", "path", "sha256"]:
        _refuse(f"a file is an object of path, bytes and sha256, not {_shown(given)}")
    path, size, digest = given["path"], given["bytes"], given["sha256"]
    if not isinstance(path, str):
        _refuse(f"path {_shown(path)} is no text")
    if type(size) is not int or not 0 <= size <= IMAGE_BYTES:
        _refuse(f"{_shown(path)} has {_shown(size)} bytes: give a whole number up to {IMAGE_BYTES}")
    if not isinstance(digest, str) or SHA256.fullmatch(digest) is None:
        _refuse(f"the sha256 of {_shown(path)} is {_shown(digest)}: give 64 hexadecimal digits in lower case")
    return Part(path, size, digest)


def _boards(given: Any) -> tuple[str, ...]:
    boards = _list(given, "board", 16)
    for board in boards:
        if not isinstance(board, str) or BOARD.fullmatch(board) is None:
            _refuse(f"board {_shown(board)} is no name: 1 to 32 of a-z 0-9 _ -, such as esp32s3")
    if len(set(boards)) != len(boards):
        _refuse(f"board names one twice in {_shown(given)}: name each once")
    return tuple(boards)


def _mpy(given: Any) -> int | None:
    if given is not None and (type(given) is not int or not 1 <= given <= 255):
        _refuse(f"mpy is {_shown(given)}: give the version of the compiled files, such as 6, or null for sources")
    found: int | None = given
    return found


def _created(given: Any) -> datetime:
    if not isinstance(given, str) or CREATED.fullmatch(given) is None:
        _refuse(f"created {_shown(given)} is no time: give UTC like 2026-11-20T12:00:00Z")
    try:
        return datetime.fromisoformat(given)
    except ValueError as error:  # such as the 30th of February
        raise ManifestError(f"manifest: created {given!r} is no time: {error}") from None


def _list(given: Any, name: str, most: int) -> Sequence[Any]:
    if not isinstance(given, list) or not 1 <= len(given) <= most:
        _refuse(f"{name} is a list of 1 to {most}, not {_shown(given)}")
    return given


def _object(content: bytes) -> Mapping[str, Any]:
    if len(content) > MANIFEST_BYTES:
        _refuse(f"it has {len(content)} bytes, a node reads at most {MANIFEST_BYTES}: leave files out")
    try:
        body = json.loads(content.decode("ascii"), object_pairs_hook=_once, parse_constant=_no_number)
    except ManifestError:
        raise
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"manifest: it is no JSON in ASCII ({_shown(str(error))}): build it anew") from None
    if not isinstance(body, dict):
        _refuse(f"it is one JSON object, not {_shown(body)}")
    return body


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    body = dict(pairs)
    if len(body) != len(pairs):
        _refuse("a key stands twice in one object: readers would not agree which counts")
    return body


def _no_number(text: str) -> NoReturn:
    _refuse(f"{text} is no number of JSON")


def _shown(value: object) -> str:
    """A stranger's value in a line: ASCII, short."""
    return ascii(value)[:80]


def _refuse(text: str) -> NoReturn:
    raise ManifestError(f"manifest: {text}")
