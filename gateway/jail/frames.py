"""Messages between the gateway and its children, and the child's side of the conversation.

A frame: 4 bytes length of a JSON object, 4 bytes length of a body (both big endian), the object, the body. Standard
library only and no asyncio: what a child imports costs its memory.
"""

import json
import os
import struct
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

HEAD = struct.Struct("!II")
ANSWER_BYTES = 8 << 20
"""No answer of a child is longer, head, object and body together."""

Header: TypeAlias = dict[str, Any]


class FrameError(ValueError):
    """What came is not a frame, or longer than agreed; who sent it cannot be trusted with another."""


def pack(header: Mapping[str, Any], body: bytes = b"") -> bytes:
    """One frame."""
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    return HEAD.pack(len(text), len(body)) + text + body


def sizes(head: bytes, most_bytes: int) -> tuple[int, int]:
    """(of the object, of the body) as the first eight bytes say; FrameError for more than `most_bytes` together."""
    text_bytes, body_bytes = HEAD.unpack(head)
    if HEAD.size + text_bytes + body_bytes > most_bytes:
        raise FrameError(f"a frame of {text_bytes} + {body_bytes} bytes: at most {most_bytes} are agreed")
    return text_bytes, body_bytes


def parse(text: bytes) -> Header:
    """The JSON object of a frame; FrameError for anything else (also too deep, NaN, broken UTF-8)."""
    try:
        header = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"not the JSON object of a frame: {type(error).__name__}") from error
    if not isinstance(header, dict):
        raise FrameError("not the JSON object of a frame")
    return header


def read(descriptor: int, most_bytes: int) -> tuple[Header, bytes] | None:
    """The next frame; None at the end of the conversation (blocks)."""
    head = _exactly(descriptor, HEAD.size)
    if head is None:
        return None
    text_bytes, body_bytes = sizes(head, most_bytes)
    text = _exactly(descriptor, text_bytes)
    body = _exactly(descriptor, body_bytes)
    return None if text is None or body is None else (parse(text), bytes(body))


def write(descriptor: int, data: bytes) -> None:
    """All of it (blocks)."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left[: 1 << 16]) :]


def serve(answer: Callable[[Header, bytes], tuple[Mapping[str, Any], bytes]], *, descriptor: int = 0) -> None:
    """A child's life: say that it is ready, then one answer for each question, until the gateway hangs up."""
    write(descriptor, pack({"ready": True}))
    while (asked := read(descriptor, 1 << 30)) is not None:
        write(descriptor, pack(*answer(*asked)))


def _exactly(descriptor: int, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        piece = os.read(descriptor, min(count - len(data), 1 << 16))
        if not piece:
            return None
        data += piece
    return bytes(data)


def _refuse(constant: str) -> None:
    raise ValueError(constant)
