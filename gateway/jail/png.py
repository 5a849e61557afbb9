"""Is it a PNG, and one that a viewer may be given? Pure, standard library only."""

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_PIXELS = 4096  # a side
_KNOWN = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"pHYs", b"tEXt", b"gAMA", b"sRGB", b"bKGD", b"cHRM"})


def size(data: bytes) -> tuple[int, int]:
    """(width, height) in pixels; ValueError for anything but one whole, plain PNG of at most 4096 x 4096."""
    if not data.startswith(SIGNATURE):
        raise ValueError("not a PNG")
    at, shape = len(SIGNATURE), (0, 0)
    chunks: list[bytes] = []
    while at < len(data):
        if len(data) - at < 12:
            raise ValueError("not a PNG: it ends early")
        length, kind = struct.unpack_from(">I4s", data, at)
        if length > len(data) - at - 12 or kind not in _KNOWN:
            raise ValueError(f"not a PNG: chunk {kind!r} of {length} bytes")
        body = data[at + 8 : at + 8 + length]
        if struct.unpack_from(">I", data, at + 8 + length)[0] != zlib.crc32(kind + body):
            raise ValueError(f"not a PNG: chunk {kind!r} is damaged")
        if not chunks:
            if kind != b"IHDR" or length != 13:
                raise ValueError("not a PNG: no header")
            shape = struct.unpack(">II", body[:8])
        chunks.append(kind)
        at += 12 + length
    if chunks.count(b"IHDR") != 1 or chunks[-1:] != [b"IEND"] or chunks.count(b"IEND") != 1 or b"IDAT" not in chunks:
        raise ValueError("not a PNG: header, data and end do not follow each other")
    if not (1 <= shape[0] <= MOST_PIXELS and 1 <= shape[1] <= MOST_PIXELS):
        raise ValueError(f"a PNG of {shape[0]} x {shape[1]} pixels: at most {MOST_PIXELS} a side are agreed")
    return shape
