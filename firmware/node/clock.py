"""Time since the start, never wrapping, and what time it is once a server has said so."""

import asyncio
import os
import socket
import time

from micropython import const

_WAIT_MS = const(1500)
_SINCE_1900 = const(2208988800)  # seconds from 1900 to 1970
_EARLIEST = const(1704067200)  # 2024-01-01: no server's clock says less


class Clock:
    """Whole milliseconds only: an ESP32's floats have 24 bits."""

    def __init__(self):
        self._up_ms = 0
        self._last = time.ticks_ms()
        self.zero_ms = 0  # Unix time of uptime 0, 0 while unknown

    def uptime_ms(self):
        """Since the start. Must be called every six days, which each measurement does."""
        now = time.ticks_ms()
        self._up_ms += time.ticks_diff(now, self._last)
        self._last = now
        return self._up_ms

    def unix_ms(self, uptime_ms):
        """The Unix time of an uptime of this boot, 0 while unknown."""
        return self.zero_ms + uptime_ms if self.zero_ms else 0

    async def sync(self, host, port):
        """Ask a server once; OSError or ValueError where it does not answer or not sensibly."""
        address = socket.getaddrinfo(host, port, 0, socket.SOCK_DGRAM)[0][-1]
        cookie = os.urandom(8)
        line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            line.setblocking(False)
            asked_ms = self.uptime_ms()
            line.sendto(b"\x23" + bytes(39) + cookie, address)
            answer = await self._answer(line, cookie, asked_ms)
        finally:
            line.close()
        came_ms = self.uptime_ms()
        self.zero_ms = unix_ms(answer) - (asked_ms + came_ms) // 2

    async def _answer(self, line, cookie, asked_ms):
        while self.uptime_ms() - asked_ms < _WAIT_MS:
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
