"""BTHome v2 frames (bthome.io, "Format" and "Encryption"): bytes and what was heard before in, values out. Pure.

The decoder is our own table. The kept parser, bthome-ble 3.25, is right about the bytes (its vectors are ours), but it
brings 15 packages (Home Assistant's Bluetooth stack among them) and 26 MiB of memory into a process that never calls
them, keeps its state in an object that it changes, tells refusals apart only in its log, and takes every fall of an
encrypted counter to below 100 for a changed battery, so that recorded frames can be played back.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from drivers.errors import BadData
from drivers.model import Quantity, Sample

UUID = "0000fcd2-0000-1000-8000-00805f9b34fb"
UUIDS_V1 = ("0000181c-0000-1000-8000-00805f9b34fb", "0000181e-0000-1000-8000-00805f9b34fb")

ENCRYPTED, MAC_INCLUDED, TRIGGERED, VERSION = 0x01, 0x02, 0x04, 2  # device information byte; version in bits 5 to 7
MAC_BYTES, COUNTER_BYTES, MIC_BYTES, KEY_BYTES = 6, 4, 4, 16
REPEAT_S = 4.0  # a packet id that comes again later than this is a new packet ("Packet id")
SAME_S = 1.0  # the same for identical frames without a packet id
IDS_AHEAD = 64  # a packet id up to so far ahead is newer, else it is late
RESTARTED_BELOW = 100  # a counter below this may belong to a device with a fresh battery
REPEATS = 3  # channels of one quantity


class Entry(NamedTuple):
    """One object id: value = little-endian integer * scale / over. Size 0 means that a length byte follows."""

    name: str
    size: int
    over: int = 1
    signed: bool = False
    quantity: Quantity | None = None
    scale: int = 1
    kind: str = "number"


def _measure(quantity: Quantity, size: int, over: int = 1, *, signed: bool = False, scale: int = 1) -> Entry:
    return Entry(quantity.value, size, over, signed, quantity, scale)


FLAGS = (
    *((0x0F, "generic"), (0x10, "power"), (0x11, "opening"), (0x15, "battery low"), (0x16, "charging")),
    *((0x17, "carbon monoxide"), (0x18, "cold"), (0x19, "connectivity"), (0x1A, "door"), (0x1B, "garage door")),
    *((0x1C, "gas"), (0x1D, "heat"), (0x1E, "light"), (0x1F, "lock"), (0x20, "moisture"), (0x21, "motion")),
    *((0x22, "moving"), (0x23, "occupancy"), (0x24, "plug"), (0x25, "presence"), (0x26, "problem"), (0x27, "running")),
    *((0x28, "safety"), (0x29, "smoke"), (0x2A, "sound"), (0x2B, "tamper"), (0x2C, "vibration"), (0x2D, "window")),
)
TABLE: Mapping[int, Entry] = {
    0x00: Entry("packet id", 1),
    0x01: _measure(Quantity.BATTERY, 1),
    0x02: _measure(Quantity.TEMPERATURE, 2, 100, signed=True),
    0x03: _measure(Quantity.HUMIDITY, 2, 100),
    0x04: _measure(Quantity.PRESSURE, 3, 100),
    0x05: _measure(Quantity.ILLUMINANCE, 3, 100),
    0x06: Entry("mass kg", 2, 100),
    0x07: Entry("mass lb", 2, 100),
    0x08: Entry("dew point", 2, 100, signed=True),
    0x09: _measure(Quantity.COUNT, 1),
    0x0A: _measure(Quantity.ENERGY, 3),  # on the air in 0.001 kWh, which is a watt-hour
    0x0B: _measure(Quantity.POWER, 3, 100),
    0x0C: _measure(Quantity.VOLTAGE, 2, 1000),
    0x0D: _measure(Quantity.PM25, 2),
    0x0E: _measure(Quantity.PM10, 2),
    **{number: Entry(name, 1, kind="flag") for number, name in FLAGS},
    0x12: _measure(Quantity.CO2, 2),
    0x13: _measure(Quantity.TVOC, 2),
    0x14: _measure(Quantity.MOISTURE, 2, 100),
    0x2E: _measure(Quantity.HUMIDITY, 1),
    0x2F: _measure(Quantity.MOISTURE, 1),
    0x3A: Entry("button", 1, kind="event"),
    0x3B: Entry("command", 0, kind="event"),
    0x3C: Entry("dimmer", 2, kind="event"),
    0x3D: _measure(Quantity.COUNT, 2),
    0x3E: _measure(Quantity.COUNT, 4),
    0x3F: Entry("rotation", 2, 10, signed=True),
    0x40: Entry("distance mm", 2),
    0x41: Entry("distance m", 2, 10),
    0x42: Entry("duration", 3, 1000),
    0x43: _measure(Quantity.CURRENT, 2, 1000),
    0x44: Entry("speed", 2, 100),
    0x45: _measure(Quantity.TEMPERATURE, 2, 10, signed=True),
    0x46: Entry("uv index", 1, 10),
    0x47: Entry("volume L", 2, 10),
    0x48: Entry("volume mL", 2),
    0x49: Entry("volume flow rate", 2, 1000),
    0x4A: _measure(Quantity.VOLTAGE, 2, 10),
    0x4B: Entry("gas", 3, 1000),
    0x4C: Entry("gas", 4, 1000),
    0x4D: _measure(Quantity.ENERGY, 4),
    0x4E: Entry("volume L", 4, 1000),
    0x4F: Entry("water", 4, 1000),
    0x50: Entry("timestamp", 4),  # Unix seconds
    0x51: Entry("acceleration", 2, 1000),
    0x52: Entry("gyroscope", 2, 1000),
    0x53: Entry("text", 0, kind="text"),
    0x54: Entry("raw", 0, kind="bytes"),
    0x55: Entry("volume storage", 4, 1000),
    0x56: Entry("conductivity", 2),
    0x57: _measure(Quantity.TEMPERATURE, 1, signed=True),
    0x58: _measure(Quantity.TEMPERATURE, 1, 100, signed=True, scale=35),
    0x59: _measure(Quantity.COUNT, 1, signed=True),
    0x5A: _measure(Quantity.COUNT, 2, signed=True),
    0x5B: _measure(Quantity.COUNT, 4, signed=True),
    0x5C: _measure(Quantity.POWER, 4, 100, signed=True),
    0x5D: _measure(Quantity.CURRENT, 2, 1000, signed=True),
    0x5E: Entry("direction", 2, 100),
    0x5F: Entry("precipitation", 2, 10),
    0x60: Entry("channel", 1),
    0x61: Entry("rotational speed", 2),
    0x62: Entry("speed", 4, 1_000_000, signed=True),
    0x63: Entry("acceleration", 4, 1_000_000, signed=True),
    0x64: Entry("light level", 1),
    0x65: Entry("settings revision", 1),
    0xF0: Entry("device type", 2),
    0xF1: Entry("firmware", 4, kind="version"),
    0xF2: Entry("firmware", 3, kind="version"),
}
PACKET_ID = TABLE[0x00]

Value = float | bool | str | bytes


@dataclass(frozen=True, slots=True)
class Frame:
    """The objects of one advert in their order; `lost` says why the rest of it could not be read ("" = all was)."""

    objects: tuple[tuple[Entry, Value], ...]
    lost: str = ""
    triggered: bool = False
    counter: int | None = None

    @property
    def packet_id(self) -> int | None:
        """The sender's number of this packet, 0 to 255."""
        return next((int(value) for entry, value in self.objects if entry is PACKET_ID), None)


