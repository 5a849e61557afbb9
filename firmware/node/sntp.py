"""What time it is, by SNTP (RFC 4330). Loaded for that, once an hour, and forgotten."""

import asyncio
import os
import socket

from micropython import const

_WAIT_MS = const(1500)
_SINCE_1900 = const(2208988800)  # seconds from 1900 to 1970
_EARLIEST = const(1704067200)  # 2024-01-01: no server's clock says less


async def zero_ms(clock, host, port):
    """The Unix time of the clock's zero; OSError or ValueError where the server does not answer or not sensibly."""
    address = socket.getaddrinfo(host, port, 0, socket.SOCK_DGRAM)[0][-1]
    cookie = os.urandom(8)
    line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        line.setblocking(False)
        asked_ms = clock.uptime_ms()
        line.sendto(b"\x23" + bytes(39) + cookie, address)
        answer = await _answer(clock, line, cookie, asked_ms)
    finally:
        line.close()
    return unix_ms(answer) - (asked_ms + clock.uptime_ms()) // 2


async def _answer(clock, line, cookie, asked_ms):
    while clock.uptime_ms() - asked_ms < _WAIT_MS:
        try:
            answer = line.recv(48)
        except OSError:  # nothing yet
            await asyncio.sleep_ms(10)
            continue
        if len(answer) == 48 and answer[24:32] == cookie:  # whoever did not see the question cannot answer it
            return answer
    raise OSError(110)


def unix_ms(answer):
    """The server's time of sending in an SNTP answer (RFC 4330); ValueError where it knows none."""
    stratum, seconds = answer[1], int.from_bytes(answer[40:44], "big")
    if answer[0] & 7 != 4 or answer[0] >> 6 == 3 or not 1 <= stratum <= 15:
        raise ValueError("the server has no time")
    if seconds < 0x80000000:  # since 2036-02-07
        seconds += 0x100000000
    seconds -= _SINCE_1900
    if seconds < _EARLIEST:
        raise ValueError("the server's clock was never set")
    return seconds * 1000 + (int.from_bytes(answer[44:48], "big") * 1000 >> 32)
