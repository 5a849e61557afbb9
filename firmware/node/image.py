"""A whole new MicroPython into the partition that does not run, where the board has two (esp32.Partition).

Written block by block, read back whole, and then started once: if it is not confirmed before the next reset of any
kind, the boot loader starts the old one again, and slots.begin finds that.
"""

import asyncio
import binascii
import hashlib

from micropython import const

from node import slots

_BLOCK = const(4096)
_NOTED = const(16)  # blocks between two notes of how far it is: the flash under a note wears as well
_MAGIC = const(0xE9)  # the first byte of an application image
_BAD_MOST = const(3)
_NO_ROLLBACK = const(-261)  # the boot loader was built without


async def install(update, part):
    """Download, verify and choose it for the next start; an error where that cannot be."""
    from esp32 import Partition

    target = Partition(Partition.RUNNING).get_next_update()
    size, about = part["bytes"], update.about
    _, _, _, room, name, _ = target.info()
    if not 0 < size <= room:
        raise ValueError("the image has %d bytes, the partition %d" % (size, room))
    await _write(update, target, part)
    update.tell("verifying")
    if await _digest(update, target, size) != part["sha256"]:
        raise ValueError("the image does not stand in the flash as it came")
    update.tell("installing")
    about["pending"], about["sensors"] = name, await update.working()
    slots.write(slots.PATH, about)
    target.set_boot()


def confirm(about):
    """What runs is to stay."""
    from esp32 import Partition

    try:
        Partition.mark_app_valid_cancel_rollback()
    except OSError as error:
        if error.args[0] != _NO_ROLLBACK:
            raise
    slots.keep_image(about)


async def _write(update, target, part):
    """All of it, from where the last note says."""
    size = part["bytes"]
    for _ in range(_BAD_MOST):
        writer = Writer(target, size, update.about)
        await writer.take_up()
        while writer.count < size:
            update.done = writer.count
            if await update.get(part["path"], writer.count, size, writer.take) is False:
                update.about["blocks"] = 0
                writer = Writer(target, size, update.about)
        if binascii.hexlify(writer.found.digest()).decode() == part["sha256"]:
            return
        update.about["blocks"] = 0
    raise ValueError("the image came %d times with a wrong hash" % _BAD_MOST)


async def _digest(update, target, size):
    """The hash of what is in the flash."""
    found, buffer = hashlib.sha256(), bytearray(_BLOCK)
    for number in range(-(-size // _BLOCK)):
        target.readblocks(number, buffer)
        found.update(memoryview(buffer)[: min(_BLOCK, size - number * _BLOCK)])
        update.mind()
        await asyncio.sleep_ms(0)
    return binascii.hexlify(found.digest()).decode()


class Writer:
    """Bytes into whole blocks of a partition, hashed; `about["blocks"]` is how many are there for sure."""

    def __init__(self, target, size, about):
        self._target, self._size, self._about = target, size, about
        self._buffer = bytearray(_BLOCK)
        self.found, self.count = hashlib.sha256(), 0

    async def take_up(self):
        """Begin behind the blocks that are there."""
        for number in range(min(self._about.get("blocks", 0), self._size // _BLOCK)):
            self._target.readblocks(number, self._buffer)
            self.found.update(self._buffer)
            self.count += _BLOCK
            await asyncio.sleep_ms(0)

    def take(self, block):
        """So many bytes more; the last block is filled up as erased flash is."""
        if not self.count and block[0] != _MAGIC:
            raise ValueError("it is no application image: the first byte is 0x%02X" % block[0])
        self.found.update(block)
        start = 0
        while start < len(block):
            at = self.count % _BLOCK
            count = min(len(block) - start, _BLOCK - at)
            self._buffer[at : at + count] = block[start : start + count]
            start += count
            self.count += count
            if self.count % _BLOCK == 0 or self.count == self._size:
                self._put()

    def _put(self):
        number = (self.count - 1) // _BLOCK
        for index in range(self.count - number * _BLOCK, _BLOCK):
            self._buffer[index] = 0xFF
        self._target.writeblocks(number, self._buffer)
        if (number + 1) % _NOTED == 0:
            self._about["blocks"] = number + 1
            slots.write(slots.PATH, self._about)
