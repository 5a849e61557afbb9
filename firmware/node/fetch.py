"""A file, or the rest of it, from the gateway by HTTP/1.1: bounded in time and size, one connection each.

Nothing here is believed: what was downloaded counts once its hash is the one that the signed offer leads to.
"""

import asyncio
import time

from micropython import const

from node.tasks import first, within

_SILENT_MS = const(15000)
_HEAD_MOST = const(2048)
_BLOCK = const(1024)


class Denied(OSError):
    """It answers, but not with the file: to ask again may not help."""


async def fetch(place, path, authorization, offset, size, take):
    """Hand the bytes from `offset` to `size` to `take(block)` as they come; `place` is (host, port, whether by TLS).

    False where the server begins anew, and nothing was taken. OSError where it fails; what was taken counts.
    """
    host, port, tls = place
    opening = asyncio.open_connection(host, port, _unverified(), host) if tls else asyncio.open_connection(host, port)
    stream, _ = await within(opening, _SILENT_MS)
    request = "GET %s HTTP/1.1\r\nHost: %s:%d\r\nAuthorization: %s\r\nConnection: close\r\n" % (
        (path, host, port, authorization)
    )
    request += "Range: bytes=%d-\r\n\r\n" % offset if offset else "\r\n"
    moved, told = [time.ticks_ms()], []
    try:
        stream.write(request.encode())
        await first(_receive(stream, offset, size, take, moved, told), _patience(moved))
    finally:
        stream.close()
    return bool(told)


async def _receive(stream, offset, size, take, moved, told):
    await stream.drain()
    head = b""
    while b"\r\n\r\n" not in head:
        block = await stream.read(512)
        if not block or len(head) > _HEAD_MOST:
            raise OSError("no answer of HTTP")
        head += block
        moved[0] = time.ticks_ms()
    head, block = head.split(b"\r\n\r\n", 1)
    code, length = parse(head)
    if code not in (200, 206):
        again = code >= 500 or code == 429
        raise (OSError if again else Denied)("HTTP %d" % code)
    if code == 200 and offset:  # it knows no ranges
        return
    if length != size - offset:
        raise Denied("%d bytes instead of %d" % (length, size - offset))
    told.append(True)
    buffer = bytearray(_BLOCK)
    while length > 0:
        if not block:
            count = await stream.readinto(memoryview(buffer)[: min(_BLOCK, length)])
            if not count:
                raise OSError("the connection ended before the file")
            block = memoryview(buffer)[:count]
        block = block[:length]
        length -= len(block)
        moved[0] = time.ticks_ms()
        take(block)
        block = None


async def _patience(moved):
    """OSError once nothing came for long."""
    while time.ticks_diff(time.ticks_ms(), moved[0]) < _SILENT_MS:
        await asyncio.sleep_ms(1000)
    raise OSError(110)


def parse(head):
    """(code, bytes of the body) of an answer's head; OSError where it says neither."""
    lines = head.split(b"\r\n")
    length = -1
    try:
        for each in lines[1:]:
            name, _, value = each.partition(b":")
            name = name.strip().lower()
            if name == b"content-length":
                length = int(value)
            elif name in (b"transfer-encoding", b"content-encoding"):
                raise OSError("a body in another form")
        return int(lines[0].split(b" ")[1]), length
    except (ValueError, IndexError):
        raise OSError("no answer of HTTP")


def _unverified():
    """Who answers is not verified: what it sends is, by its hash."""
    import tls

    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    context.verify_mode = tls.CERT_NONE
    return context
