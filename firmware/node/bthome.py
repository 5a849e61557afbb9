"""BTHome v2 (bthome.io/format): measurements as service data of a Bluetooth LE advertisement. Pure."""

import struct

UUID = b"\xd2\xfc"
PLAIN, ENCRYPTED = 0x40, 0x41
FLAGS = b"\x02\x01\x06"
ROOM = 24  # of the 31 bytes of a legacy advertisement, behind flags, length, type and UUID
OBJECTS = {
    "battery": (0x01, 1, 1),
    "temperature": (0x02, -2, 100),
    "humidity": (0x03, 2, 100),
    "pressure": (0x04, 3, 100),
    "illuminance": (0x05, 3, 100),
    "power": (0x0B, 3, 100),
    "voltage": (0x0C, 2, 1000),
    "pm25": (0x0D, 2, 1),
    "pm10": (0x0E, 2, 1),
    "co2": (0x12, 2, 1),
    "tvoc": (0x13, 2, 1),
    "moisture": (0x14, 2, 100),
    "count": (0x3D, 2, 1),
}
"""Metric: object id, bytes (negative where signed), steps to a unit. There is no code for "no value": leave it out."""


def objects(values, packet_id=None):
    """The objects of metric -> number, ascending by id; what is None, unknown or out of range is left out."""
    found = [] if packet_id is None else [b"\x00" + bytes([packet_id & 0xFF])]
    for metric, (number, size, steps) in sorted(OBJECTS.items(), key=lambda item: item[1][0]):
        value = values.get(metric)
        if value is None or value != value:
            continue
        raw = int(round(value * steps))
        bits = 8 * abs(size)
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if size < 0 else (0, (1 << bits) - 1)
        if low <= raw <= high:
            found.append(bytes([number]) + struct.pack("<I", raw & 0xFFFFFFFF)[: abs(size)])
    return b"".join(found)


def plain(data):
    """Service data without encryption."""
    return bytes([PLAIN]) + data


def encrypted(data, address, counter, cipher):
    """Service data with AES-128-CCM. `address` is the 6 bytes as written, `cipher` encrypts one block with the key.

    A counter must never be used twice with one key: keep it ahead in non-volatile memory.
    """
    count = struct.pack("<I", counter)
    nonce = address + UUID + bytes([ENCRYPTED]) + count
    text, mic = ccm(cipher, nonce, data)
    return bytes([ENCRYPTED]) + text + count + mic


def ccm(cipher, nonce, data):
    """(ciphertext, 4 bytes of MIC) by RFC 3610 with a nonce of 13 bytes and no associated data."""
    mac = cipher(b"\x09" + nonce + struct.pack(">H", len(data)))
    text = b""
    for number in range(0, len(data), 16):
        block = data[number : number + 16]
        mac = cipher(xor(mac, block + bytes(16 - len(block))))
        text += xor(block, cipher(b"\x01" + nonce + struct.pack(">H", number // 16 + 1)))
    return text, xor(mac[:4], cipher(b"\x01" + nonce + b"\x00\x00"))


def xor(one, other):
    """Byte by byte, as long as the first."""
    return bytes([one[i] ^ other[i] for i in range(len(one))])


def advertisement(service_data):
    """The payload of an advertisement; ValueError where it does not fit."""
    if len(service_data) > ROOM:
        raise ValueError("%d bytes are more than the %d of an advertisement" % (len(service_data), ROOM))
    return FLAGS + bytes([len(service_data) + 3, 0x16]) + UUID + service_data