@dataclass(frozen=True, slots=True)
class Memory:
    """The last frame that was taken from one beacon; `taken_s` is when."""

    data: bytes = b""
    counter: int = -1
    packet_id: int | None = None
    taken_s: float = -math.inf
    triggered: bool = False


def payload(service_data: Mapping[str, bytes]) -> bytes | None:
    """The BTHome v2 service data, None where there is none; BadData for version 1, which is never guessed at."""
    if UUID in service_data:
        return service_data[UUID]
    if any(uuid in service_data for uuid in UUIDS_V1):
        raise BadData("BTHome v1: update the device's firmware, only v2 is read")
    return None


def encrypted(data: bytes) -> bool:
    """Whether it takes a key to read this service data; BadData if it is no BTHome v2."""
    if not data:
        raise BadData("BTHome frame without a byte")
    if data[0] >> 5 != VERSION:
        raise BadData(f"BTHome version {data[0] >> 5}, not 2, in {data.hex()}")
    return bool(data[0] & ENCRYPTED)


def decode(data: bytes, address: str, key: bytes | None = None) -> Frame:
    """The service data after the UUID; BadData for whatever must not be believed. With a key, plain frames are refused.

    The counter of an encrypted frame is told, not judged. ValueError for a key of another length than 16 bytes.
    """
    if key is not None and len(key) != KEY_BYTES:
        raise ValueError(f"a bind key has 16 bytes, not {len(key)}")
    sealed = encrypted(data)
    info, mac, body = data[0], bytes.fromhex(address.replace(":", "")), data[1:]
    if info & MAC_INCLUDED:
        mac, body = body[:MAC_BYTES][::-1], body[MAC_BYTES:]
        if len(mac) < MAC_BYTES:
            raise BadData(f"BTHome frame cut short in its address: {data.hex()}")
    counter = None
    if sealed:
        if key is None:
            raise BadData("BTHome frame is encrypted and no key is known: give bind_key_file")
        counter, body = _opened(body, mac + b"\xd2\xfc" + data[:1], key)
    elif key is not None:
        raise BadData(
            "BTHome frame in plain though a key is set: refused as forged; remove the key if the device lost it"
        )
    objects, lost = _objects(body)
    if lost and not objects:
        raise BadData(f"BTHome frame {data.hex()}: {lost}")
    return Frame(objects, lost, bool(info & TRIGGERED), counter)


