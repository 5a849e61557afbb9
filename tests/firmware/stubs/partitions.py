"""esp32.Partition for the unix port: two partitions for images, files each, and otadata.json.

The boot loader looks at that when this is first imported: an image that was never marked as valid has one start. What
an image has to be: 0xE9, its length in 4 bytes, content, and the SHA-256 of all that.

With dies.json, such as [24, 0, 1], the power fails in the first start at the 24th write of a partition or of otadata,
in the second at none, in the third at the first; half of that write is done.
"""

import json
import os
import struct
from hashlib import sha256

OTADATA = "otadata.json"
LABELS = ("ota_0", "ota_1")
SIZE, BLOCK = 0x28000, 4096
DIES = "dies.json"
INVALID = -5379  # ESP_ERR_OTA_VALIDATE_FAILED


def doom():
    """At which write the power fails in this start, 0 at none; the next start has its own."""
    try:
        with open(DIES) as file:
            numbers = json.load(file)
    except OSError:
        return 0
    with open(DIES, "w") as file:
        json.dump(numbers[1:], file)
    return numbers[0] if numbers else 0


left = [doom()]


def wrote_half():
    """Called in the middle of each write."""
    left[0] -= 1
    if left[0] == 0:
        import ffi

        ffi.open("libc.so.6").func("i", "raise", "i")(9)


def otadata():
    """{"boot": label, "states": {label: "valid" | "new" | "pending" | "aborted"}}."""
    with open(OTADATA) as file:
        return json.load(file)


def keep(data):
    with open(OTADATA + ".new", "w") as file:
        json.dump(data, file)
    wrote_half()  # the boot loader has two copies, of which one counts at a time
    os.rename(OTADATA + ".new", OTADATA)


def boot():
    """What the boot loader starts: with CONFIG_BOOTLOADER_APP_ROLLBACK_ENABLE, which MicroPython has."""
    data = otadata()
    states, label = data["states"], data["boot"]
    if states[label] == "new":
        states[label] = "pending"
        keep(data)
    elif states[label] != "valid":
        states[label] = "aborted"
        data["boot"] = label = LABELS[1 - LABELS.index(label)]
        keep(data)
    return label


class Partition:
    BOOT, RUNNING = 0, 1
    running = boot()

    def __init__(self, which):
        self._label = which if isinstance(which, str) else self.running

    def info(self):
        return (0, 16, 0x10000, SIZE, self._label, False)

    def get_next_update(self):
        return Partition(LABELS[1 - LABELS.index(self._label)])

    def readblocks(self, number, buffer):
        with open(self._label, "rb") as file:
            file.seek(number * BLOCK)
            file.readinto(buffer)

    def writeblocks(self, number, buffer):
        assert len(buffer) == BLOCK and number < SIZE // BLOCK and self._label != self.running
        with open(self._label, "r+b") as file:
            file.seek(number * BLOCK)
            file.write(memoryview(buffer)[: BLOCK // 2])
            file.flush()
            wrote_half()
            file.write(memoryview(buffer)[BLOCK // 2 :])

    def set_boot(self):
        with open(self._label, "rb") as file:
            magic, length = struct.unpack("<BI", file.read(5))
            file.seek(0)
            whole = file.read(min(length, SIZE)) if magic == 0xE9 else b""
            if not whole or sha256(whole).digest() != file.read(32):
                raise OSError(INVALID, "ESP_ERR_OTA_VALIDATE_FAILED")
        data = otadata()
        data["boot"] = self._label
        data["states"][self._label] = "new"
        keep(data)

    @classmethod
    def mark_app_valid_cancel_rollback(cls):
        data = otadata()
        data["states"][cls.running] = "valid"
        keep(data)
