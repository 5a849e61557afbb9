"""Where is the broker? One question for _mqtt._tcp to the local network (RFC 6762, one-shot), answers taken apart.

An answer is an address to try and nothing more: whether the gateway is behind it, its acknowledgements' macs tell.
"""

import asyncio
import os
import socket
import struct
import time

from micropython import const

_GROUP = "224.0.0.251"
_PORT = const(5353)
SERVICE = "_mqtt._tcp.local"
_WAIT_MS = const(2000)
_A = const(1)
_PTR = const(12)
_SRV = const(33)


async def find(name=None, own_address=None):
    """Addresses (host, port) that answered, at most eight; those of an instance that begins with `name` first."""
    line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        line.setblocking(False)
        cookie = struct.unpack(">H", os.urandom(2))[0]
        line.sendto(question(cookie), socket.getaddrinfo(_GROUP, _PORT, 0, socket.SOCK_DGRAM)[0][-1])
        found = []
        began = time.ticks_ms()
        while time.ticks_diff(time.ticks_ms(), began) < _WAIT_MS and len(found) < 8:
            try:
                packet = line.recv(1500)
            except OSError:  # nothing yet
                await asyncio.sleep_ms(50)
                continue
            for instance, host, port in answers(packet):
                if (instance, host, port) not in found:
                    found.append((instance, host, port))
    finally:
        line.close()
    wanted = [each[1:] for each in found if name and each[0].startswith(name)]
    return wanted + [each[1:] for each in found if each[1:] not in wanted]


def question(cookie):
    """A query for the service; the top bit of its class asks for an answer to us alone."""
    name = b"".join([bytes([len(part)]) + part.encode() for part in SERVICE.split(".")]) + b"\x00"
    return struct.pack(">HHHHHH", cookie, 0, 1, 0, 0, 0) + name + struct.pack(">HH", _PTR, 0x8001)


def answers(packet):
    """(instance, address, port) in a response; nothing where it is malformed or none of ours."""
    try:
        return _answers(packet)
    except (ValueError, IndexError, UnicodeError):
        return []


def _answers(packet):
    if len(packet) < 12:
        return []
    _, flags, questions, *counts = struct.unpack(">HHHHHH", packet)
    if not flags & 0x8000:
        return []
    offset = 12
    for _ in range(min(questions, 8)):
        offset = _name(packet, offset)[1] + 4
    targets, addresses = [], {}
    for _ in range(min(sum(counts), 64)):
        if offset >= len(packet):
            break
        name, offset = _name(packet, offset)
        kind, _, _, size = struct.unpack(">HHIH", packet[offset : offset + 10])
        offset += 10
        if kind == _SRV and name.endswith("." + SERVICE):
            port = struct.unpack(">H", packet[offset + 4 : offset + 6])[0]
            targets.append((name[: -len(SERVICE) - 1], _name(packet, offset + 6)[0], port))
        elif kind == _A and size == 4 and offset + 4 <= len(packet):
            addresses[name] = "%d.%d.%d.%d" % tuple(packet[offset : offset + 4])
        offset += size
    return [(name, addresses[target], port) for name, target, port in targets if target in addresses]


def _name(packet, offset):
    """(name, offset behind it); pointers are followed, each to an earlier place only."""
    parts, behind, limit = [], None, offset
    while True:
        size = packet[offset]
        if size >= 0xC0:
            to = (size & 0x3F) << 8 | packet[offset + 1]
            behind = offset + 2 if behind is None else behind
            if to >= limit:
                raise ValueError("a name points forward")
            offset = limit = to
        elif size:
            parts.append(packet[offset + 1 : offset + 1 + size].decode())
            offset += 1 + size
        else:
            return ".".join(parts), offset + 1 if behind is None else behind
