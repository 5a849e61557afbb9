"""A node on a battery: measure, advertise by BTHome for a few seconds, sleep. No Wi-Fi, no ring, no clock.

Settings: {"mode": "bthome", "bthome": {"key": 32 hex digits, "seconds": 4}}; the interval is the first sensor's.
"""

import asyncio
import binascii
import struct

import bluetooth
import machine
from micropython import const

from node import bthome
from node.sensors import SensorError, open_sensor

_EVERY_US = const(250000)
_AHEAD = const(1000)  # counters are reserved in steps: the memory wears, and none may be used twice


def main(settings):
    """One round; the sleep ends in a restart of the board."""
    asyncio.run(once(settings))
    machine.deepsleep(int(settings["sensors"][0]["interval_s"] * 1000))


async def once(settings):
    """Measure with every sensor and advertise what came of it."""
    from node.start import make_bus

    bus = make_bus(settings["i2c"])
    values = {}
    for each in settings["sensors"]:
        try:
            sensor = open_sensor(each["driver"], bus, each["options"])
            await sensor.start()
            values.update(await sensor.read())
        except (OSError, SensorError):  # the others are worth sending
            pass
    given = settings["bthome"]
    radio = bluetooth.BLE()
    radio.active(True)
    packet_id, counter = numbers()
    data = bthome.objects(values, packet_id)
    if given.get("key"):
        address = radio.config("mac")[1]
        data = bthome.encrypted(data, address, counter, block_cipher(binascii.unhexlify(given["key"])))
    else:
        data = bthome.plain(data)
    radio.gap_advertise(_EVERY_US, bthome.advertisement(data), connectable=False)
    await asyncio.sleep(given.get("seconds", 4))
    radio.gap_advertise(None)
    radio.active(False)


def numbers():
    """(packet id, counter) of this round. The sleep keeps them; after a power cut the reserved ones are skipped."""
    import esp32

    memory, store = machine.RTC(), esp32.NVS("bthome")
    try:
        reserved = store.get_i32("counter")
    except OSError:  # the first round of its life
        reserved = 0
    kept = memory.memory()
    packet_id, counter = struct.unpack("<BI", kept) if len(kept) == 5 else (0, reserved)
    if counter >= reserved:
        store.set_i32("counter", counter + _AHEAD)
        store.commit()
    memory.memory(struct.pack("<BI", (packet_id + 1) & 0xFF, counter + 1))
    return packet_id, counter


def block_cipher(key):
    """Encrypts one block of 16 bytes."""
    from cryptolib import aes

    return aes(key, 1).encrypt
