"""BTHome v2 frames against the recorded vectors, and against noise."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drivers.errors import BadData
from drivers.model import Quantity, Sample
from drivers.sensors import _bthome
from drivers.sensors._bthome import Frame, Memory, decode, payload, samples, take
from drivers.sensors.bthome import Bthome

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "bthome_vectors.json").read_text())
MAC = "A4:C1:38:8D:18:B2"
IMPOSSIBLE = ("temperature", "humidity", "moisture", "pressure", "co2", "battery")
KEY = bytes.fromhex("231d39c1d7cc1ab1aee224cd096db932")
REFUSED = {
    "no_key": "no key is known",
    "downgrade": "in plain though a key is set",
    "bad_version": "version",
    "bad_mic": "does not fit its key",
    "truncated": "cut short",
    "unknown_object": "0xfe is unknown",
    "bad_text": "no UTF-8",
    "reject_v1": "v1",
}
THEIR_NAMES = {"mass kg": "mass", "mass lb": "mass", "co2": "carbon_dioxide", "tvoc": "volatile_organic_compounds"}
BUTTON = {1: "press", 2: "double_press", 3: "triple_press", 4: "long_press", 0x80: "hold_press"}


def theirs(frame: Frame) -> dict[str, object]:
    """A frame as the vectors put it."""
    names = []
    for entry, _ in frame.objects:
        name = THEIR_NAMES.get(entry.name, entry.name.removesuffix(" mm").removesuffix(" mL").removesuffix(" L"))
        name = name.removesuffix(" m").replace(" ", "_")
        names.append({"flag": "bin:", "event": "event:"}.get(entry.kind, "") + name)
    found: dict[str, object] = {}
    for at, (name, (entry, value)) in enumerate(zip(names, frame.objects, strict=True)):
        key = name if names.count(name) == 1 else f"{name}_{names[: at + 1].count(name)}"
        if entry.kind == "event":
            if value[0] in BUTTON:
                found[key] = {"type": BUTTON[value[0]], "props": None}
        elif entry.kind == "version" or entry.name == "device type":
            continue
        elif entry.name == "timestamp":
            found[key] = datetime.fromtimestamp(value, UTC).isoformat()
        elif entry.kind == "bytes":
            found[key] = value.hex()
        else:
            found[key] = value / 1000 if entry.quantity is Quantity.ENERGY else value
    return found


def read(vector):
    data = payload({f"0000{vector['uuid'].lower()}-0000-1000-8000-00805f9b34fb": bytes.fromhex(vector["service_data"])})
    assert data is not None
    return decode(data, vector["mac"], bytes.fromhex(vector["key"]) if vector["key"] else None)


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda v: v["id"])
def test_vector(vector):
    verdict = vector["verdict"]
    if verdict == "bad_key":
        with pytest.raises(ValueError, match="16 bytes, not 24"):
            read(vector)
        return
    if verdict in REFUSED:
        with pytest.raises(BadData, match=REFUSED[verdict]):
            read(vector)
        return
    frame = read(vector)
    assert bool(frame.lost) == (verdict == "partial")
    found = theirs(frame)
    assert found.keys() == vector["expect"].keys()
    for name, expected in vector["expect"].items():
        assert found[name] == (pytest.approx(expected, rel=1e-12) if isinstance(expected, float) else expected), name


@pytest.mark.parametrize("sequence", VECTORS["sequences"], ids=lambda s: s["id"])
def test_sequence(sequence):
    memory = Memory()
    for frame in sequence["frames"]:
        found, memory = take(bytes.fromhex(frame["sd"]), MAC, frame["t"], memory)
        assert (found is not None) == frame["accept"], frame


def ids(*said):
    """Which of (time, packet id) are taken."""
    memory, taken = Memory(), []
    for at_s, number in said:
        found, memory = take(bytes((0x40, 0, number, 1, at_s % 100)), MAC, at_s, memory)
        taken.append(found is not None)
    return taken


def test_packet_ids():
    assert ids((0, 189), (1, 253)) == [True, False]  # 64 ahead is too far
    assert ids((0, 189), (1, 252)) == [True, True]
    assert ids((0, 9), (4, 9), (5, 9)) == [True, False, True]  # over 4 s after the last that was taken


def test_without_a_packet_id_only_an_immediate_repetition_is_dropped():
    memory, data = Memory(), bytes.fromhex("4002ca09")
    taken = []
    for at_s in (0.0, 0.9, 1.1):
        found, memory = take(data, MAC, at_s, memory)
        taken.append(found is not None)
    assert taken == [True, False, True]


def sealed(plain: bytes, counter: int, info: int = 0x41) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESCCM

    raw = counter.to_bytes(4, "little")
    nonce = bytes.fromhex(MAC.replace(":", "")) + b"\xd2\xfc" + bytes((info,)) + raw
    cipher = AESCCM(KEY, tag_length=4).encrypt(nonce, plain, None)
    return bytes((info,)) + cipher[:-4] + raw + cipher[-4:]


def counters(*counts, counter_restart=False):
    memory, taken = Memory(), []
    for at_s, count in enumerate(counts):
        data = sealed(b"\x02\xca" + bytes((at_s,)), count)
        try:
            found, memory = take(data, MAC, 10.0 * at_s, memory, KEY, counter_restart=counter_restart)
        except BadData:
            taken.append(None)
        else:
            taken.append(found is not None)
    return taken


def test_a_counter_that_falls_is_a_replay():
    assert counters(500, 501, 500, 99, 0, 502) == [True, True, None, None, None, True]
    assert counters(500, 500) == [True, False]  # the same number again is nothing new, whatever it says


def test_the_refusal_of_a_replay_names_the_way_out():
    memory = take(sealed(b"\x02\xca\x09", 500), MAC, 0, Memory(), KEY)[1]
    with pytest.raises(BadData, match=r"fell from 500 to 499.*counter_restart = true"):
        take(sealed(b"\x02\xca\x0a", 499), MAC, 1, memory, KEY)


def test_a_changed_battery_is_taken_where_it_is_allowed():
    assert counters(500, 100, 99, 100, 500, counter_restart=True) == [True, None, True, True, True]


def test_a_forged_frame_does_not_move_the_counter():
    memory = take(sealed(b"\x02\xca\x09", 5), MAC, 0, Memory(), KEY)[1]
    forged = bytearray(sealed(b"\x02\xca\x0a", 2**32 - 1))
    forged[-1] ^= 1
    with pytest.raises(BadData, match="does not fit its key"):
        take(bytes(forged), MAC, 1, memory, KEY)
    assert take(sealed(b"\x02\xca\x0a", 6), MAC, 2, memory, KEY)[0] is not None


def test_a_recorded_frame_repeated_for_hours_stays_one_reading():
    data = sealed(b"\x02\xca\x09", 5)
    memory = take(data, MAC, 0, Memory(), KEY)[1]
    assert all(take(data, MAC, at_s, memory, KEY)[0] is None for at_s in (1, 5, 3600))


def test_values_go_to_their_channels():
    frame = decode(bytes.fromhex("4002ca0902cf0902cf0802d00803b71803b717015d0a138a14"), MAC)
    assert samples(frame, -70) == (
        Sample("temperature", 25.06),
        Sample("temperature_2", 25.11),
        Sample("temperature_3", 22.55),  # a fourth has no channel
        Sample("humidity", 63.27),
        Sample("humidity_2", 60.71),
        Sample("battery", 93),
        Sample("energy", 1_346_067),
        Sample("rssi", -70),
    )


def test_every_number_of_every_object_lies_in_its_channel_or_is_seen_to_be_outside():
    """A humidity and the like can be sent that cannot be; the others' bounds are what the object can carry."""
    bounds = {channel.key: (channel.low, channel.high) for channel in Bthome.CHANNELS}
    for number, entry in _bthome.TABLE.items():
        if entry.quantity is None or entry.quantity in IMPOSSIBLE:
            continue
        low, high = bounds[entry.quantity.value]
        ends = (b"\0", b"\x80", b"\x7f", b"\xff")
        for raw in (filler * (entry.size - 1) + end for filler in (b"\0", b"\xff") for end in ends):
            value = samples(decode(bytes((0x40, number)) + raw, MAC), None)[0].value
            assert low <= value <= high, (entry, raw)


noise = st.binary(max_size=40)
frames = st.builds(bytes.__add__, st.sampled_from((b"", b"\x40", b"\x44", b"\x41", b"\x43")), noise)


@settings(max_examples=10_000, deadline=None)
@given(data=frames, key=st.sampled_from((None, KEY)))
@example(data=b"", key=None)
@example(data=bytes.fromhex("403b1f"), key=None)
@example(data=bytes.fromhex("4053ff"), key=None)
def test_noise_is_a_value_or_refused(data, key):
    try:
        frame, memory = take(data, MAC, 1.0, Memory(), key)
    except BadData:
        return
    assert frame is not None
    assert memory.data == data
    assert all(math.isfinite(sample.value) for sample in samples(frame, -60))


@settings(max_examples=2_000, deadline=None)
@given(plain=noise)
def test_noise_inside_a_good_seal(plain):
    try:
        frame = decode(sealed(plain, 7), MAC, KEY)
    except BadData:
        return
    assert frame.counter == 7
