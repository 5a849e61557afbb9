"""Which boot this is, and the numbers of its readings, reserved in non-volatile storage ahead of use.

Kept are three integers: the count of boots, the boot's random bits, and the highest number that may have been used.
A boot that ended without `close` may have lost what was in memory: `lost` then names it and that number, so that the
ring can tell the gateway, which knows what it received.
"""

from micropython import const

_COUNT = const("boot")
_RANDOM = const("random")
_RESERVED = const("reserved")


class Numbers:
    """`store` is an esp32.NVS; `random32` gives 32 random bits; `block` numbers are reserved at a time."""

    def __init__(self, store, random32, block):
        self._store = store
        self.block = block
        self.seq = 0
        count, bits, self._old = self._get(_COUNT), self._get(_RANDOM), self._get(_RESERVED)
        self.lost = ("%d-%08x" % (count, bits & 0xFFFFFFFF), self._old) if self._old else None
        self.count = count + 1
        self._bits = random32
        self.boot = "%d-%08x" % (self.count, random32)
        self._reserved = 0

    def begin(self):
        """From here on it is this boot; call it once what `lost` says is kept elsewhere."""
        self._put(_RESERVED, 0)  # first: what is left if the power fails in between is the old boot without a loss
        self._put(_RANDOM, self._bits - (1 << 32) if self._bits >> 31 else self._bits)
        self._put(_COUNT, self.count)

    def next(self):
        """The next number, from 1."""
        if self.seq >= self._reserved:
            self._reserved = self.seq + self.block
            self._put(_RESERVED, self._reserved)
        self.seq += 1
        return self.seq

    def close(self):
        """Nothing is in memory only: nothing can be lost until the next number is taken."""
        self._reserved = 0
        self._put(_RESERVED, 0)

    def _get(self, name):
        try:
            return self._store.get_i32(name)
        except OSError:  # not there yet
            return 0

    def _put(self, name, value):
        self._store.set_i32(name, value)
        self._store.commit()