def take(
    data: bytes,
    address: str,
    now_s: float,
    memory: Memory,
    key: bytes | None = None,
    *,
    counter_restart: bool = False,
) -> tuple[Frame | None, Memory]:
    """Decode what is new, None for a repetition. BadData as `decode`, and if the encrypted counter fell (a replay)."""
    if data == memory.data and (memory.counter >= 0 or now_s - memory.taken_s <= SAME_S):
        return None, memory
    frame = decode(data, address, key)
    if frame.counter is not None:
        if frame.counter == memory.counter:
            return None, memory
        if frame.counter < memory.counter and not (counter_restart and frame.counter < RESTARTED_BELOW):
            raise BadData(
                f"BTHome counter fell from {memory.counter} to {frame.counter}: a recording played back, or a changed "
                "battery; for the latter restart the gateway, or set counter_restart = true"
            )
    number = frame.packet_id
    if number is not None and memory.packet_id is not None:
        ahead = (number - memory.packet_id) % 256
        if now_s - memory.taken_s <= REPEAT_S and not 0 < ahead < IDS_AHEAD:
            return None, memory
    counter = memory.counter if frame.counter is None else frame.counter
    return frame, Memory(data, counter, number, now_s, frame.triggered)


def samples(frame: Frame, rssi: int | None) -> tuple[Sample, ...]:
    """What of a frame is measured in our quantities; the second value of a kind goes to `<quantity>_2`, up to three."""
    found, seen = [], Counter[Quantity]()
    for entry, value in frame.objects:
        if entry.quantity is None:
            continue
        seen[entry.quantity] += 1
        n = seen[entry.quantity]
        if n <= REPEATS:
            found.append(Sample(entry.quantity.value if n == 1 else f"{entry.quantity.value}_{n}", float(value)))
    if rssi is not None:
        found.append(Sample(Quantity.RSSI.value, float(rssi)))
    return tuple(found)


def _opened(body: bytes, nonce: bytes, key: bytes) -> tuple[int, bytes]:
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - only a beacon with a key needs it
    from cryptography.hazmat.primitives.ciphers.aead import AESCCM  # noqa: PLC0415

    if len(body) < 1 + COUNTER_BYTES + MIC_BYTES:
        raise BadData(f"BTHome frame cut short: {len(body)} encrypted bytes, at least 9 are needed")
    sealed, counter, mic = body[:-8], body[-8:-4], body[-4:]
    try:
        plain = AESCCM(key, tag_length=MIC_BYTES).decrypt(nonce + counter, sealed + mic, None)
    except InvalidTag as error:
        raise BadData("BTHome frame does not fit its key: wrong bind key or address, forged or damaged") from error
    return int.from_bytes(counter, "little"), plain


def _objects(body: bytes) -> tuple[tuple[tuple[Entry, Value], ...], str]:
    found: list[tuple[Entry, Value]] = []
    lost, at = "", 0
    while at < len(body):
        number = body[at]
        entry = TABLE.get(number)
        if entry is None:  # its length is unknown, so nothing behind it can be read
            return tuple(found), f"object {number:#04x} is unknown"
        start, size = at + 1, entry.size
        if not size:
            size = body[start] if start < len(body) else len(body)
            start += 1
            size = 1 + (size & 0x1F) if entry.name == "command" else size  # the opcode, then so many arguments
        at = start + size
        if at > len(body):
            return tuple(found), f"cut short in object {number:#04x}"
        try:
            found.append((entry, _value(entry, body[start:at])))
        except UnicodeDecodeError:
            lost = f"object {number:#04x} is no UTF-8"
    return tuple(found), lost


def _value(entry: Entry, raw: bytes) -> Value:
    match entry.kind:
        case "flag":
            return raw != b"\0"
        case "text":
            return raw.decode()
        case "version":
            return ".".join(map(str, reversed(raw)))
        case "bytes" | "event":
            return raw
    number = int.from_bytes(raw, "little", signed=entry.signed) * entry.scale
    return number if entry.over == 1 else number / entry.over
