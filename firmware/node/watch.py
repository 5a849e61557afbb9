"""The watchdog is fed only while every task makes progress; and the LED, which says how things stand."""

import asyncio

from micropython import const

_FEED_MS = const(5000)
TIMEOUT_MS = 120000  # a name look-up or a handshake may block for 15 s; flash for less

NO_NETWORK, SENSOR, STORAGE, CLOCK = range(1, 5)
_STEP_MS = const(200)
_IDENTIFY = const(5)
_PATTERNS = const(("1", "11111000000000", "1010000000", "101010000000", "10101010000000", "10"))
"""One digit a step: solid is well, slow no broker, 2 blinks a sensor, 3 the flash, 4 no clock, fast "it is me"."""


class Progress:
    """Tasks `mark` what they achieved; each has its own time within which it has to."""

    def __init__(self, clock):
        self._clock = clock
        self._due = {}

    def mark(self, name, within_s):
        """`name` is alive and will say so again within this time."""
        self._due[name] = self._clock.uptime_ms() + int(within_s * 1000)

    def late(self):
        """The first task that should have marked before now, or None."""
        now = self._clock.uptime_ms()
        for name, due in self._due.items():
            if now > due:
                return name
        return None


async def guard(progress, watchdog, stuck):
    """Feed while nobody is late; then `stuck(name)` is called and it ends. Where even this task hangs, the watchdog
    bites."""
    while True:
        late = progress.late()
        if late is not None:
            stuck(late)
            return
        watchdog.feed()
        await asyncio.sleep_ms(_FEED_MS)


class Led:
    """One pin; `pin` None for a board without. Faults are shown in the order of their number."""

    def __init__(self, pin, on):
        self.pin, self._on = pin, on
        self._faults = {NO_NETWORK}
        self._identify = 0

    def fault(self, number, is_there):
        """Show a fault, or take it back."""
        if is_there:
            self._faults.add(number)
        else:
            self._faults.discard(number)

    def identify(self, seconds):
        """Blink fast for so long."""
        self._identify = int(seconds * 1000 // _STEP_MS)

    def pattern(self):
        """What is shown now."""
        shown = min(self._faults) if self._faults else 0
        return _PATTERNS[_IDENTIFY if self._identify > 0 else shown]

    async def run(self):
        """Blink for ever; only where there is a pin."""
        step = 0
        while True:
            shown = self.pattern()
            self.pin.value(self._on if shown[step % len(shown)] == "1" else 1 - self._on)
            self._identify = max(0, self._identify - 1)
            step += 1
            await asyncio.sleep_ms(_STEP_MS)
