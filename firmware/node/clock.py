"""Time since the start, never wrapping, and what time it is once a server has said so."""

import time

from node.tasks import forget


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
        from node import sntp

        try:
            self.zero_ms = await sntp.zero_ms(self, host, port)
        finally:
            forget("node.sntp")
